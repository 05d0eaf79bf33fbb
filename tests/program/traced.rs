//! An orphan that calls PTRACE_TRACEME makes pause its tracer. The kernel does not release a traced child
//! by itself (`do_notify_parent` in Linux `kernel/signal.c`), so pause has to.

use rustix::process::Signal;

use crate::harness::{self, End, Form, Process, Start, exit, fork, test_each_form};
use crate::reaping::wait_until_childless;

test_each_form! {
    orphans_are_reaped
    orphans_are_reaped_after_a_stop
}

const ORPHANS: usize = 200;

/// Makes orphans in the PID namespace of this process, each of which asks its new parent to trace it,
/// and then ends. Fails unless each of them is traced.
fn make_traced_orphans(init: &Process) {
    let mut maker = init
        .join(libc::CLONE_NEWPID, || {
            for _ in 0..ORPHANS {
                let mut gate = [0; 2];
                // SAFETY: the call writes two numbers.
                if unsafe { libc::pipe(gate.as_mut_ptr()) } != 0 {
                    return 1;
                }
                let parent = match fork() {
                    0 => match fork() {
                        0 => {
                            harness::close(gate[0]);
                            // PID 1 is the parent once the first one is gone.
                            // SAFETY: the call has no arguments.
                            while unsafe { libc::getppid() } != 1 {
                                std::thread::yield_now();
                            }
                            let none = std::ptr::null_mut::<libc::c_void>();
                            // SAFETY: the request takes no arguments.
                            let traced =
                                unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) };
                            // SAFETY: the kernel reads one byte.
                            unsafe {
                                libc::write(gate[1], [u8::from(traced == 0)].as_ptr().cast(), 1)
                            };
                            exit(0)
                        }
                        _ => exit(0),
                    },
                    parent => parent,
                };
                harness::close(gate[1]);
                let is_traced = harness::wait_for_child(parent) == 0 && {
                    let mut byte = 0_u8;
                    // SAFETY: the kernel writes one byte.
                    unsafe { libc::read(gate[0], (&raw mut byte).cast(), 1) == 1 && byte == 1 }
                };
                harness::close(gate[0]);
                if !is_traced {
                    return 1;
                }
            }
            0
        })
        .spawn();
    assert_eq!(maker.end(), End::Exit(0));
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
