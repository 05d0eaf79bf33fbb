//! An orphan that calls PTRACE_TRACEME makes pause its tracer. The kernel does not release a traced child
//! by itself (`do_notify_parent` in Linux `kernel/signal.c`), so pause has to.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::{read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, getpid, getppid};

use crate::harness::{
    self, Body, DEADLINE, End, Form, Process, Start, close_all_but, exit, fork, freezers,
    is_readable, is_root, kill, read_byte, readable_copy, seize, set_ids, skip, test_each_form,
    trace_me, wait_for_child, write_byte,
};
use crate::reaping::{gate, orphan_maker, wait_until_childless};

test_each_form! {
    orphans_are_reaped
    orphans_are_reaped_after_a_stop
    orphans_are_reaped_after_a_freeze
    orphans_of_another_user_are_reaped
    orphans_are_reaped_by_a_subreaper
    orphan_whose_leader_ended_first_is_reaped
    orphan_of_a_killed_debugger_stays_stopped_until_it_is_killed
    orphan_of_another_tracer_stays_a_zombie_until_the_tracer_ends
}

const ORPHANS: usize = 200;

/// A pipe: the read end, from which the test counts bytes, and the write end, to which each orphan
/// writes a byte once it is traced.
fn reports() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

/// Waits until the process `pause` is the parent of the caller, makes it the tracer of the caller, and writes
/// a byte to `report`. Returns whether that succeeded.
fn become_traced(pause: Pid, report: RawFd) -> bool {
    while getppid() != Some(pause) {
        std::thread::yield_now();
    }
    trace_me().is_ok() && write_byte(report)
}

/// Makes orphans in the PID namespace of `init`. Each of them calls `prepare`, makes its new parent its
/// tracer, and ends. Fails unless each of them is traced.
fn make_traced_orphans(init: &Process, prepare: fn() -> bool) {
    let (reports, report) = reports();
    let number = report.as_raw_fd();
    let orphan = move || i32::from(!(prepare() && become_traced(Pid::INIT, number)));
    let mut maker = orphan_maker(init, ORPHANS, 50, orphan).keeping(report).spawn();
    assert_eq!(maker.end(), End::Exit(0));
    assert_eq!(bytes_until_end(reports.as_fd()), ORPHANS, "traced orphans");
}

/// The number of bytes that can be read from a pipe until EOF.
fn bytes_until_end(pipe: BorrowedFd) -> usize {
    let mut all = 0;
    loop {
        assert!(is_readable(pipe, DEADLINE), "no EOF after {all} bytes");
        match read(pipe, &mut [0; ORPHANS]).unwrap() {
            0 => return all,
            count => all += count,
        }
    }
}

fn nothing() -> bool {
    true
}

fn orphans_are_reaped(form: Form) {
    let pause = form.pid1().spawn().asleep();
    make_traced_orphans(&pause, nothing);
    wait_until_childless(&pause);
    pause.sleeps();
    pause.terminate();
}

fn orphans_are_reaped_after_a_stop(form: Form) {
    let pause = form.pid1().spawn().asleep();
    pause.send(Signal::STOP);
    pause.until("stopped", || pause.stat().state == 'T');
    make_traced_orphans(&pause, nothing);
    pause.until("had all the zombies", || pause.zombies() == ORPHANS);
    pause.send(Signal::CONT);
    wait_until_childless(&pause);
    pause.terminate();
}

fn orphans_are_reaped_after_a_freeze(form: Form) {
    for freezer in freezers!() {
        let pause = form.pid1().spawn().asleep();
        freezer.freeze(&pause);
        make_traced_orphans(&pause, nothing);
        pause.until("had all the zombies", || pause.zombies() == ORPHANS);
        freezer.thaw();
        wait_until_childless(&pause);
        pause.terminate();
    }
}

/// The processes of a container often have another uid than pause.
fn orphans_of_another_user_are_reaped(form: Form) {
    if !is_root() {
        skip!("other users", "only root can become two other users");
    }
    let folder = tempfile::tempdir().unwrap();
    let start = match form {
        Form::File => Start::body(Body::File(readable_copy(folder.path()))),
        form => form.start(),
    };
    let start = start.namespaces(libc::CLONE_NEWPID).step(|| harness::become_user(65_535));
    let pause = start.spawn().asleep();
    assert_eq!(pause.status().ruid, 65_535);
    make_traced_orphans(&pause, || set_ids(54_321).is_ok());
    wait_until_childless(&pause);
    pause.terminate();
}

/// If pause is not PID 1, it adopts the orphans among its descendants.
fn orphans_are_reaped_by_a_subreaper(form: Form) {
    let (reports, report) = reports();
    let (gate, opener) = gate();
    let start = form.start().arguments(&["-P"]).step(move || {
        let pause = getpid();
        let (gate, report) = (gate.as_raw_fd(), report.as_raw_fd());
        if fork() == 0 {
            let mut kept = [gate, report];
            kept.sort();
            close_all_but(kept);
            // Once pause is a subreaper, this child makes orphans.
            read_byte(gate);
            for _ in 0..ORPHANS {
                let parent = match fork() {
                    0 => match fork() {
                        0 => exit(i32::from(!become_traced(pause, report))),
                        _ => exit(0),
                    },
                    parent => parent,
                };
                wait_for_child(parent);
            }
            exit(0)
        }
        Ok(())
    });
    let pause = start.spawn().asleep();
    write(&opener, b"x").unwrap();
    assert_eq!(bytes_until_end(reports.as_fd()), ORPHANS, "traced orphans");
    wait_until_childless(&pause);
    pause.terminate();
}

/// A traced process whose leader ends before its other thread. The kernel releases the process neither when
/// the leader ends nor when the other thread ends.
fn orphan_whose_leader_ended_first_is_reaped(form: Form) {
    let pause = form.pid1().spawn().asleep();
    let (reports, report) = reports();
    let (gate, opener) = gate();
    let (wait, number) = (gate.as_raw_fd(), report.as_raw_fd());
    let orphan = move || match become_traced(Pid::INIT, number) {
        true => {
            harness::close(number);
            harness::leave_thread_behind(wait)
        }
        false => 1,
    };
    let maker = orphan_maker(&pause, 1, 1, orphan).keeping(gate).keeping(report);
    assert_eq!(maker.spawn().end(), End::Exit(0));
    assert_eq!(bytes_until_end(reports.as_fd()), 1, "traced orphans");
    pause.until("had the leader as a zombie", || pause.zombies() == 1);
    drop(opener);
    wait_until_childless(&pause);
    pause.sleeps();
    pause.terminate();
}

/// The debugger is killed between its fork and PTRACE_TRACEME in the child, so pause becomes the tracer of
/// the child. The child then stops for its debugger, and nobody resumes it. That does not wake pause.
fn orphan_of_a_killed_debugger_stays_stopped_until_it_is_killed(form: Form) {
    let pause = form.pid1().spawn().asleep();
    let before = pause.context_switches();
    let (reports, report) = reports();
    let number = report.as_raw_fd();
    let debugger = pause.join(libc::CLONE_NEWPID, move || {
        let debugger = match fork() {
            0 => match fork() {
                0 => {
                    let is_traced = become_traced(Pid::INIT, number);
                    harness::close(number);
                    let has_stopped =
                        is_traced && kill(getpid().as_raw_pid(), libc::SIGSTOP).is_ok();
                    exit(i32::from(!has_stopped))
                }
                _ => exit(i32::from(kill(getpid().as_raw_pid(), libc::SIGKILL).is_err())),
            },
            debugger => debugger,
        };
        // The debugger did not exit: it was killed.
        i32::from(wait_for_child(debugger) != -1)
    });
    assert_eq!(debugger.keeping(report).spawn().end(), End::Exit(0));
    assert_eq!(bytes_until_end(reports.as_fd()), 1, "traced orphans");
    // `t` is the state of a process that is stopped for its tracer. proc_pid_stat(5)
    pause.until("had the tracee", || pause.children().iter().any(|child| child.state == 't'));
    pause.sleeps();
    assert_eq!(pause.context_switches(), before);
    Process::found(pause.children()[0].pid).send(Signal::KILL);
    wait_until_childless(&pause);
    pause.terminate();
}

/// Only the tracer can reap an orphan that another process than pause traces. If the tracer does not do
/// that, the kernel releases the orphan when the tracer ends.
fn orphan_of_another_tracer_stays_a_zombie_until_the_tracer_ends(form: Form) {
    let pause = form.pid1().spawn().asleep();
    let (reports, report) = reports();
    let ((end_of_orphan, orphan_opener), (end_of_tracer, tracer_opener)) = (gate(), gate());
    let (seized, seizer) = gate();
    let [orphan_gate, tracer_gate] = [&end_of_orphan, &end_of_tracer].map(|file| file.as_raw_fd());
    let [told, tell, number] = [&seized, &seizer, &report].map(|file| file.as_raw_fd());
    let tracer = pause.join(libc::CLONE_NEWPID, move || {
        let tracer = match fork() {
            0 => {
                let parent = match fork() {
                    0 => match fork() {
                        0 => exit(read_byte(orphan_gate)),
                        // Yama lets a process trace only its descendants. So the orphan's parent
                        // ends only after the tracer has seized the orphan.
                        _ => exit(i32::from(read_byte(told) != 1)),
                    },
                    parent => parent,
                };
                // No other process starts in this namespace, so this is the id of the orphan.
                while seize(parent + 1).is_err() {
                    std::thread::yield_now();
                }
                let is_orphan = write_byte(tell) && wait_for_child(parent) == 0;
                exit(i32::from(!is_orphan || !write_byte(number)) + read_byte(tracer_gate))
            }
            tracer => tracer,
        };
        wait_for_child(tracer)
    });
    let tracer = tracer.keeping(end_of_orphan).keeping(end_of_tracer).keeping(report);
    let mut tracer = tracer.keeping(seized).keeping(seizer).spawn();
    assert!(is_readable(&reports, DEADLINE), "the orphan is not traced");
    drop(orphan_opener);
    pause.until("had the zombie", || pause.zombies() == 1);
    pause.sleeps();
    assert_eq!(pause.zombies(), 1);
    drop(tracer_opener);
    assert_eq!(tracer.end(), End::Exit(0));
    wait_until_childless(&pause);
    pause.terminate();
}

/// The negative control: with a PID 1 that only ignores SIGCHLD, the zombies stay.
#[test]
fn orphans_stay_where_sigchld_is_only_ignored() {
    let sleeper =
        Start::sleeper().namespaces(libc::CLONE_NEWPID).ignoring(libc::SIGCHLD).spawn().ready();
    make_traced_orphans(&sleeper, nothing);
    sleeper.until("had all the zombies", || sleeper.zombies() == ORPHANS);
}
