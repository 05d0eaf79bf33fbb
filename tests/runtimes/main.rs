//! pause under real container runtimes.
//!
//! There is a module for each runtime. `common::cage` gives each test its own namespaces, and kills
//! everything in them at the end of the test. The tests need root. A test whose runtime is missing is
//! skipped, unless `PODPAUSE_REQUIRE` requires it.

mod directory;
mod docker;
mod gvisor;
mod oci;
mod pages;
mod podman;
mod seccomp;
