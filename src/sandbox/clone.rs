//! fork(2) with namespaces and a pidfd, and with no signal handler in the child.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// The flag CLONE_INTO_CGROUP of clone3(2), which the libc crate has for glibc only.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Who returns from [`clone3`].
pub(super) enum Cloned {
    /// The child.
    Child,
    /// The caller, with the child's process id and pidfd.
    Parent(i32, OwnedFd),
}

/// Forks with these flags. The pidfd is closed on exec.
///
/// # Safety
///
/// Without CLONE_VM, the child has a copy of the memory and of this thread alone. Locks may be held in
/// it by threads that the child lacks: it may make system calls, and must not allocate.
pub(super) unsafe fn clone3(flags: u32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: the struct is made of integers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = u64::from(flags) | libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    // With CLONE_PARENT, the child has the signal of the caller, and must be given none.
    if flags & libc::CLONE_PARENT as u32 == 0 {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    // An older kernel knows a shorter struct. It takes a longer one whose additions are zero.
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    let size = size_of::<libc::clone_args>();
    // SAFETY: the kernel reads one struct, whose size it is told, and writes one descriptor to
    // `pidfd`. There is no CLONE_VM: the child returns on a stack of its own, as from fork(2). What it
    // may do then, the caller answers for.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has made the descriptor for us, and nobody else knows it.
        pid => Ok(Cloned::Parent(pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// All signals are blocked in this thread until this is dropped.
///
/// A child that is cloned meanwhile inherits it: no handler of the caller runs there, and a signal that
/// it is sent stays pending until pause takes it.
pub(super) struct AllSignalsBlocked(libc::sigset_t);

impl AllSignalsBlocked {
    pub(super) fn new() -> Self {
        // SAFETY: the struct is made of integers, for which zero is a value.
        let (mut all, mut before) = unsafe { mem::zeroed::<(libc::sigset_t, libc::sigset_t)>() };
        // SAFETY: the function writes one set.
        unsafe { libc::sigfillset(&raw mut all) };
        // SAFETY: the function reads one set, and writes one.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
        Self(before)
    }
}

impl Drop for AllSignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the function reads one set.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// Ends a child at once: nothing of the caller's is run or flushed in its copy.
pub(super) fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes a number, and does not return.
    unsafe { libc::_exit(status) }
}
