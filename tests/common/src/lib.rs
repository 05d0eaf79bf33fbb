//! Code that several test programs share.

pub mod cage;
pub mod calls;
pub mod docs;
pub mod emulators;
pub mod folder;
pub mod footprint;
pub mod images;
pub mod number;
pub mod orphans;
pub mod output;
pub mod report;
pub mod wait;

use std::path::Path;

/// The root of the repository.
pub fn root() -> &'static Path {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    path.ancestors().nth(2).expect("this crate is two folders below the root of the repository")
}
