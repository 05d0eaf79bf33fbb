//! Compares an existing image with a new build.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use oci_spec::distribution::Reference;
use oci_spec::image::{ANNOTATION_CREATED, Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::de::DeserializeOwned;
use serde_json::Value;
use walkdir::WalkDir;

use crate::blob::Blob;
use crate::compiler::read;
use crate::image::{Image, PlatformImage};
use crate::output::{ANNOTATION_NAME, files};
use crate::platform::{self, Platform};
use crate::provenance;
use crate::timestamp::Time;

/// An existing image: a layout, or this tool's output directory with a layout in it.
pub struct Written {
    folder: PathBuf,
    layout: PathBuf,
    /// The layout's entry for the index.
    entry: Descriptor,
    index: ImageIndex,
}

impl Written {
    /// Reads the index of a layout.
    pub fn open(folder: &Path) -> Result<Self> {
        let oci = folder.join("oci");
        let layout = if oci.is_dir() { oci } else { folder.to_owned() };
        let path = layout.join("index.json");
        let root: ImageIndex = parse(&read(&path)?, &path)?;
        let is_index = |entry: &&Descriptor| *entry.media_type() == MediaType::ImageIndex;
        let Some(entry) = root.manifests().iter().find(is_index).cloned() else {
            bail!("{}: it contains no image index", layout.display());
        };
        let blob = blob(&layout, &entry)?;
        let index = parse(&blob.bytes, &layout.join(blob.path()))?;
        Ok(Self { folder: folder.to_owned(), layout, entry, index })
    }

    /// The platforms of the image.
    pub fn platforms(&self) -> Result<Vec<&'static Platform>> {
        let names = self.index.manifests().iter().map(platform_name).collect::<Result<Vec<_>>>()?;
        if names.is_empty() {
            bail!("{}: the index lists no platform", self.layout.display());
        }
        platform::chosen(&names)
    }

    /// The creation time that the image states.
    pub fn created(&self) -> Result<Time> {
        let annotations = self.index.annotations().as_ref();
        let created = annotations.and_then(|annotations| annotations.get(ANNOTATION_CREATED));
        Time::parse(created.context("the index has no creation time")?)
    }

    /// The commit that the provenance names, if any.
    pub fn revision(&self) -> Result<Option<String>> {
        // A layout that was copied from a registry has no such file.
        let path = self.folder.join(provenance::FILE_NAME);
        if !path.exists() {
            return Ok(None);
        }
        provenance::revision(&read(&path)?).with_context(|| path.display().to_string())
    }

    /// A description of each difference from the new build.
    pub fn differences(&self, built: &Image) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let index = blob(&self.layout, &self.entry)?;
        self.compare_json("index", &index, &built.index, &mut found)?;
        for (descriptor, part) in self.index.manifests().iter().zip(&built.platforms) {
            let name = platform_name(descriptor)?;
            if platform::named(&name)? != part.platform {
                bail!("{}: the platforms are in the wrong order", self.layout.display());
            }
            self.compare_platform(descriptor, part, &mut found)?;
        }
        // A layout that was copied from a registry has the same image but a different index.json.
        if self.folder != self.layout {
            let annotations = self.entry.annotations().as_ref();
            let name = annotations.and_then(|annotations| annotations.get(ANNOTATION_NAME));
            let name = name.context("the layout does not name the image")?;
            let name: Reference = name.parse().with_context(|| format!("name {name}"))?;
            self.compare_files(&files(built, &name, self.created()?)?, &mut found)?;
        }
        Ok(found)
    }

    /// Compares the image for a platform.
    fn compare_platform(
        &self,
        descriptor: &Descriptor,
        built: &PlatformImage,
        found: &mut Vec<String>,
    ) -> Result<()> {
        let name = built.platform.name;
        let manifest = blob(&self.layout, descriptor)?;
        self.compare_json(&format!("{name}: manifest"), &manifest, &built.manifest, found)?;
        let path = self.layout.join(manifest.path());
        let manifest: ImageManifest = parse(&manifest.bytes, &path)?;
        let config = blob(&self.layout, manifest.config())?;
        self.compare_json(&format!("{name}: configuration"), &config, &built.config, found)?;
        let [layer] = &manifest.layers()[..] else {
            found.push(format!("{name}: layers: {}", both(manifest.layers().len(), 1)));
            return Ok(());
        };
        let (there, here) = (blob(&self.layout, layer)?.bytes, &built.layer.bytes);
        if there != *here {
            let sizes = both(format!("{} bytes", there.len()), here.len());
            found.push(format!("{name}: layer: {sizes}"));
            compare_archives(name, &there, here, found)
                .with_context(|| format!("{name}: layer"))?;
        }
        Ok(())
    }

    /// Compares JSON field by field if the bytes differ.
    fn compare_json(
        &self,
        what: &str,
        written: &Blob,
        built: &Blob,
        found: &mut Vec<String>,
    ) -> Result<()> {
        if written.bytes != built.bytes {
            let before = found.len();
            let there = parse(&written.bytes, &self.layout.join(written.path()))?;
            let here = serde_json::from_slice(&built.bytes)?;
            compare_values(what, Some(&there), Some(&here), found);
            if found.len() == before {
                found.push(format!("{what}: the same content, but formatted differently"));
            }
        }
        Ok(())
    }

    /// Compares the files of this tool's output directory with the expected ones.
    fn compare_files(
        &self,
        built: &BTreeMap<String, Vec<u8>>,
        found: &mut Vec<String>,
    ) -> Result<()> {
        let written = list(&self.folder)?;
        for path in written.iter().filter(|path| !built.contains_key(*path)) {
            found.push(format!("{path}: only in the existing directory"));
        }
        for (path, here) in built {
            if !written.contains(path) {
                found.push(format!("{path}: only in the new build"));
            } else if read(&self.folder.join(path))? != *here {
                found.push(format!("{path}: the bytes differ"));
            }
        }
        Ok(())
    }
}

/// Parses a JSON file. An error names the file.
fn parse<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(bytes).with_context(|| path.display().to_string())
}

/// The blob that a descriptor refers to. Fails if the bytes do not match the digest.
fn blob(layout: &Path, descriptor: &Descriptor) -> Result<Blob> {
    let digest = descriptor.digest();
    let sha256 =
        descriptor.as_digest_sha256().with_context(|| format!("{digest}: not a SHA-256"))?;
    let path = layout.join("blobs/sha256").join(sha256);
    let bytes = read(&path)?;
    let found = Blob::new(bytes);
    if found.digest() != digest.to_string() {
        bail!("{}: damaged: its digest is {}", path.display(), found.digest());
    }
    Ok(found)
}

/// The name of the platform of an image.
fn platform_name(descriptor: &Descriptor) -> Result<String> {
    let platform = descriptor.platform().as_ref();
    let platform =
        platform.with_context(|| format!("{}: lacks a platform", descriptor.digest()))?;
    let variant = platform.variant().as_ref().map(|variant| format!("/{variant}"));
    Ok(format!("{}/{}{}", platform.os(), platform.architecture(), variant.unwrap_or_default()))
}

/// Compares the values at the same place in both documents, and the values in them.
fn compare_values(
    place: &str,
    written: Option<&Value>,
    built: Option<&Value>,
    found: &mut Vec<String>,
) {
    match (written, built) {
        (Some(Value::Object(there)), Some(Value::Object(here))) => {
            let new = here.keys().filter(|key| !there.contains_key(*key));
            for key in there.keys().chain(new) {
                compare_values(&format!("{place}: {key}"), there.get(key), here.get(key), found);
            }
        }
        (Some(Value::Array(there)), Some(Value::Array(here))) => {
            for index in 0..there.len().max(here.len()) {
                let place = format!("{place}[{index}]");
                compare_values(&place, there.get(index), here.get(index), found);
            }
        }
        _ if written == built => {}
        _ => {
            let show = |value: Option<&Value>| value.map_or("nothing".into(), Value::to_string);
            found.push(format!("{place}: {}", both(show(written), show(built))));
        }
    }
}

/// A value of the existing image and that of the new build.
fn both(existing: impl Display, built: impl Display) -> String {
    format!("{existing} in the existing image, {built} in the new build")
}

/// Compares two layers file by file.
fn compare_archives(
    name: &str,
    written: &[u8],
    built: &[u8],
    found: &mut Vec<String>,
) -> Result<()> {
    let (mut written, mut built) = (entries(written)?, entries(built)?);
    let paths: Vec<_> = built.keys().chain(written.keys()).cloned().collect();
    for path in paths {
        let place = format!("{name}: layer: {path}");
        match (written.remove(&path), built.remove(&path)) {
            (None, Some(_)) => found.push(format!("{place}: only in the new build")),
            (Some(_), None) => found.push(format!("{place}: only in the existing image")),
            (Some(there), Some(here)) => {
                if there.0 != here.0 {
                    found.push(format!(
                        "{place}: the owner, the mode, the time or the type differs"
                    ));
                }
                if let Some(byte) = first_difference(&there.1, &here.1) {
                    let sizes = both(format!("{} bytes", there.1.len()), here.1.len());
                    found.push(format!("{place}: {sizes}; byte {byte} is the first to differ"));
                }
            }
            (None, None) => {} // The path is in both layers, and has been compared.
        }
    }
    Ok(())
}

/// The header and the contents of each file in a layer, by path.
type Entries = BTreeMap<String, (Vec<u8>, Vec<u8>)>;

/// The files in a layer.
fn entries(layer: &[u8]) -> Result<Entries> {
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(GzDecoder::new(layer)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let mut header = entry.header().clone();
        // The comparison of the contents reports a difference in size.
        header.set_size(0);
        header.set_cksum();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        entries.insert(path, (header.as_bytes().to_vec(), bytes));
    }
    Ok(entries)
}

/// The index of the first byte in which two files differ.
fn first_difference(written: &[u8], built: &[u8]) -> Option<usize> {
    if written == built {
        return None;
    }
    let pairs = written.iter().zip(built);
    Some(pairs.take_while(|(there, here)| there == here).count())
}

/// The relative paths of all files in a directory and below it.
fn list(folder: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in WalkDir::new(folder) {
        let entry = entry?; // the error names the path
        if !entry.file_type().is_dir() {
            let path = entry.path().strip_prefix(folder).expect("it was found there");
            paths.push(path.display().to_string());
        }
    }
    Ok(paths)
}
