//! What a test says though it does not fail, for all test programs.

use std::io::Write;

/// Ends a test that cannot run here, and says why. With `PODPAUSE_REQUIRE` set (as CI does, to `all`
/// or a list of what must not be skipped) it fails instead.
macro_rules! skip {
    ($what:expr, $($reason:tt)*) => {{
        $crate::report::skipped($what, &format!($($reason)*));
        return;
    }};
}
pub(crate) use skip;

pub fn skipped(what: &str, reason: &str) {
    let required = std::env::var("PODPAUSE_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|name| name == "all" || name == what);
    assert!(!is_required, "{what} is required by PODPAUSE_REQUIRE={required}: {reason}");
    tell(&format!("SKIPPED {what}: {reason}"));
}

/// Writes a line to the terminal, also where the harness captures what a test prints: it captures what
/// macros print, and no more.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
