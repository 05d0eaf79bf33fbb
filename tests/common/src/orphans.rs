//! A program that makes ordinary or traced orphans in a container: see `orphans.c`.

use std::path::Path;
use std::process::Command;

/// Compiles the program, which is statically linked, and returns its bytes.
///
/// # Panics
///
/// If there is no C compiler `cc` (which Rust needs as its linker anyway) or no static C library.
pub fn program() -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/orphans.c");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("orphans");
    let mut command = Command::new("cc");
    command.args(["-static", "-O1", "-Wall", "-o"]).arg(&program).arg(source);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(program).unwrap()
}
