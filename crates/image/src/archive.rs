//! Reproducible archives.

use anyhow::Result;
use tar::EntryType;
use zopfli::{BlockType, GzipEncoder, Options, Write};

use crate::timestamp::Time;

/// The root file system, as a tar archive.
///
/// Some runtimes start the program as `/usr/bin/pod`: OpenShift's, and Kata Containers in some setups.
/// Directories come first because that compresses a little better.
pub fn layer(program: &[u8], created: Time) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut append = |path, kind, link: Option<&str>, bytes: &[u8]| {
        let mut header = header(kind, 0o755, bytes.len(), created);
        if let Some(link) = link {
            header.set_link_name(link)?;
        }
        archive.append_data(&mut header, path, bytes)
    };
    append("usr/", EntryType::Directory, None, &[])?;
    append("usr/bin/", EntryType::Directory, None, &[])?;
    append("pause", EntryType::Regular, None, program)?;
    append("usr/bin/pod", EntryType::Link, Some("pause"), &[])?;
    Ok(archive.into_inner()?)
}

/// A tar header for a file that belongs to root, in the POSIX ustar format.
pub fn header(kind: EntryType, mode: u32, size_bytes: usize, modified: Time) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(modified.into());
    header.set_size(size_bytes as u64);
    header
}

/// Compresses with gzip. The header has no file name and no time.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    // Block splitting takes ten times as long as everything else together, and changes the size by only a few
    // bytes, up or down.
    let options = Options { maximum_block_splits: 1, ..Options::default() };
    let encoder = GzipEncoder::new(options, BlockType::Dynamic, &mut compressed);
    let mut encoder = encoder.expect("writing to a vector cannot fail");
    encoder.write_all(bytes).expect("writing to a vector cannot fail");
    encoder.finish().expect("writing to a vector cannot fail");
    compressed
}
