//! The program `pause`, the infra container of a pod, as a library for container runtimes, image builders,
//! tests and benchmarks.
//!
//! As PID 1 of a PID namespace, pause holds the namespaces that it was started in, lets the kernel reap
//! orphans, exits with status 0 on SIGTERM or SIGINT, and otherwise sleeps. It needs no file, no privilege
//! and no argument.
//!
//! [`Program`] starts sandboxes. A sandbox is a running pause and the namespaces, new or joined, that it
//! holds. pause is ready when [`spawn`](SandboxBuilder::spawn) returns.
//!
#![cfg_attr(feature = "std", doc = "```")]
#![cfg_attr(not(feature = "std"), doc = "```ignore")]
//! use podpause::{Namespace, Program};
//!
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let program = Program::new()?; // all sandboxes share it
//! let kinds = [Namespace::User, Namespace::Pid, Namespace::Net, Namespace::Ipc, Namespace::Uts];
//! let mut sandbox = program.sandbox().new_namespaces(kinds).host_name("pod-1").spawn()?;
//! println!("pause is process {}", sandbox.pid());
//! sandbox.terminate()?;
//! # Ok(())
//! # }
//! # // Some machines do not allow new namespaces.
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #     match example() {
//! #         Err(error) if error.is::<podpause::Error>() => Ok(eprintln!("{error}")),
//! #         result => result,
//! #     }
//! # }
//! ```
//!
//! A runtime that makes the clone(2) call itself uses these parts:
//!
//! | what a runtime can use | what it takes from here | pause's own memory per pod |
//! |---|---|---|
//! | a file system for the pod | [`ELF`], written to a file there | one page |
//! | no such file system, but executable memfds | [`memfd`], once, and [`exec`] in the child | one page |
//! | no way to execute a file | [`run`] in the child | all memory of the child |
//!
//! The last thing that pause does before it sleeps is to close inherited descriptors other than 0, 1 and 2.
//! So if pause inherits the only copy of a pipe's write end, the runtime reads EOF once pause is ready. This
//! needs Linux 5.9, and a seccomp filter must allow close_range(2).
//!
//! Without default features, the crate is `no_std`, has no dependencies, and provides [`ELF`], [`elf`] and
//! [`run`].
//!
//! # Other platforms
//!
//! A tool that builds an image or an initramfs for another machine gets the program from [`elf`]. There is a
//! feature for each platform: `linux-386`, `linux-amd64`, `linux-arm-v7`, `linux-arm64`,
//! `linux-loong64`, `linux-ppc64le`, `linux-riscv64` and `linux-s390x`. The compiler then needs the core
//! library of that target, which `rustup target add` installs. No other linker is needed.
//!
//! With the feature `compile`, the module `compile` provides the program's source, the table of platforms,
//! and a function that compiles the program when the tool runs.
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
#[cfg(feature = "std")]
mod sandbox;
#[allow(unused, reason = "the program uses the rest")]
mod sys;

/// Makes rustdoc compile the Rust code in docs/embedding.md as doc tests.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../docs/embedding.md")]
struct Page;

#[cfg(feature = "std")]
pub use embed::{exec, memfd};
pub use platforms::{PlatformError, elf};
pub use run::run;
#[cfg(feature = "std")]
pub use sandbox::{Container, Error, Namespace, Program, Sandbox, SandboxBuilder};

/// The program's bytes for the target that this crate is compiled for. For other targets, see [`elf`].
///
/// The bytes depend on the source, the crate's version, the target and the compiler. The profile, the
/// directory and the dependent crate do not change them.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
