//! SIGTERM and SIGINT end pause. It blocks SIGPIPE, SIGTTOU, SIGXFSZ and SIGCHLD. The other signals have their
//! default action, unless they were ignored before or pause is PID 1.

use rustix::process::Signal;

use crate::harness::{End, Form, Process, SignalMask, Start, kill, test_each_form};

test_each_form! {
    sigterm_and_sigint_end_it_from_outside
    sigterm_and_sigint_end_it_from_inside_the_namespace
    sigterm_and_sigint_end_it_before_its_first_instruction
    sigterm_and_sigint_end_it_if_ignored_or_blocked
    other_signals_have_their_default_action
    other_signals_are_discarded_for_pid_1
}

/// The message that pause writes when this signal ends it.
fn farewell(signal: Signal) -> &'static str {
    match signal {
        Signal::TERM => "pause: SIGTERM 15\n",
        _ => "pause: SIGINT   2\n",
    }
}

const ENDS: [Signal; 2] = [Signal::TERM, Signal::INT];

fn sigterm_and_sigint_end_it_from_outside(form: Form) {
    for signal in ENDS {
        for start in [form.pid1(), form.start().arguments(&["-P"])] {
            let mut process = start.spawn().asleep();
            process.send(signal);
            assert_eq!(process.end(), End::Exit(0));
            assert_eq!(process.messages(), farewell(signal));
        }
    }
}

/// A container that shares the PID namespace may end the pod.
fn sigterm_and_sigint_end_it_from_inside_the_namespace(form: Form) {
    for signal in ENDS {
        let mut process = form.pid1().spawn().asleep();
        let number = signal.as_raw();
        let mut inside = process
            .join(libc::CLONE_NEWPID, move || {
                // Only a child of this process is in the PID namespace.
                match crate::harness::fork() {
                    0 => i32::from(kill(1, number).is_err()),
                    child => crate::harness::wait_for_child(child),
                }
            })
            .spawn();
        assert_eq!(process.end(), End::Exit(0));
        assert_eq!(process.messages(), farewell(signal));
        // The kernel kills the other processes in the namespace.
        inside.end();
    }
}

/// The harness blocks all signals, and the child sends itself the signal before it becomes pause.
fn sigterm_and_sigint_end_it_before_its_first_instruction(form: Form) {
    for signal in ENDS {
        for start in [form.pid1(), form.start()] {
            let number = signal.as_raw();
            let mut process = start.step(move || kill(std::process::id() as i32, number)).spawn();
            assert_eq!(process.end(), End::Exit(0));
        }
    }
}

/// The negative control for the test above: if the signal is not blocked, the kernel drops it,
/// because PID 1 has no handler for it.
#[test]
fn sigterm_before_its_first_instruction_is_lost_unless_blocked() {
    let process = Start::pid1()
        .blocked(SignalMask::None)
        .step(|| {
            crate::harness::unblock_all();
            kill(1, libc::SIGTERM)
        })
        .spawn()
        .asleep();
    assert!(process.lives());
    process.terminate();
}

fn sigterm_and_sigint_end_it_if_ignored_or_blocked(form: Form) {
    for signal in ENDS {
        for mask in [SignalMask::All, SignalMask::None] {
            for start in [form.pid1(), form.start()] {
                let start = start.blocked(mask).ignoring(signal.as_raw());
                let mut process = start.ignoring(libc::SIGCHLD).spawn().asleep();
                process.send(signal);
                assert_eq!(process.end(), End::Exit(0));
            }
        }
    }
}

/// What a signal does to pause when it is not PID 1.
#[derive(Debug, PartialEq, Clone, Copy)]
enum Effect {
    Ends,
    /// pause takes the signal and goes on, or the default action neither ends nor stops it.
    None,
    Kills,
    Stops,
}

fn effect(signal: i32) -> Effect {
    match signal {
        libc::SIGTERM | libc::SIGINT => Effect::Ends,
        // pause blocks and takes these, and goes on. Writing a message can raise the first three.
        libc::SIGPIPE | libc::SIGTTOU | libc::SIGXFSZ | libc::SIGCHLD => Effect::None,
        // signal(7), default action Ign or Cont.
        libc::SIGURG | libc::SIGWINCH | libc::SIGCONT => Effect::None,
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN => Effect::Stops,
        _ => Effect::Kills,
    }
}

/// The signal numbers of kill(2), including 32 and 33, which C libraries reserve.
const ALL: std::ops::RangeInclusive<i32> = 1..=64;

fn other_signals_have_their_default_action(form: Form) {
    for signal in ALL {
        // In an orphaned process group, SIGTSTP and SIGTTIN do not stop a process. pause gets a group of its
        // own, which is not orphaned: the parent of pause is in another group of the same session.
        let own_group = || Ok(rustix::process::setpgid(None, None)?);
        let mut process = form.start().arguments(&["-P"]).step(own_group).spawn().asleep();
        process.send_number(signal);
        match effect(signal) {
            Effect::Ends => assert_eq!(process.end(), End::Exit(0), "signal {signal}"),
            Effect::Kills => assert_eq!(process.end(), End::Killed(signal), "signal {signal}"),
            Effect::Stops => {
                process.until("stops", || process.stat().state == 'T');
                process.send(Signal::CONT);
                process.sleeps();
                process.terminate();
            }
            Effect::None => {
                process.sleeps();
                process.terminate();
            }
        }
    }
}

/// execve(2) keeps ignored signals ignored, and pause changes only SIGCHLD.
#[test]
fn other_signals_stay_ignored() {
    let process = Start::new().arguments(&["-P"]).ignoring(libc::SIGHUP).spawn().asleep();
    process.send(Signal::HUP);
    process.sleeps();
    assert!(process.lives());
    process.terminate();
}

/// The kernel delivers SIGKILL and SIGSTOP to a PID 1 if they come from the parent namespace (signal(7),
/// pid_namespaces(7)). If they come from inside, it discards them, too.
fn other_signals_are_discarded_for_pid_1(form: Form) {
    for signal in ALL {
        let mut process = form.pid1().spawn().asleep();
        process.send_number(signal);
        match signal {
            libc::SIGTERM | libc::SIGINT => assert_eq!(process.end(), End::Exit(0)),
            libc::SIGKILL => assert_eq!(process.end(), End::Killed(signal)),
            libc::SIGSTOP => {
                process.until("stops", || process.stat().state == 'T');
                process.send(Signal::CONT);
                process.sleeps();
                process.terminate();
            }
            _ => {
                process.sleeps();
                process.terminate();
            }
        }
    }

    let process: Process = form.pid1().spawn().asleep();
    let mut inside = process
        .join(libc::CLONE_NEWPID, || match crate::harness::fork() {
            0 => {
                let rest = ALL.filter(|signal| effect(*signal) != Effect::Ends);
                rest.map(|signal| i32::from(kill(1, signal).is_err())).sum()
            }
            child => crate::harness::wait_for_child(child),
        })
        .spawn();
    assert_eq!(inside.end(), End::Exit(0));
    process.sleeps();
    process.terminate();
}
