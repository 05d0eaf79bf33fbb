//! pause under runc, crun and youki, from an OCI bundle, as container engines call them.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use common::cage::{Cage, Job, TERMINATED, find};
use common::report::skip;
use common::wait::until;
use serde_json::{Value, json};

macro_rules! test_each_runtime {
    ($($name:ident)*) => {
        test_each_runtime! { @ runc $($name)* }
        test_each_runtime! { @ crun $($name)* }
    };
    (@ $runtime:ident $($name:ident)*) => {
        mod $runtime {
            $(#[test]
            fn $name() {
                if let Some(runtime) = $crate::oci::Runtime::new(stringify!($runtime)) {
                    super::$name(&runtime)
                }
            })*
        }
    };
}

pub(crate) use test_each_runtime;

// The seccomp tests leave youki out: `.ci/run` builds it without seccomp, which needs the C library
// libseccomp.
test_each_runtime! { @ youki
    pause_ends_on_sigterm
    bundle_settings_take_effect
    version_is_printed
    exec_works_beside_pause
    orphans_are_reaped_while_paused
    pause_works_in_a_user_namespace
    limits_its_memory
}

test_each_runtime! {
    pause_ends_on_sigterm
    bundle_settings_take_effect
    version_is_printed
    exec_works_beside_pause
    orphans_are_reaped_while_paused
    pause_works_in_a_user_namespace
    limits_its_memory
}

/// A runtime in a cage.
pub struct Runtime {
    pub cage: Cage,
    program: &'static str,
}

impl Runtime {
    pub fn new(name: &'static str) -> Option<Self> {
        let cage = Cage::new(name, &[name])?;
        // youki would write its log into the output of the container.
        cage.write("/run/quiet/youki", "#!/bin/sh\nexec youki --log /run/youki.log \"$@\"\n");
        let program = if name == "youki" { "/run/quiet/youki" } else { name };
        Some(Self { cage, program })
    }

    /// Runs a command of the runtime, and returns its output. The command has to succeed.
    fn run(&self, words: &[&str]) -> String {
        self.cage.run(&[&[self.program], words].concat())
    }
}

/// What a container runs as its PID 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Body {
    Pause,
    /// A peer: the program that podman uses as its pause.
    Catatonit,
    /// A PID 1 that only sleeps.
    Sleep,
}

impl Body {
    /// pause, and the peers whose programs are installed.
    fn all() -> Vec<Self> {
        let peers = [(Self::Catatonit, "catatonit"), (Self::Sleep, "busybox")];
        let found = peers.into_iter().filter(|peer| find(peer.1).is_some());
        [Self::Pause].into_iter().chain(found.map(|peer| peer.0)).collect()
    }

    fn program(self) -> Vec<u8> {
        match self {
            Self::Pause => podpause::ELF.to_vec(),
            Self::Catatonit => fs::read(find("catatonit").unwrap()).unwrap(),
            Self::Sleep => fs::read(find("busybox").unwrap()).unwrap(),
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Pause => &["/pause"],
            Self::Catatonit => &["/catatonit", "-P"],
            Self::Sleep => &["/sleep", "1000000"],
        }
    }

    /// Whether this `/proc/PID/status` shows that the body has finished starting.
    fn is_ready(self, status: &str) -> bool {
        let name = self.arguments()[0].strip_prefix('/').unwrap();
        let set = |name| u64::from_str_radix(field(status, name), 16).unwrap_or(0);
        let (blocked, ignored) = (set("SigBlk"), set("SigIgn"));
        field(status, "Name") == name
            && field(status, "State").starts_with('S')
            && match self {
                // pause waits in rt_sigtimedwait(2) for every signal that it blocks. The kernel unblocks
                // these during the wait, so it shows none as blocked. pause ignores SIGCHLD.
                Self::Pause => blocked == 0 && ignored & 1 << 16 != 0,
                Self::Catatonit => blocked != 0,
                Self::Sleep => true,
            }
    }
}

/// A field of /proc/PID/status.
pub fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let lines = status.lines().filter_map(|line| line.split_once(":\t"));
    lines.filter(|line| line.0 == name).map(|line| line.1.trim()).next().unwrap_or_default()
}

/// An OCI bundle that is not yet written.
pub struct Bundle {
    pub body: Body,
    pub config: Value,
    pub with_busybox: bool,
    /// Whether the runtime passes descriptor 3 on to the container.
    pub with_descriptor: bool,
}

impl Bundle {
    /// A strictly confined sandbox, like those of Kubernetes: it has its own namespaces, an unprivileged
    /// user, no capabilities, and a read-only root that contains only the program.
    pub fn new(body: Body) -> Self {
        let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
        let namespaces = namespaces.map(|kind| json!({ "type": kind }));
        let config = json!({
            "ociVersion": "1.0.2",
            "hostname": "pod",
            "root": { "path": "rootfs", "readonly": true },
            "process": {
                "user": { "uid": 65535, "gid": 65535 },
                "args": body.arguments(),
                "cwd": "/",
                // youki requires it.
                "env": ["PATH=/"],
                // If the configuration does not mention the bounding set, runc 1.3 leaves it as it is.
                "capabilities": { "bounding": [] },
                "noNewPrivileges": true,
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": { "namespaces": namespaces, "resources": {} },
        });
        Self { body, config, with_busybox: false, with_descriptor: false }
    }

    fn write(mut self, runtime: &Runtime, id: &str) {
        let cgroup = format!("/{}/{id}", runtime.cage.cgroup);
        self.config["linux"]["cgroupsPath"] = cgroup.into();
        let folder = format!("/run/bundles/{id}");
        let write = |name: &str, content: &[u8]| {
            runtime.cage.write(&format!("{folder}/{name}"), content);
        };
        let program = self.body.arguments()[0];
        write(&format!("rootfs{program}"), &self.body.program());
        if self.with_busybox {
            write("rootfs/busybox", &Body::Sleep.program());
        }
        // The mount points are made here, because the runtime cannot make them in a user namespace: the owner
        // of the root directory is not mapped there.
        for mount in self.config["mounts"].as_array().unwrap() {
            let point = format!("{folder}/rootfs{}", mount["destination"].as_str().unwrap());
            fs::create_dir_all(runtime.cage.path(&point)).unwrap();
        }
        write("config.json", self.config.to_string().as_bytes());
    }

    /// Runs the container to its end, and returns its exit status and its output.
    pub fn run(self, runtime: &Runtime, id: &str) -> (Option<i32>, String) {
        let (mut job, mut said) = self.spawn(runtime, id);
        let status = job.end().code();
        said.read();
        (status, said.text)
    }

    fn spawn(self, runtime: &Runtime, id: &str) -> (Job, Said) {
        let with_descriptor = self.with_descriptor;
        self.write(runtime, id);
        let bundle = format!("/run/bundles/{id}");
        let output = format!("{bundle}/output");
        let pid_file = format!("{bundle}/pid");
        let script = match with_descriptor {
            true => "exec \"$0\" run --preserve-fds 1 \"$@\" 3</dev/null",
            false => "exec \"$0\" run \"$@\"",
        };
        let options = ["--bundle", &bundle, "--pid-file", &pid_file, id];
        let run = [&["sh", "-c", script, runtime.program], &options[..]].concat();
        let job = runtime.cage.start(&run, &output, &output);
        (job, Said { file: runtime.cage.path(&output), text: String::new() })
    }

    /// Starts the container, and waits until it is ready. If it ends first, returns its exit status and its
    /// output.
    pub fn try_start<'r>(
        self,
        runtime: &'r Runtime,
        id: &'static str,
    ) -> Result<Container<'r>, (Option<i32>, String)> {
        let body = self.body;
        let (mut job, mut said) = self.spawn(runtime, id);
        let pid_file = runtime.cage.path(&format!("/run/bundles/{id}/pid"));
        let mut pid = 0;
        let mut is_ready = || {
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            pid = text.parse().unwrap_or(0);
            body.is_ready(&runtime.cage.proc(&format!("{pid}/status")))
        };
        let mut has_ended = false;
        until("the container was ready", || {
            has_ended = job.has_ended();
            has_ended || is_ready()
        });
        if has_ended {
            said.read();
            return Err((job.end().code(), said.text));
        }
        Ok(Container { runtime, id, pid, job, said })
    }

    pub fn start<'r>(self, runtime: &'r Runtime, id: &'static str) -> Container<'r> {
        self.try_start(runtime, id).unwrap_or_else(|end| panic!("it did not start: {end:?}"))
    }
}

/// The output of a container and its runtime, which goes to a file.
struct Said {
    file: PathBuf,
    text: String,
}

impl Said {
    fn read(&mut self) {
        let text = fs::read_to_string(&self.file).unwrap();
        // youki prints this if there is no syslog.
        let is_of_container = |line: &&str| !line.starts_with("failed to initialize syslog");
        self.text = text.split_inclusive('\n').filter(is_of_container).collect();
    }
}

/// A running container.
pub struct Container<'r> {
    runtime: &'r Runtime,
    id: &'static str,
    /// The PID, in the cage, of the container's PID 1.
    pub pid: i32,
    job: Job,
    said: Said,
}

impl Container<'_> {
    pub fn proc(&self, name: &str) -> String {
        self.runtime.cage.proc(&format!("{}/{name}", self.pid))
    }

    /// The path by which the test reaches a file in `/proc/PID`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.runtime.cage.path(&format!("/proc/{}/{name}", self.pid))
    }

    /// The numbers of its open descriptors.
    pub fn descriptors(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("fd")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn kill(&self, signal: &str) {
        self.runtime.run(&["kill", self.id, signal]);
    }

    /// Executes a command in the container, and returns its output. The command has to succeed.
    pub fn exec(&self, words: &[&str]) -> String {
        self.runtime.run(&[&["exec", self.id], words].concat())
    }

    /// Waits for its end, and returns the exit status of the runtime, and the output.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = self.job.end().code();
        self.said.read();
        (status, self.said.text)
    }

    /// Sends SIGTERM, and checks the exit status and the output of pause.
    pub fn terminate(self) {
        self.kill("TERM");
        assert_eq!(self.end(), (Some(0), TERMINATED.into()));
    }

    /// Makes orphans in its PID namespace. The process that makes them is not in its cgroup, so it also runs
    /// while the container is frozen.
    pub fn make_orphans(&self) {
        let script = format!("for i in $(seq {ORPHANS}); do (true &); done");
        let pid = self.pid.to_string();
        self.runtime.cage.run(&["nsenter", "--target", &pid, "--pid", "sh", "-c", &script]);
    }

    /// How many children it has, and how many of them are zombies.
    pub fn children(&self) -> (usize, usize) {
        let children = self.runtime.cage.children(self.pid);
        (children.len(), children.iter().filter(|child| child.1 == 'Z').count())
    }
}

const ORPHANS: usize = 50;

fn pause_ends_on_sigterm(runtime: &Runtime) {
    Bundle::new(Body::Pause).start(runtime, "pause").terminate();
    // The negative control: a PID 1 without a handler ignores SIGTERM, so only SIGKILL ends it.
    if find("busybox").is_some() {
        let sleep = Bundle::new(Body::Sleep).start(runtime, "sleep");
        sleep.kill("TERM");
        sleep.kill("KILL");
        // 128 + SIGKILL, as shells report it, or only SIGKILL, as youki does.
        assert!(matches!(sleep.end().0, Some(137 | 9)));
    }
}

fn bundle_settings_take_effect(runtime: &Runtime) {
    let pause = Bundle::new(Body::Pause).start(runtime, "pause");
    let status = pause.proc("status");
    assert_eq!(field(&status, "Uid"), "65535\t65535\t65535\t65535");
    assert_eq!(field(&status, "Gid"), "65535\t65535\t65535\t65535");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert!(field(&status, "NSpid").ends_with("\t1"), "{status}");
    // pause gives its memory back even without any capability.
    assert_eq!(field(&status, "RssAnon"), "4 kB");
    assert_eq!(pause.proc("cmdline"), "/pause\0");
    for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
        let link = |pid| fs::read_link(runtime.cage.path(&format!("/proc/{pid}/ns/{kind}")));
        assert_ne!(link(pause.pid).unwrap(), link(1).unwrap(), "{kind}");
    }
    let mounts = pause.proc("mounts");
    let root = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|m| m[1] == "/");
    assert!(root.unwrap()[3].starts_with("ro"), "{mounts}");
    pause.terminate();
}

/// Runs `pause -v` as user 999, as kubeadm does before an upgrade.
fn version_is_printed(runtime: &Runtime) {
    let mut bundle = Bundle::new(Body::Pause);
    bundle.config["process"]["args"] = json!(["/pause", "-v"]);
    bundle.config["process"]["user"] = json!({ "uid": 999, "gid": 999 });
    let version = format!("pause {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(bundle.run(runtime, "version"), (Some(0), version));
}

fn exec_works_beside_pause(runtime: &Runtime) {
    if find("busybox").is_none() {
        skip!("busybox", "there is nothing to execute in the container");
    }
    let mut bundle = Bundle::new(Body::Pause);
    bundle.with_busybox = true;
    let pause = bundle.start(runtime, "pause");
    assert_eq!(pause.exec(&["/busybox", "hostname"]), "pod\n");
    let processes = pause.exec(&["/busybox", "ps", "-o", "pid,user,args"]);
    let rows: Vec<Vec<_>> =
        processes.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["1", "65535", "/pause"]);
    assert_eq!(rows[1][2..4], ["/busybox", "ps"]);
    // An orphan of an executed command is reaped.
    pause.exec(&["/busybox", "sh", "-c", "(/busybox true &)"]);
    until("the orphan was reaped", || runtime.cage.children(pause.pid).is_empty());
    pause.terminate();
}

/// The orphans of pause are reaped while the container is frozen. Those of the peers stay zombies.
fn orphans_are_reaped_while_paused(runtime: &Runtime) {
    for body in Body::all() {
        let container = Bundle::new(body).start(runtime, "frozen");
        runtime.run(&["pause", "frozen"]);
        container.make_orphans();
        let zombies = if body == Body::Pause { 0 } else { ORPHANS };
        let is_so = || container.children() == (zombies, zombies);
        until("the expected zombies were left", is_so);
        assert!(runtime.run(&["state", "frozen"]).contains("\"paused\""));
        runtime.run(&["resume", "frozen"]);
        if body == Body::Pause {
            container.terminate();
            continue;
        }
        container.kill("KILL");
        container.end();
    }
}

fn pause_works_in_a_user_namespace(runtime: &Runtime) {
    let mut bundle = Bundle::new(Body::Pause);
    let map = json!([{ "containerID": 0, "hostID": 200_000, "size": 65_536 }]);
    let linux = &mut bundle.config["linux"];
    linux["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    linux["uidMappings"] = map.clone();
    linux["gidMappings"] = map;
    let pause = bundle.start(runtime, "pause");
    let status = pause.proc("status");
    assert_eq!(field(&status, "Uid"), "265535\t265535\t265535\t265535");
    assert_eq!(field(&status, "RssAnon"), "4 kB");
    pause.terminate();
}

const KIB: u64 = 1024;

/// Finds the lowest memory limits, in KiB, of two kinds: the lowest one that can be set while the container
/// runs, and the lowest one with which the runtime can start pause.
///
/// With a limit of the first kind, the container must keep running, and pause and catatonit must still exit
/// on SIGTERM. pause must get by with a lower limit than each of its peers. A limit of the second kind must
/// also leave room for the runtime's own process, because that process is in the cgroup before it executes
/// the program.
fn limits_its_memory(runtime: &Runtime) {
    let container = Bundle::new(Body::Pause).start(runtime, "probe");
    let files = ["memory.limit_in_bytes", "memory.max"];
    let has_limit = runtime.cage.cgroup_file("probe", "memory", files).is_some();
    container.terminate();
    if !has_limit {
        skip!("memory", "there is no memory cgroup here");
    }
    let holds = |body, limit: u64| {
        let container = Bundle::new(body).start(runtime, "limited");
        let file = runtime.cage.cgroup_file("limited", "memory", files).unwrap();
        let mut file = fs::File::options().write(true).open(file).unwrap();
        // If the kernel cannot reduce the usage to the limit, cgroup v1 refuses the limit, and cgroup v2
        // kills the container. The kernel needs some time to release the memory that the runtime leaves
        // behind, so this tries again.
        let limit = (limit * KIB).to_string();
        let is_taken = (0..20).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            file.write_all(limit.as_bytes()).is_ok()
        });
        let lives = body.is_ready(&container.proc("status"));
        let signal = if body == Body::Sleep { "KILL" } else { "TERM" };
        // The runtime cannot kill a container that is already dead, so a failure is ignored.
        runtime.cage.output(&[runtime.program, "kill", "limited", signal]);
        let status = container.end().0;
        is_taken && lives && (body == Body::Sleep || status == Some(0))
    };
    let starts = |body, limit: u64| {
        let mut bundle = Bundle::new(body);
        bundle.config["linux"]["resources"]["memory"] = json!({ "limit": limit * KIB });
        let Ok(container) = bundle.try_start(runtime, "small") else { return false };
        container.kill("KILL");
        container.end();
        true
    };
    let mut lowest = Vec::new();
    for body in Body::all() {
        let hold = lowest_of(4, 2_048, 4, |limit| holds(body, limit));
        println!("{} {body:?}: holds, and ends, with a limit of {hold} KiB", runtime.program);
        lowest.push(hold);
    }
    let start = lowest_of(128, 65_536, 128, |limit| starts(Body::Pause, limit));
    println!("{} starts pause with a limit of {start} KiB", runtime.program);
    assert!(lowest[1..].iter().all(|peer| lowest[0] < *peer), "{lowest:?}");
}

/// The lowest multiple of `step` above `low` and up to `high` for which `is_so` is true. It bisects, so
/// `is_so` must be true for every value above that.
fn lowest_of(low: u64, high: u64, step: u64, mut is_so: impl FnMut(u64) -> bool) -> u64 {
    assert!(is_so(high), "not even with {high}");
    let (mut low, mut high) = (low / step, high / step);
    while low + 1 < high {
        let middle = u64::midpoint(low, high);
        match is_so(middle * step) {
            true => high = middle,
            false => low = middle,
        }
    }
    high * step
}
