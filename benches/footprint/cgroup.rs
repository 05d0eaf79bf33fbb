//! Control groups of version 1 and 2: the memory charged to one, and its share of the CPU.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// The start of our groups' names. The benchmark's process ID and a name follow.
const PREFIX: &str = "podpause-footprint-";

#[derive(Clone, Copy, PartialEq)]
pub enum Version {
    V1,
    V2,
}

/// The hierarchy that has a controller, and the group in which the benchmark was started.
pub struct Hierarchy {
    pub version: Version,
    root: PathBuf,
    home: PathBuf,
}

impl Hierarchy {
    /// Finds the hierarchy with this controller, and checks that groups can be made in it.
    pub fn find(controller: &str) -> Result<Self> {
        let read =
            |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        let own_path = |is_ours: &dyn Fn(&str) -> bool| {
            let line = own.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
            let mut ours = line.filter(|line| line.len() == 3 && is_ours(line[1]));
            ours.next().map(|line| line[2].trim_start_matches('/').to_owned())
        };
        for mount in mounts.lines() {
            let Some((place, filesystem)) = mount.split_once(" - ") else { continue };
            let Some(root) = place.split(' ').nth(4).map(PathBuf::from) else { continue };
            let is_in = |text: &str| text.split([',', ' ']).any(|word| word.trim() == controller);
            let options = filesystem.split(' ').next_back().unwrap_or_default();
            let (version, path) = if filesystem.starts_with("cgroup ") && is_in(options) {
                (Version::V1, own_path(&|controllers| is_in(controllers)))
            } else if filesystem.starts_with("cgroup2 ")
                && is_in(&fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default())
            {
                (Version::V2, own_path(&str::is_empty))
            } else {
                continue;
            };
            let home = root.join(path.unwrap_or_default());
            let hierarchy = Self { version, root, home };
            hierarchy.prepare(controller)?;
            return Ok(hierarchy);
        }
        Err(format!("no cgroup hierarchy with the controller {controller} is mounted"))
    }

    fn prepare(&self, controller: &str) -> Result<()> {
        let enabled = self.root.join("cgroup.subtree_control");
        let is_enabled =
            |text: String| text.split_ascii_whitespace().any(|word| word == controller);
        if self.version == Version::V2 && !fs::read_to_string(&enabled).is_ok_and(is_enabled) {
            fs::write(&enabled, format!("+{controller}")).map_err(|error| {
                format!("{}: {error}: groups with {controller} need root", enabled.display())
            })?;
        }
        // Removes groups that a killed benchmark left. This fails for groups that still have processes.
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let id = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
        self.group("probe").map(drop)
    }

    /// Makes a group, which is removed when the returned guard is dropped.
    pub fn group(&self, name: &str) -> Result<Group> {
        let folder = self.root.join(format!("{PREFIX}{}-{name}", std::process::id()));
        let failed = |error| format!("{}: {error}: cgroups need root", folder.display());
        fs::create_dir(&folder).map_err(failed)?;
        let open = |folder: &Path| File::options().write(true).open(folder.join("cgroup.procs"));
        let procs = open(&folder).map_err(failed);
        let home = open(&self.home).map_err(|error| format!("{}: {error}", self.home.display()));
        match (procs, home) {
            (Ok(procs), Ok(home)) => Ok(Group { version: self.version, procs, home, folder }),
            (Err(error), _) | (_, Err(error)) => {
                let _ = fs::remove_dir(&folder);
                Err(error)
            }
        }
    }
}

/// A group. When this is dropped, any process left in it is killed and the group is removed.
pub struct Group {
    version: Version,
    procs: File,
    home: File,
    folder: PathBuf,
}

impl Group {
    /// Moves the calling process into this group. It is one system call, so that a child can make it before
    /// its execve.
    pub fn take_caller(&self) -> rustix::io::Result<()> {
        rustix::io::write(&self.procs, b"0").map(drop)
    }

    /// Moves the benchmark into this group, until the guard is dropped.
    pub fn enter(&self) -> Result<Inside<'_>> {
        self.take_caller().map_err(|error| format!("{}: {error}", self.folder.display()))?;
        Ok(Inside(self))
    }

    /// Gives the group the lowest possible share of the CPU.
    pub fn set_lowest_cpu_share(&self) -> Result<()> {
        let (file, share) = match self.version {
            Version::V1 => ("cpu.shares", "2"),
            Version::V2 => ("cpu.weight", "1"),
        };
        let file = self.folder.join(file);
        fs::write(&file, share).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// What is charged to the group now.
    pub fn charge(&self) -> Result<Charge> {
        let read = |name: &str| {
            let path = self.folder.join(name);
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let stat = read("memory.stat")?;
        let figure = |name: &str| -> Option<f64> {
            let mut words = stat.lines().map(str::split_ascii_whitespace);
            let mut line = words.find(|words| words.clone().next() == Some(name))?;
            line.nth(1)?.parse().ok()
        };
        let number = |name: &str| figure(name).ok_or_else(|| format!("memory.stat has no {name}"));
        match self.version {
            Version::V1 => {
                let kernel = read("memory.kmem.usage_in_bytes")?;
                Ok(Charge {
                    anonymous_bytes: number("rss")?,
                    file_bytes: number("cache")?,
                    kernel_bytes: kernel.trim().parse().map_err(|_| {
                        format!("memory.kmem.usage_in_bytes is not a number: {}", kernel.trim())
                    })?,
                    kernel_stack_bytes: None,
                    slab_bytes: None,
                })
            }
            Version::V2 => {
                let (stack, slab) = (figure("kernel_stack"), figure("slab"));
                // Before Linux 5.18, memory.stat has no `kernel`. These parts are most of it.
                let parts = [stack, slab, figure("pagetables"), figure("percpu")];
                let kernel = figure("kernel").unwrap_or(parts.into_iter().flatten().sum());
                Ok(Charge {
                    anonymous_bytes: number("anon")?,
                    file_bytes: number("file")?,
                    kernel_bytes: kernel,
                    kernel_stack_bytes: stack,
                    slab_bytes: slab,
                })
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let procs = self.folder.join("cgroup.procs");
        let start = Instant::now();
        // A process may leave the group a moment after it has been reaped.
        while fs::remove_dir(&self.folder).is_err() && start.elapsed() < Duration::from_secs(5) {
            let pids = fs::read_to_string(&procs).unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)) {
                if pid != rustix::process::getpid() {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Keeps the benchmark inside a group. When this is dropped, the benchmark returns to the group it came from.
pub struct Inside<'a>(&'a Group);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let _ = (&self.0.home).write_all(b"0");
    }
}

/// What is charged to a group, by part.
#[derive(Clone, Copy, Default)]
pub struct Charge {
    pub anonymous_bytes: f64,
    pub file_bytes: f64,
    pub kernel_bytes: f64,
    pub kernel_stack_bytes: Option<f64>,
    pub slab_bytes: Option<f64>,
}
