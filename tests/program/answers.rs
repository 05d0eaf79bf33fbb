//! `-v`, `-h`, and the arguments that are ignored.

use std::fs::File;
use std::io::Read;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::harness::{End, Process, SignalMask, Start, become_user, is_root, readable_copy};

pub const VERSION: &str = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n");
pub const USAGE: &str = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n[-v | -h | -P]\n");

/// What a process writes to stdout, and how it ends.
pub fn output(start: Start) -> (String, End) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let end = start.stdout(writer).spawn().end();
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).unwrap();
    (text, end)
}

#[test]
fn version_is_printed() {
    for arguments in [
        &["-v"][..],
        &["-V"],
        &["--version"],
        &["x", "-v"],
        &["-P", "--version", "-h"],
        &["", "--versio", "-", "--", "-vv", "-V"],
    ] {
        let (text, end) = output(Start::new().arguments(arguments));
        assert_eq!((text.as_str(), end), (VERSION, End::Exit(0)), "{arguments:?}");
        let (text, end) = output(Start::pid1().arguments(arguments));
        assert_eq!((text.as_str(), end), (VERSION, End::Exit(0)), "{arguments:?} as PID 1");
    }
}

#[test]
fn usage_is_printed() {
    for arguments in [&["-h"][..], &["--help"], &["-P", "-h", "-v"]] {
        let (text, end) = output(Start::new().arguments(arguments));
        assert_eq!((text.as_str(), end), (USAGE, End::Exit(0)), "{arguments:?}");
    }
}

/// `kubeadm upgrade` runs the image with `-v` as user 999. If the tests run as root, this test does so in a
/// root folder that contains only pause.
#[test]
fn needs_no_rights_or_files() {
    let folder = tempfile::tempdir().unwrap();
    let copy = readable_copy(folder.path());
    let mut start = Start::body(crate::harness::Body::File(copy)).arguments(&["-v"]);
    if is_root() {
        let root = folder.path().to_owned();
        let body = crate::harness::Body::File("/pause".into());
        start = Start::body(body)
            .arguments(&["-v"])
            .step(move || Ok(rustix::process::chroot(&root)?))
            .step(|| become_user(999));
    }
    assert_eq!(output(start), (VERSION.to_owned(), End::Exit(0)));
}

#[test]
fn exits_with_1_if_the_answer_cannot_be_written() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let closed_pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap().1;
    for question in ["-v", "-h"] {
        let start = || Start::pid1().arguments(&[question]);
        assert_eq!(start().stdout(full()).spawn().end(), End::Exit(1));
        assert_eq!(start().stdout(closed_pipe()).spawn().end(), End::Exit(1));
        let unwritable = File::open("/dev/null").unwrap();
        assert_eq!(start().stdout(unwritable).spawn().end(), End::Exit(1));
        let closed = start().step(|| {
            crate::harness::close(1);
            Ok(())
        });
        assert_eq!(closed.spawn().end(), End::Exit(1));
    }
}

/// pause blocks signals only after it has found nothing to answer. While it answers, SIGPIPE kills
/// it as it kills other programs.
#[test]
fn is_killed_by_sigpipe_as_other_programs_are() {
    let closed_pipe = pipe_with(PipeFlags::CLOEXEC).unwrap().1;
    let question = Start::new().arguments(&["-v"]).blocked(SignalMask::None);
    assert_eq!(question.stdout(closed_pipe).spawn().end(), End::Killed(libc::SIGPIPE));
}

/// containerd appends the image's Cmd, and podman passes `-P`. pause keeps running unless
/// an argument asks for an answer.
#[test]
fn ignores_other_arguments() {
    let long = "-".repeat(100_000);
    for arguments in [
        &["/pause"][..],
        &["-P"],
        &["--versio", "--versions", "-vv", "-Vh", "v", "-", "--", "", "--help=x", "-hel", "--hel"],
        &["-p", "-x", "--", "sleep", "infinity"],
        &[&long],
    ] {
        let process: Process = Start::pid1().arguments(arguments).spawn().asleep();
        process.terminate();
    }
    let many: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    Start::pid1().arguments(&many).spawn().asleep().terminate();
}
