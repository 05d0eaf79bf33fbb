//! pause under the container runtimes that people have, as they start it.
//!
//! A module for each runtime. `common::cage` gives each test namespaces of its own, and everything that
//! runs in them ends with the test. Needs root. A runtime that is missing is skipped, unless `PODPAUSE_REQUIRE`
//! asks for it.

mod directory;
mod docker;
mod gvisor;
mod oci;
mod pages;
mod podman;
mod seccomp;
