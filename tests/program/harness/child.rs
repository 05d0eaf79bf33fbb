//! The child of a fork. It only makes system calls, because other threads of the test may have held locks at the fork.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use common::wait::is_readable;
use rustix::process::Signal;

/// Whether the tests run as root, which then need no user namespace of their own.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// The process that runs the tests.
pub static TESTS: OnceLock<OwnedFd> = OnceLock::new();

/// Has the child killed when the test that started it ends, or ends it if that has happened already.
pub fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if TESTS.get().is_some_and(|tests| is_readable(tests.as_fd(), Duration::ZERO)) {
        exit(1)
    }
    Ok(())
}

/// Forks. For use in a child: there is no guard, and the new process must end by itself.
/// Returns its id, or 0 in it.
pub fn fork() -> i32 {
    fork_with(libc::SIGCHLD)
}

/// Forks with another signal, or none, for the end of the child.
pub fn fork_with(exit_signal: libc::c_int) -> i32 {
    // SAFETY: without CLONE_VM this is fork(2), but for the signal: see `clone3`.
    unsafe { libc::syscall(libc::SYS_clone, exit_signal, 0, 0, 0, 0) as i32 }
}

/// Waits for the end of one child. Returns its exit status, or -1 where it did not exit.
pub fn wait_for_child(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the kernel writes one int to `status`.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    match waited == pid && libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status),
        false => -1,
    }
}

/// Waits until a child is dead, and leaves it a zombie.
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

/// Closes all descriptors above stderr but these, which are in order. A child that lives on does
/// this first: else it would keep pipes open whose end somebody waits for.
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

/// Waits until there is a byte to read, or the end. Returns the number of bytes, 0 or 1.
pub fn read_byte(file: RawFd) -> i32 {
    let mut byte = 0_u8;
    // SAFETY: the kernel writes at most one byte.
    unsafe { libc::read(file, (&raw mut byte).cast(), 1) as i32 }
}

/// Writes a byte, and returns whether it was taken.
pub fn write_byte(file: RawFd) -> bool {
    // SAFETY: the kernel reads one byte.
    unsafe { libc::write(file, b"x".as_ptr().cast(), 1) == 1 }
}

/// Ends this thread, the leader of its process, and leaves another behind, which ends when this
/// descriptor says so.
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
    // SAFETY: the thread has a stack of its own, which lives as long as the process, and makes
    // system calls only. This one never returns from here, so that the lock stays with the thread.
    unsafe { libc::clone(wait, top, flags, argument) };
    // SAFETY: the call ends this thread, and takes a number.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

/// Gives up root: this user and group, no other groups, no capabilities, no new privileges.
pub fn become_user(id: u32) -> io::Result<()> {
    set_ids(id)?;
    die_with_parent()?; // a change of user has forgotten this
    refuse_new_privileges()
}

/// Gives up root: this user and group, no other groups, no capabilities.
pub fn set_ids(id: u32) -> io::Result<()> {
    // SAFETY: an empty list is read from nowhere.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) })?;
    // SAFETY: the raw calls take numbers, and change this thread, which is the only one.
    check(unsafe { libc::syscall(libc::SYS_setresgid, id, id, id) })?;
    // SAFETY: for the same reason.
    check(unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) }).map(drop)
}

/// Has no execve give rights any more.
pub fn refuse_new_privileges() -> io::Result<()> {
    // SAFETY: the operation takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}
