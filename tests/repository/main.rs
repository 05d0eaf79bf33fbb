//! What the repository promises of itself: what it depends on, what is published, its manual page.

#[path = "../../compile.rs"]
mod compile;
mod dependencies;
mod manual;
mod packages;
#[path = "../common/report.rs"]
mod report;

use std::path::Path;

/// The folder of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
