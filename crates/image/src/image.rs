//! Builds the image in memory: layer, configuration, manifest and index.

use std::collections::HashMap;

use anyhow::Result;
use oci_spec::image::{
    ANNOTATION_CREATED, ANNOTATION_DESCRIPTION, ANNOTATION_LICENSES, ANNOTATION_SOURCE,
    ANNOTATION_TITLE, ANNOTATION_VERSION, ConfigBuilder, Descriptor, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, PlatformBuilder, RootFsBuilder,
    SCHEMA_VERSION,
};
use serde::Serialize;

use crate::archive::{gzip, layer};
use crate::blob::{Blob, sha256};
use crate::compiler::{Compiler, DESCRIPTION};
use crate::interrupt;
use crate::platform::Platform;
use crate::timestamp::Time;
use crate::{provenance, sbom};

/// The budget for a platform's manifest, configuration and compressed layer together, in bytes.
pub const BUDGET_BYTES: usize = 2_048;

/// The image for one platform.
pub struct PlatformImage {
    /// The platform.
    pub platform: &'static Platform,
    /// The program in the layer.
    pub program: Vec<u8>,
    /// The root file system.
    pub layer: Blob,
    /// The configuration: how to run the program.
    pub config: Blob,
    /// The manifest, which refers to layer and configuration.
    pub manifest: Blob,
}

impl PlatformImage {
    fn new(platform: &'static Platform, program: Vec<u8>, created: Time) -> Result<Self> {
        let files = layer(&program, created)?;
        let layer = Blob::new(gzip(&files));
        let config = Blob::json(&config(platform, &files)?)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config.descriptor(MediaType::ImageConfig))
            .layers([layer.descriptor(MediaType::ImageLayerGzip)])
            .annotations(annotations(created))
            .build()?;
        let manifest = Blob::json(&manifest)?;
        Ok(Self { platform, program, layer, config, manifest })
    }

    /// How many bytes a node fetches for this platform, besides the index.
    pub fn size_bytes(&self) -> usize {
        self.manifest.bytes.len() + self.config.bytes.len() + self.layer.bytes.len()
    }

    /// The descriptor of the image in the index.
    fn descriptor(&self) -> Result<Descriptor> {
        let mut platform =
            PlatformBuilder::default().os("linux").architecture(self.platform.architecture());
        if let Some(variant) = self.platform.variant() {
            platform = platform.variant(variant);
        }
        let mut descriptor = self.manifest.descriptor(MediaType::ImageManifest);
        descriptor.set_platform(Some(platform.build()?));
        Ok(descriptor)
    }
}

/// The image.
pub struct Image {
    /// The version of the compiler.
    pub compiler: String,
    /// The image for each platform.
    pub platforms: Vec<PlatformImage>,
    /// The index, which refers to each platform's manifest.
    pub index: Blob,
    /// The SBOM and the provenance.
    pub referrers: Vec<Referrer>,
    /// The empty configuration that an artifact needs (OCI image specification 1.1).
    pub empty: Blob,
    /// The index of the referrers, for registries without the referrers API.
    pub referrers_index: Blob,
}

/// An artifact that refers to the image (OCI image specification 1.1, "Guidelines for Artifact Usage").
pub struct Referrer {
    /// The name of the file with the content.
    pub file_name: &'static str,
    /// The content.
    pub content: Blob,
    /// The manifest, which has the content as its layer and the index of the image as its subject.
    pub manifest: Blob,
    /// The descriptor of the artifact in an index.
    pub descriptor: Descriptor,
}

impl Referrer {
    fn new(
        file_name: &'static str,
        content: Blob,
        media_type: &'static str,
        annotations: &[(&str, &str)],
        image: (&Blob, &Blob, Time),
    ) -> Result<Self> {
        let (index, empty, created) = image;
        let annotations = [&[(ANNOTATION_TITLE, file_name)], annotations].concat();
        let text = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let mut layer = content.descriptor(media_type.into());
        layer.set_annotations(Some(annotations.into_iter().map(text).collect()));
        let created = HashMap::from([(ANNOTATION_CREATED.to_owned(), created.to_string())]);
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .artifact_type(media_type)
            .config(empty.descriptor(MediaType::EmptyJSON))
            .layers([layer])
            .subject(index.descriptor(MediaType::ImageIndex))
            .annotations(created.clone())
            .build()?;
        let manifest = Blob::json(&manifest)?;
        let mut descriptor = manifest.descriptor(MediaType::ImageManifest);
        // A descriptor in the index of the referrers must have the manifest's artifact type and annotations
        // (OCI distribution specification 1.1, "Pushing Manifests with Subject").
        descriptor.set_artifact_type(Some(media_type.into()));
        descriptor.set_annotations(Some(created));
        Ok(Self { file_name, content, manifest, descriptor })
    }
}

impl Image {
    /// Compiles the program for these platforms and builds the image. Calls `progress` before each platform.
    pub fn build(
        platforms: &[&'static Platform],
        created: Time,
        revision: Option<&str>,
        progress: impl Fn(&Platform),
    ) -> Result<Self> {
        let compiler = Compiler::new()?;
        let platforms = platforms
            .iter()
            .map(|platform| {
                progress(platform);
                let program = compiler.compile(platform);
                // Ctrl-C in a terminal ends the compiler, too. Report the signal, not a failed compilation.
                interrupt::check()?;
                PlatformImage::new(platform, program?, created)
            })
            .collect::<Result<Vec<_>>>()?;

        let manifests = platforms.iter().map(PlatformImage::descriptor);
        let mut described = annotations(created);
        described.insert(ANNOTATION_DESCRIPTION.to_owned(), DESCRIPTION.to_owned());
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(manifests.collect::<Result<Vec<_>>>()?)
            .annotations(described)
            .build()?;
        let index = Blob::json(&index)?;

        let programs = platforms.iter().map(|part| (part.platform, &part.program[..]));
        let programs: Vec<_> = programs.collect();
        let sbom = Blob::new(sbom::document(&programs, &compiler.version, created)?);
        let provenance = provenance::statement(&index, &platforms, &compiler, created, revision)?;
        let empty = Blob::new(b"{}".into());
        let predicate = [("in-toto.io/predicate-type", provenance::PREDICATE_TYPE)];
        let of = (&index, &empty, created);
        let referrers = vec![
            Referrer::new(sbom::FILE_NAME, sbom, sbom::MEDIA_TYPE, &[], of)?,
            Referrer::new(
                provenance::FILE_NAME,
                provenance,
                provenance::MEDIA_TYPE,
                &predicate,
                of,
            )?,
        ];
        let descriptors = referrers.iter().map(|referrer| referrer.descriptor.clone());
        let referrers_index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(descriptors.collect::<Vec<_>>())
            .build()?;
        let referrers_index = Blob::json(&referrers_index)?;
        Ok(Self { compiler: compiler.version, platforms, index, referrers, empty, referrers_index })
    }

    /// The tag of the referrers in a registry without the referrers API (OCI distribution specification 1.1,
    /// "Referrers Tag Schema").
    pub fn referrers_tag(&self) -> String {
        self.index.digest().replace(':', "-")
    }
}

/// The annotations of manifest and index. Only the index has a description, because each byte of a manifest
/// counts against the budget.
fn annotations(created: Time) -> HashMap<String, String> {
    [
        (ANNOTATION_TITLE, "pause"),
        (ANNOTATION_VERSION, env!("CARGO_PKG_VERSION")),
        (ANNOTATION_SOURCE, env!("CARGO_PKG_REPOSITORY")),
        (ANNOTATION_LICENSES, env!("CARGO_PKG_LICENSE")),
        (ANNOTATION_CREATED, &created.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The configuration. `layer` is the archive before compression.
///
/// It has no labels, because containerd copies labels to each sandbox. The creation time and the history are
/// optional, and left out because each byte counts. The manifest has the time.
fn config(platform: &Platform, layer: &[u8]) -> Result<impl Serialize> {
    let config = ConfigBuilder::default()
        // An Entrypoint, not a Cmd: before an upgrade, kubeadm runs its pause image with the argument -v,
        // which would replace a Cmd.
        .entrypoint(["/pause".to_owned()])
        .env(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()])
        .user("65535:65535")
        .working_dir("/")
        .stop_signal("SIGTERM")
        .build()?;
    let rootfs = RootFsBuilder::default()
        .typ("layers")
        .diff_ids([format!("sha256:{}", sha256(layer))])
        .build()?;
    let mut image = ImageConfigurationBuilder::default()
        .os("linux")
        .architecture(platform.architecture())
        .config(config)
        .rootfs(rootfs);
    if let Some(variant) = platform.variant() {
        image = image.variant(variant);
    }
    Ok(image.build()?)
}
