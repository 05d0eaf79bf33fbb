//! Images for the engines, as archives that all of them load.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use podpause::compile::Platform;
use serde_json::json;

use crate::cage::{Cage, find};

/// The name of our image, as it is in the documentation.
pub const PAUSE: &str = "localhost/podpause/pause:0.2.0";
/// The name of an image with podman's pause.
pub const CATATONIT: &str = "example.com/catatonit:1";
/// The name of an image with a shell.
pub const BUSYBOX: &str = "example.com/busybox:1";

/// Copies our image's archive, as users download it, into the cage. Returns its path there.
pub fn pause(cage: &Cage) -> String {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    let path = "/run/images/pause.tar";
    cage.write(path, ARCHIVE.get_or_init(shipped));
    path.into()
}

/// The archive that podpause-image writes. If `PODPAUSE_PROGRAMS` is set, the archive is in that folder.
/// Otherwise this runs the tool, which cargo may have to compile first. That takes a minute, so tests call
/// this only once they have a cage, which shows that the programs that they need are installed.
fn shipped() -> Vec<u8> {
    if let Some(folder) = std::env::var_os("PODPAUSE_PROGRAMS") {
        let file = PathBuf::from(folder).join("pause.tar");
        return fs::read(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("dist");
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "podpause-image", "--manifest-path"])
        .arg(crate::root().join("Cargo.toml"))
        .args(["--", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(out.join("pause.tar")).unwrap()
}

/// Makes an archive with podman's pause, and returns its path in the cage.
pub fn catatonit(cage: &Cage) -> String {
    let program = fs::read(find("catatonit").unwrap()).unwrap();
    cage.write("/run/images/catatonit/root/catatonit", program);
    archive(cage, "catatonit", CATATONIT, json!({ "Entrypoint": ["/catatonit", "-P"] }))
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

/// The version of pause.
pub fn version() -> &'static str {
    PAUSE.rsplit_once(':').unwrap().1
}

/// Makes an image archive in the cage's folder `/run/images/FOLDER`, and returns the archive's path there.
/// The image is called `name`, and its only layer is the subfolder `root`.
pub fn archive(cage: &Cage, folder: &str, name: &str, config: serde_json::Value) -> String {
    let folder = format!("/run/images/{folder}");
    let tar = "tar --create --sort=name --numeric-owner --owner=0 --group=0 --mtime=@0";
    let layer = format!("cd {folder} && {tar} --file layer.tar -C root . && sha256sum layer.tar");
    let digest = cage.run(&["sh", "-ec", &layer]);
    let digest = format!("sha256:{}", digest.split(' ').next().unwrap());
    let config = json!({
        "architecture": Platform::own().unwrap().architecture(),
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
