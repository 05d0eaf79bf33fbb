//! Reads the lists of system calls from the source.

use std::fs;
use std::path::{Path, PathBuf};

/// The source file of each architecture.
pub fn architectures() -> Vec<PathBuf> {
    let files =
        fs::read_dir(crate::root().join("src/arch")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| !file.ends_with("mod.rs") && !file.ends_with("asm_generic.rs")).collect()
}

/// The names and numbers of the system calls in the module `nr` of this file.
pub fn listed(file: &Path) -> Vec<(String, i64)> {
    let source = fs::read_to_string(file).unwrap();
    let shared = fs::read_to_string(file.with_file_name("asm_generic.rs")).unwrap();
    let list = match source.split_once("pub mod nr {\n") {
        Some((_, list)) => list,
        None => {
            assert!(source.contains("pub use super::asm_generic as nr;"), "{}", file.display());
            shared.split_once("\n\n").unwrap().1
        }
    };
    let lines = list.lines().take_while(|line| *line != "}");
    let calls = lines.map(|line| {
        let item = line.trim().strip_prefix("pub const ").and_then(|item| item.strip_suffix(';'));
        let (name, number) = item.and_then(|item| item.split_once(": usize = ")).expect(line);
        (name.to_lowercase(), number.parse().unwrap())
    });
    calls.collect()
}
