//! Writes the output directory, completely or not at all.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use canon_json::CanonJsonSerialize;
use oci_spec::distribution::Reference;
use oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, ImageIndexBuilder, MediaType, SCHEMA_VERSION,
};
use serde_json::json;
use tar::EntryType;

use crate::archive::header;
use crate::blob::{Blob, sha256};
use crate::image::Image;
use crate::platform::file_name;
use crate::timestamp::Time;
use crate::{c_header, go, interrupt};

/// The annotation from which containerd, podman and docker take the full name of an image in a layout.
pub const ANNOTATION_NAME: &str = "io.containerd.image.name";

/// The file with the checksums.
const SUMS: &str = "SHA256SUMS";

/// Files by their relative paths.
pub type Files = BTreeMap<String, Vec<u8>>;

/// All files of the output directory, for an image with this name.
pub fn files(image: &Image, name: &Reference, created: Time) -> Result<Files> {
    let mut files = Files::new();
    for (path, bytes) in layout(image, name, true)? {
        files.insert(format!("oci/{path}"), bytes);
    }
    files.insert("pause.tar".into(), archive(image, name, created)?);
    for referrer in &image.referrers {
        files.insert(referrer.file_name.into(), referrer.content.bytes.clone());
    }
    files.insert(c_header::FILE_NAME.into(), c_header::text(&image.platforms).into_bytes());
    for (path, bytes) in go::files(&image.platforms) {
        files.insert(format!("{}/{path}", go::FOLDER), bytes);
    }
    for part in &image.platforms {
        files.insert(file_name(part.platform), part.program.clone());
    }
    let top = files.iter().filter(|(path, _)| !path.contains('/'));
    let sums = top.map(|(path, bytes)| format!("{}  {path}\n", sha256(bytes))).collect::<String>();
    files.insert(SUMS.into(), sums.into_bytes());
    Ok(files)
}

/// The files of an OCI image layout, with or without the referrers.
fn layout(image: &Image, name: &Reference, with_referrers: bool) -> Result<Files> {
    let mut index = image.index.descriptor(MediaType::ImageIndex);
    index.set_annotations(Some(HashMap::from([
        (ANNOTATION_NAME.to_owned(), name.whole()),
        (ANNOTATION_REF_NAME.to_owned(), name.tag().unwrap_or_default().to_owned()),
    ])));
    let mut manifests: Vec<Descriptor> = vec![index];
    let mut blobs: Vec<&Blob> = vec![&image.index];
    for part in &image.platforms {
        blobs.extend([&part.manifest, &part.config, &part.layer]);
    }
    if with_referrers {
        // The image comes first, because some tools take the first index.
        let mut referrers = image.referrers_index.descriptor(MediaType::ImageIndex);
        let tag = (ANNOTATION_REF_NAME.to_owned(), image.referrers_tag());
        referrers.set_annotations(Some(HashMap::from([tag])));
        manifests.push(referrers);
        blobs.extend([&image.referrers_index, &image.empty]);
        for referrer in &image.referrers {
            manifests.push(referrer.descriptor.clone());
            blobs.extend([&referrer.manifest, &referrer.content]);
        }
    }
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()?;

    let mut files: Files = blobs.iter().map(|blob| (blob.path(), blob.bytes.clone())).collect();
    files.insert("index.json".into(), index.to_canon_json_vec()?);
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    files.insert("oci-layout".into(), version.to_canon_json_vec()?);
    Ok(files)
}

/// An archive of the layout, which also contains docker's `manifest.json`.
///
/// It has no referrers: if skopeo and podman are given no image name, they accept only an archive with one
/// image. An entry of `manifest.json` describes an image for one platform, here the first.
fn archive(image: &Image, name: &Reference, created: Time) -> Result<Vec<u8>> {
    let mut files = layout(image, name, false)?;
    let first = image.platforms.first().context("an image has a platform")?;
    let docker = json!([{
        "Config": first.config.path(),
        "Layers": [first.layer.path()],
        "RepoTags": [name.whole()],
    }]);
    files.insert("manifest.json".into(), docker.to_canon_json_vec()?);

    let mut archive = tar::Builder::new(Vec::new());
    for folder in ["blobs/", "blobs/sha256/"] {
        let mut header = header(EntryType::Directory, 0o755, 0, created);
        archive.append_data(&mut header, folder, [].as_slice())?;
    }
    for (path, bytes) in files {
        let mut header = header(EntryType::Regular, 0o644, bytes.len(), created);
        archive.append_data(&mut header, path, bytes.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

/// A temporary directory, in which the files are written before they move to the output directory.
///
/// If the output directory is new, the temporary directory is beside it, and all files appear with one rename.
/// An existing directory may be a mount point or the working directory of a shell, and has an owner and a mode.
/// So it is not replaced: the temporary directory is in it, and the files move one by one.
pub struct Output {
    out: PathBuf,
    is_new: bool,
    staging: tempfile::TempDir,
}

impl Output {
    /// Creates the temporary directory, so that an unusable `out` is reported before anything is built.
    pub fn new(out: &Path) -> Result<Self> {
        Self::create(out).with_context(|| format!("--out {}", out.display()))
    }

    fn create(out: &Path) -> Result<Self> {
        // Without a slash at the end, which would hide a dangling link.
        let mut out: PathBuf = std::path::absolute(out)?.components().collect();
        let is_new = match fs::canonicalize(&out) {
            Ok(path) => {
                ensure!(path.is_dir(), "it is not a directory");
                out = path;
                false
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ensure!(!out.is_symlink(), "it is a symbolic link to a path that does not exist");
                true
            }
            Err(error) => return Err(error.into()),
        };
        let (parent, place) = match is_new {
            true => (out.parent().context("it has no parent")?, "beside"),
            false => (&*out, "in"),
        };
        let staging = tempfile::Builder::new()
            .prefix(".podpause-image-")
            .tempdir_in(parent)
            .with_context(|| format!("create a directory {place} it"))?;
        let this = Self { out, is_new, staging };
        this.check_empty()?;
        Ok(this)
    }

    /// Fails if the output directory has another entry than the temporary directory.
    fn check_empty(&self) -> Result<()> {
        if self.is_new {
            return Ok(()); // A rename replaces only an empty directory.
        }
        for entry in fs::read_dir(&self.out)? {
            let path = entry?.path();
            if path != self.staging.path() {
                let name = path.file_name().unwrap_or_default().display();
                bail!("it is not empty: it contains {name}");
            }
        }
        Ok(())
    }

    /// Writes the files. After an error, none of them is left.
    pub fn write(self, files: &Files) -> Result<()> {
        self.write_and_move(files).with_context(|| format!("--out {}", self.out.display()))
    }

    fn write_and_move(&self, files: &Files) -> Result<()> {
        // A subdirectory, because only the owner can read the temporary directory itself.
        let folder = self.staging.path().join("out");
        DirBuilder::new()
            .create(&folder)
            .with_context(|| format!("create {}", folder.display()))?;
        for (path, bytes) in files {
            interrupt::check()?;
            let parent = folder.join(path).parent().map(fs::create_dir_all);
            parent
                .unwrap_or(Ok(()))
                .and_then(|()| write(&folder.join(path), bytes))
                .with_context(|| format!("write {path}"))?;
        }
        match self.is_new {
            true => fs::rename(&folder, &self.out).context("move the written files there"),
            false => {
                // It may have been filled since the first check.
                self.check_empty()?;
                move_entries(&folder, &self.out)
            }
        }
    }
}

/// Moves all entries of a directory to another one, `SHA256SUMS` last, so that it shows that the others are
/// there. After an error, moves them back.
fn move_entries(from: &Path, to: &Path) -> Result<()> {
    let names = fs::read_dir(from)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>()?;
    names.sort_by_key(|name| name == SUMS);
    for (count, name) in names.iter().enumerate() {
        if let Err(error) = fs::rename(from.join(name), to.join(name)) {
            for name in &names[..count] {
                let _ = fs::rename(to.join(name), from.join(name));
            }
            return Err(error).with_context(|| format!("move {} there", name.display()));
        }
    }
    Ok(())
}

/// Writes a file and syncs it. An ELF file becomes executable.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mode = if bytes.starts_with(b"\x7fELF") { 0o777 } else { 0o666 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_move_is_undone() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("oci")).unwrap();
        fs::write(from.join("pause.h"), "").unwrap();
        fs::write(from.join(SUMS), "").unwrap();
        // A directory, which the checksums cannot replace.
        fs::create_dir_all(to.join(SUMS)).unwrap();
        let error = move_entries(&from, &to).unwrap_err();
        assert_eq!(format!("{error:#}"), "move SHA256SUMS there: Is a directory (os error 21)");
        assert_eq!(fs::read_dir(&from).unwrap().count(), 3);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }
}
