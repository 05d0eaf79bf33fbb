//! The programs that a node consists of, and their versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use common::cage::find;

/// The programs that must be in the folder that `PODPAUSE_KUBERNETES` names.
const IN_FOLDER: [&str; 5] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"];

/// The programs that may be in that folder, and otherwise must be installed.
const ANYWHERE: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "ctr"];

#[derive(Clone)]
pub struct Programs {
    pub folder: PathBuf,
    /// The minor version of Kubernetes, 1.X.
    pub kubernetes: u32,
    /// The major and minor version of containerd.
    pub containerd: (u32, u32),
    /// The OCI runtime: runc or crun.
    pub runtime: &'static str,
    /// Its major and minor version.
    pub runtime_version: (u32, u32),
    /// Where the CNI plugins are, as the node sees it.
    pub cni: String,
    /// A registry that images are pulled from, if there is one.
    pub registry: Option<&'static str>,
}

impl Programs {
    /// Finds the programs, in this folder or installed. The error says why no node can run.
    pub fn new(folder: &Path) -> Result<Self, String> {
        let folder = folder.canonicalize().map_err(|error| format!("{folder:?}: {error}"))?;
        if let Some(name) = IN_FOLDER.iter().find(|name| !folder.join(name).is_file()) {
            return Err(format!("{folder:?} has no {name}"));
        }
        let is_there = |name: &&str| folder.join(name).is_file() || find(name).is_some();
        if let Some(name) = ANYWHERE.iter().find(|name| !is_there(name)) {
            return Err(format!("there is no {name}, neither in {folder:?} nor installed"));
        }
        // A runtime in the folder takes precedence over an installed one.
        let runtimes = ["runc", "crun"];
        let runtime = runtimes.iter().find(|name| folder.join(name).is_file());
        let runtime = runtime.or_else(|| runtimes.iter().find(|name| is_there(name)));
        let runtime = *runtime.ok_or("there is neither runc nor crun")?;
        let cni = match folder.join("bridge").is_file() {
            true => crate::node::FOLDER.to_owned(),
            false => {
                let folders = ["/usr/lib/cni", "/opt/cni/bin"];
                let has_it = |folder: &&&str| Path::new(folder).join("bridge").is_file();
                (*folders.iter().find(has_it).ok_or("there are no CNI plugins")?).to_owned()
            }
        };
        let version = |name: &str| {
            let path = Some(folder.join(name)).filter(|path| path.is_file());
            let path = path.or_else(|| find(name)).ok_or(format!("there is no {name}"))?;
            let output = Command::new(&path).arg("--version").output();
            let output = output.map_err(|error| format!("{path:?}: {error}"))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            version_in(&text).ok_or(format!("{path:?} --version says {text:?}"))
        };
        let (major, kubernetes) = version("kubelet")?;
        if major != 1 || kubernetes < 20 {
            return Err(format!("found Kubernetes {major}.{kubernetes}, need 1.20 or a newer 1.x"));
        }
        Ok(Self {
            kubernetes,
            containerd: version("containerd")?,
            runtime,
            runtime_version: version(runtime)?,
            cni,
            registry: ["docker-registry", "registry"].into_iter().find(|name| is_there(name)),
            folder,
        })
    }
}

/// The major and minor version from the first word in this text that looks like a version: `1.2`, `v1.2.3`
/// or `1.2-rc1`.
fn version_in(text: &str) -> Option<(u32, u32)> {
    let words = text.split_whitespace().map(|word| word.trim_start_matches('v'));
    words.filter(|word| word.starts_with(|first: char| first.is_ascii_digit())).find_map(|word| {
        let mut numbers = word.split(|character: char| !character.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}
