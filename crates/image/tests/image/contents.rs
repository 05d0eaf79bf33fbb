//! The contents of the image and of the other files.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use common::report::skip;
use cyclonedx_bom::prelude::{Bom, Validate};
use flate2::read::GzDecoder;
use in_toto_attestation::predicates::provenance::v1::provenance::Provenance;
use in_toto_attestation::v1::resource_descriptor::ResourceDescriptor;
use in_toto_attestation::v1::statement::Statement;
use in_toto_attestation::validator::MetadataValidator;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use podpause::compile::{PLATFORMS, Platform};
use protobuf_json_mapping::{parse_from_str, print_to_string};
use tar::{Archive, EntryType};

use crate::harness::{Dist, NAME, TAG, podpause_image, run, sha256, stand_in_compiler};

/// The largest size allowed for the image of this machine's platform.
const BUDGET_BYTES: usize = 2_048;

/// For this machine's platform, the program in the layer, and the program file beside the layout, are the
/// library's `ELF`.
#[test]
fn layer_contains_the_program() {
    let dist = Dist::new(&[]);
    let [image] = &dist.images()[..] else { panic!("one platform") };
    let layer = layer(&image.layer);
    let mut archive = Archive::new(&layer[..]);
    let mut pause = archive
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .find(|entry| entry.path().unwrap().as_os_str() == "pause")
        .unwrap();
    let mut program = Vec::new();
    pause.read_to_end(&mut program).unwrap();
    assert_eq!(program, podpause::ELF);

    let file = format!("pause-{}", image.name.replace('/', "-"));
    assert_eq!(dist.read(&file), podpause::ELF);
    assert_eq!(run(Command::new(dist.path(&file)).arg("-v")), format!("pause {TAG}\n"));
}

#[test]
fn layer_has_the_files_of_a_pause_image() {
    let dist = Dist::stand_in(&["--platform", "linux/amd64"]);
    let layer = layer(&dist.images()[0].layer);
    let mut archive = Archive::new(&layer[..]);
    let entries: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!((header.mode().unwrap(), header.mtime().unwrap()), (0o755, 0));
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let link = entry.link_name().unwrap().map(|link| link.to_str().unwrap().to_owned());
            (path, header.entry_type(), link)
        })
        .collect();
    let expected = [
        ("usr/", EntryType::Directory, None),
        ("usr/bin/", EntryType::Directory, None),
        ("pause", EntryType::Regular, None),
        ("usr/bin/pod", EntryType::Link, Some("pause".to_owned())),
    ];
    assert_eq!(entries, expected.map(|(path, kind, link)| (path.to_owned(), kind, link)));
}

/// Checks each field of the configuration and of the annotations, and that there are no others.
#[test]
fn config_and_annotations_are_complete() {
    let dist = Dist::stand_in(&["--platform", "all"]);
    let images = dist.images();
    for image in &images {
        let name: Vec<_> = image.name.split('/').collect();
        let mut config = serde_json::json!({
            "architecture": name[1],
            "os": "linux",
            "config": {
                "Entrypoint": ["/pause"],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "StopSignal": "SIGTERM",
                "User": "65535:65535",
                "WorkingDir": "/",
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [format!("sha256:{}", sha256(&layer(&image.layer)))],
            },
        });
        if let Some(variant) = name.get(2) {
            config["variant"] = (*variant).into();
        }
        assert_eq!(serde_json::to_value(&image.config).unwrap(), config);
    }

    let index = dist.index();
    for (annotations, count) in [(index.annotations(), 6), (images[0].manifest.annotations(), 5)] {
        let annotations = annotations.as_ref().unwrap();
        let get = |key: &str| annotations[&format!("org.opencontainers.image.{key}")].as_str();
        assert_eq!((get("title"), get("version")), ("pause", TAG));
        assert_eq!(get("source"), env!("CARGO_PKG_REPOSITORY"));
        assert_eq!(get("licenses"), "MIT OR Apache-2.0");
        assert_eq!(get("created"), "1970-01-01T00:00:00Z");
        assert_eq!(annotations.len(), count);
    }
    // Only the index has a description: in a manifest, each byte counts.
    let description =
        &index.annotations().as_ref().unwrap()["org.opencontainers.image.description"];
    assert!(!description.is_empty());
}

#[test]
fn platforms_are_unique_and_in_order() {
    let names = |arguments: &[&str]| -> Vec<String> {
        Dist::stand_in(arguments).images().into_iter().map(|image| image.name).collect()
    };
    assert_eq!(names(&["--platform", "all"]), PLATFORMS.map(|platform| platform.name));
    // Names are normalised as containerd does.
    let asked = ["--platform", "linux/386,linux/arm64/v8,linux/arm", "--platform", "linux/arm64"];
    assert_eq!(names(&asked), ["linux/arm64", "linux/arm/v7", "linux/386"]);

    let dist = Dist::stand_in(&["--platform", "all"]);
    for Platform { name, .. } in PLATFORMS {
        let path = dist.path(&format!("pause-{}", name.replace('/', "-")));
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o111, 0o111);
    }
}

/// With `PODPAUSE_PROGRAMS`, tests each platform with its program from that folder. Otherwise tests the
/// platforms that the compiler has a library for.
#[test]
fn every_platform_is_within_budget() {
    let programs = std::env::var_os("PODPAUSE_PROGRAMS").map(PathBuf::from);
    let mut missing = Vec::new();
    for Platform { name, .. } in PLATFORMS {
        let folder = tempfile::tempdir().unwrap();
        let rustc = programs.as_ref().map(|programs| {
            let program = programs.join(format!("pause-{}", name.replace('/', "-")));
            stand_in_compiler(folder.path(), &fs::read(program).unwrap())
        });
        // The time in the layer also affects its compressed size.
        for time in ["0", "1767225599"] {
            let mut command = podpause_image();
            command.args(["--platform", name, "--out"]).arg(folder.path().join(time));
            if let Some(rustc) = &rustc {
                command.env("RUSTC", rustc);
            }
            let output = command.env("SOURCE_DATE_EPOCH", time).output().unwrap();
            let errors = crate::harness::errors(&output);
            if errors.contains("rustup target add") {
                missing.push(name);
                break;
            }
            assert!(output.status.success(), "{name}: {errors}");
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        skip!("platforms", "neither a library nor PODPAUSE_PROGRAMS for {missing}");
    }
}

#[test]
fn own_platform_is_within_budget() {
    let dist = Dist::new(&[]);
    let image = &dist.images()[0];
    assert!(image.size_bytes <= BUDGET_BYTES, "{} bytes", image.size_bytes);
}

#[test]
fn layout_has_the_image_name() {
    for (arguments, name, tag) in [
        (&[][..], NAME, TAG),
        (&["--tag", "registry.example:5000/a/b:c"], "registry.example:5000/a/b:c", "c"),
    ] {
        let dist = Dist::stand_in(arguments);
        let entries = dist.entries();
        let annotations = entries[0].annotations().as_ref().unwrap();
        assert_eq!(annotations["io.containerd.image.name"], name);
        assert_eq!(annotations["org.opencontainers.image.ref.name"], tag);
        assert_eq!(entries[0].media_type(), &MediaType::ImageIndex);
    }
}

/// The SBOM is valid, and refers to the image (OCI 1.1, "subject").
#[test]
fn sbom_refers_to_the_image() {
    let dist = Dist::new(&[]);
    let list = dist.read("pause.cdx.json");
    let bom = Bom::parse_from_json(&list[..]).unwrap();
    assert!(bom.validate().passed(), "{:?}", bom.validate());
    let text = String::from_utf8(list.clone()).unwrap();
    assert!(text.contains(&sha256(podpause::ELF)), "{text}");

    assert_refers(&dist, "pause.cdx.json", "application/vnd.cyclonedx+json");
}

/// Asserts that an artifact that contains this file refers to the image.
fn assert_refers(dist: &Dist, file: &str, media_type: &str) {
    let entries = dist.entries();
    let media_type = MediaType::from(media_type);
    let is_it = |entry: &&Descriptor| entry.artifact_type().as_ref() == Some(&media_type);
    let referrer = entries.iter().find(is_it).unwrap();
    let manifest: ImageManifest = serde_json::from_slice(&dist.blob(referrer)).unwrap();
    assert_eq!(manifest.artifact_type().as_ref(), Some(&media_type));
    assert_eq!(manifest.config().media_type(), &MediaType::EmptyJSON);
    assert_eq!(dist.blob(manifest.config()), b"{}");
    let [layer] = &manifest.layers()[..] else { panic!("one layer") };
    assert_eq!(dist.blob(layer), dist.read(file));
    assert_eq!(layer.annotations().as_ref().unwrap()["org.opencontainers.image.title"], file);
    let subject = manifest.subject().as_ref().unwrap();
    assert_eq!((subject.digest(), subject.size()), (entries[0].digest(), entries[0].size()));
    assert_eq!(subject.media_type(), entries[0].media_type());

    // For a registry without a referrers API, the index with this tag lists the referrers.
    let tag = entries[0].digest().to_string().replace(':', "-");
    let is_tagged = |entry: &&Descriptor| {
        let annotations = entry.annotations().as_ref();
        annotations.is_some_and(|all| all.get("org.opencontainers.image.ref.name") == Some(&tag))
    };
    let tagged = entries.iter().find(is_tagged).unwrap();
    let index: ImageIndex = serde_json::from_slice(&dist.blob(tagged)).unwrap();
    assert!(index.manifests().contains(referrer), "{index:?}");
    // "All annotations from the pushed manifest MUST be copied to this descriptor."
    assert_eq!(referrer.annotations(), manifest.annotations());
    assert!(referrer.annotations().is_some());
}

/// The provenance is valid according to in-toto's own definition, and lists what went into the image.
#[test]
fn provenance_refers_to_the_image() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let dist = Dist::new(&["--revision", commit]);
    assert_refers(&dist, "pause.provenance.json", "application/vnd.in-toto+json");
    let (statement, provenance) = parse_provenance(&dist.read("pause.provenance.json")).unwrap();

    let digest = |resource: &ResourceDescriptor| resource.digest["sha256"].clone();
    let [image, program] = &statement.subject[..] else { panic!("two subjects") };
    assert_eq!(digest(image), dist.entries()[0].digest().digest());
    assert_eq!(digest(program), sha256(podpause::ELF));

    let build = provenance.build_definition;
    let materials = &build.resolved_dependencies;
    assert_eq!(materials[0].digest["gitCommit"], commit);
    // The materials without a URI are source files.
    let root = common::root();
    let named = |path: &str| materials.iter().find(|material| material.name == path);
    for path in ["src/main.rs", "src/arch/s390x.rs", "link/pause.ld"] {
        let material = named(path).unwrap_or_else(|| panic!("{path}: {materials:?}"));
        assert_eq!(digest(material), sha256(&fs::read(root.join(path)).unwrap()), "{path}");
    }
    for material in materials.iter().filter(|material| material.uri.is_empty()) {
        assert!(root.join(&material.name).is_file(), "{material:?}");
    }
    let compiler = materials.last().unwrap();
    assert!(compiler.name.starts_with("rustc 1."), "{compiler:?}");
    assert_eq!(provenance.run_details.builder.version["rustc"], compiler.name);
    assert_eq!(provenance.run_details.builder.version["podpause-image"], TAG);

    // Now without a commit, and for all platforms.
    let dist = Dist::stand_in(&["--platform", "all"]);
    let text = dist.read("pause.provenance.json");
    assert!(!String::from_utf8(text.clone()).unwrap().contains("gitCommit"));
    let (statement, provenance) = parse_provenance(&text).unwrap();
    assert_eq!(statement.subject.len(), 1 + PLATFORMS.len());
    assert!(provenance.build_definition.resolved_dependencies.len() > 10);
}

/// `parse_provenance`, which the test above relies on, rejects invalid provenance.
#[test]
fn invalid_provenance_is_rejected() {
    let dist = Dist::stand_in(&["--platform", "linux/386"]);
    let text = String::from_utf8(dist.read("pause.provenance.json")).unwrap();
    parse_provenance(text.as_bytes()).unwrap();
    for (words, others) in [
        ("Statement/v1", "Statement/v0.1"),
        ("\"subject\":[", "\"subjects\":["),
        ("\"sha256\":\"", "\"sha256\":\"x"),
        ("buildDefinition", "buildDefinitions"),
        ("\"builder\":{", "\"builder\":{\"name\":\"x\","),
        ("resolvedDependencies", "materials"),
    ] {
        let changed = text.replace(words, others);
        assert_ne!(text, changed, "{words}");
        assert!(parse_provenance(changed.as_bytes()).is_err(), "{others}");
    }
}

/// Parses a statement and its predicate with in-toto's own code, which rejects unknown fields.
fn parse_provenance(text: &[u8]) -> Result<(Statement, Provenance), String> {
    let text = std::str::from_utf8(text).unwrap();
    let statement: Statement = parse_from_str(text).map_err(|error| error.to_string())?;
    statement.validate_fields().map_err(|error| error.to_string())?;
    if statement.predicate_type != "https://slsa.dev/provenance/v1" {
        return Err(statement.predicate_type);
    }
    let predicate = print_to_string(&*statement.predicate).map_err(|error| error.to_string())?;
    let provenance: Provenance = parse_from_str(&predicate).map_err(|error| error.to_string())?;
    for material in &provenance.build_definition.resolved_dependencies {
        material.validate_fields().map_err(|error| error.to_string())?;
    }
    Ok((statement, provenance))
}

/// The folder has the expected number of blobs, and otherwise exactly the expected files.
#[test]
fn output_has_no_other_files() {
    let dist = Dist::stand_in(&["--platform", "linux/amd64"]);
    let files = dist.files();
    let blobs = files.keys().filter(|path| path.starts_with("oci/blobs/")).count();
    let kinds = "index, manifest, configuration, layer; index of referrers; \
        two referrers with a file each; the empty JSON";
    assert_eq!(blobs, 10, "{kinds}");
    let others: Vec<_> = files.keys().filter(|path| !path.starts_with("oci/blobs/")).collect();
    let expected = [
        "SHA256SUMS",
        "go/LICENSE-APACHE",
        "go/LICENSE-MIT",
        "go/go.mod",
        "go/pause-linux-amd64",
        "go/podpause.go",
        "go/program_linux_amd64.go",
        "go/version.go",
        "oci/index.json",
        "oci/oci-layout",
        "pause-linux-amd64",
        "pause.cdx.json",
        "pause.h",
        "pause.provenance.json",
        "pause.tar",
    ];
    assert_eq!(others, expected);
    run(Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(dist.path("")));
}

/// The C example, a runtime with pause embedded, compiles with the header that the tool writes, and runs.
#[test]
fn c_header_compiles() {
    if let Err(error) = Command::new("cc").arg("--version").output() {
        skip!("cc", "there is no C compiler: {error}");
    }
    let dist = Dist::new(&[]);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/embed.c");
    let embed = dist.path("").join("embed");
    let include = format!("-I{}", dist.path("").display());
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", &include, example, "-o"]);
    run(compiler.arg(&embed));
    let text = run(&mut Command::new(embed));
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        text.starts_with(&format!("pause {version} holds the namespaces of process ")),
        "{text}"
    );
    assert!(text.ends_with("it ended with status 0\n"), "{text}");
}

/// The table shows the size of the program, digests of blobs in the layout, and the name of the image.
#[test]
fn prints_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("dist");
    let output = podpause_image().arg("--out").arg(&out).output().unwrap();
    assert_eq!(crate::harness::errors(&output), "", "no progress without a terminal");
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("platform"), "{table}");
    assert!(lines[1].contains(&format!("{} B", podpause::ELF.len())), "{table}");
    for digest in [lines[1], lines[2]].map(|line| line.split("sha256:").nth(1).unwrap()) {
        assert!(out.join("oci/blobs/sha256").join(digest).is_file(), "{table}");
    }
    assert_eq!(lines[3], NAME);
}

/// Decompresses the layer. Asserts that its gzip header does not reveal where or when it was made.
pub fn layer(compressed: &[u8]) -> Vec<u8> {
    // RFC 1952: deflate, no name and no other field, no time, best compression, Unix.
    assert_eq!(compressed[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3]);
    let mut bytes = Vec::new();
    GzDecoder::new(compressed).read_to_end(&mut bytes).unwrap();
    bytes
}
