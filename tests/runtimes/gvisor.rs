//! gVisor: pause on a kernel that is not Linux.

use std::fs;

use common::cage::{Cage, Job, TERMINATED, find};
use common::report::skip;
use common::wait::until;
use serde_json::{Value, json};

/// runsc, with its options: it uses no cgroups and no network in the cage, and applies the seccomp profile
/// of the configuration.
const RUNSC: [&str; 5] =
    ["runsc", "--root=/run/runsc", "--network=none", "--ignore-cgroups", "--oci-seccomp"];

/// `runsc` in a cage.
struct Gvisor {
    cage: Cage,
}

/// Returns gVisor in a cage. Skips the test if there is no cage, or if this build of gVisor panics when a
/// container forks.
macro_rules! gvisor {
    () => {
        match Gvisor::new() {
            Some(Ok(gvisor)) => gvisor,
            Some(Err(reason)) => skip!("gvisor", "{reason}"),
            None => return,
        }
    };
}

impl Gvisor {
    fn new() -> Option<Result<Self, String>> {
        let gvisor = Self { cage: Cage::new("gvisor", &["runsc", "busybox"])? };
        // Some builds panic as soon as a container forks, because they were built with a newer Go than they
        // support.
        let (mut job, output) =
            gvisor.spawn("control", &["/busybox", "sh", "-c", "/busybox true; exit 7"], &json!({}));
        let status = job.end().code();
        let output = fs::read_to_string(gvisor.cage.path(&output)).unwrap();
        match status {
            Some(7) => Some(Ok(gvisor)),
            _ if output.contains("panic: ") || output.contains("fatal error: ") => {
                let version = gvisor.cage.run(&["runsc", "--version"]);
                let version = version.lines().next().unwrap_or_default().to_owned();
                Some(Err(format!("{version} panics when a container forks")))
            }
            status => panic!("a container that forks ends with {status:?}: {output}"),
        }
    }

    /// Starts a container. Returns its job, and the file to which its output goes.
    fn spawn(&self, id: &str, arguments: &[&str], linux: &Value) -> (Job, String) {
        let folder = format!("/run/bundles/{id}");
        let write =
            |name: &str, content: &[u8]| self.cage.write(&format!("{folder}/{name}"), content);
        write("rootfs/pause", podpause::ELF);
        write("rootfs/busybox", &fs::read(find("busybox").unwrap()).unwrap());
        write("rootfs/orphans", &common::orphans::program());
        for point in ["proc", "dev"] {
            fs::create_dir_all(self.cage.path(&format!("{folder}/rootfs/{point}"))).unwrap();
        }
        let namespaces = ["pid", "network", "ipc", "uts", "mount"];
        let mut config = json!({
            "ociVersion": "1.0.2",
            "hostname": "pod",
            "root": { "path": "rootfs", "readonly": true },
            "process": {
                "user": { "uid": 65535, "gid": 65535 },
                "args": arguments,
                "cwd": "/",
                "capabilities": { "bounding": [] },
                "noNewPrivileges": true,
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=777"] },
            ],
            "linux": { "namespaces": namespaces.map(|kind| json!({ "type": kind })), "resources": {} },
        });
        let fields = config["linux"].as_object_mut().unwrap();
        fields.extend(linux.as_object().unwrap().clone());
        write("config.json", config.to_string().as_bytes());
        let output = format!("{folder}/output");
        let words = [&RUNSC[..], &["run", "--bundle", &folder, id]].concat();
        (self.cage.start(&words, &output, &output), output)
    }

    /// Starts a container, and waits until its first process has this name.
    fn start(
        &self,
        id: &'static str,
        arguments: &[&str],
        linux: &Value,
        name: &str,
    ) -> Container<'_> {
        let (job, output) = self.spawn(id, arguments, linux);
        let mut container = Container { gvisor: self, id, job, output };
        until("the container runs", || {
            assert!(!container.job.has_ended(), "{}", container.said());
            container
                .try_exec(&["/busybox", "cat", "/proc/1/comm"])
                .is_some_and(|comm| comm.trim() == name)
        });
        container
    }

    fn pause(&self, id: &'static str) -> Container<'_> {
        self.start(id, &["/pause"], &json!({}), "pause")
    }
}

struct Container<'g> {
    gvisor: &'g Gvisor,
    id: &'static str,
    job: Job,
    output: String,
}

impl Container<'_> {
    fn said(&self) -> String {
        fs::read_to_string(self.gvisor.cage.path(&self.output)).unwrap()
    }

    /// Runs a command in the container as user 65535, and returns what it prints.
    fn try_exec(&self, words: &[&str]) -> Option<String> {
        let words = [&RUNSC[..], &["exec", "--user=65535:65535", self.id], words].concat();
        let output = self.gvisor.cage.output(&words);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn exec(&self, words: &[&str]) -> String {
        self.try_exec(words).unwrap_or_else(|| panic!("{words:?} fails in {}", self.id))
    }

    /// The states of all children of PID 1.
    fn children(&self) -> Vec<char> {
        let script = "for stat in /proc/[0-9]*/stat; do /busybox cat $stat; done 2>/dev/null";
        let stats = self.exec(&["/busybox", "sh", "-c", script]);
        let states = stats.lines().filter_map(|stat| {
            // The name of the process is in parentheses, and may contain any character.
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            let state = fields.next()?.chars().next()?;
            (fields.next()? == "1").then_some(state)
        });
        states.collect()
    }

    /// Makes orphans, and fails unless all of them were made.
    fn make_orphans(&self, kind: &str) {
        let count = ORPHANS.to_string();
        assert_eq!(self.exec(&["/orphans", kind, &count]).trim(), count, "{kind}");
    }

    fn zombies(&self) -> usize {
        self.children().iter().filter(|state| **state == 'Z').count()
    }

    fn kill(&self, signal: &str) {
        self.gvisor.cage.run(&[&RUNSC[..], &["kill", self.id, signal]].concat());
    }

    fn terminate(mut self) {
        self.kill("TERM");
        assert_eq!((self.job.end().code(), self.said()), (Some(0), TERMINATED.into()));
    }
}

const ORPHANS: usize = 50;

#[test]
fn holds_and_ends_on_sigterm() {
    let gvisor = gvisor!();
    let pause = gvisor.pause("pause");
    let ps = pause.exec(&["/busybox", "ps", "-o", "pid,user,args"]);
    let first = ps.lines().nth(1).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
    assert_eq!(first, ["1", "65535", "/pause"], "{ps}");
    // gVisor's kernel does not support PR_SET_MM_MAP, so pause keeps its start stack.
    let maps = pause.exec(&["/busybox", "cat", "/proc/1/maps"]);
    assert!(maps.contains("[stack]"), "{maps}");
    pause.terminate();
}

#[test]
fn says_its_version() {
    let gvisor = gvisor!();
    let (mut job, output) = gvisor.spawn("version", &["/pause", "-v"], &json!({}));
    let status = job.end().code();
    let said = fs::read_to_string(gvisor.cage.path(&output)).unwrap();
    assert_eq!(
        (status, said.as_str()),
        (Some(0), concat!("pause ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

#[test]
fn leaves_no_zombie() {
    let gvisor = gvisor!();
    let pause = gvisor.pause("pause");
    for kind in ["ordinary", "traced"] {
        pause.make_orphans(kind);
        until("no orphan is left", || pause.zombies() == 0);
    }
    pause.terminate();
    // The negative control: under a PID 1 that does not reap, the zombies stay.
    let sleeper = gvisor.start("sleeper", &["/busybox", "sleep", "1000000"], &json!({}), "busybox");
    sleeper.make_orphans("ordinary");
    until("all the zombies are there", || sleeper.zombies() == ORPHANS);
    sleeper.kill("KILL");
}

#[test]
fn closes_leaked_descriptors() {
    let gvisor = gvisor!();
    let script = "exec 9</proc/version; exec /pause";
    let pause = gvisor.start("leak", &["/busybox", "sh", "-c", script], &json!({}), "pause");
    let list = ["/busybox", "ls", "/proc/1/fd"];
    until("only three descriptors are open", || {
        pause.exec(&list).split_whitespace().eq(["0", "1", "2"])
    });
    pause.terminate();
    // The negative control: a first process that closes nothing still has descriptor 9.
    let script = "exec 9</proc/version; exec /busybox sleep 1000000";
    let sleeper = gvisor.start("sleeper", &["/busybox", "sh", "-c", script], &json!({}), "busybox");
    until("the shell has become the sleeper", || {
        sleeper.exec(&["/busybox", "cat", "/proc/1/cmdline"]).starts_with("/busybox\0sleep")
    });
    assert!(sleeper.exec(&list).split_whitespace().any(|number| number == "9"));
    sleeper.kill("KILL");
}

#[test]
fn holds_under_the_minimal_seccomp_profile() {
    let gvisor = gvisor!();
    let profile = fs::read_to_string(common::root().join("docs/seccomp.json")).unwrap();
    let profile: Value = serde_json::from_str(&profile).unwrap();
    let linux = json!({ "seccomp": profile });
    // The profile is in effect: it does not allow uname(2), and busybox's uname fails.
    let arguments = ["/busybox", "uname"];
    let (mut job, _) = gvisor.spawn("confined", &arguments, &linux);
    assert_ne!(job.end().code(), Some(0));
    let (mut job, _) = gvisor.spawn("not-confined", &arguments, &json!({}));
    assert_eq!(job.end().code(), Some(0));
    let (job, output) = gvisor.spawn("pause", &["/pause"], &linux);
    let mut pause = Container { gvisor: &gvisor, id: "pause", job, output };
    // `runsc exec` cannot show that pause runs, because the profile does not allow busybox's calls.
    let state = [&RUNSC[..], &["state", "pause"]].concat();
    until("the container runs", || {
        assert!(!pause.job.has_ended(), "{}", pause.said());
        let output = gvisor.cage.output(&state);
        String::from_utf8_lossy(&output.stdout).contains("\"status\": \"running\"")
    });
    pause.terminate();
}
