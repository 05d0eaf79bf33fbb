//! What a command writes: files and stdout. Errors are messages for the user.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

type Result<T> = std::result::Result<T, String>;

/// A file that is written completely or not at all.
pub struct Output {
    path: PathBuf,
    file: NamedTempFile,
}

impl Output {
    /// Creates a temporary file beside `path`, so that an unusable path is reported before a long run. It is
    /// removed when this is dropped.
    pub fn new(path: &Path) -> Result<Self> {
        Self::create(path).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn create(path: &Path) -> io::Result<Self> {
        // The file is renamed to `path`, which would replace a device, a pipe, or a symbolic link.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(io::Error::other("it is not a regular file"));
        }
        let path = match fs::symlink_metadata(path) {
            Ok(_) => fs::canonicalize(path)?,
            Err(_) => path.to_owned(),
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let file = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o666)) // less the umask, as for any new file
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        Ok(Self { path, file })
    }

    /// Writes the file, and replaces an earlier one.
    pub fn write(mut self, text: &str) -> Result<()> {
        let mut write = || {
            self.file.write_all(text.as_bytes())?;
            self.file.as_file().sync_all()
        };
        let renamed = write().and_then(|()| Ok(self.file.persist(&self.path)?));
        renamed.map(drop).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

/// Writes to stdout. `print!` would panic on an error.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // The reader, such as head(1), has closed the pipe.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| format!("stdout: {error}")),
    }
}
