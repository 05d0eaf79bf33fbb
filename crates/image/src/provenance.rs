//! How the image was built: an in-toto statement with a SLSA provenance predicate.
//!
//! It contains nothing that differs between two builds of the same source with the same compiler: no build
//! time, no machine and no identity. A signature adds those (`.github/workflows/release.yml`).

use anyhow::Result;
use serde_json::{Value, json};

use crate::blob::{Blob, sha256};
use crate::compiler::Compiler;
use crate::image::PlatformImage;
use crate::platform::file_name;
use crate::timestamp::Time;

/// The media type of the statement (in-toto attestation framework, `spec/v1/bundle.md`).
pub const MEDIA_TYPE: &str = "application/vnd.in-toto+json";
/// The name of the file with the statement.
pub const FILE_NAME: &str = "pause.provenance.json";
/// The type of the predicate. <https://slsa.dev/spec/v1.1/provenance>
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";

const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The statement about an index and the programs in it. `revision` is the git commit of the source, if
/// it is known.
pub fn statement(
    index: &Blob,
    platforms: &[PlatformImage],
    compiler: &Compiler,
    created: Time,
    revision: Option<&str>,
) -> Result<Blob> {
    let mut subject = vec![resource("pause", index.digest().trim_start_matches("sha256:"))];
    for part in platforms {
        subject.push(resource(&file_name(part.platform), &sha256(&part.program)));
    }
    let mut materials = Vec::new();
    if let Some(revision) = revision {
        let uri = format!("git+{REPOSITORY}@{revision}");
        materials.push(json!({ "uri": uri, "digest": { "gitCommit": revision } }));
    }
    // The source of the program, its linker script and the compiler's flags.
    for (path, bytes) in compiler.source()? {
        materials.push(resource(&path, &sha256(&bytes)));
    }
    let rust = compiler.version.split(' ').nth(1).unwrap_or_default();
    materials.push(json!({ "name": compiler.version, "uri": format!("pkg:generic/rustc@{rust}") }));

    let names: Vec<_> = platforms.iter().map(|part| part.platform.name).collect();
    Blob::json(&json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": format!("{REPOSITORY}/blob/v{VERSION}/docs/security.md#how-it-was-built"),
                "externalParameters": {
                    "platform": names,
                    "SOURCE_DATE_EPOCH": u64::from(created).to_string(),
                },
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {
                    "id": format!("{REPOSITORY}/tree/v{VERSION}/crates/image"),
                    "version": {
                        (env!("CARGO_PKG_NAME")): VERSION,
                        "rustc": compiler.version,
                    },
                },
            },
        },
    }))
}

/// The git commit that a statement names, if it names one.
pub fn revision(statement: &[u8]) -> Result<Option<String>> {
    let statement: Value = serde_json::from_slice(statement)?;
    let materials = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
    let mut commits = materials.as_array().into_iter().flatten();
    Ok(commits.find_map(|material| Some(material["digest"]["gitCommit"].as_str()?.to_owned())))
}

/// A resource descriptor of a file (in-toto attestation framework, `spec/v1/resource_descriptor.md`).
fn resource(name: &str, sha256: &str) -> Value {
    json!({ "name": name, "digest": { "sha256": sha256 } })
}
