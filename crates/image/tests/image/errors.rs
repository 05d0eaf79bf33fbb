//! Bad input gives a clear error and leaves no files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::report::skipped;
use common::wait::{DEADLINE, is_readable};
use podpause::compile::PLATFORMS;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use tempfile::TempDir;

use crate::harness::{errors, podpause_image, run, stand_in_compiler};

/// A folder with the stand-in compiler, and with an empty folder `home` to write to.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    stand_in_compiler(folder.path(), podpause::ELF);
    fs::create_dir(folder.path().join("home")).unwrap();
    folder
}

/// Runs a command in the `home` of such a folder. Asserts that it fails with an error and prints nothing to
/// stdout, and returns its stderr.
fn fails(command: &mut Command, folder: &TempDir) -> String {
    command.current_dir(folder.path().join("home")).env("RUSTC", folder.path().join("rustc"));
    let output = command.output().unwrap();
    let words = errors(&output);
    assert!(output.status.code().is_some_and(|code| code != 0), "{}: {words}", output.status);
    assert!(words.starts_with("error: "), "{words}");
    assert!(output.stdout.is_empty(), "{words}");
    words
}

/// The names of the files left in `home`.
fn left(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path().join("home")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn bad_arguments_are_named() {
    let folder = folder();
    for (arguments, expected) in [
        (&["--platform", "linux/mips"][..], "unknown platform `linux/mips`"),
        (&["--platform", ""], "unknown platform ``"),
        (&["--platform", "linux/arm64,all,linux/arm64/v9"], "unknown platform `linux/arm64/v9`"),
        (&["--tag", "pause"], "did you mean docker.io/library/pause:latest?"),
        (&["--tag", "localhost/pause"], "did you mean localhost/pause:latest?"),
        (&["--tag", "localhost/Pause:1"], "invalid reference format"),
        (&["--tag", "localhost/pause:a b"], "invalid reference format"),
        (&["--tag", ""], "at least one component"),
        (&["--out", "other", "--out", "dist"], "cannot be used multiple times"),
        (&["--outt", "dist"], "unexpected argument"),
    ] {
        let words = fails(podpause_image().args(["--out", "dist"]).args(arguments), &folder);
        assert!(words.contains(expected), "{arguments:?}: {words}");
    }
    for time in ["", "now", "-1", "1.5", "99999999999"] {
        let mut command = podpause_image();
        let words = fails(command.args(["--out", "x"]).env("SOURCE_DATE_EPOCH", time), &folder);
        assert!(words.contains(&format!("SOURCE_DATE_EPOCH={time} is not")), "{words}");
    }
    assert!(fails(&mut podpause_image(), &folder).contains("--out <FOLDER>"));
    assert_eq!(left(&folder), [""; 0]);
}

#[test]
fn missing_target_says_how_to_install_it() {
    let folder = folder();
    let script = "#!/bin/sh\n\
        [ \"$1\" = --version ] && echo 'rustc 1.0.0 (stand-in)' && exit\n\
        echo \"error[E0463]: can't find crate for \\`core\\`\" >&2\n\
        exit 1\n";
    fs::write(folder.path().join("rustc"), script).unwrap();
    let arguments = ["--out", "dist", "--platform", "linux/s390x"];
    let words = fails(podpause_image().args(arguments), &folder);
    assert!(words.contains("linux/s390x"), "{words}");
    assert!(words.contains("rustup target add s390x-unknown-linux-gnu"), "{words}");
    assert_eq!(left(&folder), [""; 0]);
}

/// The same with the real compiler, if it has no library for the target below.
#[test]
fn error_of_the_real_compiler_is_recognised() {
    let target = "s390x-unknown-linux-gnu";
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let print = ["--print", "target-libdir", "--target", target];
    let library = run(Command::new(&rustc).args(print));
    if Path::new(library.trim()).exists() {
        // With that library, as in CI perhaps, there is nothing to test. That is not reported as a skipped
        // test, because nothing is missing.
        println!("the compiler has a library for {target}");
        return;
    }
    let folder = folder();
    let mut command = podpause_image();
    command.args(["--platform", "linux/s390x", "--out"]).arg(folder.path().join("home/dist"));
    let output = command.env("RUSTC", rustc).output().unwrap();
    assert!(errors(&output).contains("rustup target add s390x-unknown-linux-gnu"));
    assert!(!output.status.success());
    assert_eq!(left(&folder), [""; 0]);
}

#[test]
fn compiler_errors_are_shown() {
    let folder = folder();
    let script = "#!/bin/sh\n\
        [ \"$1\" = --version ] && echo 'rustc 1.0.0 (stand-in)' && exit\n\
        echo 'rust-lld: pause is larger than its budget' >&2\n\
        exit 1\n";
    fs::write(folder.path().join("rustc"), script).unwrap();
    let words = fails(podpause_image().args(["--out", "dist"]), &folder);
    assert!(words.contains("larger than its budget"), "{words}");

    fs::remove_file(folder.path().join("rustc")).unwrap();
    let words = fails(podpause_image().args(["--out", "dist"]), &folder);
    assert!(words.contains("does not start: install Rust, or set RUSTC"), "{words}");
    assert_eq!(left(&folder), [""; 0]);
}

/// The program's bytes are random, so they do not compress, and the image exceeds its budget.
#[test]
fn image_over_budget_is_rejected() {
    let folder = folder();
    let mut state = 1u32;
    let random: Vec<u8> = (0..1_500)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    fs::write(folder.path().join("program"), random).unwrap();
    let words = fails(podpause_image().args(["--out", "dist"]), &folder);
    assert!(words.contains("more than the 2048 allowed"), "{words}");
    assert_eq!(left(&folder), [""; 0]);
}

#[test]
fn non_empty_output_directory_is_kept() {
    let folder = folder();
    let dist = folder.path().join("home/dist");
    fs::create_dir(&dist).unwrap();
    fs::write(dist.join("precious"), "kept").unwrap();
    let words = fails(podpause_image().args(["--out", "dist"]), &folder);
    assert!(words.contains("dist: it is not empty:"), "{words}");
    assert_eq!(fs::read_to_string(dist.join("precious")).unwrap(), "kept");
    assert_eq!(left(&folder), ["dist"]);
}

/// These paths are refused before the compiler, which does not exist here, would run.
#[test]
fn unusable_output_path_is_named() {
    let folder = folder();
    fs::remove_file(folder.path().join("rustc")).unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    symlink("loop", folder.path().join("loop")).unwrap();
    for (out, expected) in [
        ("../file", "it is not a directory"),
        ("../file/dist", "Not a directory"),
        ("../dangling", "it is a symbolic link to a path that does not exist"),
        ("../dangling/", "it is a symbolic link to a path that does not exist"),
        ("../loop", "Too many levels of symbolic links"),
        ("missing/dist", "No such file or directory"),
    ] {
        let words = fails(podpause_image().args(["--out", out]), &folder);
        assert!(words.starts_with(&format!("error: --out {out}: ")), "{words}");
        assert!(words.contains(expected), "{out}: {words}");
    }
    assert_eq!(left(&folder), [""; 0]);
}

/// An existing empty directory is filled, not replaced, even through a symbolic link.
#[test]
fn empty_output_directory_is_filled() {
    for out in [".", "../home/", "../link"] {
        let folder = folder();
        let home = folder.path().join("home");
        fs::set_permissions(&home, fs::Permissions::from_mode(0o750)).unwrap();
        symlink("home", folder.path().join("link")).unwrap();
        let before = fs::metadata(&home).unwrap();
        let mut command = podpause_image();
        command.args(["--out", out]).env("RUSTC", folder.path().join("rustc"));
        run(command.current_dir(&home));
        let after = fs::metadata(&home).unwrap();
        assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()), "{out}");
        let mut command = podpause_image();
        command.arg("--verify").arg(&home).env("RUSTC", folder.path().join("rustc"));
        run(&mut command);
        let expected = ["SHA256SUMS", "go", "oci", "pause.cdx.json", "pause.h"];
        let mut left = left(&folder);
        left.retain(|name| !name.starts_with("pause-"));
        left.sort();
        assert_eq!(left, [&expected[..], &["pause.provenance.json", "pause.tar"]].concat());
    }
}

/// A file that appears in the output directory during the build is kept, and nothing is added to it.
#[test]
fn output_directory_filled_during_the_build_is_kept() {
    let folder = folder();
    let rustc = folder.path().join("rustc");
    let script = fs::read_to_string(&rustc).unwrap() + "echo kept >\"${0%/*}/home/pause.h\"\n";
    fs::write(&rustc, script).unwrap();
    let words = fails(podpause_image().args(["--out", "."]), &folder);
    assert!(words.contains("home: it is not empty: it contains pause.h"), "{words}");
    assert_eq!(left(&folder), ["pause.h"]);
    assert_eq!(fs::read_to_string(folder.path().join("home/pause.h")).unwrap(), "kept\n");
}

/// A mount point cannot be replaced.
#[test]
fn mount_point_is_filled() {
    let folder = folder();
    let Some(mut command) = unshare() else { return };
    let script = "mount -t tmpfs none . && cd \"$PWD\" && \"$@\" && sha256sum --check SHA256SUMS";
    command.args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_podpause-image"), "--out", "."]);
    command.current_dir(folder.path().join("home")).env("RUSTC", folder.path().join("rustc"));
    assert!(run(&mut command).contains("pause.tar: OK"));
    assert_eq!(left(&folder), [""; 0], "the mount has hidden it");
}

#[test]
fn unwritable_directory_is_named() {
    let folder = folder();
    let home = folder.path().join("home");
    let copy = folder.path().join("podpause-image");
    fs::copy(env!("CARGO_BIN_EXE_podpause-image"), &copy).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o555)).unwrap();
    for (out, place) in [("dist", "beside"), (".", "in")] {
        let mut command = Command::new(&copy);
        // Permissions do not stop root from writing.
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        command.args(["--out", out]).env_remove("SOURCE_DATE_EPOCH");
        let words = fails(&mut command, &folder);
        let expected = format!("{out}: create a directory {place} it: Permission denied");
        assert!(words.contains(&expected), "{words}");
    }
    assert_eq!(left(&folder), [""; 0]);
}

/// A write fails because of a limit on the file size, which needs no privileges to set.
#[test]
fn failed_write_leaves_nothing() {
    let folder = folder();
    let script = "trap '' XFSZ; ulimit -f 80; exec \"$@\"";
    for out in ["dist", "."] {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_podpause-image"), "--out", out]);
        let words = fails(command.args(["--platform", "all"]), &folder);
        assert!(words.contains(": write pause.") && words.contains("File too large"), "{words}");
        assert_eq!(left(&folder), [""; 0]);
    }
}

/// While the compiler runs, a signal is sent to the tool and the compiler, as by Ctrl-C in a terminal, or to
/// the tool alone.
#[test]
fn interrupt_leaves_nothing() {
    for (signal, to_both) in [(Signal::INT, true), (Signal::TERM, false)] {
        let folder = folder();
        let (started, go_on) = (folder.path().join("started"), folder.path().join("go-on"));
        run(Command::new("mkfifo").args([&started, &go_on]));
        let open = |fifo| File::options().read(true).write(true).open(fifo).unwrap();
        let (started, mut go_on) = (open(started), open(go_on));
        let rustc = folder.path().join("rustc");
        let script = fs::read_to_string(&rustc).unwrap();
        let script =
            script.replace("for last", "cd \"${0%/*}\"; echo >started; read _ <go-on\nfor last");
        fs::write(&rustc, script).unwrap();

        let mut command = podpause_image();
        command
            .args(["--out", "dist"])
            .current_dir(folder.path().join("home"))
            .env("RUSTC", &rustc);
        command.stderr(Stdio::piped()).process_group(0);
        let mut tool = Interruptible(command.spawn().unwrap());
        assert!(is_readable(&started, DEADLINE), "it took too long");
        let pid = Pid::from_child(&tool.0);
        match to_both {
            true => kill_process_group(pid, signal).unwrap(),
            false => kill_process(pid, signal).unwrap(),
        }
        go_on.write_all(b"\n").unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(is_readable(&pidfd, DEADLINE), "it took too long");
        let status = tool.0.wait().unwrap();
        let mut words = String::new();
        tool.0.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        assert_eq!(words, "error: interrupted: nothing was written\n");
        assert_eq!(status.code(), Some(1));
        assert_eq!(left(&folder), [""; 0]);
    }
}

/// Kills the tool and its compiler when this is dropped.
struct Interruptible(Child);

impl Drop for Interruptible {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

#[test]
fn full_disk_leaves_nothing() {
    let folder = folder();
    let script = "mount -t tmpfs -o size=16k none . && cd \"$PWD\" || exit 99\n\
        \"$@\" && exit 98\n\
        ls -A >&2";
    for out in ["dist", "."] {
        let Some(mut command) = unshare() else { return };
        command.args(["sh", "-c", &format!("{script}; exit 1"), "sh"]);
        command.args([env!("CARGO_BIN_EXE_podpause-image"), "--out", out]);
        let words = fails(&mut command, &folder);
        assert!(words.contains("No space left on device"), "{words}");
        assert_eq!(words.lines().count(), 1, "nothing is left: {words}");
    }
}

/// unshare(1) with a mount namespace. If that cannot be made, reports that the test is skipped.
fn unshare() -> Option<Command> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        skipped("unshare", "a mount namespace cannot be made");
        return None;
    }
    Some(unshare())
}

/// A reader of stdout may end early, as head(1) does. The exit status is the same as with a reader.
#[test]
fn closed_pipe_is_no_error() {
    let folder = folder();
    let rustc = folder.path().join("rustc");
    let run = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = podpause_image();
        command.args(arguments).current_dir(folder.path()).env("RUSTC", &rustc).stdout(writer);
        let output = command.output().unwrap();
        (output.status.code(), errors(&output))
    };
    assert_eq!(run(&["--list-platforms"]), (Some(0), String::new()));
    assert_eq!(run(&["--out", "dist"]), (Some(0), String::new()));
    assert_eq!(run(&["--verify", "dist"]), (Some(0), String::new()));
    fs::write(folder.path().join("dist/pause.h"), "another").unwrap();
    let (status, words) = run(&["--verify", "dist"]);
    assert_eq!(status, Some(1));
    assert!(words.contains("1 differences"), "{words}");
}

#[test]
fn failed_write_to_stdout_is_an_error() {
    let folder = folder();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let words = fails(podpause_image().arg("--list-platforms").stdout(full), &folder);
    assert_eq!(words, "error: write to stdout: No space left on device (os error 28)\n");
}

#[test]
fn help_has_examples() {
    let help = run(podpause_image().arg("--help"));
    for words in ["Examples:", "podman load --input dist/pause.tar", "SOURCE_DATE_EPOCH", "--tag"] {
        assert!(help.contains(words), "{help}");
    }
}

#[test]
fn lists_each_platform_with_its_target() {
    let list = run(podpause_image().arg("--list-platforms"));
    let lines: Vec<_> = list.lines().collect();
    let expected = PLATFORMS.map(|platform| format!("{} {}", platform.name, platform.target));
    assert_eq!(lines, expected);
    assert!(lines.contains(&"linux/arm/v7 armv7-unknown-linux-gnueabihf"), "{list}");
}
