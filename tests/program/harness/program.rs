//! The program under test.

use std::fs;
use std::path::{Path, PathBuf};

/// The program under test: the file that cargo linked.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pause"))
}

/// Copies the program with cp(1). If this process wrote the copy itself, a child that another test forks
/// meanwhile would inherit the descriptor for writing, and the kernel refuses to execute a file that is open
/// for writing (ETXTBSY).
pub fn copy_program(to: &Path) {
    let status = std::process::Command::new("cp").arg(program()).arg(to).status().unwrap();
    assert!(status.success());
}

/// A copy of the program that users other than its owner can execute.
pub fn readable_copy(folder: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let copy = folder.join("pause");
    copy_program(&copy);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}
