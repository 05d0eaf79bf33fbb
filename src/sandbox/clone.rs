//! fork(2) and vfork(2) with namespaces and a pidfd, and with no signal handler in the child.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

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

/// Runs a function in a child that shares the memory of the caller, who waits until the child has
/// executed something or has ended: vfork(2) with these flags, and with a stack for the child.
///
/// No page table is copied, and no page of the caller is copied later because a child had it, too. For
/// a caller with 100 MiB that is most of the time that a sandbox takes to start.
///
/// # Safety
///
/// The function makes system calls only. The rest of the caller's threads goes on meanwhile, so it must
/// not write to what they use.
pub(super) unsafe fn vfork<T>(
    flags: u32,
    child: extern "C" fn(*mut c_void) -> c_int,
    argument: &T,
) -> io::Result<(i32, OwnedFd)> {
    /// Far more than the functions in `child.rs` use, in a debug build, too.
    const STACK_BYTES: usize = 65_536;
    let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK_BYTES / size_of::<u128>());
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    let mut pidfd: RawFd = -1;
    let flags =
        flags as c_int | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let argument = (&raw const *argument).cast_mut().cast();
    let _dumpable = Dumpable::shared();
    // SAFETY: the child has a stack of its own, whose end is aligned. Stack and argument outlive its
    // use of them, since this thread goes on only after its exec or its end (CLONE_VFORK). The kernel
    // writes one descriptor to `pidfd`. What the child does, the caller answers for.
    let pid = unsafe { libc::clone(child, top.cast(), flags, argument, &raw mut pidfd) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has made the descriptor for us, and nobody else knows it.
        pid => Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Restores, when this is dropped by the last of those who have one, whether this process can be traced
/// and dumped. PR_SET_DUMPABLE(2const)
///
/// A child that changes its user makes its memory undumpable, which is also that of the caller
/// (`commit_creds` in Linux `kernel/cred.c`). That is right for as long as such a child is there: nobody
/// who is that user may reach the caller's memory by it.
struct Dumpable;

/// How many there are, and what it was before the first.
static SHARED: Mutex<(usize, Option<DumpableBehavior>)> = Mutex::new((0, None));

impl Dumpable {
    fn shared() -> Self {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.0 == 0 {
            shared.1 = dumpable_behavior().ok();
        }
        shared.0 += 1;
        Self
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.0 -= 1;
        if let (0, Some(before)) = *shared
            && dumpable_behavior().is_ok_and(|now| now != before)
        {
            let _ = set_dumpable_behavior(before);
        }
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
