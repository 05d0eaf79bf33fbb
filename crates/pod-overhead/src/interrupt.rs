//! SIGINT, SIGTERM and SIGHUP end the run as an error does: all pods are removed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How many signals have arrived.
static CAUGHT: AtomicUsize = AtomicUsize::new(0);

/// How often a wait looks for signals.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// From here on, these signals are recorded and do not end the program.
pub fn catch() -> Result<()> {
    let count = || {
        CAUGHT.fetch_add(1, Ordering::Relaxed);
    };
    ctrlc::set_handler(count).context("catch SIGINT, SIGTERM and SIGHUP")
}

/// Fails if such a signal has arrived.
pub fn check() -> Result<()> {
    ensure!(CAUGHT.load(Ordering::Relaxed) == 0, "interrupted");
    Ok(())
}

/// Runs the removal of pods, even if one signal has arrived or arrives meanwhile. Gives up at the next signal.
pub async fn unless_again<T>(removal: impl Future<Output = Result<T>>) -> Result<T> {
    let before = CAUGHT.load(Ordering::Relaxed).max(1);
    let again = async {
        while CAUGHT.load(Ordering::Relaxed) <= before {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        removed = removal => removed,
        () = again => bail!("interrupted during the removal"),
    }
}
