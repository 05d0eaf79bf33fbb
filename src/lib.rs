//! The program `pause`, the infra container of a pod, for whoever carries it: container runtimes,
//! image builders, tests and benchmarks.
//!
//! [`ELF`] is a static executable of about a kilobyte. As PID 1 of a PID namespace, it holds the
//! namespaces that it was started in, has the kernel reap orphans, ends with status 0 on SIGTERM or
//! SIGINT, and otherwise sleeps. It needs no file, no right and no argument.
//!
//! It closes the descriptors that it inherits, but for 0, 1 and 2, as the last thing before it
//! sleeps. A runtime that hands it the write end of a pipe sees the end of that pipe when pause is
//! armed.
//!
//! ```
//! assert_eq!(&podpause::ELF[..4], b"\x7fELF");
//! ```
#![no_std]

/// The bytes of the program, for the target that this crate is compiled for.
///
/// They depend on the source and the compiler only: they are the same in each profile, from each
/// folder, and in each crate that depends on this one.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
