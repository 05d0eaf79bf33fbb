//! The system calls of a process, recorded with ptrace(2).

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::wait::{DEADLINE, is_readable};
use rustix::process::Signal;

use super::child::check;
use super::process::{End, Process};

/// The system calls of a process, and how it ended.
pub struct Trace {
    /// The numbers of the calls and their results, in order. A call that does not return has no result.
    pub calls: Vec<(libc::c_long, Option<i64>)>,
    pub end: End,
    pub messages: String,
}

/// Makes the parent of this process its tracer.
pub fn trace_me() -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the kernel ignores the other arguments of this request.
    check(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) }).map(drop)
}

/// Becomes the tracer of a child that has not executed the program yet.
pub fn seize(pid: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_EXITKILL;
    let none = std::ptr::null_mut::<libc::c_void>();
    let options = std::ptr::without_provenance_mut::<libc::c_void>(options as usize);
    // SAFETY: the request takes numbers.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, options) }).map(drop)
}

/// Resumes a traced process until it enters or leaves a system call, and delivers this signal (0 for none).
fn go_on(pid: i32, signal: i32) {
    let none = std::ptr::null_mut::<libc::c_void>();
    let signal = std::ptr::without_provenance_mut::<libc::c_void>(signal as usize);
    // SAFETY: the request takes numbers.
    check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, none, signal) }).unwrap();
}

/// Why a traced process has stopped.
enum Stop {
    Entry(libc::c_long),
    Return(i64),
    Signal(i32),
    Other,
    End(End),
}

/// The next stop or the end of a traced process, or `None` if neither has happened yet.
fn wait_for_stop(pid: i32) -> Option<Stop> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG | libc::__WALL) };
    if waited != pid {
        return None;
    }
    if libc::WIFEXITED(status) {
        return Some(Stop::End(End::Exit(libc::WEXITSTATUS(status))));
    }
    if libc::WIFSIGNALED(status) {
        return Some(Stop::End(End::Killed(libc::WTERMSIG(status))));
    }
    match libc::WSTOPSIG(status) {
        stop if stop == libc::SIGTRAP | 0x80 => {} // a system call
        _ if status >> 16 != 0 => return Some(Stop::Other), // an event: the execve
        signal => return Some(Stop::Signal(signal)),
    }
    // SAFETY: the struct is plain data, for which zero is a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = std::ptr::without_provenance_mut::<libc::c_void>(size_of_val(&info));
    let request = libc::PTRACE_GET_SYSCALL_INFO;
    // SAFETY: the kernel gets the size of the struct, and writes no more than that.
    check(unsafe { libc::ptrace(request, pid, size, &raw mut info) }).unwrap();
    match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: `op` says which part of the union has been written.
            Some(Stop::Entry(unsafe { info.u.entry }.nr as libc::c_long))
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: for the same reason.
            Some(Stop::Return(unsafe { info.u.exit }.sval))
        }
        _ => Some(Stop::Other),
    }
}

impl Process {
    /// Lets the process run to its end, and records each of its system calls.
    pub(super) fn trace(mut self) -> Trace {
        let mut calls = Vec::new();
        let end = loop {
            let mut status = None;
            // This polls every millisecond, because a stop does not make the pidfd readable.
            let start = Instant::now();
            while status.is_none() {
                assert!(start.elapsed() < DEADLINE, "process {} does not stop", self.pid);
                status = wait_for_stop(self.pid);
                if status.is_none() {
                    is_readable(self.pidfd.as_fd(), Duration::from_millis(1));
                }
            }
            match status.unwrap() {
                Stop::End(end) => break end,
                Stop::Entry(number) => {
                    assert!(calls.len() < 100, "too many system calls: {calls:?}");
                    calls.push((number, None));
                    if number == libc::SYS_rt_sigtimedwait {
                        self.send(Signal::TERM);
                    }
                }
                // The first return is that of the execve, whose entry is not recorded.
                Stop::Return(result) => {
                    if let Some(call) = calls.last_mut() {
                        call.1 = Some(result);
                    }
                }
                Stop::Signal(signal) => {
                    go_on(self.pid, signal);
                    continue;
                }
                Stop::Other => {}
            }
            go_on(self.pid, 0);
        };
        self.is_reaped = true;
        Trace { calls, end, messages: self.messages() }
    }
}
