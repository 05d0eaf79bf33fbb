//! The images on the node: the sandboxes to compare, and stand-ins for the public images that the examples
//! name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::node::{Node, REGISTRY};
use crate::pods::examples;
use common::cage::{Cage, find};
use common::images::{self as archives, CATATONIT, PAUSE};

/// An image for the sandboxes of a node, and what the checks expect of it.
#[derive(Clone)]
pub struct Sandbox {
    /// The prefix of the names of its checks.
    pub label: String,
    pub image: String,
    /// Its first process, as `ps` shows it.
    pub command: String,
    pub user: u32,
    /// The archive that contains the image, unless the suite makes it.
    pub archive: Option<PathBuf>,
}

impl Sandbox {
    pub fn pause() -> Self {
        let (label, image, command) = ("pause".into(), PAUSE.into(), "/pause".into());
        Self { label, image, command, user: 65535, archive: None }
    }

    pub fn catatonit() -> Self {
        let (label, image, command) =
            ("catatonit".into(), CATATONIT.into(), "/catatonit -P".into());
        Self { label, image, command, user: 0, archive: None }
    }

    /// Another image, from an archive in the format of `docker save`.
    pub fn archived(file: &Path) -> Self {
        let read = |name: &str| -> Value {
            let mut command = Command::new("tar");
            let output = command
                .arg("--extract")
                .arg("--to-stdout")
                .arg("--file")
                .arg(file)
                .arg(name)
                .output();
            let output = output.unwrap();
            assert!(
                output.status.success(),
                "{name} in {file:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let manifest = &read("manifest.json")[0];
        let config = read(manifest["Config"].as_str().unwrap());
        let words = |key: &str| {
            let words = config["config"][key].as_array().into_iter().flatten();
            words.map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let user = config["config"]["User"].as_str().unwrap_or_default();
        let user = user.split(':').next().unwrap().parse().unwrap_or(0);
        let image =
            manifest["RepoTags"][0].as_str().expect("the archive names its image").to_owned();
        let name = image.rsplit('/').next().unwrap();
        Self {
            label: format!(
                "peer_{}",
                name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_")
            ),
            command: [words("Entrypoint"), words("Cmd")].concat().join(" "),
            image,
            user,
            archive: Some(file.to_owned()),
        }
    }

    pub fn is_ours(&self) -> bool {
        self.image == PAUSE
    }
}

/// An image that no pod uses, and its size.
pub const GARBAGE: &str = "example.com/garbage:1";
pub const GARBAGE_BYTES: u64 = 64 << 20;

/// Loads our image and catatonit's. Pushes the stand-ins for the images of the examples to the registry, or
/// loads them, too, if there is no registry. A second call reuses the archives of the stand-ins.
pub fn load(node: &Node) {
    let cage = &node.cage;
    import(node, "k8s.io", &archives::pause(cage));
    import(node, "k8s.io", &archives::catatonit(cage));
    let busybox = root(cage, "busybox");
    let commands = BTreeMap::from([
        ("busybox", json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] })),
        // busybox httpd instead of nginx: it serves the same folder on the same port.
        (
            "nginx",
            json!({ "Cmd": ["httpd", "-f", "-p", "80", "-h", "/usr/share/nginx/html"], "Env": ["PATH=/bin"] }),
        ),
    ]);
    for name in public_images() {
        let (short, _) = name.split_once(':').expect("the images of the examples have tags");
        let config = commands.get(short).unwrap_or_else(|| panic!("nothing stands in for {name}"));
        let full = format!("docker.io/library/{name}");
        let folder = name.replace([':', '.'], "-");
        let mut archive = format!("/run/images/{folder}/image.tar");
        if !cage.path(&archive).exists() {
            fs::create_dir_all(cage.path(&format!("/run/images/{folder}"))).unwrap();
            cage.run(&["cp", "-a", &busybox, &format!("/run/images/{folder}/root")]);
            archive = archives::archive(cage, &folder, &full, config.clone());
        }
        if node.programs.registry.is_none() {
            import(node, "k8s.io", &archive);
            continue;
        }
        import(node, "suite", &archive);
        let remote = format!("{REGISTRY}/library/{name}");
        let push =
            ["ctr", "--namespace", "suite", "images", "push", "--plain-http", &remote, &full];
        node.until("the registry takes an image", || cage.output(&push).status.success());
    }
}

/// Loads the image of a sandbox if it comes from an archive. [`load`] has loaded the others.
pub fn load_sandbox(node: &Node, sandbox: &Sandbox) {
    if let Some(archive) = &sandbox.archive {
        let inside = format!("/run/images/{}.tar", sandbox.label);
        node.cage.write(&inside, fs::read(archive).unwrap());
        import(node, "k8s.io", &inside);
    }
}

/// Loads the image that no pod uses.
pub fn load_garbage(node: &Node) {
    let folder = node.cage.path("/run/images/garbage");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("root")).unwrap();
    fs::write(folder.join("root/garbage"), vec![1; GARBAGE_BYTES as usize]).unwrap();
    let archive = archives::archive(&node.cage, "garbage", GARBAGE, json!({ "Cmd": ["/garbage"] }));
    import(node, "k8s.io", &archive);
    fs::remove_dir_all(&folder).unwrap();
}

/// The names of the images that containerd has for the CRI.
pub fn names(node: &Node) -> Vec<String> {
    let list = node.cage.run(&["ctr", "--namespace", "k8s.io", "images", "list", "--quiet"]);
    list.lines().map(str::to_owned).collect()
}

fn import(node: &Node, namespace: &str, archive: &str) {
    node.cage.run(&["ctr", "--namespace", namespace, "images", "import", archive]);
}

/// The images of docker.io that the examples name.
fn public_images() -> Vec<String> {
    let mut names: Vec<_> = examples().iter().flat_map(|(_, text)| images_in(text)).collect();
    names.retain(|name| name != PAUSE);
    names.sort();
    names.dedup();
    names
}

fn images_in(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim_start);
    let images = lines.filter_map(|line| line.trim_start_matches("- ").strip_prefix("image: "));
    images.map(str::to_owned).collect()
}

/// Makes the root of a small system with all applets of busybox, and returns its path in the cage.
fn root(cage: &Cage, name: &str) -> String {
    let root = format!("/run/images/{name}-root");
    if cage.path(&root).exists() {
        return root;
    }
    let busybox = fs::read(find("busybox").unwrap()).unwrap();
    cage.write(&format!("{root}/bin/busybox"), busybox);
    cage.write(&format!("{root}/bin/orphans"), common::orphans::program());
    cage.write(&format!("{root}/usr/share/nginx/html/index.html"), "stands in for nginx\n");
    for folder in ["dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(cage.path(&format!("{root}/{folder}"))).unwrap();
    }
    for applet in cage.run(&["busybox", "--list"]).lines().filter(|&name| name != "busybox") {
        let link = cage.path(&format!("{root}/bin/{applet}"));
        std::os::unix::fs::symlink("busybox", link).unwrap();
    }
    root
}
