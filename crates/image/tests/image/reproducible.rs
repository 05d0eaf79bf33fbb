//! Builds by different users, in different directories and at different times give the same bytes.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::harness::{Dist, files, podpause_image, run, sha256, stand_in_compiler};

/// Builds with the real compiler in other folders, with another umask, time zone, language, terminal width,
/// TMPDIR and RUSTFLAGS.
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

/// Builds for all platforms, as root and as an ordinary user. The compiler is a stand-in, because only the
/// user who installed the real one may have access to it.
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
    // Only root can run it as another user. Otherwise both runs are by the same user.
    if chown(&home, Some(65534), Some(65534)).is_ok() {
        command.uid(65534).gid(65534);
    }
    run(&mut command);
    assert_eq!(files(&home.join("dist")), expected);
}

/// The layer of a given program must always have the same bytes: with each Cargo profile, on each machine,
/// and with each version of the libraries that archive and compress. If this test fails after an update of a
/// dependency, earlier releases can no longer be rebuilt with that update.
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

/// Everything that has a time has that of SOURCE_DATE_EPOCH.
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
        8,
        "index, manifest, two referrers, their index, index.json, the SBOM as a blob and as a file"
    );
    let layer = files.values().find(|bytes| bytes.starts_with(b"\x1f\x8b")).unwrap();
    for archive in [crate::contents::layer(layer), files["pause.tar"].clone()] {
        for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
            assert_eq!(entry.unwrap().header().mtime().unwrap(), 1_767_225_599);
        }
    }
}
