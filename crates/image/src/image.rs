//! The image, in memory: what its layer, configuration, manifest and index say.

use std::collections::HashMap;

use anyhow::{Context, Result};
use canon_json::CanonJsonSerialize;
use oci_spec::image::{
    ANNOTATION_CREATED, ANNOTATION_DESCRIPTION, ANNOTATION_LICENSES, ANNOTATION_SOURCE,
    ANNOTATION_TITLE, ANNOTATION_VERSION, ConfigBuilder, Descriptor, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, PlatformBuilder, RootFsBuilder,
    SCHEMA_VERSION, Sha256Digest,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tar::EntryType;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zopfli::{BlockType, GzipEncoder, Options, Write};

use crate::interrupt;
use crate::platform::Platform;
use crate::program::Compiler;
use crate::sbom;

/// The most bytes that a platform's manifest, configuration and compressed layer may have together.
pub const BUDGET_BYTES: usize = 2_048;

/// What pause is.
pub const DESCRIPTION: &str = "The infra (pause) container of a Kubernetes pod: holds its namespaces, \
                               reaps its orphans, and sleeps in two pages";
/// The same for a manifest, where each byte counts.
const SHORT_DESCRIPTION: &str = "sandbox";

/// Some bytes, and where a layout has them.
pub struct Blob {
    /// The bytes.
    pub bytes: Vec<u8>,
    digest: Sha256Digest,
}

impl Blob {
    /// A blob of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        let digest = sha256(&bytes).parse().expect("sha256 gives a digest");
        Self { bytes, digest }
    }

    /// A blob of JSON without a space, and with the keys in order.
    fn json(value: &impl Serialize) -> Result<Self> {
        Ok(Self::new(value.to_canon_json_vec()?))
    }

    /// What refers to it.
    pub fn descriptor(&self, media_type: MediaType) -> Descriptor {
        Descriptor::new(media_type, self.bytes.len() as u64, self.digest.clone())
    }

    /// Its digest, with the algorithm.
    pub fn digest(&self) -> String {
        format!("sha256:{}", self.digest)
    }

    /// Its path in a layout.
    pub fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

/// The SHA-256 of these bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the image is made of, for one platform.
pub struct PlatformImage {
    /// The platform.
    pub platform: &'static Platform,
    /// The program, as it is in the layer.
    pub program: Vec<u8>,
    /// The root file system.
    pub layer: Blob,
    /// How the program is to be run.
    pub config: Blob,
    /// What refers to the two.
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
            .annotations(annotations(SHORT_DESCRIPTION, created))
            .build()?;
        let manifest = Blob::json(&manifest)?;
        Ok(Self { platform, program, layer, config, manifest })
    }

    /// What a node fetches, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.manifest.bytes.len() + self.config.bytes.len() + self.layer.bytes.len()
    }

    /// What refers to it from the index.
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
    /// What the compiler of the program calls itself.
    pub compiler: String,
    /// What it is made of, for each platform.
    pub platforms: Vec<PlatformImage>,
    /// What refers to the manifest of each platform.
    pub index: Blob,
    /// The list of what is in the image.
    pub sbom: Blob,
    /// A configuration of nothing: an artifact that is not an image needs one.
    pub empty: Blob,
    /// The manifest of an artifact that has the list, and refers to the index.
    pub referrer: Blob,
}

impl Image {
    /// Compiles the program for these platforms, and makes an image of it. Tells `progress` of each
    /// platform when it comes to it.
    pub fn build(
        platforms: &[&'static Platform],
        created: Time,
        progress: impl Fn(&Platform),
    ) -> Result<Self> {
        let compiler = Compiler::new()?;
        let platforms = platforms
            .iter()
            .map(|platform| {
                progress(platform);
                let program = compiler.compile(platform);
                // The compiler ends by the same signal: that is not its fault.
                interrupt::check()?;
                PlatformImage::new(platform, program?, created)
            })
            .collect::<Result<Vec<_>>>()?;

        let manifests = platforms.iter().map(PlatformImage::descriptor);
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(manifests.collect::<Result<Vec<_>>>()?)
            .annotations(annotations(DESCRIPTION, created))
            .build()?;
        let index = Blob::json(&index)?;

        let sbom = Blob::new(sbom::document(&platforms, &compiler.version, created)?);
        let empty = Blob::new(b"{}".into());
        let mut list = sbom.descriptor(sbom::MEDIA_TYPE.into());
        list.set_annotations(Some(HashMap::from([(
            ANNOTATION_TITLE.to_owned(),
            sbom::FILE_NAME.to_owned(),
        )])));
        let referrer = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .artifact_type(sbom::MEDIA_TYPE)
            .config(empty.descriptor(MediaType::EmptyJSON))
            .layers([list])
            .subject(index.descriptor(MediaType::ImageIndex))
            .annotations(HashMap::from([(ANNOTATION_CREATED.to_owned(), created.to_string())]))
            .build()?;
        let referrer = Blob::json(&referrer)?;
        Ok(Self { compiler: compiler.version, platforms, index, sbom, empty, referrer })
    }

    /// What a layout refers to of the list of contents.
    pub fn referrer_descriptor(&self) -> Descriptor {
        let mut descriptor = self.referrer.descriptor(MediaType::ImageManifest);
        descriptor.set_artifact_type(Some(sbom::MEDIA_TYPE.into()));
        descriptor
    }
}

/// When the image was made, by its own account. It is what SOURCE_DATE_EPOCH says, in seconds, or
/// the epoch: a clock would make each image another one.
#[derive(Clone, Copy)]
pub struct Time(u32);

impl Time {
    /// The time in SOURCE_DATE_EPOCH (<https://reproducible-builds.org/specs/source-date-epoch/>).
    pub fn from_environment() -> Result<Self> {
        let Some(seconds) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(Self(0)) };
        let number = seconds.to_str().and_then(|seconds| seconds.parse().ok());
        number.map(Self).with_context(|| {
            format!("SOURCE_DATE_EPOCH={} is not a number of seconds since 1970", seconds.display())
        })
    }

    /// The time that `to_string` writes so.
    pub fn parse(text: &str) -> Result<Self> {
        let time = OffsetDateTime::parse(text, &Rfc3339).with_context(|| format!("time {text}"))?;
        Ok(Self(time.unix_timestamp().try_into().with_context(|| format!("time {text}"))?))
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        let time = OffsetDateTime::from_unix_timestamp(self.0.into()).expect("in this century");
        formatter.write_str(&time.format(&Rfc3339).expect("a year of four digits"))
    }
}

/// What manifest and index say of the image.
fn annotations(description: &str, created: Time) -> HashMap<String, String> {
    [
        (ANNOTATION_TITLE, "pause"),
        (ANNOTATION_DESCRIPTION, description),
        (ANNOTATION_VERSION, env!("CARGO_PKG_VERSION")),
        (ANNOTATION_SOURCE, env!("CARGO_PKG_REPOSITORY")),
        (ANNOTATION_LICENSES, env!("CARGO_PKG_LICENSE")),
        (ANNOTATION_CREATED, &created.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The root file system, as a tar archive.
///
/// `/usr/bin/pod` is a path that some runtimes start: OpenShift's, and Kata's in some setups. With
/// the folders first, the archive is a little smaller once it is compressed.
fn layer(program: &[u8], created: Time) -> Result<Vec<u8>> {
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

/// A header of root's, in the format that POSIX calls ustar.
pub fn header(kind: EntryType, mode: u32, size_bytes: usize, modified: Time) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(modified.0.into());
    header.set_size(size_bytes as u64);
    header
}

/// Compresses. The header that comes out has no name and no time.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    // To look for places where a second block could start takes ten times as long as all the rest,
    // and finds some bytes or loses some.
    let options = Options { maximum_block_splits: 1, ..Options::default() };
    let encoder = GzipEncoder::new(options, BlockType::Dynamic, &mut compressed);
    let mut encoder = encoder.expect("a vector takes all");
    encoder.write_all(bytes).expect("a vector takes all");
    encoder.finish().expect("a vector takes all");
    compressed
}

/// How the program is to be run. `layer` is the archive before it was compressed.
///
/// There is no label, because containerd copies labels onto each sandbox, and neither a time nor a
/// history: they are optional, and each of these bytes counts. The manifest has the time.
fn config(platform: &Platform, layer: &[u8]) -> Result<impl Serialize> {
    let config = ConfigBuilder::default()
        // Not a Cmd: kubeadm runs the image with arguments, which would replace it.
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
