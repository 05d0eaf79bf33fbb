//! SIGINT, SIGTERM and SIGHUP, which end what was begun as any other error does: nothing is left.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

static CAUGHT: AtomicBool = AtomicBool::new(false);

/// Has these signals noted, instead of ending the program on the spot.
pub fn catch() -> Result<()> {
    ctrlc::set_handler(|| CAUGHT.store(true, Ordering::Relaxed)).context("catch SIGINT and SIGTERM")
}

/// Fails once there was one.
pub fn check() -> Result<()> {
    ensure!(!CAUGHT.load(Ordering::Relaxed), "interrupted: nothing was written");
    Ok(())
}
