//! Some files have to repeat a fact that is defined elsewhere. These tests compare them with the definition.

use std::fs;

use common::root;
use podpause::compile::PLATFORMS;

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

fn read_toml(name: &str) -> toml::Table {
    toml::from_str(&read(name)).unwrap()
}

#[test]
fn dockerfile_and_workflow_start_from_the_pinned_compiler() {
    let file = read_toml("rust-toolchain.toml");
    let channel = file["toolchain"]["channel"].as_str().unwrap();
    for (name, start) in [("Dockerfile", " rust:"), (".github/workflows/ci.yml", "image: rust:")] {
        let text = read(name);
        let (_, tag) = text.split_once(start).unwrap_or_else(|| panic!("{name}: no{start}"));
        let version = tag.split(|letter: char| letter != '.' && !letter.is_ascii_digit()).next();
        assert_eq!(version, Some(channel), "{name}");
    }
}

#[test]
fn dependencies_are_checked_for_all_platforms() {
    let file = read_toml("deny.toml");
    let targets = file["graph"]["targets"].as_array().unwrap().iter();
    let targets: Vec<_> = targets.map(|target| target.as_str().unwrap()).collect();
    assert_eq!(targets, PLATFORMS.map(|platform| platform.target), "deny.toml");
}
