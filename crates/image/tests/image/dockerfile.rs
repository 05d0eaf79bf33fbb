//! The Dockerfile builds an image with the same files and settings as the one that the tool writes.
//!
//! Its first stage needs an image with Rust, which is not available everywhere, and takes minutes. The test
//! replaces that image by a stand-in, where `cargo build` copies the tool under test, and `rustc` copies the
//! program. The Dockerfile itself is unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::report::skip;
use podpause::compile::PLATFORMS;
use serde_json::Value;
use tar::{Archive, EntryType};
use tempfile::TempDir;

use crate::harness::{Dist, run, tool};
use crate::tools::{Daemon, dockerd, need_root, storage};

const DOCKERFILE: &str = include_str!("../../../../Dockerfile");

/// The name of the base image in the Dockerfile's first stage. The stand-in image gets this name.
fn base_name() -> &'static str {
    let line = DOCKERFILE.lines().find(|line| line.ends_with(" AS build")).unwrap();
    line.split(' ').rev().nth(2).unwrap()
}

/// Two folders to build from: `base`, for the stand-in, and `context`, for the Dockerfile.
fn contexts(busybox: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let [base, context] = ["base", "context"].map(|name| folder.path().join(name));
    let [root, bin, own] = ["", "bin", "stand-in"].map(|name| base.join("root").join(name));
    for path in [&context, &bin, &own, &root.join("tmp")] {
        fs::create_dir_all(path).unwrap();
    }
    fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    let dockerfile = "FROM scratch\nCOPY root /\nENV PATH=/stand-in:/bin\n";
    fs::write(base.join("Dockerfile"), dockerfile).unwrap();

    fs::copy(busybox, bin.join("busybox")).unwrap();
    for name in ["sh", "cp", "ln", "mkdir"] {
        symlink("busybox", bin.join(name)).unwrap();
    }
    let program = env!("CARGO_BIN_EXE_podpause-image");
    // Without symbols, the tool is much smaller.
    let strip =
        Command::new("strip").arg("-o").args([&own.join("podpause-image")]).arg(program).status();
    if !strip.is_ok_and(|status| status.success()) {
        fs::copy(program, own.join("podpause-image")).unwrap();
    }
    let libraries = run(Command::new("ldd").arg(program));
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = root.join(&library[1..]);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(library, copy).unwrap();
    }
    fs::write(own.join("program"), podpause::ELF).unwrap();
    for (name, script) in [
        ("rustup", ""),
        ("cargo", "mkdir -p target/release && cp /stand-in/podpause-image target/release"),
        (
            "rustc",
            "[ \"$1\" = --version ] && echo 'rustc 1.0.0 (stand-in)' && exit\n\
             for last; do :; done\n\
             cp /stand-in/program \"$last\"",
        ),
    ] {
        let path = own.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// A statically linked busybox, which provides the shell commands of the stand-in.
fn busybox() -> Option<PathBuf> {
    let path = PathBuf::from(tool("busybox")?.get_program());
    let is_static = !Command::new("ldd").arg(&path).output().is_ok_and(|out| out.status.success());
    is_static.then_some(path)
}

/// The kind of a file, its mode, owner and group, what it links to, and its bytes.
type Entry = (EntryType, u32, u64, u64, Option<PathBuf>, Vec<u8>);

/// An archive with an image in docker's format.
struct Saved(PathBuf);

impl Saved {
    fn read(&self, path: &str) -> Vec<u8> {
        let mut archive = Archive::new(fs::File::open(&self.0).unwrap());
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        let mut entry = entries.find(|entry| entry.path().unwrap() == Path::new(path)).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn manifest(&self) -> Value {
        serde_json::from_slice::<Value>(&self.read("manifest.json")).unwrap()[0].take()
    }

    /// The settings, without those that are empty or that only the engine adds.
    fn config(&self) -> Value {
        let path = self.manifest()["Config"].as_str().unwrap().to_owned();
        let mut config: Value = serde_json::from_slice(&self.read(&path)).unwrap();
        let mut config = config["config"].take();
        if let Some(labels) = config["Labels"].as_object_mut() {
            labels.remove("io.buildah.version");
        }
        config.as_object_mut().unwrap().retain(|key, value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::String(text) => !text.is_empty() && key != "Image",
            Value::Object(fields) => !fields.is_empty(),
            _ => true,
        });
        config
    }

    /// The files, by their paths.
    fn files(&self) -> BTreeMap<PathBuf, Entry> {
        let mut files = BTreeMap::new();
        for layer in self.manifest()["Layers"].as_array().unwrap() {
            let mut layer = self.read(layer.as_str().unwrap());
            if layer.starts_with(b"\x1f\x8b") {
                layer = crate::contents::layer(&layer);
            }
            for entry in Archive::new(&layer[..]).entries().unwrap() {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                let header = entry.header();
                let file = (
                    header.entry_type(),
                    header.mode().unwrap() & 0o7777,
                    header.uid().unwrap(),
                    header.gid().unwrap(),
                    entry.link_name().unwrap().map(|link| link.into_owned()),
                    bytes,
                );
                files.insert(entry.path().unwrap().components().collect(), file);
            }
        }
        files
    }
}

/// Asserts that an image has the same files and settings as the one that the tool writes.
fn assert_is_the_tool_s(archive: PathBuf) {
    let dist = Dist::new(&[]);
    let (ours, theirs) = (Saved(dist.path("pause.tar")), Saved(archive));
    assert_eq!(theirs.config(), ours.config());
    assert_eq!(theirs.files(), ours.files());
}

#[test]
fn makes_the_same_image_with_buildah() {
    need_root!("buildah");
    let Some(busybox) = busybox() else { skip!("busybox-static", "it is not installed") };
    let contexts = contexts(&busybox);
    let path = |name: &str| contexts.path().join(name).display().to_string();
    let buildah =
        |arguments: &[&str]| run(tool("buildah").unwrap().args(storage(&contexts)).args(arguments));
    let name = format!("docker.io/library/{}", base_name());
    buildah(&["bud", "--isolation", "chroot", "--tag", &name, &path("base")]);
    let build = ["bud", "--isolation", "chroot", "--pull-never", "--tag", "localhost/pause:b"];
    buildah(&[&build[..], &[&path("context")]].concat());
    let archive = contexts.path().join("saved.tar");
    buildah(&["push", "localhost/pause:b", &format!("docker-archive:{}:a:b", archive.display())]);
    assert_is_the_tool_s(archive);
}

/// Builds with docker's legacy builder, and with BuildKit.
#[test]
fn makes_the_same_image_with_docker() {
    need_root!("docker");
    need_root!("dockerd");
    let Some(busybox) = busybox() else { skip!("busybox-static", "it is not installed") };
    let contexts = contexts(&busybox);
    let daemon: Daemon = dockerd();
    let docker = |buildkit: &str, arguments: &[&str]| {
        let mut docker = daemon.docker();
        run(docker.env("DOCKER_BUILDKIT", buildkit).args(arguments))
    };
    let path = |name: &str| contexts.path().join(name).display().to_string();
    docker("0", &["build", "--tag", base_name(), &path("base")]);
    for buildkit in ["0", "1"] {
        if buildkit == "1" && has_no_buildkit(&daemon) {
            skip!("buildx", "this docker has no BuildKit without it");
        }
        docker(buildkit, &["build", "--network", "none", "--tag", "a:b", &path("context")]);
        docker(buildkit, &["save", "--output", &path("saved.tar"), "a:b"]);
        assert_is_the_tool_s(path("saved.tar").into());
    }
}

/// Whether this client needs buildx for BuildKit, and buildx is not installed. Older clients do not need it.
fn has_no_buildkit(daemon: &Daemon) -> bool {
    let output = daemon.docker().env("DOCKER_BUILDKIT", "1").args(["build", "/dev/null"]).output();
    crate::harness::errors(&output.unwrap()).contains("buildx component is missing")
}

/// The Dockerfile lists the targets itself: it cannot ask the tool for them, because the tool is built only
/// after they are installed.
#[test]
fn installs_the_library_of_each_target() {
    let words = DOCKERFILE.split_whitespace();
    let installed: BTreeSet<_> = words.filter(|word| word.contains("-unknown-linux-")).collect();
    assert_eq!(installed, PLATFORMS.map(|platform| platform.target).into());
}
