//! Output of tests that pass or are skipped.

use std::io::Write;

/// Returns from a test that cannot run here, and prints why. The test fails instead if `PODPAUSE_REQUIRE` is
/// `all`, as in CI, or a list that contains `$what`.
#[macro_export]
macro_rules! skip {
    ($what:expr, $($reason:tt)*) => {{
        $crate::report::skipped($what, &format!($($reason)*));
        return;
    }};
}
pub use skip;

/// Prints that something is skipped, and why.
///
/// # Panics
///
/// If `PODPAUSE_REQUIRE` is `all`, or a list that contains `what`.
pub fn skipped(what: &str, reason: &str) {
    let required = std::env::var("PODPAUSE_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|name| name == "all" || name == what);
    assert!(!is_required, "{what} is required by PODPAUSE_REQUIRE={required}: {reason}");
    tell(&format!("SKIPPED {what}: {reason}"));
}

/// Writes a line to stderr that the test harness does not capture. It captures only the output of macros such
/// as `eprintln`.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
