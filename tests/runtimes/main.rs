//! pause under real container runtimes.
//!
//! There is a module for each runtime or group of similar runtimes, one for the seccomp profile, and one for
//! the pages in `docs/`. `common::cage` gives each test of a runtime its own namespaces, and kills everything
//! in them at the end of the test. These tests need root. A test whose runtime is missing is skipped, unless
//! `PODPAUSE_REQUIRE` requires it.

mod directory;
mod docker;
mod gvisor;
mod oci;
mod pages;
mod podman;
mod seccomp;
