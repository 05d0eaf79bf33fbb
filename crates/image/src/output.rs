//! Writes the output directory, completely or not at all.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
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
    files.insert("SHA256SUMS".into(), sums.into_bytes());
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
            manifests.push(referrer.descriptor());
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

/// A temporary directory beside the output directory. The files are written to a subdirectory of it. Once
/// they are complete, that subdirectory replaces the output directory.
pub struct Output {
    out: PathBuf,
    staging: tempfile::TempDir,
}

impl Output {
    /// Creates the temporary directory, so that an unusable `out` is reported before anything is built.
    pub fn new(out: &Path) -> Result<Self> {
        // The real path of an existing directory, even if `out` is `.` or a symbolic link.
        let out = match fs::canonicalize(out) {
            Ok(out) => out,
            Err(error) if error.kind() == ErrorKind::NotFound => std::path::absolute(out)?,
            Err(error) => return Err(error).with_context(|| format!("--out {}", out.display())),
        };
        if out.exists() {
            let mut entries =
                fs::read_dir(&out).with_context(|| format!("--out {}", out.display()))?;
            if entries.next().is_some() {
                bail!("--out {}: it is not empty: remove it, or name another", out.display());
            }
        }
        let parent = out.parent().with_context(|| format!("--out {}", out.display()))?;
        let staging = tempfile::Builder::new()
            .prefix(".podpause-image-")
            .tempdir_in(parent)
            .with_context(|| format!("--out {}: create a directory beside it", out.display()))?;
        Ok(Self { out, staging })
    }

    /// Writes the files. After an error, none of them is left.
    pub fn write(self, files: &Files) -> Result<()> {
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
                .with_context(|| format!("--out {}: write {path}", self.out.display()))?;
        }
        fs::rename(&folder, &self.out)
            .with_context(|| format!("--out {}: move the written files there", self.out.display()))
    }
}

/// Writes a file and syncs it. An ELF file becomes executable.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mode = if bytes.starts_with(b"\x7fELF") { 0o777 } else { 0o666 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
