//! A running process: signals to it, its /proc files, and its end.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use common::wait::{DEADLINE, is_readable};
use procfs::process::{Process as Proc, Stat, Status};
use rustix::fs::MemfdFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use super::signals::send_signal;

/// How a process ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum End {
    Exit(i32),
    Killed(i32),
}

/// A process. Drop kills and reaps it.
pub struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub(super) ready: OwnedFd,
    pub(super) stderr: Option<fs::File>,
    pub(super) is_reaped: bool,
}

impl Process {
    /// A process whose parent is another process, which reaps it.
    pub fn found(pid: i32) -> Self {
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty());
        let ready = rustix::fs::memfd_create("none", MemfdFlags::CLOEXEC).unwrap();
        Self { pid, pidfd: pidfd.unwrap(), ready, stderr: None, is_reaped: false }
    }

    /// Waits until pause has finished starting. Its last step is to close inherited descriptors, among them
    /// the write end of the `ready` pipe.
    pub fn ready(self) -> Self {
        self.wait_for(self.ready.as_fd(), "its readiness");
        let mut byte = [0];
        let count = rustix::io::read(&self.ready, &mut byte).unwrap();
        assert_eq!(count, 0, "nobody writes to the pipe");
        self
    }

    /// Waits until pause is ready and sleeps, so that nothing from its start can still wake it.
    pub fn asleep(self) -> Self {
        let this = self.ready();
        this.sleeps();
        this
    }

    /// Waits until the process sleeps in `rt_sigtimedwait`.
    pub fn sleeps(&self) {
        let call = format!("{} ", libc::SYS_rt_sigtimedwait);
        self.until("sleeps in rt_sigtimedwait", || {
            self.read_proc("syscall").starts_with(&call) && self.stat().state == 'S'
        });
    }

    pub fn send(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).unwrap();
    }

    pub fn send_number(&self, signal: i32) {
        send_signal(self.pidfd.as_fd(), signal).unwrap();
    }

    /// Waits until the process ends, and reaps it.
    pub fn end(&mut self) -> End {
        self.wait_for(self.pidfd.as_fd(), "its end");
        let options = WaitIdOptions::EXITED;
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), options).unwrap().unwrap();
        self.is_reaped = true;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Exit(code),
            (_, Some(signal)) => End::Killed(signal),
            _ => panic!("unexpected wait status: {status:?}"),
        }
    }

    /// Ends pause with SIGTERM, and checks that it exits with status 0.
    pub fn terminate(mut self) {
        self.send(Signal::TERM);
        assert_eq!(self.end(), End::Exit(0));
    }

    /// What the process has written to stderr so far.
    pub fn messages(&mut self) -> String {
        let file = self.stderr.as_mut().expect("stderr was not redirected");
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    /// Whether the process has not ended yet. A zombie has ended.
    pub fn lives(&self) -> bool {
        !is_readable(self.pidfd.as_fd(), Duration::ZERO)
    }

    pub fn proc(&self) -> Proc {
        Proc::new(self.pid).unwrap()
    }

    pub fn status(&self) -> Status {
        self.proc().status().unwrap()
    }

    pub fn stat(&self) -> Stat {
        self.proc().stat().unwrap()
    }

    pub fn read_proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap_or_default()
    }

    /// The number of its context switches, voluntary and involuntary.
    pub fn context_switches(&self) -> u64 {
        let status = self.status();
        status.voluntary_ctxt_switches.unwrap() + status.nonvoluntary_ctxt_switches.unwrap()
    }

    /// Its children.
    pub fn children(&self) -> Vec<Stat> {
        let processes = procfs::process::all_processes().unwrap();
        let stats = processes.filter_map(|process| process.ok()?.stat().ok());
        stats.filter(|stat| stat.ppid == self.pid).collect()
    }

    /// How many of its children are zombies.
    pub fn zombies(&self) -> usize {
        self.children().iter().filter(|stat| stat.state == 'Z').count()
    }

    /// Waits until `is_so` returns true. It checks again every millisecond, and when the process ends.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(self.lives(), "process {} ended before it {what}", self.pid);
            assert!(start.elapsed() < DEADLINE, "process {} never {what}", self.pid);
            is_readable(self.pidfd.as_fd(), Duration::from_millis(1));
        }
    }

    /// Maps the caller's user and group to root in the user namespace of the process.
    pub(super) fn map_ids(&self) -> io::Result<()> {
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        let file = |name: &str| format!("/proc/{}/{name}", self.pid);
        fs::write(file("setgroups"), "deny")?;
        fs::write(file("uid_map"), format!("0 {} 1", uid.as_raw()))?;
        fs::write(file("gid_map"), format!("0 {} 1", gid.as_raw()))
    }

    pub(super) fn wait_for(&self, file: BorrowedFd, what: &str) {
        assert!(is_readable(file, DEADLINE), "process {}: waited too long for {what}", self.pid);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_reaped {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}
