//! Tests the contract of `pause` from outside, with real processes in real namespaces.
//!
//! There is a module for each part of the contract. `harness` starts processes and observes them.

mod answers;
mod descriptors;
mod emulated;
mod file;
mod harness;
mod library;
mod memory;
mod messages;
mod namespaces;
mod not_pid_1;
mod platforms;
mod reaping;
mod signals;
#[path = "../../src/start.rs"]
mod start;
mod start_stack;
mod system_calls;
mod traced;
mod unshare;
#[cfg(target_arch = "x86_64")]
mod uprobes;
