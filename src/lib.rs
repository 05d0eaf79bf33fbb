//! The program `pause`, the infra container of a pod, for whoever carries it: container runtimes,
//! image builders, tests and benchmarks.
//!
//! As PID 1 of a PID namespace, it holds the namespaces that it was started in, has the kernel reap
//! orphans, ends with status 0 on SIGTERM or SIGINT, and otherwise sleeps. It needs no file, no
//! right and no argument.
//!
//! | what a runtime has | what it uses | memory of its own per pod |
//! |---|---|---|
//! | a file system for the pod | [`ELF`], written to a file there | one page |
//! | nothing | [`memfd`], once, and [`exec`] in the child | one page |
//! | nothing, not even exec | [`run`] in the child | what the child has |
//!
//! It closes the descriptors that it inherits, but for 0, 1 and 2, as the last thing before it
//! sleeps. A runtime that hands it the write end of a pipe sees the end of that pipe when pause is
//! armed.
//!
//! ```
//! assert_eq!(&podpause::ELF[..4], b"\x7fELF");
//! ```
//!
//! Without default features, the crate is `no_std`, depends on nothing, and has [`ELF`], [`elf`] and
//! [`run`].
//!
//! # Other platforms
//!
//! A tool that builds an image or an initramfs for another machine has its program from [`elf`], with
//! a feature for each platform: `linux-386`, `linux-amd64`, `linux-arm-v7`, `linux-arm64`,
//! `linux-loong64`, `linux-ppc64le`, `linux-riscv64` and `linux-s390x`. The compiler then needs the
//! library of that target, which `rustup target add` installs, and no linker of its own.
//!
//! With the feature `compile`, the module `compile` has the source of the program, the table of
//! platforms, and a function that compiles the program when the tool runs.
#![cfg_attr(not(any(feature = "std", feature = "compile")), no_std)]

#[allow(unused, reason = "the program uses the rest")]
mod arch;
#[cfg(feature = "compile")]
pub mod compile;
#[cfg(feature = "std")]
mod embed;
#[allow(unused, reason = "the program uses the rest")]
mod pause;
mod platforms;
mod run;
#[allow(unused, reason = "the program uses the rest")]
mod sys;

/// Has the code in this page compiled as an example.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../docs/embedding.md")]
struct Page;

#[cfg(feature = "std")]
pub use embed::{exec, memfd};
pub use platforms::{PlatformError, elf};
pub use run::run;

/// The bytes of the program, for the target that this crate is compiled for. [`elf`] has those for
/// others.
///
/// They depend on the source and the compiler only: they are the same in each profile, from each
/// folder, and in each crate that depends on this one.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
