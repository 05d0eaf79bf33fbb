//! The cgroups of pods, of version 1 and 2: where they are, and what memory is charged to them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use procfs::process::Process;
use walkdir::WalkDir;

/// A mounted hierarchy of cgroups.
struct Hierarchy {
    version: u8,
    controllers: Vec<String>,
    /// The cgroup that is mounted. In a container, it may not be the root of the hierarchy.
    root: PathBuf,
    mount_point: PathBuf,
}

/// All hierarchies that are mounted here.
pub struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Reads the mounted hierarchies from /proc/self/mountinfo.
    pub fn read() -> Result<Self> {
        let mounts = Process::myself()?.mountinfo().context("read /proc/self/mountinfo")?;
        let hierarchies = mounts.into_iter().filter_map(|mount| {
            let (version, controllers) = match mount.fs_type.as_str() {
                "cgroup" => (1, mount.super_options.into_keys().collect()),
                "cgroup2" => {
                    let file = mount.mount_point.join("cgroup.controllers");
                    let text = fs::read_to_string(file).unwrap_or_default();
                    (2, text.split_ascii_whitespace().map(Into::into).collect())
                }
                _ => return None,
            };
            let root = PathBuf::from(mount.root);
            Some(Hierarchy { version, controllers, root, mount_point: mount.mount_point })
        });
        Ok(Self(hierarchies.collect()))
    }

    fn memory(&self) -> Result<&Hierarchy> {
        let has_memory = |hierarchy: &&Hierarchy| {
            hierarchy.controllers.iter().any(|controller| controller == "memory")
        };
        self.0.iter().find(has_memory).context("no cgroups with the memory controller are mounted")
    }

    /// 1 or 2.
    pub fn version(&self) -> Result<u8> {
        Ok(self.memory()?.version)
    }

    /// The cgroup that is charged for the memory of a process.
    pub fn memory_of(&self, process: &Process) -> Result<PathBuf> {
        let hierarchy = self.memory()?;
        let groups = process.cgroups().context("read /proc/PID/cgroup")?.0;
        let is_it = |controllers: &[String]| match hierarchy.version {
            1 => controllers.iter().any(|controller| controller == "memory"),
            _ => controllers.iter().all(String::is_empty),
        };
        let group = groups.iter().find(|group| is_it(&group.controllers));
        let path = Path::new(&group.context("a process without a memory cgroup")?.pathname);
        let below = path.strip_prefix(&hierarchy.root).with_context(|| {
            let mounted = hierarchy.root.display();
            format!("the cgroup {} is outside of {mounted}, which is mounted here", path.display())
        })?;
        Ok(hierarchy.mount_point.join(below))
    }

    /// How much a process can still use of the resource that this controller (`pids` or `memory`) limits: the
    /// smallest remainder in its cgroup and that cgroup's ancestors. `None` if no limit was found.
    pub fn free(&self, process: &Process, controller: &str) -> Option<u64> {
        let groups = process.cgroups().ok()?.0;
        let mut free = None;
        for hierarchy in &self.0 {
            if !hierarchy.controllers.iter().any(|name| name == controller) {
                continue;
            }
            let (limit, usage) = match (controller, hierarchy.version) {
                ("memory", 1) => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
                ("memory", _) => ("memory.max", "memory.current"),
                _ => ("pids.max", "pids.current"),
            };
            let group = groups.iter().find(|group| match hierarchy.version {
                1 => group.controllers.iter().any(|name| name == controller),
                _ => group.controllers.iter().all(String::is_empty),
            })?;
            let below = Path::new(&group.pathname).strip_prefix(&hierarchy.root).ok()?;
            for path in below.ancestors() {
                let folder = hierarchy.mount_point.join(path);
                let number = |file| -> Option<u64> {
                    fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
                };
                // `max` is not a number: there is no limit.
                if let (Some(limit), Some(usage)) = (number(limit), number(usage)) {
                    let left = limit.saturating_sub(usage);
                    free = Some(free.map_or(left, |free: u64| free.min(left)));
                }
            }
        }
        free
    }

    /// In all hierarchies, below the cgroup `parent`, removes the cgroups whose names `is_ours` accepts, and
    /// all cgroups below them. A cgroup that has a process in it stays.
    pub fn remove(&self, parent: &str, is_ours: &dyn Fn(&str) -> bool) {
        for hierarchy in &self.0 {
            let parent = hierarchy.mount_point.join(parent.trim_start_matches('/'));
            let folders = WalkDir::new(parent).contents_first(true).into_iter();
            for folder in folders.filter_map(Result::ok).filter(|entry| entry.file_type().is_dir())
            {
                let mut names = folder.path().iter().filter_map(|name| name.to_str());
                if names.any(is_ours) {
                    let _ = fs::remove_dir(folder.path());
                }
            }
        }
    }
}

/// A charge: the sum, its parts, and on cgroup v2 the parts of `kernel`, each with its name in the tables.
pub type Charge = Vec<(&'static str, f64)>;

/// The name of the sum.
pub const CHARGED: &str = "charged";

/// What is charged to a cgroup and those below it, in bytes.
pub fn charge(folder: &Path, version: u8) -> Result<Charge> {
    let read = |name: &str| {
        let file = folder.join(name);
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    };
    let stat = read("memory.stat")?;
    let part = |name: &str| -> Option<f64> {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == name)?.1.parse().ok()
    };
    let required = |name: &str| part(name).with_context(|| format!("memory.stat has no {name}"));
    match version {
        1 => {
            let kernel = read("memory.kmem.usage_in_bytes")?;
            let kernel =
                kernel.trim().parse().context("memory.kmem.usage_in_bytes is no number")?;
            Ok(with_sum(required("total_rss")?, required("total_cache")?, kernel))
        }
        2 => {
            let kinds = [
                ("kernel stacks", part("kernel_stack")),
                ("page tables", part("pagetables")),
                ("per-CPU", part("percpu")),
                ("slab", part("slab")),
            ];
            let kinds = kinds.into_iter().filter_map(|(name, bytes)| Some((name, bytes?)));
            let kinds: Charge = kinds.collect();
            // Before Linux 5.18, memory.stat has no `kernel`: add up its parts.
            let sum = kinds.iter().map(|(_, bytes)| bytes).sum();
            let kernel = part("kernel").unwrap_or(sum);
            let mut charge = with_sum(required("anon")?, required("file")?, kernel);
            charge.extend(kinds);
            Ok(charge)
        }
        _ => bail!("cgroups of version {version} are unknown"),
    }
}

/// A charge with the sum of its parts. The kernel's own total (`memory.current`, `memory.usage_in_bytes`)
/// would be too high: it includes what each CPU has charged in advance to the cgroups that it used last, up
/// to 256 KiB per CPU with pages of 4 KiB.
fn with_sum(anonymous: f64, file: f64, kernel: f64) -> Charge {
    let parts = [("anonymous", anonymous), ("file", file), ("kernel", kernel)];
    let sum = (CHARGED, anonymous + file + kernel);
    [sum].into_iter().chain(parts).collect()
}
