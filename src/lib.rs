//! The program `pause`, the infra container of a pod, as a library for container runtimes, image builders,
//! tests and benchmarks.
//!
//! As PID 1 of a PID namespace, pause holds the namespaces that it was started in, lets the kernel reap
//! orphans, exits with status 0 on SIGTERM or SIGINT, and otherwise sleeps. It needs no file, no privilege
//! and no argument.
//!
//! [`Program`] starts sandboxes: pause in namespaces of its own, ready when the call returns.
//!
#![cfg_attr(feature = "std", doc = "```")]
#![cfg_attr(not(feature = "std"), doc = "```ignore")]
//! use podpause::{Namespace, Program};
//!
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let program = Program::new()?; // one for all sandboxes
//! let kinds = [Namespace::User, Namespace::Pid, Namespace::Net, Namespace::Ipc, Namespace::Uts];
//! let mut sandbox = program.sandbox().new_namespaces(kinds).host_name("pod-1").spawn()?;
//! println!("pause is process {}", sandbox.pid());
//! sandbox.terminate()?;
//! # Ok(())
//! # }
//! # // Where no sandbox can be made, there is none to show.
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #     match example() {
//! #         Err(error) if error.is::<podpause::Error>() => Ok(eprintln!("{error}")),
//! #         result => result,
//! #     }
//! # }
//! ```
//!
//! A runtime that clones by itself uses these parts:
//!
//! | what a runtime has | what it uses | memory of its own per pod |
//! |---|---|---|
//! | a file system for the pod | [`ELF`], written to a file there | one page |
//! | nothing | [`memfd`], once, and [`exec`] in the child | one page |
//! | nothing, not even exec | [`run`] in the child | what the child has |
//!
//! pause closes inherited descriptors other than 0, 1 and 2 last before it sleeps. So a runtime that passes
//! it the only copy of the write end of a pipe reads EOF once pause holds.
//!
//! Without default features, the crate is `no_std`, has no dependencies, and provides [`ELF`], [`elf`] and
//! [`run`].
//!
//! # Other platforms
//!
//! A tool that builds an image or an initramfs for another machine gets the program from [`elf`], with a
//! feature for each platform: `linux-386`, `linux-amd64`, `linux-arm-v7`, `linux-arm64`,
//! `linux-loong64`, `linux-ppc64le`, `linux-riscv64` and `linux-s390x`. The compiler then needs the core
//! library of that target, which `rustup target add` installs. It needs no other linker.
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

/// Has the code in this page compiled as an example.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../docs/embedding.md")]
struct Page;

#[cfg(feature = "std")]
pub use embed::{exec, memfd};
pub use platforms::{PlatformError, elf};
pub use run::run;
#[cfg(feature = "std")]
pub use sandbox::{Container, Error, Namespace, Program, Sandbox, SandboxBuilder};

/// The program's bytes for the target that this crate is compiled for. [`elf`] has those for others.
///
/// They depend only on the source and the compiler. Profile, directory and dependent crate do not change
/// them.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
