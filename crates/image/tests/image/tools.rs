//! The image in independent tools. A test is skipped if its tool is not installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::docs::snippet;
use podpause::compile::Platform;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Dist, NAME, TAG, run, tool};

/// The tool with this name. If it is not installed, the test is skipped.
macro_rules! need {
    ($name:literal) => {
        match tool($name) {
            Some(command) => command,
            None => common::report::skip!($name, "it is not installed"),
        }
    };
}

/// The tool with this name, for a test that also needs root. If either is missing, the test is skipped.
macro_rules! need_root {
    ($name:literal) => {{
        let Some(command) = $crate::harness::tool($name) else {
            common::report::skip!($name, "it is not installed")
        };
        if !rustix::process::geteuid().is_root() {
            common::report::skip!($name, "it needs root");
        }
        command
    }};
}

pub(crate) use need_root;

/// An image for all platforms, each with this machine's program as a stand-in.
fn image() -> Dist {
    Dist::stand_in(&["--platform", "all"])
}

/// The digest of the configuration of this machine's image, and its `config` object.
fn config(dist: &Dist) -> (String, Value) {
    let own = Platform::own().unwrap();
    let image = dist.images().into_iter().find(|image| image.name == own.name).unwrap();
    let digest = image.manifest.config().digest().digest().to_owned();
    (digest, serde_json::to_value(image.config.config()).unwrap())
}

/// Asserts that the configuration that a tool shows is that of the image.
fn assert_is_config(shown: &Value, dist: &Dist) {
    for (key, value) in config(dist).1.as_object().unwrap() {
        assert_eq!(&shown[key], value, "{key}");
    }
    for key in ["Cmd", "Labels", "Volumes", "ExposedPorts"] {
        assert!(shown[key].is_null(), "{key}: {}", shown[key]);
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Two implementations of tar see the same files, links, owners, modes and times.
#[test]
fn tar_lists_the_layer() {
    let dist = Dist::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let layer = folder.path().join("layer.tar.gz");
    fs::write(&layer, &dist.images()[0].layer).unwrap();
    let size = podpause::ELF.len();
    let gnu = run(need!("tar")
        .env("TZ", "UTC")
        .args(["--list", "--verbose", "--numeric-owner", "--full-time", "--file"])
        .arg(&layer));
    let words = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let expected = [
        "drwxr-xr-x 0/0 0 1970-01-01 00:00:00 usr/",
        "drwxr-xr-x 0/0 0 1970-01-01 00:00:00 usr/bin/",
        &format!("-rwxr-xr-x 0/0 {size} 1970-01-01 00:00:00 pause"),
        "hrwxr-xr-x 0/0 0 1970-01-01 00:00:00 usr/bin/pod link to pause",
    ];
    assert_eq!(words(&gnu), expected);

    let bsd = run(need!("bsdtar").env("TZ", "UTC").args(["-t", "-v", "-f"]).arg(&layer));
    let expected = [
        "drwxr-xr-x 0 0 0 0 Jan 1 1970 usr/",
        "drwxr-xr-x 0 0 0 0 Jan 1 1970 usr/bin/",
        &format!("-rwxr-xr-x 0 0 0 {size} Jan 1 1970 pause"),
        "hrwxr-xr-x 0 0 0 0 Jan 1 1970 usr/bin/pod link to pause",
    ];
    assert_eq!(words(&bsd), expected);
}

/// Inspects the layout and, without giving an image name, the archive. Then copies the image to docker's
/// format and back.
#[test]
fn skopeo_inspects_and_copies() {
    need!("skopeo");
    let dist = image();
    let folder = tempfile::tempdir().unwrap();
    let skopeo =
        |arguments: &[&str]| run(tool("skopeo").unwrap().arg("--insecure-policy").args(arguments));
    let layout = format!("oci:{}:{TAG}", dist.path("oci").display());
    let archive = format!("oci-archive:{}", dist.path("pause.tar").display());
    let docker = format!("docker-archive:{}", dist.path("pause.tar").display());
    for source in [&layout, &archive, &docker] {
        assert_is_config(&json(&skopeo(&["inspect", "--config", source]))["config"], &dist);
    }
    let raw = skopeo(&["inspect", "--raw", &layout]);
    assert_eq!(raw.as_bytes(), dist.blob(&dist.entries()[0]));
    // Each platform can be selected by its architecture.
    for name in ["386", "amd64", "arm", "arm64", "loong64", "ppc64le", "riscv64", "s390x"] {
        let mut arguments = vec!["--override-arch", name];
        if name == "arm" {
            arguments.extend(["--override-variant", "v7"]);
        }
        arguments.extend(["inspect", "--config", &archive]);
        assert_eq!(json(&skopeo(&arguments))["architecture"], name);
    }

    let path = |name: &str| folder.path().join(name).display().to_string();
    let docker = format!("docker-archive:{}:localhost/a/pause:b", path("docker.tar"));
    skopeo(&["copy", &layout, &docker]);
    let back = format!("oci:{}:b", path("oci"));
    skopeo(&["copy", &docker, &back]);
    assert_is_config(&json(&skopeo(&["inspect", "--config", &back]))["config"], &dist);
    // A copy of all platforms to an OCI layout does not change the index.
    let copy = format!("oci:{}:{TAG}", path("copy"));
    skopeo(&["copy", "--all", &archive, &copy]);
    assert_eq!(skopeo(&["inspect", "--raw", &copy]), raw);
}

/// The image is for one platform: umoci does not accept an index with several.
#[test]
fn umoci_unpacks() {
    let mut umoci = need_root!("umoci");
    let dist = Dist::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let image = format!("{}:{TAG}", dist.path("oci").display());
    run(umoci.args(["unpack", "--image", &image]).arg(&bundle));
    assert_is_root_file_system(&bundle.join("rootfs"));
    let spec = json(&fs::read_to_string(bundle.join("config.json")).unwrap());
    assert_eq!(spec["process"]["args"], serde_json::json!(["/pause"]));
    assert_eq!(spec["process"]["user"]["uid"], 65_535);
    assert_eq!(spec["process"]["user"]["gid"], 65_535);
    assert_eq!(spec["process"]["cwd"], "/");
}

/// The commands on the page kata.md make the bundle for guests that pull images themselves.
#[test]
fn kata_has_a_bundle() {
    let _ = (need_root!("umoci"), need_root!("skopeo"));
    let dist = Dist::new(&[]);
    let guest = tempfile::tempdir().unwrap();
    let registry = format!("docker://{}", NAME.replace("localhost", "REGISTRY"));
    let layout = format!("oci:{}:{TAG}", dist.path("oci").display());
    let script = snippet("kata.md", "sh", "umoci");
    assert!(script.contains(&registry), "{script}");
    let script = script.replace(&registry, &layout).replace("ROOTFS", ".");
    run(Command::new("sh").args(["-ec", &script]).current_dir(&guest));
    let bundle = guest.path().join("pause_bundle");
    assert_is_root_file_system(&bundle.join("rootfs"));
    let spec = json(&fs::read_to_string(bundle.join("config.json")).unwrap());
    assert_eq!(spec["process"]["args"], serde_json::json!(["/pause"]));
}

/// Asserts that a root file system has pause, its second name, and nothing else.
fn assert_is_root_file_system(root: &Path) {
    use std::os::unix::fs::MetadataExt;
    let [pause, pod] = ["pause", "usr/bin/pod"].map(|path| fs::metadata(root.join(path)).unwrap());
    assert_eq!((pause.ino(), pause.nlink()), (pod.ino(), 2), "one file");
    assert_eq!((pause.mode() & 0o7777, pause.uid(), pause.gid()), (0o755, 0, 0));
    assert_eq!(fs::read(root.join("pause")).unwrap(), podpause::ELF);
    let names = |path: &str| -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(root.join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        (names(""), names("usr"), names("usr/bin")),
        (vec!["pause".into(), "usr".into()], vec!["bin".into()], vec!["pod".into()])
    );
}

/// Options that make podman and buildah keep images in this folder.
pub fn storage(folder: &TempDir) -> Vec<String> {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let options = ["--root", &path("root"), "--runroot", &path("run"), "--storage-driver", "vfs"];
    options.map(str::to_owned).into()
}

#[test]
fn buildah_pulls() {
    need_root!("buildah");
    let dist = image();
    let folder = tempfile::tempdir().unwrap();
    let buildah =
        |arguments: &[&str]| run(tool("buildah").unwrap().args(storage(&folder)).args(arguments));
    let id = buildah(&["pull", &format!("oci-archive:{}", dist.path("pause.tar").display())]);
    assert_eq!(id.trim(), config(&dist).0);
    let shown = json(&buildah(&["inspect", "--type", "image", NAME]));
    assert_is_config(&shown["OCIv1"]["config"], &dist);
    let container = buildah(&["from", NAME]);
    let root = buildah(&["mount", container.trim()]);
    assert_is_root_file_system(Path::new(root.trim()));
    buildah(&["rm", "--all"]);
}

#[test]
fn podman_loads() {
    need_root!("podman");
    let dist = image();
    let folder = tempfile::tempdir().unwrap();
    let podman =
        |arguments: &[&str]| run(tool("podman").unwrap().args(storage(&folder)).args(arguments));
    let archive = dist.path("pause.tar").display().to_string();
    assert_eq!(podman(&["load", "--input", &archive]), format!("Loaded image: {NAME}\n"));
    let shown = json(&podman(&["image", "inspect", NAME]));
    assert_eq!(shown[0]["Id"], config(&dist).0);
    assert_is_config(&shown[0]["Config"], &dist);
}

/// A daemon. When this is dropped, it is terminated, and ends what it has started.
pub struct Daemon {
    child: Child,
    folder: TempDir,
}

impl Daemon {
    /// Starts a daemon, and waits for the file `socket` that it has to create in the folder.
    fn start(folder: TempDir, command: &mut Command) -> Self {
        let log = File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let mut this = Self { child, folder };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !this.socket().exists() {
            let ended = this.child.try_wait().unwrap();
            let log = || fs::read_to_string(this.folder.path().join("log")).unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// A docker client of this daemon, which has to be dockerd.
    pub fn docker(&self) -> Command {
        let mut docker = tool("docker").unwrap();
        docker.arg("--host").arg(format!("unix://{}", self.socket().display()));
        docker
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // SIGTERM rather than SIGKILL, so that the daemon ends what it has started.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn containerd_imports() {
    need_root!("ctr");
    let mut containerd = need_root!("containerd");
    let dist = image();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let settings = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
        path("root"),
        path("state"),
        path("socket")
    );
    fs::write(path("config.toml"), settings).unwrap();
    containerd.arg("--config").arg(path("config.toml"));
    let daemon = Daemon::start(folder, &mut containerd);
    let ctr = |arguments: &[&str]| {
        run(tool("ctr").unwrap().arg("--address").arg(daemon.socket()).args(arguments))
    };
    let archive = dist.path("pause.tar").display().to_string();
    ctr(&["images", "import", "--all-platforms", "--snapshotter", "native", &archive]);
    assert_eq!(ctr(&["images", "list", "--quiet"]), format!("{NAME}\n"));
    let list = ctr(&["images", "list"]);
    assert!(list.contains(&dist.entries()[0].digest().to_string()), "{list}");
    assert!(list.contains("linux/386,linux/amd64,linux/arm/v7,linux/arm64"), "{list}");
    let root = daemon.folder.path().join("mounted");
    fs::create_dir(&root).unwrap();
    let mounted = root.display().to_string();
    ctr(&["images", "mount", "--snapshotter", "native", NAME, &mounted]);
    let result = std::panic::catch_unwind(|| assert_is_root_file_system(&root));
    ctr(&["images", "unmount", "--snapshotter", "native", &mounted]);
    result.unwrap();
}

/// Starts a docker daemon for one test.
pub fn dockerd() -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut dockerd = tool("dockerd").unwrap();
    dockerd.args(["--bridge", "none", "--iptables=false", "--storage-driver", "vfs"]);
    dockerd.arg("--data-root").arg(path("root")).arg("--exec-root").arg(path("exec"));
    dockerd.arg("--pidfile").arg(path("pid")).arg("--config-file").arg(path("settings"));
    fs::write(path("settings"), "{}").unwrap();
    dockerd.arg("--host").arg(format!("unix://{}", path("socket").display()));
    Daemon::start(folder, &mut dockerd)
}

#[test]
fn docker_loads_and_runs() {
    need_root!("docker");
    need_root!("dockerd");
    let dist = Dist::new(&[]);
    let daemon = dockerd();
    let docker = |arguments: &[&str]| run(daemon.docker().args(arguments));
    let archive = dist.path("pause.tar").display().to_string();
    assert_eq!(docker(&["load", "--input", &archive]), format!("Loaded image: {NAME}\n"));
    let shown = json(&docker(&["image", "inspect", NAME]));
    assert_eq!(shown[0]["Id"], format!("sha256:{}", config(&dist).0));
    assert_is_config(&shown[0]["Config"], &dist);
    // As kubeadm runs it: with an argument, as another user, and without capabilities.
    let arguments = ["run", "--detach", "--name", "version", "--network", "none", "--read-only"];
    docker(&[&arguments[..], &["--user", "999", "--cap-drop", "ALL", NAME, "-v"]].concat());
    assert_eq!(docker(&["wait", "version"]), "0\n");
    // From the log: `docker run` itself may lose the output of a container that ends before it is attached.
    assert_eq!(docker(&["logs", "version"]), format!("pause {TAG}\n"));
    docker(&["rm", "version"]);
}
