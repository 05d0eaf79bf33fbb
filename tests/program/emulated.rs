//! The other architectures, under the user-mode emulator of QEMU.
//!
//! `PODPAUSE_PROGRAMS` names the directory with the programs, as `podpause-image` writes them:
//! `pause-linux-arm64` and so on. The emulator passes the system calls that it knows to this machine's
//! kernel. So this does not test:
//!
//! - how much memory pause has and which name it shows: `PR_SET_MM` fails, and the kernel sees the emulator's
//!   process;
//! - `PR_SET_CHILD_SUBREAPER`, which fails, too;
//! - pause as PID 1: the emulator installs signal handlers, so the kernel does not discard signals to it as
//!   it does for pause alone;
//! - seccomp, because a filter sees this machine's system call numbers.
//!
//! `tests/kernels` tests the memory, the name and pause as PID 1 on real kernels.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use common::number::number;
use podpause::compile::{PLATFORMS, Platform};
use rustix::process::Signal;

use crate::answers::output;
use crate::harness::{self, Body, End, Start, close, exit, fork, skip};

/// pause for a platform, with these arguments, under the emulator.
fn start(emulator: &Path, program: &Path, arguments: &[&str]) -> Start {
    let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let argv = [text(emulator), c"-0".into(), c"/pause".into(), text(program)];
    Start::body(Body::File(emulator.to_owned())).argv(argv.into()).arguments(arguments)
}

#[test]
fn is_pause_on_every_platform() {
    let Some(programs) = std::env::var_os("PODPAUSE_PROGRAMS").map(PathBuf::from) else {
        skip!("emulators", "PODPAUSE_PROGRAMS does not name a folder with programs");
    };
    let readme = include_str!("../../README.md");
    for platform in &PLATFORMS {
        let emulator = match common::emulators::find(platform) {
            Ok(emulator) => emulator,
            Err(reason) => skip!("emulators", "{reason}"),
        };
        let program = programs.join(format!("pause-{}", platform.plain_name()));
        assert!(program.exists(), "there is no {}", program.display());
        let start = |arguments: &[&str]| start(&emulator, &program, arguments);

        let size_bytes = program.metadata().unwrap().len();
        let Platform { name: platform, target, .. } = platform;
        let budget_bytes = if *platform == "linux/amd64" { 1_024 } else { 1_536 };
        assert!(size_bytes <= budget_bytes, "{platform}: {size_bytes} bytes");
        let row = format!("| {platform} | {target} |");
        let size = format!("{} B |", number(size_bytes));
        let line = readme.lines().find(|line| line.starts_with(&row)).unwrap_or_default();
        assert!(line.contains(&size), "README.md should say {size} of {platform}: {line}");

        answers(platform, &start);
        ends(platform, &start);
        reaps(platform, &start);
    }
}

/// Tests a 32-bit program on a 64-bit kernel. The `struct prctl_mm_map` that the program has to pass differs
/// from the one for a 32-bit kernel.
#[test]
#[cfg(target_arch = "x86_64")]
fn sheds_its_memory_as_a_32_bit_program_too() {
    let Some(programs) = std::env::var_os("PODPAUSE_PROGRAMS").map(PathBuf::from) else {
        skip!("emulators", "PODPAUSE_PROGRAMS does not name a folder with programs");
    };
    let program = Body::File(programs.join("pause-linux-386"));
    match Start::body(program).namespaces(libc::CLONE_NEWPID).try_spawn() {
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
            skip!("32-bit programs", "this kernel has no CONFIG_IA32_EMULATION");
        }
        process => {
            let mut process = process.unwrap().ready();
            let maps = process.read_proc("maps");
            assert_eq!(
                maps.lines().filter(|line| !line.ends_with("[vsyscall]")).count(),
                2,
                "{maps}"
            );
            assert_eq!(process.read_proc("cmdline"), "/pause\0");
            process.send(Signal::TERM);
            assert_eq!(process.end(), End::Exit(0));
        }
    }
}

fn answers(platform: &str, start: &dyn Fn(&[&str]) -> Start) {
    let version = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n");
    for question in ["-v", "-V", "--version"] {
        let (text, end) = output(start(&["x", question]));
        assert_eq!((text.as_str(), end), (version, End::Exit(0)), "{platform} {question}");
    }
    for question in ["-h", "--help"] {
        let (text, end) = output(start(&[question]));
        assert!(text.starts_with(version) && text.len() > version.len(), "{platform}: {text}");
        assert_eq!(end, End::Exit(0));
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(start(&["-v"]).stdout(full).spawn().end(), End::Exit(1), "{platform}");
}

fn ends(platform: &str, start: &dyn Fn(&[&str]) -> Start) {
    let many = ["--versio", "--versions", "-vv", "--hel", "-", "--", "", "x"].repeat(25);
    for (signal, message) in
        [(Signal::TERM, "pause: SIGTERM 15\n"), (Signal::INT, "pause: SIGINT   2\n")]
    {
        for (arguments, warning) in [(&[][..], "pause: not PID #1\n"), (&["-P"], "")] {
            let arguments = [arguments, &many].concat();
            let mut process = start(&arguments).spawn();
            process.sleeps();
            process.send(signal);
            assert_eq!(process.end(), End::Exit(0), "{platform}");
            assert_eq!(process.messages(), format!("{warning}{message}"), "{platform}");
        }
    }
    let mut process = start(&[])
        .step(|| {
            (0..3).for_each(close);
            Ok(())
        })
        .spawn();
    process.sleeps();
    process.send(Signal::TERM);
    assert_eq!(process.end(), End::Exit(0), "{platform} without stdio");
}

/// Checks that pause reaps children that the process already had before it executed pause: one that is
/// dead, and one that dies later.
fn reaps(platform: &str, start: &dyn Fn(&[&str]) -> Start) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let process = start(&["-P"])
        .step(move || {
            use std::os::fd::AsRawFd;
            match fork() {
                0 => exit(0),
                dead => harness::wait_for_zombie(dead),
            }
            if fork() == 0 {
                harness::close_all_but([reader.as_raw_fd()]);
                exit(harness::read_byte(reader.as_raw_fd()))
            }
            Ok(())
        })
        .spawn();
    process.sleeps();
    assert_eq!(process.children().len(), 1, "{platform}: the one that lives");
    drop(writer);
    process.until("had no children", || process.children().is_empty());
    process.terminate();
}
