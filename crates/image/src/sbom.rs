//! The SBOM, in CycloneDX format.

use anyhow::{Context, Result};
use cyclonedx_bom::external_models::normalized_string::NormalizedString;
use cyclonedx_bom::external_models::uri::Purl;
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata;
use cyclonedx_bom::models::tool::{Tool, Tools};
use cyclonedx_bom::prelude::{Bom, SpecVersion};

use crate::blob::sha256;
use crate::compiler::DESCRIPTION;
use crate::platform::{Platform, file_name};
use crate::timestamp::Time;

/// The media type of the SBOM.
pub const MEDIA_TYPE: &str = "application/vnd.cyclonedx+json";
/// The name of the file with the SBOM.
pub const FILE_NAME: &str = "pause.cdx.json";

/// The SBOM. It lists pause, its file for each platform, and the only library in these files: the compiler's
/// `core`.
pub fn document(programs: &[(&Platform, &[u8])], compiler: &str, created: Time) -> Result<Vec<u8>> {
    let version = env!("CARGO_PKG_VERSION");
    let licence = || Some(Licenses(vec![LicenseChoice::expression("MIT OR Apache-2.0")]));
    let component = |kind, name: &str, version: &str| {
        let mut component = Component::new(kind, name, version, Some(name.to_owned()));
        component.licenses = licence();
        component
    };

    let mut pause = component(Classification::Application, "podpause", version);
    pause.description = Some(NormalizedString::new(DESCRIPTION));
    pause.purl = Some(Purl::new("cargo", "podpause", version)?);

    let mut parts: Vec<_> = programs
        .iter()
        .map(|(platform, program)| {
            let mut file = component(Classification::File, &file_name(platform), version);
            let content = HashValue(sha256(program));
            file.hashes = Some(Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content }]));
            file
        })
        .collect();
    let files = parts.iter().filter_map(|part| part.bom_ref.clone()).collect();
    // `rustc 1.95.0 (59807616e 2026-04-14)`
    let rust = compiler.split(' ').nth(1).with_context(|| format!("compiler {compiler}"))?;
    parts.push(component(Classification::Library, "core", rust));

    let depends = |on: &str, dependencies| Dependency { dependency_ref: on.into(), dependencies };
    let document =
        Bom {
            // The default is a random number.
            serial_number: None,
            metadata: Some(Metadata {
                timestamp: Some(created.to_string().try_into()?),
                tools: Some(Tools::List(vec![
                    Tool::new("podpause", env!("CARGO_PKG_NAME"), version),
                    Tool::new("Rust", "rustc", compiler),
                ])),
                component: Some(pause),
                ..Metadata::default()
            }),
            components: Some(Components(parts)),
            dependencies: Some(Dependencies(
                std::iter::once(depends("podpause", files))
                    .chain(programs.iter().map(|(platform, _)| {
                        depends(&file_name(platform), vec!["core".to_owned()])
                    }))
                    .collect(),
            )),
            ..Bom::default()
        };
    let mut bytes = Vec::new();
    document.output_as_json(&mut bytes, SpecVersion::V1_5)?;
    Ok(bytes)
}
