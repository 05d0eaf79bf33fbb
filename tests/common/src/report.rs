//! Output of tests that pass or are skipped.

use std::io::Write;

/// Ends a test that cannot run here, and says why. With `PODPAUSE_REQUIRE` set (to `all` in CI, or to
/// a list of what must not be skipped) the test fails instead.
#[macro_export]
macro_rules! skip {
    ($what:expr, $($reason:tt)*) => {{
        $crate::report::skipped($what, &format!($($reason)*));
        return;
    }};
}
pub use skip;

/// Says that something is skipped, and why.
///
/// # Panics
///
/// If `PODPAUSE_REQUIRE` asks for it.
pub fn skipped(what: &str, reason: &str) {
    let required = std::env::var("PODPAUSE_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|name| name == "all" || name == what);
    assert!(!is_required, "{what} is required by PODPAUSE_REQUIRE={required}: {reason}");
    tell(&format!("SKIPPED {what}: {reason}"));
}

/// Writes a line to the terminal, also where the test harness captures what a test prints: it captures
/// only what macros print.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
