//! Signals: masks, actions, and sending them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::child::check;

/// Sets the action of a signal in this process: SIG_DFL or SIG_IGN.
pub fn set_handler(signal: i32, handler: libc::sighandler_t) -> io::Result<()> {
    // A raw system call, because the C library refuses the two signals that it reserves (32 and 33). A child
    // inherits their actions, too. The kernel's `struct sigaction` has at most five words; all but the first
    // are zero here.
    let action: [usize; 5] = [handler, 0, 0, 0, 0];
    let (call, none) = (libc::SYS_rt_sigaction, std::ptr::null::<()>());
    // SAFETY: the kernel reads the struct. SIG_DFL and SIG_IGN are not functions, so no handler can run.
    check(unsafe { libc::syscall(call, signal, action.as_ptr(), none, 8) }).map(drop)
}

/// What the handler of [`handle`] writes to stderr.
pub const HANDLER_RAN: &str = "a handler ran\n";

/// Installs a handler for this signal that writes [`HANDLER_RAN`] to stderr.
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

/// Whether this thread blocks this signal, and whether the signal is pending.
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
    // SAFETY: the pointer to a siginfo is null, so the kernel reads none.
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

/// Sets the signal mask of this thread, and returns the previous one.
pub fn set_mask(set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = empty_set();
    // SAFETY: the function reads one set, and writes one.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, &raw mut before) };
    before
}
