//! The manual page, `docs/pause.1`.

use std::fs;
use std::path::Path;
use std::process::Command;

use common::report::skip;
use common::root;

/// The warnings of groff(1) for a page, or `None` if there is no groff.
fn warnings(page: &Path) -> Option<String> {
    let arguments = ["-man", "-Tutf8", "-ww", "-z"];
    let output = Command::new("groff").args(arguments).arg(page).output().ok()?;
    Some(String::from_utf8(output.stderr).unwrap())
}

#[test]
fn renders_without_a_warning() {
    let page = root().join("docs/pause.1");
    let Some(said) = warnings(&page) else { skip!("groff", "there is no groff") };
    assert_eq!(said, "");
    // The negative control: groff warns of an unknown macro.
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("pause.1");
    fs::write(&wrong, fs::read_to_string(page).unwrap() + ".NOTHING\n").unwrap();
    assert!(warnings(&wrong).unwrap().contains("NOTHING"));
}

#[test]
fn agrees_with_the_page_on_behaviour() {
    let page = fs::read_to_string(root().join("docs/pause.1")).unwrap();
    let head = page.lines().next().unwrap();
    assert!(head.contains(concat!("\"pause ", env!("CARGO_PKG_VERSION"), "\"")), "{head}");
    let behaviour = fs::read_to_string(root().join("docs/behaviour.md")).unwrap();
    let (_, statuses) = behaviour.split_once("| exit status | |\n").unwrap();
    let rows = statuses.lines().skip(1).take_while(|line| line.starts_with('|'));
    let statuses: Vec<_> = rows.map(|row| row.split('|').nth(1).unwrap().trim()).collect();
    assert_eq!(statuses, ["0", "1", "2", "3", "SIGILL, SIGTRAP"]);
    for status in statuses {
        assert!(page.contains(&format!("\n.B {status}\n")), "docs/pause.1: {status}");
    }
}
