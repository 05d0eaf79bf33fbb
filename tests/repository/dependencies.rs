//! The dependencies are as `deny.toml` has them, as far as that can be told without a network: their
//! licences, where they come from, and which must not be there.

use cargo_metadata::{CargoOpt, MetadataCommand, Package};
use common::report::skip;
use common::root;
use podpause::compile::PLATFORMS;
use serde::Deserialize;
use serde_json::json;
use spdx::{Expression, Licensee, ParseMode};

/// What is read of `deny.toml`, in the words of cargo-deny.
#[derive(Deserialize)]
struct Deny {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    exceptions: Vec<Exception>,
    clarify: Vec<Clarification>,
}

/// More licences for one crate.
#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

/// What a crate does not say itself.
#[derive(Deserialize)]
struct Clarification {
    #[serde(rename = "crate")]
    name: String,
    expression: String,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

impl Deny {
    fn read() -> Self {
        toml::from_str(include_str!("../../deny.toml")).unwrap()
    }

    /// What is wrong with a package, if something is.
    fn objection(&self, package: &Package) -> Option<String> {
        let name = package.name.as_str();
        if self.bans.deny.iter().any(|ban| ban.name == name) {
            return Some(format!("{name} is banned"));
        }
        match &package.source {
            None if package.manifest_path.starts_with(root()) => {}
            None => return Some(format!("{name} is in {}", package.manifest_path)),
            Some(source) => {
                let mut registries = self.sources.allow_registry.iter();
                if !registries.any(|registry| source.repr == format!("registry+{registry}")) {
                    return Some(format!("{name} comes from {source}"));
                }
            }
        }
        // What is never published needs no licence.
        if package.publish == Some(Vec::new()) {
            return None;
        }
        let clarified = self.licenses.clarify.iter().find(|crate_| crate_.name == name);
        let licence = clarified.map(|crate_| &crate_.expression).or(package.license.as_ref());
        let Some(licence) = licence else { return Some(format!("{name} has no licence")) };
        (!self.allows(name, licence)).then(|| format!("{name} has the licence {licence}"))
    }

    /// Whether what is allowed satisfies a licence, which may be a choice among several.
    fn allows(&self, name: &str, licence: &str) -> bool {
        let exceptions = self.licenses.exceptions.iter().filter(|crate_| crate_.name == name);
        let allowed = self.licenses.allow.iter().chain(exceptions.flat_map(|crate_| &crate_.allow));
        let allowed: Vec<_> = allowed.map(|licence| Licensee::parse(licence).unwrap()).collect();
        // As lax as cargo-deny is: old crates have a slash for `OR`.
        Expression::parse_mode(licence, ParseMode::LAX).is_ok_and(|expression| {
            expression.evaluate(|term| allowed.iter().any(|licensee| licensee.satisfies(term)))
        })
    }

    /// The packages that this workspace is built from, for any platform, or why that is not known:
    /// cargo reads the manifest of each, and without a network it may not have it.
    fn packages(&self, manifest: &str) -> Result<Vec<Package>, String> {
        let mut options = vec!["--offline".to_owned(), "--locked".to_owned()];
        options.extend(self.graph.targets.iter().map(|name| format!("--filter-platform={name}")));
        let mut command = MetadataCommand::new();
        command.cargo_path(env!("CARGO")).manifest_path(root().join(manifest));
        command.features(CargoOpt::AllFeatures).other_options(options);
        let metadata = command.exec().map_err(|error| {
            format!(
                "{error}\nIf packages are missing: cargo fetch --locked --manifest-path {manifest}"
            )
        })?;
        Ok(metadata.packages)
    }

    fn objections(&self, packages: &[Package]) -> Vec<String> {
        packages.iter().filter_map(|package| self.objection(package)).collect()
    }
}

const WORKSPACE: &str = "Cargo.toml";
const EXAMPLE: &str = "examples/libcontainer/Cargo.toml";

#[test]
fn are_as_they_should_be() {
    let deny = Deny::read();
    for manifest in [WORKSPACE, EXAMPLE] {
        match deny.packages(manifest) {
            Ok(packages) => {
                assert!(packages.len() > 50, "{manifest}: {} packages", packages.len());
                assert_eq!(deny.objections(&packages), [""; 0], "{manifest}, by deny.toml");
            }
            Err(error) => skip!("dependencies", "{manifest}: {error}"),
        }
    }
}

/// The checks above can fail.
#[test]
fn would_be_found_out() {
    let mut deny = Deny::read();
    let invented = json!({
        "name": "invented", "version": "1.0.0", "id": "invented", "dependencies": [], "targets": [],
        "features": {}, "manifest_path": "/elsewhere/Cargo.toml",
    });
    let mut package: Package = serde_json::from_value(invented).unwrap();
    let crates_io = "registry+https://github.com/rust-lang/crates.io-index";
    let from = |source: &str| Some(serde_json::from_value(source.into()).unwrap());

    assert_eq!(deny.objection(&package).unwrap(), "invented is in /elsewhere/Cargo.toml");
    package.source = from("git+https://github.com/rust-lang/libc#0123456");
    assert!(deny.objection(&package).unwrap().starts_with("invented comes from git+"));
    package.source = from("sparse+https://registry.example/index/");
    assert!(deny.objection(&package).unwrap().starts_with("invented comes from sparse+"));
    package.source = from(crates_io);
    assert_eq!(deny.objection(&package).unwrap(), "invented has no licence");
    for licence in ["GPL-3.0-only", "MIT AND GPL-2.0-or-later", "MPL-2.0", "nonsense", ""] {
        package.license = Some(licence.to_owned());
        let objection = format!("invented has the licence {licence}");
        assert_eq!(deny.objection(&package), Some(objection));
    }
    for licence in ["MIT", "GPL-3.0-only OR MIT", "MIT/Apache-2.0"] {
        package.license = Some(licence.to_owned());
        assert_eq!(deny.objection(&package), None, "{licence}");
    }
    deny.bans.deny.push(Ban { name: "invented".to_owned() });
    assert_eq!(deny.objection(&package).unwrap(), "invented is banned");
}

#[test]
fn could_not_be_had_without_the_mit_licence() {
    let mut deny = Deny::read();
    deny.licenses.allow.retain(|licence| licence != "MIT");
    match deny.packages(WORKSPACE) {
        Ok(packages) => {
            let objections = deny.objections(&packages);
            assert!(objections.contains(&"bytes has the licence MIT".to_owned()), "{objections:?}");
        }
        Err(error) => skip!("dependencies", "{WORKSPACE}: {error}"),
    }
}

/// No platform is left out.
#[test]
fn are_those_for_all_platforms() {
    let targets: Vec<_> = PLATFORMS.iter().map(|platform| platform.target).collect();
    assert_eq!(Deny::read().graph.targets, targets);
}
