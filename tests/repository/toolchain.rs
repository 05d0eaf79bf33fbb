//! The compiler is named in one place, and the files that cannot read it there name the same.

use std::fs;

use common::root;

#[test]
fn dockerfile_and_workflow_start_from_the_pinned_compiler() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let file: toml::Table = toml::from_str(&read("rust-toolchain.toml")).unwrap();
    let channel = file["toolchain"]["channel"].as_str().unwrap();
    for (name, start) in [("Dockerfile", " rust:"), (".github/workflows/ci.yml", "image: rust:")] {
        let text = read(name);
        let (_, tag) = text.split_once(start).unwrap_or_else(|| panic!("{name}: no{start}"));
        let version = tag.split(|letter: char| letter != '.' && !letter.is_ascii_digit()).next();
        assert_eq!(version, Some(channel), "{name}");
    }
}
