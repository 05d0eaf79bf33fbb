//! Runs the tool and reads its output.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The default name of the image.
pub const NAME: &str = concat!("localhost/podpause/pause:", env!("CARGO_PKG_VERSION"));
/// The tag in that name.
pub const TAG: &str = env!("CARGO_PKG_VERSION");

/// A third-party tool, if it is installed. The distribution's is preferred, because its client and daemon
/// have matching versions. `/usr/sbin` is for daemons: it is not in the PATH of an ordinary user.
pub fn tool(name: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = ["/usr/bin", "/usr/sbin"].map(PathBuf::from).into_iter();
    let mut files = folders.chain(std::env::split_paths(&path)).map(|folder| folder.join(name));
    files.find(|file| file.is_file()).map(Command::new)
}

/// The program under test, without SOURCE_DATE_EPOCH in its environment.
pub fn podpause_image() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podpause-image"));
    command.env_remove("SOURCE_DATE_EPOCH");
    command
}

/// Runs a command, asserts that it succeeds, and returns its stdout.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}{}", output.status, errors(&output));
    text
}

/// The stderr of a command.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Makes a stand-in for rustc that accepts every target and writes these bytes. With it, tests of
/// the image do not depend on the compiler that is installed, or on there being one.
pub fn stand_in_compiler(folder: &Path, program: &[u8]) -> PathBuf {
    fs::write(folder.join("program"), program).unwrap();
    let script = "#!/bin/sh\n\
        [ \"$1\" = --version ] && echo 'rustc 1.0.0 (stand-in)' && exit\n\
        for last; do :; done\n\
        cp \"${0%/*}/program\" \"$last\"\n";
    let path = folder.join("rustc");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A folder that the tool has written.
pub struct Dist {
    folder: TempDir,
}

impl Dist {
    /// Runs the tool with these arguments and the real compiler.
    pub fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        run(podpause_image().arg("--out").arg(folder.path().join("dist")).args(arguments));
        Self { folder }
    }

    /// Runs the tool with these arguments and the stand-in compiler.
    pub fn stand_in(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::with_compiler(arguments, &stand_in_compiler(folder.path(), podpause::ELF))
    }

    /// Runs the tool with these arguments and this compiler.
    pub fn with_compiler(arguments: &[&str], rustc: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = podpause_image();
        command.arg("--out").arg(folder.path().join("dist")).args(arguments).env("RUSTC", rustc);
        run(&mut command);
        Self { folder }
    }

    /// In the manifest of the only platform, replaces `words` by `others` of the same length, and updates the
    /// digests that lead to the manifest.
    pub fn change(&self, words: &str, others: &str) {
        let replaced = |bytes: Vec<u8>, words: &str, others: &str| {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(words));
            text.replace(words, others).into_bytes()
        };
        let entry = self.entries().remove(0);
        let manifest = self.index().manifests()[0].clone();
        let mut words = (words.to_owned(), others.to_owned());
        for descriptor in [&manifest, &entry] {
            let bytes = replaced(self.blob(descriptor), &words.0, &words.1);
            words = (descriptor.digest().digest().to_owned(), sha256(&bytes));
            fs::write(self.path(&format!("oci/blobs/sha256/{}", words.1)), bytes).unwrap();
        }
        let bytes = replaced(self.read("oci/index.json"), &words.0, &words.1);
        fs::write(self.path("oci/index.json"), bytes).unwrap();
    }

    /// A path in the folder.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("dist").join(path)
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The entries of the layout's index.json: the image, the index of its referrers, and the referrers.
    pub fn entries(&self) -> Vec<Descriptor> {
        let layout = self.read("oci/oci-layout");
        assert_eq!(layout, br#"{"imageLayoutVersion":"1.0.0"}"#);
        let index: ImageIndex = serde_json::from_slice(&self.read("oci/index.json")).unwrap();
        index.manifests().clone()
    }

    /// The bytes that a descriptor refers to. Asserts that size and digest are those of the descriptor.
    pub fn blob(&self, descriptor: &Descriptor) -> Vec<u8> {
        let digest = descriptor.digest().digest();
        let bytes = self.read(&format!("oci/blobs/sha256/{digest}"));
        assert_eq!(bytes.len() as u64, descriptor.size());
        assert_eq!(sha256(&bytes), digest);
        bytes
    }

    pub fn index(&self) -> ImageIndex {
        serde_json::from_slice(&self.blob(&self.entries()[0])).unwrap()
    }

    /// The image for each platform, in the order of the index.
    pub fn images(&self) -> Vec<Image> {
        let index = self.index();
        let images = index.manifests().iter().map(|descriptor| {
            let manifest = self.blob(descriptor);
            let parsed: ImageManifest = serde_json::from_slice(&manifest).unwrap();
            let [layer] = &parsed.layers()[..] else { panic!("one layer") };
            let (config, layer) = (self.blob(parsed.config()), self.blob(layer));
            let platform = descriptor.platform().as_ref().unwrap();
            let mut name = format!("{}/{}", platform.os(), platform.architecture());
            if let Some(variant) = platform.variant() {
                name = format!("{name}/{variant}");
            }
            let size_bytes = manifest.len() + config.len() + layer.len();
            let config = serde_json::from_slice(&config).unwrap();
            Image { name, manifest: parsed, config, layer, size_bytes }
        });
        images.collect()
    }

    /// All files and their bytes.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.path(""))
    }
}

/// All files in a folder and below it, by their paths relative to it.
pub fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = common::folder::files(root).into_iter();
    paths
        .map(|path| (path.to_str().unwrap().to_owned(), fs::read(root.join(&path)).unwrap()))
        .collect()
}

/// The image for one platform.
pub struct Image {
    pub name: String,
    pub manifest: ImageManifest,
    pub config: ImageConfiguration,
    pub layer: Vec<u8>,
    pub size_bytes: usize,
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
