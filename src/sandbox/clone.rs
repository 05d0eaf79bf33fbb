//! fork(2) and vfork(2) with namespace flags and a pidfd. If the caller holds an [`AllSignalsBlocked`], none
//! of its signal handlers runs in the child.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

/// CLONE_INTO_CGROUP of clone3(2). The libc crate defines it only for glibc.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which process returns from [`clone3`].
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
/// The child has a copy of the memory, but of the threads it has only the calling one. The other threads may
/// have held locks, which nobody releases in the copy. So the child may only make system calls, and must not
/// allocate.
pub(super) unsafe fn clone3(flags: u32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all fields are integers, and zero is a valid integer.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = u64::from(flags) | libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    // With CLONE_PARENT, the child inherits the caller's exit signal, and clone3 rejects an explicit one.
    if flags & libc::CLONE_PARENT as u32 == 0 {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    // An older kernel, whose struct is shorter, accepts a longer one if the additional fields are zero.
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    let size = size_of::<libc::clone_args>();
    // SAFETY: the kernel reads one struct, whose size is passed, and writes one descriptor to `pidfd`.
    // Without CLONE_VM, the child returns on its own copy of the stack, as from fork(2). The caller
    // guarantees what the child does.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just created the descriptor, and nothing else owns it.
        pid => Ok(Cloned::Parent(pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Runs a function in a child that shares the caller's memory. The caller waits until the child has executed
/// a file or has ended. This is vfork(2) with these flags and with a separate stack for the child.
///
/// Unlike a fork, this copies no page tables and causes no copy-on-write faults. For a caller with 100 MiB,
/// copying and faults would account for most of the time that a sandbox takes to start.
///
/// # Safety
///
/// The function only makes system calls. The caller's other threads keep running, so the function must not
/// write to memory that they use.
pub(super) unsafe fn vfork<T>(
    flags: u32,
    child: extern "C" fn(*mut c_void) -> c_int,
    argument: &T,
) -> io::Result<(i32, OwnedFd)> {
    /// Far more than the functions in `child.rs` need, even in a debug build.
    const STACK_BYTES: usize = 65_536;
    let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK_BYTES / size_of::<u128>());
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    let mut pidfd: RawFd = -1;
    let flags =
        flags as c_int | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let argument = (&raw const *argument).cast_mut().cast();
    let _dumpable = Dumpable::shared();
    // SAFETY: the child has its own stack, whose end is aligned. Stack and argument outlive the child's use
    // of them, because CLONE_VFORK suspends this thread until the child's exec or end. The kernel writes one
    // descriptor to `pidfd`. The caller guarantees what the child does.
    let pid = unsafe { libc::clone(child, top.cast(), flags, argument, &raw mut pidfd) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just created the descriptor, and nothing else owns it.
        pid => Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// When the last guard is dropped, restores this process's `dumpable` attribute, which says whether other
/// processes can trace and dump it. See PR_SET_DUMPABLE(2const).
///
/// A child that changes its user makes its memory undumpable. Since the child shares its memory with the
/// caller, the caller becomes undumpable, too (`commit_creds` in Linux `kernel/cred.c`). The caller has to
/// stay undumpable as long as such a child exists: other processes of the child's user must not reach the
/// caller's memory through the child.
struct Dumpable;

/// How many guards exist, and the attribute before the first one.
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

/// Blocks all signals in this thread until this guard is dropped.
///
/// A child inherits the mask. So no handler of the caller runs in the child, and a signal to the child stays
/// pending until pause takes it.
pub(super) struct AllSignalsBlocked(libc::sigset_t);

impl AllSignalsBlocked {
    pub(super) fn new() -> Self {
        // SAFETY: all fields are integers, and zero is a valid integer.
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

/// Ends a child at once, without running the caller's destructors or flushing its buffers.
pub(super) fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes a number, and does not return.
    unsafe { libc::_exit(status) }
}
