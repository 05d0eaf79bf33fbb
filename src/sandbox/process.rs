//! A child process, identified by its pidfd.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, kill_process, pidfd_send_signal,
    waitid, waitpid,
};

/// How long drop waits for a process that it has killed.
const DROP_DEADLINE: Duration = Duration::from_secs(1);

/// A process, known by its pidfd. Drop kills it, and reaps it if it is a child of this process and ends within
/// one second.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    status: Option<ExitStatus>,
}

impl Child {
    pub(super) fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, status: None }
    }

    /// Sends a signal. It is not an error if the process has ended.
    pub(super) fn send(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the process ends, and reaps it.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let id = || WaitId::PidFd(self.pidfd.as_fd());
        let wait = || retry_on_intr(|| waitid(id(), WaitIdOptions::EXITED));
        let poll_pidfd = || {
            let mut files = [PollFd::new(&self.pidfd, PollFlags::IN)];
            retry_on_intr(|| poll(&mut files, None))
        };
        let waited = match wait() {
            // The pidfd is non-blocking.
            Err(Errno::AGAIN) => poll_pidfd().and_then(|_| wait()),
            waited => waited,
        };
        match waited {
            Ok(status) => {
                let status = status.ok_or(io::ErrorKind::Other)?;
                Ok(*self.status.insert(exit_status(&status)))
            }
            Err(Errno::CHILD) => {
                poll_pidfd()?;
                let text = format!(
                    "process {} has ended, but its status is not known: this process ignores \
                     SIGCHLD, another part of it waits for any child, or it is not the parent",
                    self.pid
                );
                Err(io::Error::new(io::ErrorKind::NotFound, text))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the process has ended, or was reaped.
    pub(super) fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    fn ends_within(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut files = [PollFd::new(&self.pidfd, PollFlags::IN)];
        // A signal handler interrupts poll, which then waits only for the rest of the time.
        let wait = || {
            let left = end.saturating_duration_since(Instant::now());
            poll(&mut files, Timespec::try_from(left).ok().as_ref())
        };
        retry_on_intr(wait).is_ok_and(|count| count > 0)
    }

    /// Whether the kernel has begun to end the process.
    ///
    /// The kernel first releases the memory of a process, then closes its descriptors, and only then makes
    /// its pidfd readable (`do_exit` in Linux `kernel/exit.c`). So when the pipe through which `spawn` waits for
    /// pause is at EOF, it is possible that the process is ending but the pidfd does not show it yet.
    /// process_mrelease(2), since Linux 5.15, shows it, and takes less time than reading /proc. The call fails
    /// with EINVAL, and does nothing, if the process has memory and is not about to end.
    pub(super) fn is_ending(&self) -> bool {
        /// The number is the same on all our architectures. The libc crate does not define it for some of
        /// them.
        const PROCESS_MRELEASE: libc::c_long = 448;
        // SAFETY: the call takes numbers, and releases only the memory of a process that is being killed.
        let released = unsafe { libc::syscall(PROCESS_MRELEASE, self.pidfd.as_raw_fd(), 0) };
        match io::Error::last_os_error().raw_os_error() {
            _ if released == 0 => true,
            Some(libc::EINVAL) => false,
            Some(libc::ESRCH) => true,
            // The kernel is older, or a filter denies the call.
            _ => self.is_ending_by_proc(),
        }
    }

    /// Like [`is_ending`](Self::is_ending), but reads the flag PF_EXITING from /proc. The kernel sets this
    /// flag before it releases the memory.
    fn is_ending_by_proc(&self) -> bool {
        const PF_EXITING: u32 = 4;
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return self.has_ended();
        };
        // proc_pid_stat(5): the name is in parentheses and may contain any character. The flags are the
        // seventh field after the name.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let flags = fields.split_ascii_whitespace().nth(6).and_then(|flags| flags.parse().ok());
        flags.is_none_or(|flags: u32| flags & PF_EXITING != 0)
    }

    /// Returns the pidfd, and neither kills nor reaps the process.
    pub(super) fn into_pidfd(self) -> OwnedFd {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the pidfd is moved out once, and `this` is neither dropped nor used afterwards.
        unsafe { std::ptr::read(&raw const this.pidfd) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.send(Signal::KILL);
            // PID 1 ends only after all other processes in its namespace are reaped. Some of them may be
            // children of this thread, so the wait needs a limit.
            if self.ends_within(DROP_DEADLINE) {
                let _ = self.wait();
            }
        }
    }
}

/// Kills and reaps a child for which there is no pidfd. If another thread has reaped it, its id may belong to
/// another process, but that takes as many new processes as there are ids.
pub(super) fn kill_and_reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
        let _ = retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
    }
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    // wait(2): the second byte is the exit status, or the first byte is the signal, with a bit for a core
    // dump.
    let core = if status.dumped() { 0x80 } else { 0 };
    ExitStatus::from_raw(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (_, signal) => signal.unwrap_or_default() | core,
    })
}
