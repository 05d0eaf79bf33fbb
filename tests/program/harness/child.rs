//! Functions for the child of a fork. They only make system calls, because another thread of the test
//! may have held a lock at the fork.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use common::wait::is_readable;
use rustix::process::Signal;

/// Whether the tests run as root, in which case they need no user namespace of their own.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// A pidfd of the process that runs the tests, once a test has started a child.
pub static TESTS: OnceLock<OwnedFd> = OnceLock::new();

/// Makes the kernel kill the calling child when the thread that started it ends. If the tests have already
/// ended, exits at once.
pub fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if TESTS.get().is_some_and(|tests| is_readable(tests.as_fd(), Duration::ZERO)) {
        exit(1)
    }
    Ok(())
}

/// Forks. For use in a child: no guard kills the new process, so it must end by itself.
/// Returns the id of the new process, 0 in the new process, or -1 after an error.
pub fn fork() -> i32 {
    fork_with(libc::SIGCHLD)
}

/// Like [`fork`], but the kernel sends this signal when the child ends, or none if it is 0.
pub fn fork_with(exit_signal: libc::c_int) -> i32 {
    // SAFETY: without CLONE_VM, the call differs from fork(2) only in the signal. See `clone3`.
    unsafe { libc::syscall(libc::SYS_clone, exit_signal, 0, 0, 0, 0) as i32 }
}

/// Waits for the end of one child. Returns its exit status, or -1 if a signal killed it or the wait failed.
pub fn wait_for_child(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the kernel writes one int to `status`.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    match waited == pid && libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status),
        false => -1,
    }
}

/// Waits until a child is dead, and leaves it as a zombie.
pub fn wait_for_zombie(pid: i32) {
    // SAFETY: the struct is plain data, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
    // SAFETY: the kernel writes one siginfo_t.
    unsafe { libc::waitid(libc::P_PID, pid as u32, &raw mut info, options) };
}

/// Ends the process at once, without any handler or destructor.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes a number, and does not return.
    unsafe { libc::_exit(status) }
}

pub fn close(file: RawFd) {
    // SAFETY: close(2) takes a number. This is for children, whose copies of owned descriptors are
    // never dropped.
    unsafe { libc::close(file) };
}

/// Closes all descriptors above stderr except `kept`, which must be sorted. A child that outlives the start
/// does this first. Otherwise, it would keep pipes open, and a process that waits for EOF on them would hang.
pub fn close_all_but(kept: impl IntoIterator<Item = RawFd>) {
    let mut first = 3;
    for file in kept.into_iter().map(|file| file as u32) {
        if first < file {
            // SAFETY: for the same reason as in `close`.
            unsafe { libc::syscall(libc::SYS_close_range, first, file - 1, 0) };
        }
        first = file + 1;
    }
    // SAFETY: for the same reason.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Waits for a byte or EOF. Returns the number of bytes, 0 or 1, or -1 after an error.
pub fn read_byte(file: RawFd) -> i32 {
    let mut byte = 0_u8;
    // SAFETY: the kernel writes at most one byte.
    unsafe { libc::read(file, (&raw mut byte).cast(), 1) as i32 }
}

/// Writes a byte, and returns whether that succeeded.
pub fn write_byte(file: RawFd) -> bool {
    // SAFETY: the kernel reads one byte.
    unsafe { libc::write(file, b"x".as_ptr().cast(), 1) == 1 }
}

/// Ends this thread, which is the leader of its process, and leaves a second thread running. The second
/// thread ends as soon as it reads a byte or EOF from `file`.
pub fn leave_thread_behind(file: RawFd) -> ! {
    static STACK: Mutex<[u64; 2_048]> = Mutex::new([0; 2_048]);

    extern "C" fn wait(file: *mut libc::c_void) -> libc::c_int {
        read_byte(file.addr() as RawFd)
    }

    let Ok(mut stack) = STACK.try_lock() else { exit(1) };
    let flags = libc::CLONE_VM
        | libc::CLONE_THREAD
        | libc::CLONE_SIGHAND
        | libc::CLONE_FS
        | libc::CLONE_FILES;
    let top = stack.as_mut_ptr_range().end.cast();
    let argument = std::ptr::without_provenance_mut(file as usize);
    // SAFETY: the new thread only makes system calls, on a stack that lives as long as the
    // process. The calling thread does not return from here, so it does not drop the guard, and
    // no other thread gets that stack.
    unsafe { libc::clone(wait, top, flags, argument) };
    // SAFETY: the call ends this thread, and takes a number.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

/// Gives up root: switches to this user and group, without other groups, capabilities or new privileges.
pub fn become_user(id: u32) -> io::Result<()> {
    set_ids(id)?;
    die_with_parent()?; // a change of user clears the parent-death signal
    refuse_new_privileges()
}

/// Gives up root: switches to this user and group, without other groups or capabilities.
pub fn set_ids(id: u32) -> io::Result<()> {
    // SAFETY: with a length of 0, the kernel does not read the list.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) })?;
    // SAFETY: the raw call takes numbers. It changes only this thread, and the child has no other.
    check(unsafe { libc::syscall(libc::SYS_setresgid, id, id, id) })?;
    // SAFETY: for the same reason.
    check(unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) }).map(drop)
}

/// Sets no_new_privs: from now on, no execve(2) grants privileges. prctl(2)
pub fn refuse_new_privileges() -> io::Result<()> {
    // SAFETY: the operation takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}
