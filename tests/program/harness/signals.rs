//! Signals: masks, actions, and sending them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::child::check;

/// Sets what a signal does in this process: SIG_DFL or SIG_IGN.
pub fn set_handler(signal: i32, handler: libc::sighandler_t) -> io::Result<()> {
    // The C library would refuse the two signals that it keeps for itself, and both are inherited.
    // All but the first word of the kernel's `struct sigaction`, of at most five, is zero here.
    let action: [usize; 5] = [handler, 0, 0, 0, 0];
    let (call, none) = (libc::SYS_rt_sigaction, std::ptr::null::<()>());
    // SAFETY: the kernel reads the struct. Neither default nor ignored is a function that could run.
    check(unsafe { libc::syscall(call, signal, action.as_ptr(), none, 8) }).map(drop)
}

/// What the handler of [`handle`] writes to stderr.
pub const HANDLER_RAN: &str = "a handler ran\n";

/// Has a handler run for this signal, which says so on stderr.
pub fn handle(signal: i32) -> io::Result<()> {
    extern "C" fn handler(_: libc::c_int) {
        let _ = rustix::io::write(rustix::stdio::stderr(), HANDLER_RAN.as_bytes());
    }

    // SAFETY: the struct is plain data, for which zero is a value: no flags, and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the function reads one struct. The handler makes one system call.
    check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }.into())
        .map(drop)
}

/// Blocks this signal in this thread.
pub fn block(signal: i32) {
    let mut set = empty_set();
    // SAFETY: the function writes one set.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: the function reads one set.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Whether this thread blocks this signal, and whether one is pending for it.
pub fn is_blocked_and_pending(signal: i32) -> (bool, bool) {
    let (mut blocked, mut pending) = (empty_set(), empty_set());
    let null = std::ptr::null();
    // SAFETY: the function writes one set.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, null, &raw mut blocked) };
    // SAFETY: for the same reason.
    unsafe { libc::sigpending(&raw mut pending) };
    // SAFETY: the function reads one set.
    let has = |set: &libc::sigset_t| unsafe { libc::sigismember(&raw const *set, signal) } == 1;
    (has(&blocked), has(&pending))
}

/// Sends this thread a signal.
pub fn raise(signal: i32) {
    // SAFETY: raise(3) takes a number.
    unsafe { libc::raise(signal) };
}

pub fn send_signal(pidfd: BorrowedFd, signal: i32) -> io::Result<()> {
    let (pidfd, call) = (pidfd.as_raw_fd(), libc::SYS_pidfd_send_signal);
    // SAFETY: the kernel reads no siginfo, since there is none.
    let sent = unsafe { libc::syscall(call, pidfd, signal, std::ptr::null::<()>(), 0) };
    check(sent).map(drop)
}

/// Sends a signal to a process by its number in this PID namespace.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes two numbers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Unblocks all signals.
pub fn unblock_all() {
    set_mask(&empty_set());
}

pub fn full_set() -> libc::sigset_t {
    let mut set = empty_set();
    // SAFETY: the function writes one set.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

pub fn empty_set() -> libc::sigset_t {
    // SAFETY: the struct is made of integers; zero is the empty set.
    unsafe { std::mem::zeroed() }
}

/// Sets the mask of this thread, and returns the one before.
pub fn set_mask(set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = empty_set();
    // SAFETY: the function reads one set, and writes one.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, &raw mut before) };
    before
}
