//! pause under the container runtimes that people have, as they start it.
//!
//! A module for each runtime; `harness` gives each test a cage of namespaces, with which everything
//! that runs in it ends. Needs root. A runtime that is missing is skipped, unless `PODPAUSE_REQUIRE`
//! asks for it.

#[path = "../common/calls.rs"]
mod calls;
mod docker;
mod docs;
mod harness;
mod image;
mod oci;
mod podman;
#[path = "../common/report.rs"]
mod report;
mod seccomp;
