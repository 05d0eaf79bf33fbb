//! Lists and copies directories recursively.

use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// The paths of all files in a folder and below it, relative to the folder and sorted.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| !entry.file_type().is_dir());
    files.map(|entry| entry.path().strip_prefix(folder).unwrap().to_owned()).collect()
}

/// Copies all files in a folder and below it. Empty folders are not copied.
pub fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(&file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(from.join(&file), target).unwrap();
    }
}
