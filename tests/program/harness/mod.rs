//! Starts processes as a container runtime does, and observes them from outside.
//!
//! All `unsafe` code of these tests is here, apart from `src/start.rs`, which they share with the program. A
//! dropped [`Process`] is killed and reaped. Its methods that wait have a deadline.

mod child;
mod freezer;
mod ipc;
mod memory;
mod namespaces;
mod process;
mod program;
mod seccomp;
mod signals;
mod start;
mod trace;
#[cfg(target_arch = "x86_64")]
mod uprobes;

pub use child::{
    become_user, close, close_all_but, exit, fork, fork_with, is_root, leave_thread_behind,
    read_byte, refuse_new_privileges, set_ids, wait_for_child, wait_for_zombie, write_byte,
};
pub use common::report::skip;
pub use common::wait::{DEADLINE, is_readable};
pub use freezer::Freezer;
pub(crate) use freezer::freezers;
pub use ipc::{make_queue, make_segment, read_queue, read_segment};
pub use memory::{GuardedMemory, bytes_of, start_stack};
pub use namespaces::{set_namespaces, set_up_loopback, unshare};
pub use process::{End, Process};
pub use program::{copy_program, program, readable_copy};
pub use signals::{HANDLER_RAN, block, handle, is_blocked_and_pending, kill, raise, unblock_all};
pub use start::{Body, Form, SignalMask, Start, execute};
pub use trace::{Trace, seize, trace_me};
#[cfg(target_arch = "x86_64")]
pub use uprobes::{Probe, do_not_randomise_addresses};

/// Makes a module of tests for each of these functions, with one test for each form of pause.
macro_rules! test_each_form {
    ($($name:ident)*) => {$(
        mod $name {
            use crate::harness::Form;

            #[test]
            fn file() {
                super::$name(Form::File);
            }

            #[test]
            fn memfd() {
                super::$name(Form::Memfd);
            }

            #[test]
            fn run() {
                super::$name(Form::Run);
            }
        }
    )*};
}

pub(crate) use test_each_form;
