//! Tests the library's sandboxes, started as a runtime starts them.
//!
//! Tests that change or observe the whole process, such as its limits, its user or its children, run in a new
//! process of this program.

mod containers;
mod errors;
mod examples;
mod harness;
mod many;
mod namespaces;
mod process;
