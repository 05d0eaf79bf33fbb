//! Compiles the program at run time instead of when this crate is built, for a platform and with a compiler of
//! the caller's choice.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use podpause::compile::{compile, write_source};
//!
//! let folder = std::path::Path::new("/tmp/podpause");
//! write_source(folder)?;
//! compile("rustc".as_ref(), folder, "aarch64-unknown-linux-gnu", &folder.join("pause"))?;
//! # Ok(())
//! # }
//! ```

use std::env::consts::ARCH;
use std::fs;
use std::io;
use std::path::Path;

use include_dir::{Dir, include_dir};

#[path = "../link/compile.rs"]
mod link;

#[doc(hidden)]
pub use link::compile_source;
pub use link::{PLATFORMS, Platform, compile};

static SOURCE: Dir = include_dir!("$CARGO_MANIFEST_DIR/src");
static LINK: Dir = include_dir!("$CARGO_MANIFEST_DIR/link");

/// Writes the source of the program to a directory, where [`compile`] can use it: `src`, the linker script, and the
/// compiler's flags in `link/compile.rs`. Creates the directory if necessary.
///
/// # Errors
///
/// Those of mkdir(2), open(2) and write(2).
pub fn write_source(folder: &Path) -> io::Result<()> {
    for name in ["src", "link"] {
        fs::create_dir_all(folder.join(name))?;
    }
    SOURCE.extract(folder.join("src"))?;
    LINK.extract(folder.join("link"))
}

impl Platform {
    /// The platform of the machine that this crate is compiled for, if pause supports it.
    pub fn own() -> Option<&'static Self> {
        PLATFORMS.iter().find(|platform| platform.arch == ARCH)
    }

    /// The OCI name of the architecture.
    pub fn architecture(&self) -> &'static str {
        self.name.split('/').nth(1).expect("a name has two parts or three")
    }

    /// The OCI name of the architecture's variant, if it has one.
    pub fn variant(&self) -> Option<&'static str> {
        self.name.split('/').nth(2)
    }
}
