//! The program `pause`, as bytes for a container runtime to carry.
#![no_std]

/// The program: a static ELF executable for the target that this crate is compiled for.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
