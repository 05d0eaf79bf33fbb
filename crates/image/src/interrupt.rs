//! Turns SIGINT, SIGTERM and SIGHUP into an error, so cleanup runs as for any other error.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

static CAUGHT: AtomicBool = AtomicBool::new(false);

/// Makes SIGINT, SIGTERM and SIGHUP set `CAUGHT` instead of ending the program.
pub fn catch() -> Result<()> {
    ctrlc::set_handler(|| CAUGHT.store(true, Ordering::Relaxed))
        .context("catch SIGINT, SIGTERM and SIGHUP")
}

/// Fails if one of these signals has arrived.
pub fn check() -> Result<()> {
    ensure!(!CAUGHT.load(Ordering::Relaxed), "interrupted: nothing was written");
    Ok(())
}
