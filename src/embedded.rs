//! The program as `build.rs` compiled it, for the link that cargo does.
//!
//! Cargo's flags depend on the profile and the environment, ours do not: so that `cargo build` gives
//! the same bytes everywhere, `link/embedded.ld` discards all that cargo compiled but this.

#[used]
#[unsafe(link_section = ".embedded")]
static EMBEDDED: [u8; include_bytes!(concat!(env!("OUT_DIR"), "/pause")).len()] =
    *include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
