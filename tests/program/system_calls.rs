//! The system calls of pause in order, and its behaviour when one is denied.

use std::collections::BTreeSet;

use libc::{
    SYS_chdir, SYS_close_range, SYS_exit, SYS_getpid, SYS_munmap, SYS_ppoll, SYS_prctl,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigtimedwait, SYS_wait4, SYS_write,
};
use rustix::process::Signal;

use crate::harness::{End, Form, Start, Trace, test_each_form};

test_each_form! {
    denied_one_by_one_have_the_documented_effect
}

/// From exec to sleep as PID 1. The last call is the sleep.
const TO_SLEEP: [libc::c_long; 9] = [
    SYS_rt_sigprocmask,
    SYS_rt_sigaction,
    SYS_getpid,
    SYS_prctl, // PR_SET_NAME
    SYS_prctl, // PR_SET_MM
    SYS_munmap,
    SYS_wait4,
    SYS_close_range,
    SYS_rt_sigtimedwait,
];

/// From SIGTERM to the end.
const TO_END: [libc::c_long; 3] = [SYS_ppoll, SYS_write, SYS_exit];

fn numbers(trace: &Trace) -> Vec<libc::c_long> {
    trace.calls.iter().map(|call| call.0).collect()
}

#[test]
fn are_twelve_as_pid_1() {
    let trace = Start::pid1().trace();
    assert_eq!(trace.end, End::Exit(0));
    assert_eq!(numbers(&trace), [&TO_SLEEP[..], &TO_END].concat());
    let failed = trace.calls.iter().filter(|call| call.1.is_some_and(|result| result < 0));
    let failed: Vec<_> = failed.collect();
    assert_eq!(failed, [&(SYS_wait4, Some(-i64::from(libc::ECHILD)))]);
}

#[test]
fn are_sixteen_if_not_pid_1() {
    let trace = Start::new().trace();
    assert_eq!(trace.end, End::Exit(0));
    let (before, after) = TO_SLEEP.split_at(3);
    // The warning, PR_SET_CHILD_SUBREAPER, and the change to the root folder.
    let between = [SYS_ppoll, SYS_write, SYS_prctl, SYS_chdir];
    assert_eq!(numbers(&trace), [before, &between, after, &TO_END].concat());
}

#[test]
fn are_two_for_an_answer() {
    let null = || std::fs::File::options().write(true).open("/dev/null").unwrap();
    let trace = Start::pid1().arguments(&["-v"]).stdout(null()).trace();
    assert_eq!((numbers(&trace), trace.end), (vec![SYS_write, SYS_exit], End::Exit(0)));
}

/// How pause ends if one of its calls is denied. In the rows with status 0, it keeps running until SIGTERM,
/// and the comment says what it loses.
const DENIED: [(libc::c_long, End); 12] = [
    // pause cannot hold the namespaces. It writes a message, and exits with this status.
    (SYS_rt_sigprocmask, End::Exit(2)),
    (SYS_rt_sigaction, End::Exit(2)),
    (SYS_rt_sigtimedwait, End::Exit(3)),
    // pause cannot even exit: an invalid instruction after the call kills it.
    (SYS_exit, End::Killed(libc::SIGILL)),
    // Its messages are lost.
    (SYS_ppoll, End::Exit(0)),
    (SYS_write, End::Exit(0)),
    // It keeps all its memory.
    (SYS_munmap, End::Exit(0)),
    // It keeps all its memory, does not set its thread name, and is no subreaper.
    (SYS_prctl, End::Exit(0)),
    // Children that were dead before it started stay zombies, as do traced ones.
    (SYS_wait4, End::Exit(0)),
    // Descriptors that leaked into it stay open.
    (SYS_close_range, End::Exit(0)),
    // It keeps its working directory. As PID 1, it does not make this call.
    (SYS_chdir, End::Exit(0)),
    // It does not learn that it is PID 1, and acts as an ordinary process.
    (SYS_getpid, End::Exit(0)),
];

/// What pause writes if this call is denied and pause ends in this way.
fn last_words(denied: libc::c_long, end: End) -> &'static str {
    match end {
        _ if [SYS_ppoll, SYS_write].contains(&denied) => "",
        End::Exit(2 | 3) => "pause: can't hold\n",
        _ => "pause: SIGTERM 15\n",
    }
}

/// Checks the table for each form, without a tracer. SIGTERM may arrive before pause's first instruction.
fn denied_one_by_one_have_the_documented_effect(form: Form) {
    for (number, end) in DENIED {
        if form == Form::Run && number == SYS_close_range {
            continue; // `spawn` waits until `run` has closed what it inherits
        }
        for start in [form.pid1(), form.start()] {
            let start = start.arguments(&["-P"]).denying(number, libc::EPERM);
            let mut process = start.spawn();
            process.send(Signal::TERM);
            assert_eq!(process.end(), end, "without {number}");
            assert_eq!(process.messages(), last_words(number, end), "without {number}");
        }
    }
}

#[test]
fn denied_one_by_one_do_not_make_it_spin() {
    for (number, end) in DENIED {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EAGAIN, libc::EINVAL] {
            for start in [Start::pid1(), Start::new()] {
                let start = start.arguments(&["-P"]).denying(number, errno);
                if number == SYS_exit {
                    // An invalid instruction kills a PID 1 that has no tracer, but not one that has a tracer
                    // (`force_sig_info_to_task` in Linux `kernel/signal.c`). So this runs without a tracer.
                    let mut process = start.spawn().asleep();
                    process.send(Signal::TERM);
                    assert_eq!(process.end(), end);
                    continue;
                }
                let trace = start.trace();
                let calls = numbers(&trace);
                assert_eq!(trace.end, end, "without {number}: {calls:?}");
                assert!(calls.len() <= 20, "without {number}: {calls:?}");
                assert_eq!(trace.messages, last_words(number, end), "without {number}");
            }
        }
    }
    let with_row: BTreeSet<_> = DENIED.iter().map(|row| row.0).collect();
    let made: BTreeSet<_> = numbers(&Start::new().trace()).into_iter().collect();
    assert_eq!(with_row, made, "each of its calls has a row");
}

/// The calls that the source lists are those of the table. The seccomp profile is made from that list
/// (`tests/runtimes/seccomp.rs`).
#[test]
fn are_those_in_the_source() {
    let file = format!("{}/src/arch/{}.rs", env!("CARGO_MANIFEST_DIR"), std::env::consts::ARCH);
    let listed = common::calls::listed(file.as_ref());
    let listed: BTreeSet<_> = listed.iter().map(|call| call.1 as libc::c_long).collect();
    assert_eq!(listed, DENIED.map(|row| row.0).into());
}

/// If prctl is denied, pause cannot tell the kernel that the name has moved. So it keeps the
/// start stack, which has the name.
#[test]
fn denied_prctl_leaves_the_name_and_the_stack() {
    let start = Start::pid1().arguments(&["-P"]).denying(SYS_prctl, libc::EPERM);
    let process = start.spawn().asleep();
    assert_eq!(process.read_proc("cmdline"), "/pause\0-P\0");
    assert!(process.read_proc("maps").contains("[stack]"));
    process.terminate();
}
