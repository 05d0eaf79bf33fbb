//! What `pause` promises, tested from outside: real processes in real namespaces.
//!
//! A module for each part of the contract; `harness` starts the processes and looks at them.

mod answers;
#[path = "../common/calls.rs"]
mod calls;
#[path = "../../compile.rs"]
mod compile;
#[path = "../runtimes/docs.rs"]
mod docs;
mod emulated;
mod file;
mod harness;
mod library;
mod memory;
mod messages;
mod namespaces;
#[path = "../common/number.rs"]
mod number;
mod platforms;
mod reaping;
#[path = "../common/report.rs"]
mod report;
mod signals;
#[path = "../../src/start.rs"]
mod start;
mod start_stack;
mod system_calls;
mod unshare;
