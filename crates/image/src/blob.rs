//! The blobs of an OCI layout.

use anyhow::Result;
use canon_json::CanonJsonSerialize;
use oci_spec::image::{Descriptor, MediaType, Sha256Digest};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Bytes and their digest.
pub struct Blob {
    /// The bytes.
    pub bytes: Vec<u8>,
    digest: Sha256Digest,
}

impl Blob {
    /// Makes a blob of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        let digest = sha256(&bytes).parse().expect("sha256 gives a digest");
        Self { bytes, digest }
    }

    /// Makes a blob of canonical JSON: the keys are sorted, and there are no spaces between tokens.
    pub fn json(value: &impl Serialize) -> Result<Self> {
        Ok(Self::new(value.to_canon_json_vec()?))
    }

    /// A descriptor that refers to the blob.
    pub fn descriptor(&self, media_type: MediaType) -> Descriptor {
        Descriptor::new(media_type, self.bytes.len() as u64, self.digest.clone())
    }

    /// The digest, with the algorithm.
    pub fn digest(&self) -> String {
        format!("sha256:{}", self.digest)
    }

    /// The path of the blob in a layout.
    pub fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

/// The SHA-256 of these bytes in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
