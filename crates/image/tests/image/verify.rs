//! `--verify` rebuilds the image and prints the differences.

use std::fs;
use std::process::{Command, Output};

use crate::harness::{Dist, errors, podpause_image, run, sha256, stand_in_compiler};

/// Runs `--verify` with the stand-in compiler, on a path in the folder.
fn verify(dist: &Dist, path: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let rustc = stand_in_compiler(folder.path(), podpause::ELF);
    let mut command = podpause_image();
    command.arg("--verify").arg(dist.path(path)).env("RUSTC", rustc).output().unwrap()
}

/// The differences that `--verify` prints.
fn differences(dist: &Dist, path: &str) -> String {
    let output = verify(dist, path);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("identical to the new build with rustc 1.0.0 (stand-in)"));
    String::from_utf8(output.stdout).unwrap()
}

/// The rebuild takes platforms, time, commit and name from the folder. The first rebuild uses the real
/// compiler, the others use the stand-in.
#[test]
fn identical_image_has_no_differences() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let dist = Dist::new(&["--tag", "registry.example/a/pause:b", "--revision", commit]);
    let text = run(podpause_image().arg("--verify").arg(dist.path("")));
    assert!(text.ends_with(" is identical to the new build\n"), "{text}");

    let dist = Dist::stand_in(&["--platform", "all"]);
    for path in ["", "oci"] {
        assert!(verify(&dist, path).status.success(), "{path}");
    }
}

#[test]
fn different_file_is_named() {
    let dist = Dist::stand_in(&["--platform", "linux/amd64"]);
    fs::write(dist.path("pause-linux-amd64"), "another").unwrap();
    fs::remove_file(dist.path("pause.tar")).unwrap();
    fs::write(dist.path("oci/blobs/sha256/more"), "more").unwrap();
    let expected = "oci/blobs/sha256/more: only in the existing directory\n\
        pause-linux-amd64: the bytes differ\n\
        pause.tar: only in the new build\n";
    assert_eq!(differences(&dist, ""), expected);
    assert!(verify(&dist, "oci").status.success(), "the image itself is the same");
}

/// The program differs, as it would with another compiler or another source.
#[test]
fn different_program_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = podpause::ELF.to_vec();
    program[100] ^= 1;
    let rustc = stand_in_compiler(folder.path(), &program);
    let dist = Dist::with_compiler(&["--platform", "linux/arm64,linux/386"], &rustc);
    let text = differences(&dist, "oci");
    let size = program.len();
    for name in ["linux/arm64", "linux/386"] {
        let expected = format!(
            "{name}: layer: pause: {size} bytes in the existing image, {size} in the new build; \
             byte 100 is the first to differ"
        );
        assert!(text.contains(&expected), "{text}");
        let expected = format!("{name}: configuration: rootfs: diff_ids[0]: \"sha256:");
        assert!(text.contains(&expected), "{text}");
    }
    assert!(text.contains("index: manifests[1]: digest: \"sha256:"), "{text}");
}

/// The manifest differs, and the program does not.
#[test]
fn different_field_is_named() {
    let dist = Dist::stand_in(&["--platform", "linux/amd64"]);
    dist.change("title\":\"pause", "title\":\"other");
    let text = differences(&dist, "oci");
    let expected = "linux/amd64: manifest: annotations: org.opencontainers.image.title: \
        \"other\" in the existing image, \"pause\" in the new build";
    assert!(text.contains(expected), "{text}");
    assert!(!text.contains("layer"), "{text}");
}

#[test]
fn unreadable_image_is_an_error() {
    let dist = Dist::stand_in(&["--platform", "linux/amd64"]);
    let layer = dist.images()[0].manifest.layers()[0].digest().digest().to_owned();
    fs::write(dist.path(&format!("oci/blobs/sha256/{layer}")), "damaged").unwrap();
    let output = verify(&dist, "");
    assert!(!output.status.success());
    assert!(errors(&output).contains("damaged: its digest is"), "{}", errors(&output));

    let output = verify(&dist, "oci/blobs");
    assert!(errors(&output).contains("index.json: No such file"), "{}", errors(&output));

    // A file that is not JSON is named.
    let bytes = b"not JSON";
    let name = format!("oci/blobs/sha256/{}", sha256(bytes));
    let dist = Dist::stand_in(&["--platform", "linux/amd64"]);
    fs::write(dist.path(&name), bytes).unwrap();
    let config = dist.images()[0].manifest.config().digest().digest().to_owned();
    dist.change(&config, &sha256(bytes));
    let output = verify(&dist, "");
    assert!(errors(&output).contains(&format!("{name}: expected")), "{}", errors(&output));
    let index = dist.entries()[0].digest().digest().to_owned();
    let text = String::from_utf8(dist.read("oci/index.json")).unwrap();
    fs::write(dist.path("oci/index.json"), text.replace(&index, &sha256(bytes))).unwrap();
    let output = verify(&dist, "");
    assert!(errors(&output).contains(&format!("{name}: expected")), "{}", errors(&output));
    fs::write(dist.path("oci/index.json"), "").unwrap();
    let output = verify(&dist, "");
    assert!(errors(&output).contains("oci/index.json: EOF"), "{}", errors(&output));

    let output = podpause_image().args(["--verify", "x", "--out", "y"]).output().unwrap();
    assert!(errors(&output).contains("cannot be used with"), "{}", errors(&output));
}

/// A layout that skopeo has copied has a different index.json, and the same image.
#[test]
fn copied_layout_is_accepted() {
    let Some(mut skopeo) = crate::harness::tool("skopeo") else {
        common::report::skip!("skopeo", "it is not installed")
    };
    let dist = Dist::stand_in(&["--platform", "all"]);
    let layout = |path: &str| format!("oci:{}:{}", dist.path(path).display(), crate::harness::TAG);
    let copy: &mut Command = skopeo.args(["copy", "--all", &layout("oci"), &layout("copy")]);
    run(copy);
    let output = verify(&dist, "copy");
    assert!(output.status.success(), "{}", errors(&output));
}
