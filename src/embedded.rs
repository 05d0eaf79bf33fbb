//! The bytes of the program that `build.rs` compiled. The binary `pause` that cargo links consists of them.
//!
//! Cargo's flags depend on the profile and the environment. To make `cargo build` reproducible,
//! `link/embedded.ld` discards everything that cargo compiled except these bytes.

#[used]
#[unsafe(link_section = ".embedded")]
static EMBEDDED: [u8; include_bytes!(concat!(env!("OUT_DIR"), "/pause")).len()] =
    *include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
