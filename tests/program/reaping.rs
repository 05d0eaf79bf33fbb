//! Ordinary orphans are reaped without waking pause.
//!
//! The kernel reaps them (`do_notify_parent` in Linux `kernel/signal.c`), even while
//! pause is stopped or frozen.

use std::os::fd::{AsRawFd, OwnedFd};

use procfs::process::Stat;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use crate::harness::{
    self, End, Form, Process, Start, exit, fork, fork_with, freezers, test_each_form,
};

test_each_form! {
    orphans_cost_no_context_switch
    orphans_are_reaped_while_it_is_stopped
    orphans_are_reaped_while_it_is_frozen
    zombies_are_reaped_when_reparented
    children_from_before_it_started_are_reaped
    process_whose_leader_exited_first_is_reaped
    subreaper_reaps_descendants
}

const ORPHANS: usize = 10_000;

/// Lets a process join the PID namespace of `pause` and make `count` orphans there, `at_once` of them at a
/// time. Their parent exits without waiting for them. Returns when all of them have been made; to wait for
/// their end, call [`wait_until_childless`].
pub fn make_orphans(pause: &Process, count: usize, at_once: usize) {
    assert_eq!(orphan_maker(pause, count, at_once, || 0).spawn().end(), End::Exit(0));
}

/// A process that makes such orphans, each of which runs `orphan`. The process exits with
/// 0 if it could make all of them.
pub fn orphan_maker(
    pause: &Process,
    count: usize,
    at_once: usize,
    orphan: impl Fn() -> i32 + 'static,
) -> Start {
    pause.join(libc::CLONE_NEWPID, move || {
        for _ in 0..count / at_once {
            // The children of this process are in the PID namespace. This process itself is not.
            let parent = match fork() {
                0 => {
                    for _ in 0..at_once {
                        match fork() {
                            0 => exit(orphan()),
                            -1 => exit(1),
                            _ => {}
                        }
                    }
                    exit(0)
                }
                parent => parent,
            };
            if harness::wait_for_child(parent) != 0 {
                return 1;
            }
        }
        0
    })
}

/// Waits until pause has no child any more, dead or alive.
pub fn wait_until_childless(pause: &Process) {
    pause.until("had no children", || pause.children().is_empty());
}

fn orphans_cost_no_context_switch(form: Form) {
    let pause = form.pid1().spawn().asleep();
    let before = pause.context_switches();
    make_orphans(&pause, ORPHANS, 50);
    wait_until_childless(&pause);
    assert_eq!(pause.context_switches(), before);
    pause.sleeps();
    pause.terminate();
}

/// The negative control: with a PID 1 that only sleeps, the zombies stay.
#[test]
fn orphans_of_a_sleeper_stay_zombies() {
    let sleeper = Start::sleeper().namespaces(libc::CLONE_NEWPID).spawn().ready();
    make_orphans(&sleeper, 100, 10);
    sleeper.until("had all the zombies", || sleeper.zombies() == 100);
}

fn orphans_are_reaped_while_it_is_stopped(form: Form) {
    let pause = form.pid1().spawn().asleep();
    pause.send(Signal::STOP);
    pause.until("stopped", || pause.stat().state == 'T');
    let before = pause.context_switches();
    make_orphans(&pause, ORPHANS, 50);
    wait_until_childless(&pause);
    assert_eq!(pause.context_switches(), before);
    assert_eq!(pause.stat().state, 'T');
    pause.send(Signal::CONT);
    pause.sleeps();
    pause.terminate();
}

fn orphans_are_reaped_while_it_is_frozen(form: Form) {
    for freezer in freezers!() {
        let pause = form.pid1().spawn().asleep();
        freezer.freeze(&pause);
        let before = pause.context_switches();
        make_orphans(&pause, ORPHANS / 10, 50);
        wait_until_childless(&pause);
        assert_eq!(pause.context_switches(), before, "{freezer:?}");
        freezer.thaw();
        pause.sleeps();
        pause.terminate();
    }
}

/// When a parent ends, a zombie child for which it has not waited is reparented as a zombie.
fn zombies_are_reaped_when_reparented(form: Form) {
    let pause = form.pid1().spawn().asleep();
    let before = pause.context_switches();
    let mut maker = pause
        .join(libc::CLONE_NEWPID, || {
            let parent = match fork() {
                0 => {
                    for _ in 0..100 {
                        match fork() {
                            0 => exit(0),
                            child => harness::wait_for_zombie(child),
                        }
                    }
                    exit(0)
                }
                parent => parent,
            };
            harness::wait_for_child(parent)
        })
        .spawn();
    assert_eq!(maker.end(), End::Exit(0));
    wait_until_childless(&pause);
    assert_eq!(pause.context_switches(), before);
    pause.terminate();
}

/// A pipe. A child waits at the read end until the test writes to the write end or closes it.
pub fn gate() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

/// The process may already have children when it becomes pause, as when a process of a runtime forks children
/// and then itself executes pause. wait4(2) sees those whose exit signal is not SIGCHLD only with `__WALL`.
fn children_from_before_it_started_are_reaped(form: Form) {
    // After an exec, the kernel sends SIGCHLD in place of the other exit signals. With
    // `run`, there is no exec, so such children would stay zombies.
    let signals: &[_] = match form {
        Form::Run => &[libc::SIGCHLD],
        _ => &[libc::SIGCHLD, 0, libc::SIGURG],
    };
    for is_pid1 in [true, false] {
        let (reader, writer) = gate();
        let start = if is_pid1 { form.pid1() } else { form.start().arguments(&["-P"]) };
        let pause = start
            .step(move || {
                for &exit_signal in signals {
                    match fork_with(exit_signal) {
                        0 => exit(0),
                        dead => harness::wait_for_zombie(dead),
                    }
                    if fork_with(exit_signal) == 0 {
                        // It lives until the test closes the write end.
                        harness::close_all_but([reader.as_raw_fd()]);
                        exit(harness::read_byte(reader.as_raw_fd()))
                    }
                }
                Ok(())
            })
            .spawn()
            .asleep();
        assert_eq!(pause.zombies(), 0, "as PID 1: {is_pid1}");
        assert_eq!(pause.children().len(), signals.len(), "those that live");
        let before = pause.context_switches();
        drop(writer);
        wait_until_childless(&pause);
        assert_eq!(pause.context_switches(), before, "as PID 1: {is_pid1}");
        pause.terminate();
    }
}

/// The leader of a process ends before its other thread, and stays a zombie for as long as that thread runs.
fn process_whose_leader_exited_first_is_reaped(form: Form) {
    let pause = form.pid1().spawn().asleep();
    let before = pause.context_switches();
    let (reader, writer) = gate();
    let number = reader.as_raw_fd();
    let mut maker = pause
        .join(libc::CLONE_NEWPID, move || {
            let parent = match fork() {
                0 => match fork() {
                    0 => harness::leave_thread_behind(number),
                    _ => exit(0),
                },
                parent => parent,
            };
            harness::wait_for_child(parent)
        })
        .keeping(reader)
        .spawn();
    assert_eq!(maker.end(), End::Exit(0));
    pause.until("had the leader as a zombie", || pause.zombies() == 1);
    drop(writer);
    wait_until_childless(&pause);
    assert_eq!(pause.context_switches(), before);
    pause.terminate();
}

/// With `--pid host`, pause is not PID 1, and reaps the orphans among its descendants as their
/// subreaper (PR_SET_CHILD_SUBREAPER).
fn subreaper_reaps_descendants(form: Form) {
    let (reader, writer) = gate();
    let pause = form
        .start()
        .arguments(&["-P"])
        .step(move || {
            let gate = reader.as_raw_fd();
            if fork() == 0 {
                harness::close_all_but([gate]);
                // Once pause is a subreaper, this child ends and leaves an orphan, which lives until the test
                // closes the write end.
                harness::read_byte(gate);
                match fork() {
                    0 => exit(harness::read_byte(gate)),
                    _ => exit(0),
                }
            }
            Ok(())
        })
        .spawn()
        .asleep();
    let child = pause.children()[0].pid;
    rustix::io::write(&writer, b"x").unwrap();
    let is_orphan = |children: Vec<Stat>| matches!(&children[..], [orphan] if orphan.pid != child);
    pause.until("had the orphan", || is_orphan(pause.children()));
    drop(writer);
    wait_until_childless(&pause);
    pause.terminate();
}
