//! The size of an image in an OCI layout.

use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use podpause::compile::Platform;

use crate::Result;

/// The name of a program in the tables, and the folder with its OCI image layout.
#[derive(Clone)]
pub struct Layout {
    pub program: String,
    pub folder: PathBuf,
}

impl std::str::FromStr for Layout {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let (program, folder) = text.split_once('=').ok_or("expected PROGRAM=FOLDER")?;
        Ok(Self { program: program.into(), folder: folder.into() })
    }
}

impl Layout {
    /// The size of what a node fetches of the image: manifest, configuration and compressed layers.
    pub fn image_bytes(&self) -> Result<u64> {
        let index = self.folder.join("index.json");
        let index = ImageIndex::from_file(&index).map_err(|error| failed(&index, error))?;
        let mut descriptor = self.of_this_machine(&index)?;
        while *descriptor.media_type() == MediaType::ImageIndex {
            let path = self.blob(&descriptor);
            let index = ImageIndex::from_file(&path).map_err(|error| failed(&path, error))?;
            descriptor = self.of_this_machine(&index)?;
        }
        let path = self.blob(&descriptor);
        let manifest = ImageManifest::from_file(&path).map_err(|error| failed(&path, error))?;
        let parts = manifest.layers().iter().chain([manifest.config(), &descriptor]);
        Ok(parts.map(Descriptor::size).sum())
    }

    /// The first image, or index of images, that is for this machine's architecture or names no platform.
    fn of_this_machine(&self, index: &ImageIndex) -> Result<Descriptor> {
        let own = Platform::own().ok_or("pause is not made for this machine")?.architecture();
        let is_ours = |descriptor: &&Descriptor| {
            let platform = descriptor.platform().as_ref();
            platform.is_none_or(|platform| platform.architecture().to_string() == own)
        };
        let found = index.manifests().iter().find(is_ours).cloned();
        found.ok_or_else(|| format!("{}: it has no image for {own}", self.folder.display()))
    }

    fn blob(&self, descriptor: &Descriptor) -> PathBuf {
        let digest = descriptor.digest();
        self.folder.join("blobs").join(digest.algorithm().as_ref()).join(digest.digest())
    }
}

fn failed(path: &Path, error: impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
