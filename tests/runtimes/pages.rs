//! Checks of the pages in `docs/`. Other tests use the snippets in these pages.

use std::fs;
use std::path::Path;

use common::images::PAUSE;

/// The pages name the image of this version of pause.
#[test]
fn name_this_version() {
    let version = concat!(":", env!("CARGO_PKG_VERSION"));
    assert!(PAUSE.ends_with(version), "{PAUSE}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let content = fs::read_to_string(&file).unwrap();
        for place in content.split("localhost/podpause/pause").skip(1) {
            assert!(place.starts_with(version), "{file:?}: {}", place.lines().next().unwrap());
            count += 1;
        }
    }
    assert!(count > 8, "{count} names of the image in docs/");
}
