//! SIGINT, SIGTERM and SIGHUP end the run as an error does: all pods are removed.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

static CAUGHT: AtomicBool = AtomicBool::new(false);

/// From here on, these signals are recorded and do not end the program.
pub fn catch() -> Result<()> {
    ctrlc::set_handler(|| CAUGHT.store(true, Ordering::Relaxed))
        .context("catch SIGINT, SIGTERM and SIGHUP")
}

/// Fails if such a signal has arrived.
pub fn check() -> Result<()> {
    ensure!(!CAUGHT.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
