//! Images for the engines, in an archive that all of them load.

use std::fs;

use serde_json::json;

use crate::harness::{Cage, find};

/// The name of our image.
pub const PAUSE: &str = concat!("ghcr.io/podpause/pause:", env!("CARGO_PKG_VERSION"));
/// The name of an image with a shell.
pub const BUSYBOX: &str = "example.com/busybox:1";

/// Makes an archive with our image, and returns its path in the cage.
pub fn pause(cage: &Cage) -> String {
    cage.write("/run/images/pause/root/pause", podpause::ELF);
    archive(cage, "pause", PAUSE, json!({ "User": "65535:65535", "Entrypoint": ["/pause"] }))
}

/// Makes an archive with busybox, under the names of the applets that the tests call.
pub fn busybox(cage: &Cage) -> String {
    let program = fs::read(find("busybox").unwrap()).unwrap();
    cage.write("/run/images/busybox/root/bin/busybox", program);
    for folder in ["dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir(cage.path(&format!("/run/images/busybox/root/{folder}"))).unwrap();
    }
    for name in ["cat", "hostname", "id", "ip", "ls", "ps", "sh", "sleep", "touch", "true"] {
        let link = cage.path(&format!("/run/images/busybox/root/bin/{name}"));
        std::os::unix::fs::symlink("busybox", link).unwrap();
    }
    archive(cage, "busybox", BUSYBOX, json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] }))
}

/// Makes an archive of the folder with this name, whose only layer is its folder `root`.
fn archive(cage: &Cage, folder: &str, name: &str, config: serde_json::Value) -> String {
    let folder = format!("/run/images/{folder}");
    let tar = "tar --create --sort=name --numeric-owner --owner=0 --group=0 --mtime=@0";
    let layer = format!("cd {folder} && {tar} --file layer.tar -C root . && sha256sum layer.tar");
    let digest = cage.run(&["sh", "-ec", &layer]);
    let digest = format!("sha256:{}", digest.split(' ').next().unwrap());
    let config = json!({
        "architecture": go_architecture(),
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [digest] },
    });
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    cage.write(&format!("{folder}/config.json"), config.to_string());
    cage.write(&format!("{folder}/manifest.json"), manifest.to_string());
    let script =
        format!("cd {folder} && {tar} --file image.tar manifest.json config.json layer.tar");
    cage.run(&["sh", "-ec", &script]);
    format!("{folder}/image.tar")
}

/// The name of this architecture in images.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "loongarch64" => "loong64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
