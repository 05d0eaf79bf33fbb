//! What `pause` promises, tested from outside: real processes in real namespaces.
//!
//! A module for each part of the contract; `harness` starts the processes and looks at them.

mod answers;
mod emulated;
mod file;
mod harness;
mod library;
mod memory;
mod messages;
mod namespaces;
mod platforms;
mod reaping;
mod signals;
#[path = "../../src/start.rs"]
mod start;
mod start_stack;
mod system_calls;
mod traced;
mod unshare;
