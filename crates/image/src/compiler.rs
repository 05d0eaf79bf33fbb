//! Compiles the program for a platform, exactly as the library's `build.rs` does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use podpause::compile::{Platform, compile, write_source};
use tempfile::TempDir;
use walkdir::WalkDir;

/// A description of pause.
pub const DESCRIPTION: &str = "The infra (pause) container of a Kubernetes pod: holds its \
                               namespaces, reaps its orphans, and keeps only two pages of memory \
                               while it sleeps";

/// A compiler, and a directory with the source.
pub struct Compiler {
    rustc: OsString,
    folder: TempDir,
    /// The output of `rustc --version`.
    pub version: String,
}

impl Compiler {
    /// Uses the compiler in the environment variable RUSTC, or `rustc`.
    pub fn new() -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(&rustc).arg("--version").output().with_context(|| {
            format!("the compiler {} does not start: install Rust, or set RUSTC", rustc.display())
        })?;
        if !output.status.success() {
            bail!("{} --version: {}", rustc.display(), String::from_utf8_lossy(&output.stderr));
        }
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let folder = tempfile::tempdir().context("create a temporary directory")?;
        write_source(folder.path()).with_context(|| format!("write {folder:?}"))?;
        Ok(Self { rustc, folder, version })
    }

    /// The source files of the program, by their paths in the repository.
    pub fn source(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for top in ["src", "link"] {
            for entry in WalkDir::new(self.folder.path().join(top)) {
                let entry = entry?;
                if entry.file_type().is_file() {
                    let path = entry.path().strip_prefix(self.folder.path())?;
                    files.insert(path.display().to_string(), read(entry.path())?);
                }
            }
        }
        Ok(files)
    }

    /// Compiles the program for this platform, and returns its bytes.
    pub fn compile(&self, platform: &Platform) -> Result<Vec<u8>> {
        let Platform { name, target, .. } = platform;
        let pause = self.folder.path().join("pause");
        compile(&self.rustc, self.folder.path(), target, &pause)
            .map_err(|error| anyhow!("{name}: {error}"))?;
        read(&pause)
    }
}

/// Reads a file. An error names the file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}
