//! The image in a registry: Debian's docker-registry on loopback. This version has no referrers API, so
//! clients use the referrers tag.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::report::skip;
use common::wait::until;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use tempfile::TempDir;

use crate::harness::{Dist, Image, TAG, errors, podpause_image, run, stand_in_compiler, tool};
use crate::tools::{dockerd, need_root, storage};

/// A registry that ends when this is dropped.
struct Registry {
    child: Child,
    folder: TempDir,
    /// Its address, with the port.
    address: String,
}

/// An answer of the registry, from its log.
struct Answer {
    method: String,
    uri: String,
    status: u16,
    bytes: usize,
}

impl Registry {
    /// Starts a registry, which requires a password if a realm is given. If none is installed, reports that.
    fn start(realm: Option<&str>) -> Option<Self> {
        let Some(mut registry) = tool("docker-registry") else {
            skipped("it is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let auth = realm.map(|realm| {
            let passwords = path("passwords");
            fs::write(&passwords, "").unwrap();
            format!("auth: {{ htpasswd: {{ realm: {realm}, path: {} }} }}\n", passwords.display())
        });
        let settings = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ addr: '127.0.0.1:0' }}\n{}",
            path("data").display(),
            auth.unwrap_or_default(),
        );
        fs::write(path("settings.yml"), settings).unwrap();
        let log = File::create(path("log")).unwrap();
        registry.arg("serve").arg(path("settings.yml"));
        registry.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = registry.spawn().unwrap();
        let mut this = Self { child, folder, address: String::new() };
        until("the registry listens", || {
            let log = this.log();
            assert!(this.child.try_wait().unwrap().is_none(), "{log}");
            let address = log.split("listening on ").nth(1).and_then(|rest| rest.split('"').next());
            this.address = address.unwrap_or_default().to_owned();
            !this.address.is_empty()
        });
        Some(this)
    }

    /// Starts a registry, and pushes the image to it with the commands in the tool's help.
    fn with(dist: &Dist) -> Option<Self> {
        let this = Self::start(None)?;
        let digest = dist.entries()[0].digest().to_string();
        for tag in [TAG, &digest.replace(':', "-")] {
            let layout = format!("oci:{}:{tag}", dist.path("oci").display());
            this.skopeo(&["copy", "--all", &layout, &this.transport(tag)]);
        }
        Some(this)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The name of the image in this registry, with a tag or a digest.
    fn name(&self, tag: &str) -> String {
        let separator = if tag.starts_with("sha256:") { '@' } else { ':' };
        format!("{}/infra/pause{separator}{tag}", self.address)
    }

    fn transport(&self, tag: &str) -> String {
        format!("docker://{}", self.name(tag))
    }

    fn skopeo(&self, arguments: &[&str]) -> String {
        run(&mut skopeo(arguments))
    }

    /// Its answers so far.
    fn answers(&self) -> Vec<Answer> {
        let log = self.log();
        let answers = log.lines().filter_map(|line| {
            // 127.0.0.1 - - [25/Nov/2026:15:45:04 +0000] "GET /v2/ HTTP/1.1" 200 2 "" "skopeo/1.9.3"
            let (request, rest) = line.split_once("] \"")?.1.split_once("\" ")?;
            let mut words = request.split(' ');
            let mut numbers = rest.split(' ');
            Some(Answer {
                method: words.next()?.into(),
                uri: words.next()?.into(),
                status: numbers.next()?.parse().ok()?,
                bytes: numbers.next()?.parse().ok()?,
            })
        });
        answers.collect()
    }

    /// Asserts that, after the first `before` answers, this image and no other was fetched by digest: its
    /// manifest, its configuration and its layer, in full size. The index may also have been fetched.
    fn assert_was_fetched(&self, dist: &Dist, image: &Image, before: usize) {
        let index = dist.entries()[0].digest().to_string();
        let answers = self.answers().split_off(before);
        let fetched: Vec<_> = answers
            .iter()
            .filter(|answer| answer.method == "GET" && answer.status == 200)
            .filter(|answer| answer.uri.contains("/sha256:") && !answer.uri.ends_with(&index))
            .collect();
        let bytes: usize = fetched.iter().map(|answer| answer.bytes).sum();
        let uris: Vec<_> = fetched.iter().map(|answer| &answer.uri).collect();
        assert_eq!(fetched.len(), 3, "{uris:?}");
        assert_eq!(bytes, image.size_bytes, "{uris:?}");
    }

    /// The file in which the registry stores a blob.
    fn blob(&self, descriptor: &Descriptor) -> PathBuf {
        let digest = descriptor.digest().digest();
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&digest[..2]).join(digest).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn skipped(reason: &str) {
    common::report::skipped("docker-registry", reason);
}

/// skopeo, with HTTP allowed.
fn skopeo(arguments: &[&str]) -> Command {
    let mut skopeo = tool("skopeo").unwrap();
    skopeo.args(["--insecure-policy", arguments[0]]);
    match arguments[0] {
        "copy" => skopeo.args(["--src-tls-verify=false", "--dest-tls-verify=false"]),
        _ => skopeo.arg("--tls-verify=false"),
    };
    skopeo.args(&arguments[1..]);
    skopeo
}

/// The image of a platform.
fn image_for(dist: &Dist, platform: &str) -> Image {
    dist.images().into_iter().find(|image| image.name == platform).unwrap()
}

/// The ID of an image in podman and docker, which is the digest of its configuration.
fn id(image: &Image) -> String {
    image.manifest.config().digest().digest().to_owned()
}

#[test]
fn image_and_referrers_are_pushed() {
    if tool("skopeo").is_none() {
        skip!("skopeo", "it is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let rustc = stand_in_compiler(folder.path(), podpause::ELF);
    let dist = Dist::with_compiler(&["--platform", "all"], &rustc);
    let Some(registry) = Registry::with(&dist) else { return };
    let raw = |tag: &str| registry.skopeo(&["inspect", "--raw", &registry.transport(tag)]);
    let entry = &dist.entries()[0];
    let digest = entry.digest().to_string();
    for tag in [TAG, &digest] {
        assert_eq!(raw(tag).as_bytes(), dist.blob(entry), "{tag}");
    }
    // The referrers are found from the digest of the image.
    let index: ImageIndex = serde_json::from_str(&raw(&digest.replace(':', "-"))).unwrap();
    let files = index.manifests().iter().map(|referrer| {
        let manifest = raw(referrer.digest().as_ref());
        let manifest: ImageManifest = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest.subject().as_ref().unwrap().digest(), entry.digest());
        let [layer] = &manifest.layers()[..] else { panic!("one layer") };
        let file = &layer.annotations().as_ref().unwrap()["org.opencontainers.image.title"];
        assert_eq!(fs::read(registry.blob(layer)).unwrap(), dist.read(file), "{file}");
        file.clone()
    });
    let files: Vec<_> = files.collect();
    assert_eq!(files, ["pause.cdx.json", "pause.provenance.json"]);
    // The pulled image passes `--verify`.
    let copy = folder.path().join("copy");
    let layout = format!("oci:{}:{TAG}", copy.display());
    registry.skopeo(&["copy", "--all", &registry.transport(&digest), &layout]);
    run(podpause_image().arg("--verify").arg(&copy).env("RUSTC", &rustc));
}

/// A push to an existing tag moves the tag. The earlier image is still available by its digest.
#[test]
fn existing_tag_is_moved() {
    if tool("skopeo").is_none() {
        skip!("skopeo", "it is not installed");
    }
    let (first, second) = (Dist::stand_in(&["--platform", "all"]), Dist::new(&[]));
    let Some(registry) = Registry::with(&first) else { return };
    let layout = format!("oci:{}:{TAG}", second.path("oci").display());
    registry.skopeo(&["copy", "--all", &layout, &registry.transport(TAG)]);
    for (tag, dist) in [(TAG, &second), (first.entries()[0].digest().as_ref(), &first)] {
        let raw = registry.skopeo(&["inspect", "--raw", &registry.transport(tag)]);
        assert_eq!(raw.as_bytes(), dist.blob(&dist.entries()[0]), "{tag}");
    }
}

#[test]
fn podman_pulls() {
    need_root!("podman");
    let dist = Dist::stand_in(&["--platform", "all"]);
    let Some(registry) = Registry::with(&dist) else { return };
    let digest = dist.entries()[0].digest().to_string();
    for (tag, platform) in [(TAG, None), (&digest, None), (TAG, Some("linux/s390x"))] {
        let folder = tempfile::tempdir().unwrap();
        let mut podman = tool("podman").unwrap();
        podman.args(storage(&folder)).args(["pull", "--quiet", "--tls-verify=false"]);
        if let Some(platform) = platform {
            podman.args(["--platform", platform]);
        }
        let image = image_for(&dist, platform.unwrap_or("linux/amd64"));
        let before = registry.answers().len();
        assert_eq!(run(podman.arg(registry.name(tag))).trim(), id(&image), "{tag}");
        registry.assert_was_fetched(&dist, &image, before);
    }
}

#[test]
fn docker_pulls() {
    need_root!("docker");
    need_root!("dockerd");
    let dist = Dist::stand_in(&["--platform", "all"]);
    let Some(registry) = Registry::with(&dist) else { return };
    let digest = dist.entries()[0].digest().to_string();
    for (tag, platform) in [(TAG, None), (&digest, None), (TAG, Some("linux/s390x"))] {
        let daemon = dockerd();
        let mut docker = daemon.docker();
        docker.args(["pull", "--quiet"]);
        if let Some(platform) = platform {
            docker.args(["--platform", platform]);
        }
        let image = image_for(&dist, platform.unwrap_or("linux/amd64"));
        let before = registry.answers().len();
        run(docker.arg(registry.name(tag)));
        let shown = run(daemon
            .docker()
            .args(["image", "inspect", "--format", "{{.Id}}"])
            .arg(registry.name(tag)));
        assert_eq!(shown.trim(), format!("sha256:{}", id(&image)), "{tag}");
        registry.assert_was_fetched(&dist, &image, before);
    }
}

/// Pulls from a registry that requires a password, one that fails, one that closes the connection, and one
/// whose copy of the layer is truncated. Each time podman fails, and has no image afterwards.
#[test]
fn failed_pull_leaves_nothing() {
    need_root!("podman");
    let dist = Dist::stand_in(&["--platform", "linux/amd64"]);
    let Some(secret) = Registry::start(Some("pods")) else { return };
    let (failing, silent) = (Answering::start(b"HTTP/1.1 500 No\r\n\r\n"), Answering::start(b""));
    let Some(damaged) = Registry::with(&dist) else { return };
    let layer = damaged.blob(&dist.images()[0].manifest.layers()[0]);
    fs::write(&layer, &fs::read(&layer).unwrap()[..100]).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let podman = |arguments: &[&str]| {
        let mut podman = tool("podman").unwrap();
        podman.args(storage(&folder)).args(arguments).output().unwrap()
    };
    for (address, expected) in [
        (&secret.address, "authentication required"),
        (&failing.address, "500"),
        (&silent.address, "EOF"),
        (&damaged.address, ""),
    ] {
        let name = format!("{address}/infra/pause:{TAG}");
        let output = podman(&["pull", "--retry=0", "--tls-verify=false", &name]);
        let output = match errors(&output).contains("unknown flag: --retry") {
            true => podman(&["pull", "--tls-verify=false", &name]),
            false => output,
        };
        let error = errors(&output);
        assert!(!output.status.success() && error.contains(expected), "{expected}: {error}");
        assert_eq!(podman(&["images", "--quiet", "--all"]).stdout, b"", "{expected}");
    }
    assert!(failing.was_asked() && silent.was_asked());
}

/// A server that gives the same answer to all requests.
struct Answering {
    address: String,
    count: Arc<AtomicUsize>,
}

impl Answering {
    fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let count = Arc::<AtomicUsize>::default();
        let counter = count.clone();
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = Self::answer(connection, answer);
            }
        });
        Self { address, count }
    }

    fn answer(mut connection: TcpStream, answer: &[u8]) -> std::io::Result<()> {
        let mut request = [0; 4_096];
        let _ = connection.read(&mut request)?;
        connection.write_all(answer)
    }

    fn was_asked(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }
}
