//! Bad input gives a clear error and leaves no files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::report::skip;
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
    // The output path is a file.
    let words = fails(podpause_image().args(["--out", "dist/precious"]), &folder);
    assert!(words.contains("Not a directory"), "{words}");
    let words = fails(podpause_image().args(["--out", "missing/dist"]), &folder);
    assert!(words.contains("No such file or directory"), "{words}");
    assert_eq!(left(&folder), ["dist"]);
}

/// An existing empty folder is used, even through a symbolic link.
#[test]
fn empty_output_directory_is_used() {
    let folder = folder();
    let home = folder.path().join("home");
    std::os::unix::fs::symlink(&home, folder.path().join("link")).unwrap();
    let mut command = podpause_image();
    command.arg("--out").arg(folder.path().join("link")).env("RUSTC", folder.path().join("rustc"));
    run(&mut command);
    assert!(home.join("oci/index.json").is_file());
}

#[test]
fn unwritable_directory_is_named() {
    let folder = folder();
    let home = folder.path().join("home");
    let copy = folder.path().join("podpause-image");
    fs::copy(env!("CARGO_BIN_EXE_podpause-image"), &copy).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o555)).unwrap();
    let mut command = Command::new(copy);
    // Permissions do not stop root from writing.
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let words = fails(command.args(["--out", "dist"]).env_remove("SOURCE_DATE_EPOCH"), &folder);
    assert!(words.contains("dist: create a directory beside it: Permission denied"), "{words}");
    assert_eq!(left(&folder), [""; 0]);
}

/// A write fails because of a limit on the file size, which needs no privileges to set.
#[test]
fn failed_write_leaves_nothing() {
    let folder = folder();
    let script = "trap '' XFSZ; ulimit -f 80; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_podpause-image"), "--out", "dist"]);
    let words = fails(command.args(["--platform", "all"]), &folder);
    assert!(words.contains(": write pause.") && words.contains("File too large"), "{words}");
    assert_eq!(left(&folder), [""; 0]);
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
    let unshare = ["--user", "--map-root-user", "--mount"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|s| s.success()) {
        skip!("unshare", "a namespace for a small disk cannot be made");
    }
    let script = "mount -t tmpfs -o size=16k none . && cd \"$PWD\" || exit 99\n\
        \"$@\" && exit 98\n\
        ls -A >&2";
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-c", &format!("{script}; exit 1"), "sh"]);
    command.args([env!("CARGO_BIN_EXE_podpause-image"), "--out", "dist"]);
    let words = fails(&mut command, &folder);
    assert!(words.contains("No space left on device"), "{words}");
    assert_eq!(words.lines().count(), 1, "nothing is left: {words}");
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
