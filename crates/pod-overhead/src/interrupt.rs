//! SIGINT, SIGTERM and SIGHUP end the run as an error does: all pods are removed.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

static CAUGHT: AtomicBool = AtomicBool::new(false);

/// From here on these signals are noted, and do not end the program.
pub fn catch() -> Result<()> {
    ctrlc::set_handler(|| CAUGHT.store(true, Ordering::Relaxed)).context("catch SIGINT and SIGTERM")
}

/// Fails once there was such a signal.
pub fn check() -> Result<()> {
    ensure!(!CAUGHT.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
