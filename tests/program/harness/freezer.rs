//! The freezer of cgroups.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::process::Process;

/// A freezer cgroup for one process. Drop thaws and removes it.
#[derive(Debug)]
pub struct Freezer {
    folder: PathBuf,
    /// The name of the file that freezes, the value that freezes, and the value that thaws.
    switch: (&'static str, &'static str, &'static str),
}

impl Freezer {
    /// A freezer in each hierarchy in which the tests can create one.
    pub fn all() -> Vec<Self> {
        let v1 = ("/sys/fs/cgroup/freezer", ("freezer.state", "FROZEN", "THAWED"));
        let v2 = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let v2 = v2.map(|root| (root, ("cgroup.freeze", "1", "0")));
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("podpause-test-{}-{count}", std::process::id());
        let make = |(root, switch): (&str, (&'static str, _, _))| {
            let folder = Path::new(root).join(&name);
            let is_hierarchy = Path::new(root).join("cgroup.procs").exists();
            (is_hierarchy && fs::create_dir(&folder).is_ok()).then_some(())?;
            let freezer = Self { folder, switch };
            freezer.folder.join(freezer.switch.0).exists().then_some(freezer)
        };
        [v1].into_iter().chain(v2).filter_map(make).collect()
    }

    pub fn freeze(&self, process: &Process) {
        fs::write(self.folder.join("cgroup.procs"), process.pid.to_string()).unwrap();
        fs::write(self.folder.join(self.switch.0), self.switch.1).unwrap();
        let is_frozen = || {
            let state = fs::read_to_string(self.folder.join("freezer.state")).unwrap_or_default();
            let events = fs::read_to_string(self.folder.join("cgroup.events")).unwrap_or_default();
            state.trim() == "FROZEN" || events.contains("frozen 1")
        };
        process.until("was frozen", is_frozen);
    }

    pub fn thaw(&self) {
        fs::write(self.folder.join(self.switch.0), self.switch.2).unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join(self.switch.0), self.switch.2);
        // The guard of a process kills it, before or after this drop. A cgroup can be removed only without
        // processes, so the remaining ones move to the root.
        let root = self.folder.parent().unwrap().join("cgroup.procs");
        for pid in fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default().lines()
        {
            let _ = fs::write(&root, pid);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A freezer in each hierarchy in which the tests can create one. Skips the test if there is none.
macro_rules! freezers {
    () => {{
        let freezers = crate::harness::Freezer::all();
        if freezers.is_empty() {
            crate::harness::skip!(
                "freezer",
                "no cgroup with a freezer can be created here; on most machines, only root can"
            );
        }
        freezers
    }};
}

pub(crate) use freezers;
