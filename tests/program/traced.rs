//! An orphan that calls PTRACE_TRACEME makes pause its tracer. The kernel does not release a traced child
//! by itself (`do_notify_parent` in Linux `kernel/signal.c`), so pause has to.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::read;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, getppid};

use crate::harness::{
    DEADLINE, End, Form, Process, Start, is_readable, test_each_form, trace_me, write_byte,
};
use crate::reaping::{orphan_maker, wait_until_childless};

test_each_form! {
    orphans_are_reaped
    orphans_are_reaped_after_a_stop
}

const ORPHANS: usize = 200;

/// Makes orphans in the PID namespace of this process, each of which asks its new parent to trace it,
/// and then ends. Fails unless each of them is traced.
fn make_traced_orphans(init: &Process) {
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let number = report.as_raw_fd();
    let orphan = move || {
        // PID 1 is the parent once the first one is gone.
        while getppid() != Some(Pid::INIT) {
            std::thread::yield_now();
        }
        let is_counted = trace_me().is_ok() && write_byte(number);
        i32::from(!is_counted)
    };
    let mut maker = orphan_maker(init, ORPHANS, 50, orphan).keeping(report).spawn();
    assert_eq!(maker.end(), End::Exit(0));
    assert_eq!(bytes_until_end(reports.as_fd()), ORPHANS, "traced orphans");
}

/// How many bytes a pipe gives until its end.
fn bytes_until_end(pipe: BorrowedFd) -> usize {
    let mut all = 0;
    loop {
        assert!(is_readable(pipe, DEADLINE), "the pipe has no end: {all} bytes");
        match read(pipe, &mut [0; ORPHANS]).unwrap() {
            0 => return all,
            count => all += count,
        }
    }
}

fn orphans_are_reaped(form: Form) {
    let pause = form.pid1().spawn().asleep();
    make_traced_orphans(&pause);
    wait_until_childless(&pause);
    pause.sleeps();
    pause.terminate();
}

fn orphans_are_reaped_after_a_stop(form: Form) {
    let pause = form.pid1().spawn().asleep();
    pause.send(Signal::STOP);
    pause.until("stopped", || pause.stat().state == 'T');
    make_traced_orphans(&pause);
    pause.until("had all the zombies", || pause.zombies() == ORPHANS);
    pause.send(Signal::CONT);
    wait_until_childless(&pause);
    pause.terminate();
}

/// A PID 1 that only has SIGCHLD ignored: the zombies stay. This shows that the tests here can fail.
#[test]
fn orphans_stay_where_sigchld_is_only_ignored() {
    let sleeper =
        Start::sleeper().namespaces(libc::CLONE_NEWPID).ignoring(libc::SIGCHLD).spawn().ready();
    make_traced_orphans(&sleeper);
    sleeper.until("had all the zombies", || sleeper.zombies() == ORPHANS);
}
