//! Debian's user-mode Linux: a kernel without CONFIG_CHECKPOINT_RESTORE that runs as a program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::report::{skipped, tell};
use podpause::compile::compile_source;

use crate::script;
use crate::vm::Vm;

pub fn test() {
    if std::env::consts::ARCH != "x86_64" {
        return skipped("kernels", "amd64-uml: it is a program for x86_64");
    }
    let Some(kernels) = std::env::var_os("PODPAUSE_KERNELS").map(PathBuf::from) else {
        return skipped("kernels", "amd64-uml: PODPAUSE_KERNELS is not set, see ci/kernels.sh");
    };
    let (uml, busybox) = (kernels.join("uml/linux.uml"), kernels.join("amd64.busybox"));
    if !uml.exists() {
        let reason = format!("amd64-uml: there is no {}, see ci/kernels.sh", uml.display());
        return skipped("kernels", &reason);
    }
    // The root file system of the VM is a folder of this machine.
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for folder in ["bin", "dev", "proc"] {
        fs::create_dir(path(folder)).unwrap();
    }
    for (name, source) in [
        ("bin/busybox", busybox),
        ("pause", env!("CARGO_BIN_EXE_pause").into()),
        ("functions.sh", script("functions.sh")),
        ("init", script("uml.sh")),
    ] {
        fs::copy(&source, path(name)).unwrap_or_else(|error| panic!("{source:?}: {error}"));
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(path("init"), mode).unwrap();
    symlink("busybox", path("bin/mount")).unwrap();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = "x86_64-unknown-linux-gnu";
    let rustc = std::env::var_os("PODPAUSE_RUSTC").unwrap_or_else(|| "rustc".into());
    compile_source(&rustc, repository, "tests/kernels/load.rs", 4_096, target, &path("load"))
        .unwrap_or_else(|error| panic!("{error}"));

    let mut command = Command::new(uml);
    command
        .args(["mem=64M", "root=none", "rootfstype=hostfs", "rw", "init=/init", "quiet"])
        .arg(format!("rootflags={}", root.path().display()))
        .args(["con=null", "con0=null,fd:1"])
        .arg(concat!("podpause_version=", env!("CARGO_PKG_VERSION")));
    let mut vm = Vm::start(&command);
    let (mut passed, mut failed, mut values) = (0, Vec::new(), Vec::new());
    let end = vm.until("the end of the checks", |line| {
        match line.split_once(' ') {
            Some(("ok", _)) => passed += 1,
            Some(("not", _)) => failed.push(line.to_owned()),
            Some(("value", value)) => values.push(value.to_owned()),
            _ => {}
        }
        line.starts_with("done ")
    });
    assert_eq!(failed, [""; 0], "{vm}");
    assert!(passed > 0 && end == format!("done {passed}"), "{vm}");
    // In kB: the private page, and the page of the start stack that pause has touched.
    assert!(values.contains(&"Anonymous 8".into()), "{values:?}: {vm}");
    vm.end();
    tell(&format!("amd64-uml: {passed} checks, {}", values.join(", ")));
}
