//! Sandboxes of the library, as a runtime starts them.
//!
//! What concerns a whole process, such as its limits, its user or the number of its children, is
//! tested in a process of its own: this program starts itself again, and runs one test there.

mod containers;
mod errors;
mod examples;
mod harness;
mod many;
mod namespaces;
mod process;
