//! Builds by different users, in different directories and at different times give the same bytes.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::harness::{Dist, files, podpause_image, run, sha256, stand_in_compiler};

/// The real program, in two folders, with all that an environment may have.
#[test]
fn does_not_depend_on_folder_umask_zone_or_language() {
    let expected = Dist::new(&[]).files();
    for umask in ["000", "077"] {
        let folder = tempfile::tempdir().unwrap();
        let (elsewhere, out) = (folder.path().join("elsewhere"), folder.path().join("dist"));
        fs::create_dir(&elsewhere).unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("umask {umask} && exec \"$@\""), "sh"])
            .args([env!("CARGO_BIN_EXE_podpause-image"), "--out"])
            .arg(&out)
            .current_dir(&elsewhere)
            .env_remove("SOURCE_DATE_EPOCH")
            .envs([("TZ", "Asia/Tokyo"), ("LC_ALL", "tr_TR.UTF-8"), ("COLUMNS", "20")])
            .envs([("TMPDIR", elsewhere.to_str().unwrap()), ("RUSTFLAGS", "-g")]);
        run(&mut command);
        assert_eq!(files(&out), expected, "umask {umask}");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "no temporary file is left");
    }
}

/// All platforms, as root and as an ordinary user. The compiler is a stand-in, because a user other
/// than the one who installed the real one may not even see it.
#[test]
fn does_not_depend_on_the_user() {
    let expected = Dist::stand_in(&["--platform", "all"]).files();
    let folder = tempfile::tempdir().unwrap();
    let rustc = stand_in_compiler(folder.path(), podpause::ELF);
    let program = folder.path().join("podpause-image");
    fs::copy(env!("CARGO_BIN_EXE_podpause-image"), &program).unwrap();
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();

    let mut command = Command::new(program);
    command.args(["--platform", "all", "--out"]).arg(home.join("dist"));
    command.env_remove("SOURCE_DATE_EPOCH").env("RUSTC", rustc).env("TMPDIR", &home);
    // Only root can become somebody else; for anybody else, this is two runs of their own.
    if chown(&home, Some(65534), Some(65534)).is_ok() {
        command.uid(65534).gid(65534);
    }
    run(&mut command);
    assert_eq!(files(&home.join("dist")), expected);
}

/// The layer of a given program has these bytes for ever: in each profile, with each version of what
/// compresses and archives, and on each machine. Where this fails after an update of a dependency,
/// releases so far can no longer be rebuilt with it.
#[test]
fn layer_has_a_fixed_digest() {
    let folder = tempfile::tempdir().unwrap();
    let program: Vec<u8> = (0..800u32).map(|number| (number * number / 7) as u8).collect();
    let rustc = stand_in_compiler(folder.path(), &program);
    let out = folder.path().join("dist");
    run(podpause_image()
        .args(["--platform", "linux/amd64", "--out"])
        .arg(&out)
        .env("RUSTC", rustc));
    let layers: Vec<_> =
        files(&out).into_values().filter(|bytes| bytes.starts_with(b"\x1f\x8b")).collect();
    let [layer] = &layers[..] else { panic!("one layer") };
    assert_eq!(sha256(layer), "7bc799f6036cb6f18ee8dbd541f967a53a66102c7570d89afa0f044d143fba7c");
}

/// SOURCE_DATE_EPOCH is the time of all that has one.
#[test]
fn source_date_epoch_sets_all_times() {
    let folder = tempfile::tempdir().unwrap();
    let rustc = stand_in_compiler(folder.path(), podpause::ELF);
    let out = folder.path().join("dist");
    let mut command = podpause_image();
    command.args(["--platform", "linux/amd64", "--out"]).arg(&out).env("RUSTC", rustc);
    run(command.env("SOURCE_DATE_EPOCH", "1767225599"));
    let files = files(&out);
    let time = |text: &str| text.contains("2025-12-31T23:59:59Z");
    let texts: Vec<_> = files.values().filter_map(|bytes| str::from_utf8(bytes).ok()).collect();
    assert_eq!(
        texts.iter().filter(|text| time(text)).count(),
        6,
        "index, manifest, two referrers, list twice"
    );
    let layer = files.values().find(|bytes| bytes.starts_with(b"\x1f\x8b")).unwrap();
    for archive in [crate::contents::layer(layer), files["pause.tar"].clone()] {
        for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
            assert_eq!(entry.unwrap().header().mtime().unwrap(), 1_767_225_599);
        }
    }
}
