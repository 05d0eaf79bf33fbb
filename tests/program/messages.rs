//! Messages neither block nor kill pause, whatever stderr is.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::{self, Body, End, Form, Process, Start};

pub const WARNING: &str = "pause: not PID #1\n";

#[test]
fn warn_once_if_not_pid_1() {
    let mut process = Start::new().spawn().asleep();
    assert_eq!(process.messages(), WARNING);
    process.send(Signal::TERM);
    assert_eq!(process.end(), End::Exit(0));
    assert_eq!(process.messages(), format!("{WARNING}pause: SIGTERM 15\n"));
}

#[test]
fn are_none_as_pid_1_or_with_dash_p() {
    for start in [Start::pid1(), Start::pid1().arguments(&["-P"]), Start::new().arguments(&["-P"])]
    {
        assert_eq!(start.spawn().asleep().messages(), "");
    }
}

/// Checks that after this preparation, each form of pause keeps running until SIGTERM and exits with 0, both
/// as an ordinary process and as PID 1.
fn holds_and_ends_after(prepare: impl Fn(Start) -> Start) {
    let forms = [Form::File, Form::Memfd, Form::Run];
    for start in forms.into_iter().flat_map(|form| [form.start(), form.pid1()]) {
        let mut process = prepare(start).spawn().asleep();
        process.send(Signal::TERM);
        assert_eq!(process.end(), End::Exit(0));
    }
}

/// Like [`holds_and_ends_after`], with this stderr.
fn holds_and_ends(stderr: impl Fn() -> OwnedFd) {
    holds_and_ends_after(|start| start.stderr(stderr()));
}

#[test]
fn are_dropped_on_a_full_device() {
    holds_and_ends(|| File::options().write(true).open("/dev/full").unwrap().into());
}

#[test]
fn are_dropped_on_a_pipe_without_reader() {
    let closed_pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap().1;
    holds_and_ends(closed_pipe);
    // The negative control: another program is killed.
    assert_eq!(writer().stderr(closed_pipe()).spawn().end(), End::Killed(libc::SIGPIPE));
}

#[test]
fn are_dropped_on_a_read_only_descriptor() {
    holds_and_ends(|| File::open("/dev/null").unwrap().into());
}

#[test]
fn are_dropped_on_a_full_pipe() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4_096]).is_ok() {}
    // pause gets a blocking pipe.
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    holds_and_ends(|| writer.try_clone().unwrap());
    drop(reader);
}

/// A process that writes a word to stderr. It blocks no signal, and all have their default actions.
fn writer() -> Start {
    Start::body(Body::Function(Box::new(|| {
        harness::unblock_all();
        i32::from(rustix::io::write(rustix::stdio::stderr(), b"a word").is_err())
    })))
}

/// A write beyond the limit raises SIGXFSZ. setrlimit(2)
#[test]
fn are_dropped_beyond_rlimit_fsize() {
    let limited = |start: Start| start.step(|| may_not_write_files(0));
    holds_and_ends_after(limited);
    // The first five bytes of a message fit. The kernel writes them, and raises no signal for this write.
    holds_and_ends_after(|start| start.step(|| may_not_write_files(5)));
    // The negative control: another program is killed.
    assert_eq!(limited(writer()).spawn().end(), End::Killed(libc::SIGXFSZ));
}

/// With this limit, poll(2) fails with EINVAL, even for a single open descriptor.
#[test]
fn are_dropped_with_rlimit_nofile_0() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let limit = move || Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, none)?);
    holds_and_ends_after(|start| start.step(limit));
    assert_eq!(Start::new().step(limit).spawn().asleep().messages(), "");
}

/// Limits the size of files that this process writes, in bytes.
fn may_not_write_files(beyond: u64) -> std::io::Result<()> {
    let limit = rustix::process::Rlimit { current: Some(beyond), maximum: Some(beyond) };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Fsize, limit)?)
}

#[test]
fn are_dropped_without_stderr() {
    for start in [Start::new(), Start::pid1()] {
        let close_all = || {
            (0..3).for_each(harness::close);
            Ok(())
        };
        let mut process = start.step(close_all).spawn().asleep();
        process.send(Signal::TERM);
        assert_eq!(process.end(), End::Exit(0));
    }
}

/// A pseudo-terminal: the side of the terminal window (the master), and the side of the program.
fn terminal() -> (OwnedFd, OwnedFd) {
    let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&window).unwrap();
    unlockpt(&window).unwrap();
    let name = ptsname(&window, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let program = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
    (window, program)
}

/// The terminal is stopped as by Control-S.
#[test]
fn are_dropped_on_a_stopped_terminal() {
    let (window, program) = terminal();
    rustix::termios::tcflow(&program, rustix::termios::Action::OOff).unwrap();
    holds_and_ends(|| program.try_clone().unwrap());
    // Nothing arrives, not even after the terminal has been resumed, so pause has dropped the messages.
    rustix::termios::tcflow(&program, rustix::termios::Action::OOn).unwrap();
    rustix::io::ioctl_fionbio(&window, true).unwrap();
    assert_eq!(rustix::io::read(&window, &mut [0_u8; 64]), Err(Errno::AGAIN));
}

/// The leader of a session whose terminal is set to `stty tostop`, and its background job. The job is either
/// pause or, as a control, a process that writes to the terminal.
fn background_job(is_pause: bool) -> (Process, Process) {
    let (window, program) = terminal();
    let mut attributes = rustix::termios::tcgetattr(&program).unwrap();
    attributes.local_modes |= rustix::termios::LocalModes::TOSTOP;
    let now = rustix::termios::OptionalActions::Now;
    rustix::termios::tcsetattr(&program, now, &attributes).unwrap();

    let path = CString::new(harness::program().as_os_str().as_encoded_bytes()).unwrap();
    let leader = Start::body(Body::Function(Box::new(move || {
        let stderr = rustix::stdio::stderr();
        let has_terminal =
            rustix::process::setsid().is_ok() && rustix::process::ioctl_tiocsctty(stderr).is_ok();
        match has_terminal.then(harness::fork) {
            None => 1,
            Some(0) => {
                let is_job = rustix::process::setpgid(None, None).is_ok();
                if is_job && is_pause {
                    let _ = harness::execute(&path);
                }
                harness::unblock_all();
                let _ = rustix::io::write(stderr, b"a word");
                2
            }
            Some(job) => harness::wait_for_child(job),
        }
    })))
    .stderr(program)
    .keeping(window)
    .spawn();
    let mut job = None;
    leader.until("had its job", || {
        job = leader.children().first().map(|stat| Process::found(stat.pid));
        job.is_some()
    });
    (leader, job.unwrap())
}

#[test]
fn do_not_stop_a_background_job_on_tostop() {
    let (mut leader, job) = background_job(true);
    job.sleeps();
    job.send(Signal::TERM);
    assert_eq!(leader.end(), End::Exit(0));

    let (_leader, job) = background_job(false);
    job.until("was stopped", || job.stat().state == 'T');
}
