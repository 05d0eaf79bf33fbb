//! Tests pod-overhead on containerd with runc and with crun, in a cage of namespaces (see [`common::cage`]).

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use common::cage::{Cage, Daemon, Job, NETWORK};
use common::images::{self, PAUSE};
use common::wait::until;

const TOOL: &str = "/run/pod-overhead";

/// The same settings for containerd 1.x and 2.x, whose names for them differ.
const CONFIGURATION_1: &str = r#"
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "SANDBOX"
restrict_oom_score_adj = true
cni = { bin_dir = "/usr/lib/cni", conf_dir = "/run/cni" }
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
options = { BinaryName = "/usr/bin/crun" }
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.broken]
runtime_type = "io.containerd.runc.v2"
options = { BinaryName = "/bin/false" }
"#;
const CONFIGURATION_2: &str = r#"
version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "SANDBOX"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
cni = { bin_dirs = ["/usr/lib/cni"], conf_dir = "/run/cni" }
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
options = { BinaryName = "/usr/bin/crun" }
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.broken]
runtime_type = "io.containerd.runc.v2"
options = { BinaryName = "/bin/false" }
"#;

/// A cage with containerd and pod-overhead.
struct Node {
    daemon: Daemon,
    cage: Cage,
}

const LOG: &str = "/run/containerd.log";
const DAEMON: [&str; 3] = ["containerd", "--config", "/run/containerd.toml"];

impl Node {
    /// Starts containerd, configured to use this image for sandboxes.
    fn new(sandbox: &str) -> Option<Self> {
        let programs = ["containerd", "ctr", "runc", "crun", "busybox", "tar"];
        let cage = Cage::new("pod-overhead", &programs)?;
        let configuration = match cage.run(&["containerd", "--version"]) {
            version if version.contains("/v2 ") => CONFIGURATION_2,
            _ => CONFIGURATION_1,
        };
        cage.write("/run/containerd.toml", configuration.replace("SANDBOX", sandbox));
        cage.write("/run/cni/pods.conflist", NETWORK);
        cage.write(TOOL, fs::read(env!("CARGO_BIN_EXE_pod-overhead")).unwrap());
        let node = Self { daemon: cage.daemon(&DAEMON, LOG), cage };
        node.wait_for_daemon();
        let pause = images::pause(&node.cage);
        node.import(&pause);
        until("the network is configured", || {
            !node.tool(&["--runtime-handler", "none"]).contains("not ready")
        });
        Some(node)
    }

    fn wait_for_daemon(&self) {
        until("containerd answers", || self.cage.output(&["ctr", "version"]).status.success());
    }

    fn import(&self, archive: &str) {
        self.cage.run(&["ctr", "--namespace", "k8s.io", "images", "import", archive]);
    }

    fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [&[TOOL, "--cgroup-parent", &self.cage.cgroup, "--at-once", "2"], words].concat()
    }

    /// Runs pod-overhead, which has to fail, and returns its error.
    fn tool(&self, words: &[&str]) -> String {
        let output = self.cage.output(&self.words(words));
        assert!(!output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Measures three pods with these arguments. Returns what it saved and what it printed.
    fn measure(&self, words: &[&str]) -> (Value, String) {
        let arguments = ["--pods", "3", "--json", "/run/run.json"];
        let text = self.cage.run(&self.words(&[&arguments, words].concat()));
        let saved = fs::read(self.cage.path("/run/run.json")).unwrap();
        (serde_json::from_slice(&saved).unwrap(), text)
    }

    /// The cgroups of the pods that pod-overhead has made.
    fn pods(&self) -> Vec<PathBuf> {
        let parent = PathBuf::from("/sys/fs/cgroup/memory").join(&self.cage.cgroup);
        let entries =
            fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.to_string_lossy().contains("/podoverhead-")).collect()
    }

    fn assert_nothing_is_left(&self) {
        let containers =
            self.cage.run(&["ctr", "--namespace", "k8s.io", "containers", "list", "--quiet"]);
        assert_eq!(containers, "");
        assert_eq!(self.pods(), [] as [PathBuf; 0]);
    }

    /// Starts a long run, and waits until it has some pods.
    fn begin(&self) -> Job {
        let words = self.words(&["--pods", "1000"]);
        let job = self.cage.start(&words, "/run/out", "/run/error");
        until("there are pods", || self.pods().len() > 3);
        job
    }

    /// What the run that [`Self::begin`] started has written to stderr.
    fn error(&self) -> String {
        fs::read_to_string(self.cage.path("/run/error")).unwrap()
    }

    /// Starts a long run, and sends it this signal when it has some pods.
    fn interrupt(&self, signal: &str) -> Job {
        let job = self.begin();
        self.send(signal);
        job
    }

    /// Sends a signal to pod-overhead.
    fn send(&self, signal: &str) {
        let pids = self.cage.processes().into_iter().map(|pid| pid.to_string());
        let mut pids =
            pids.filter(|pid| self.cage.proc(&format!("{pid}/comm")) == "pod-overhead\n");
        self.cage.run(&["kill", "-s", signal, &pids.next().expect("it runs")]);
    }
}

/// The value of a figure of the first run.
fn figure(saved: &Value, group: &str, name: &str) -> f64 {
    let figures = saved["runs"][0]["figures"].as_array().unwrap();
    let mut found = figures.iter().filter(|figure| {
        figure["group"].as_str().unwrap().starts_with(group) && figure["name"] == name
    });
    found.next().unwrap_or_else(|| panic!("{group}: {name}"))["value"].as_f64().unwrap()
}

fn measures_pods(handler: &str) {
    let Some(node) = Node::new(PAUSE) else { return };
    let (saved, text) = node.measure(&["--runtime-handler", handler]);
    let run = &saved["runs"][0];
    assert_eq!(
        (&run["subject"]["handler"], &run["subject"]["image"]),
        (&json!(handler), &json!(PAUSE))
    );
    // Pause has one anonymous page; the rest is memory of the kernel.
    assert_eq!(figure(&saved, "Memory charged", "anonymous"), 4.0);
    assert!(figure(&saved, "Memory charged", "kernel") > 40.0);
    // Pause and the shim.
    assert_eq!(figure(&saved, "Things", "processes"), 2.0);
    // The loopback device, and one end of the veth; the other is on the node.
    assert_eq!(figure(&saved, "Things", "network devices in the sandbox"), 2.0);
    assert_eq!(figure(&saved, "Things", "network devices, on the node"), 1.0);
    assert!(figure(&saved, "Things", "mounts in the sandbox") > 5.0);
    assert!(figure(&saved, "Time", "RunPodSandbox") > 0.0);
    let mib = run["overhead"]["memory_bytes"].as_f64().unwrap() / (1 << 20) as f64;
    assert!(text.contains(&format!(
        "handler: {handler}\noverhead:\n  podFixed:\n    memory: {}Mi\n",
        mib.ceil()
    )));
    node.assert_nothing_is_left();
    // If a run is compared with itself, the ratio is 1.
    let words = ["--from", "/run/run.json", "--against", "/run/run.json"];
    let text =
        node.cage.run(&node.words(&words)[..1].iter().copied().chain(words).collect::<Vec<_>>());
    let mut rows = text.lines().filter(|line| line.trim_start().starts_with("anonymous  "));
    assert_eq!(rows.next_back().unwrap().split_whitespace().nth(4), Some("1.00"), "{text}");
}

#[test]
fn measures_pods_of_runc() {
    measures_pods("runc");
}

#[test]
fn measures_pods_of_crun() {
    measures_pods("crun");
}

/// Containers count as processes of the pod in each mode of the PID namespace. On the node's network, the pod
/// has no network device.
#[test]
fn measures_containers_and_shared_namespaces() {
    let Some(node) = Node::new(PAUSE) else { return };
    for (words, processes, devices) in [
        (["--containers", "2", "--network", "node"], 4.0, 0.0),
        (["--containers", "1", "--pid", "container"], 3.0, 2.0),
        (["--containers", "1", "--pid", "node"], 3.0, 2.0),
    ] {
        let (saved, text) = node.measure(&words);
        // A RuntimeClass would contain what the containers need, so none is printed.
        assert!(text.contains("No RuntimeClass") && !text.contains("podFixed"), "{text}");
        assert_eq!(figure(&saved, "Things", "processes"), processes, "{words:?}");
        assert_eq!(
            figure(&saved, "Things", "network devices in the sandbox"),
            devices,
            "{words:?}"
        );
    }
    let error = node.tool(&["--containers", "1", "--image", "example.com/missing:1"]);
    assert!(error.contains("example.com/missing:1"), "{error}");
    node.assert_nothing_is_left();
}

/// What was measured before an error is shown and saved.
#[test]
fn error_keeps_what_was_measured_before() {
    let Some(node) = Node::new(PAUSE) else { return };
    let words = ["--pods", "3", "--json", "/run/run.json", "--runtime-handler", "runc"];
    let words = node.words(&[&words[..], &["--runtime-handler", "broken"]].concat());
    let output = node.cage.output(&words);
    let [text, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(!output.status.success() && error.contains("broken"), "{error}");
    assert!(text.contains("podFixed"), "{text}");
    let saved = fs::read(node.cage.path("/run/run.json")).unwrap();
    let saved: Value = serde_json::from_slice(&saved).unwrap();
    let handlers = saved["runs"].as_array().unwrap().iter().map(|run| &run["subject"]["handler"]);
    assert_eq!(handlers.collect::<Vec<_>>(), ["runc"]);
    node.assert_nothing_is_left();
}

/// A sandbox that uses 8 MiB more is shown with 8 MiB more, so the figures follow what is measured.
#[test]
fn larger_sandbox_shows_as_larger() {
    let name = "example.com/takes:1";
    let Some(node) = Node::new(name) else { return };
    images::busybox(&node.cage);
    let charged_kib = |script: &str| {
        let entry_point = json!({ "Entrypoint": ["/bin/busybox", "sh", "-c", script] });
        node.import(&images::archive(&node.cage, "busybox", name, entry_point));
        figure(&node.measure(&[]).0, "Memory charged", "charged")
    };
    let without = charged_kib("exec /bin/busybox sleep 100000");
    let with = charged_kib(
        "/bin/busybox dd if=/dev/zero of=/dev/file bs=1M count=8; exec /bin/busybox sleep 100000",
    );
    assert!((with - without - 8_192.0).abs() < 256.0, "{without} KiB, then {with} KiB");
}

#[test]
fn bad_input_is_named() {
    let Some(node) = Node::new("example.com/missing:1") else { return };
    // A link to what is not a regular file.
    node.cage.run(&["busybox", "mkfifo", "/run/fifo"]);
    node.cage.run(&["busybox", "ln", "-s", "/run/fifo", "/run/device"]);
    for (words, message) in [
        (
            ["--runtime-endpoint", "unix:///run/none.sock"],
            "/run/none.sock: there is no such socket",
        ),
        (["--runtime-endpoint", "none.sock"], "none.sock: it must be unix:///PATH"),
        (["--runtime-handler", "none"], "the runtime has no handler none; it has: "),
        (["--pods", "3"], "the sandbox image is not on this node"),
        (["--json", "/none/run.json"], "write /none/run.json"),
        (["--json", "/run"], "write /run: it is not a regular file"),
        (["--json", "/run/device"], "write /run/fifo: it is not a regular file"),
    ] {
        let error = node.tool(&words);
        assert!(error.starts_with("error: ") && error.contains(message), "{words:?}: {error}");
    }
    // In another PID namespace, a run in progress looks like one that was killed.
    let words = [&["unshare", "--pid", "--fork", "--mount-proc"], &node.words(&["--yes"])[..]];
    let output = node.cage.output(&words.concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("not visible here"), "{error}");
    node.assert_nothing_is_left();
}

/// The errors for a user who is not root, and for a runtime without a network.
#[test]
fn missing_rights_and_network_are_named() {
    let Some(node) = Node::new(PAUSE) else { return };
    let user = ["setpriv", "--reuid=65535", "--regid=65535", "--clear-groups"];
    let words = [&user[..], &node.words(&[])].concat();
    let output = node.cage.output(&words);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("run this as root"), "{error}");

    fs::remove_file(node.cage.path("/run/cni/pods.conflist")).unwrap();
    let mut error = String::new();
    // The handler is unknown, so this makes no pod, even if containerd still reports that it is ready.
    until("containerd has noticed", || {
        error = node.tool(&["--runtime-handler", "none"]);
        error.contains("not ready")
    });
    assert!(error.contains("NetworkReady is false"), "{error}");
    assert!(error.contains("or measure with --network node"), "{error}");
    let saved = node.measure(&["--network", "node"]).0;
    assert_eq!(figure(&saved, "Things", "network devices in the sandbox"), 0.0);
    node.assert_nothing_is_left();
}

/// Before it makes more pods than the limit of a parent cgroup allows, it asks. Without a terminal, it stops.
#[test]
fn warns_of_limits() {
    let Some(node) = Node::new(PAUSE) else { return };
    for (controller, file, limit, message) in [
        ("pids", ["pids.max", "pids.max"], "200", "threads are free within a cgroup's pids.max"),
        (
            "memory",
            ["memory.limit_in_bytes", "memory.max"],
            "67108864",
            "MiB are free within a cgroup's memory limit",
        ),
    ] {
        // On cgroup v1, this cgroup does not exist before the runtime makes the first pod.
        let hierarchy = PathBuf::from("/sys/fs/cgroup").join(controller);
        if hierarchy.exists() {
            fs::create_dir_all(hierarchy.join(&node.cage.cgroup)).unwrap();
        }
        let path =
            node.cage.cgroup_file("", controller, file).expect("the controller is available");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, limit).unwrap();
        let error = node.tool(&["--pods", "100"]);
        let expected = "100 pods need about ";
        assert!(error.contains(expected) && error.contains(message), "{error}");
        assert!(error.contains("to answer yes, give --yes"), "{error}");
        // Three pods are within the limit.
        node.measure(&[]);
        let before = if before.trim().len() > 18 { "-1" } else { before.trim() };
        fs::write(&path, before).unwrap();
        node.assert_nothing_is_left();
    }
}

/// First, the file system with the runtime's state fills up in the middle of a run. Then, the file system of
/// the `--json` file is full: no new file is left there.
#[test]
fn full_disk_leaves_no_pods() {
    let Some(node) = Node::new(PAUSE) else { return };
    let mut job = node.begin();
    let resize = |size: &str| {
        let option = format!("remount,size={size}");
        node.cage.output(&["mount", "-o", &option, "/var/lib"]).status.success()
    };
    // Shrinks it to what is in use, so that nothing more fits. If something was written meanwhile, tmpfs
    // refuses the size, and this tries again.
    until("the file system is full", || {
        let used = node.cage.run(&["sh", "-c", "df -k /var/lib | awk 'NR == 2 { print $3 }'"]);
        resize(&format!("{}k", used.trim()))
    });
    assert_eq!(job.end().code(), Some(1));
    assert!(resize("50%"));
    let error = node.error();
    assert!(error.contains("a file system of the runtime is full"), "{error}");
    // The next run removes what could not be removed while the disk was full.
    if error.contains("could not remove all pods of this run") {
        node.measure(&["--yes"]);
    }
    node.assert_nothing_is_left();

    fs::create_dir(node.cage.path("/run/full")).unwrap();
    node.cage.run(&["mount", "-t", "tmpfs", "-o", "size=4k", "full", "/run/full"]);
    fs::write(node.cage.path("/run/full/file"), [0; 4_096]).unwrap();
    let error = node.tool(&["--pods", "3", "--json", "/run/full/run.json"]);
    assert!(error.contains("write /run/full/run.json: No space left on device"), "{error}");
    let entries = fs::read_dir(node.cage.path("/run/full")).unwrap().count();
    assert_eq!(entries, 1, "nothing but the file that fills it");
    node.assert_nothing_is_left();
}

/// The runtime is killed in the middle of a run. When it runs again, the next run finds what is left.
#[test]
fn next_start_removes_pods_after_the_runtime_died() {
    let Some(mut node) = Node::new(PAUSE) else { return };
    let mut job = node.begin();
    node.cage.run(&["pkill", "-KILL", "-x", "containerd"]);
    assert_eq!(job.end().code(), Some(1));
    let error = node.error();
    assert!(error.contains("the runtime has gone away"), "{error}");
    assert!(error.contains("could not remove all pods of this run"), "{error}");
    assert!(node.pods().len() > 3);

    // If containerd finds pods when it starts, it immediately listens on the loopback device.
    node.cage.run(&["busybox", "ip", "link", "set", "lo", "up"]);
    node.daemon = node.cage.daemon(&DAEMON, LOG);
    until("the runtime is ready, and the program finds what is left", || {
        let error = node.tool(&["--pods", "3"]);
        error.contains("pods are left over from earlier runs")
    });
    node.measure(&["--yes"]);
    node.assert_nothing_is_left();
}

/// The picture of the README can be drawn again from the records beside it:
///
/// ```text
/// pod-overhead --from benches/record/RECORD-pods-pause.json \
///     --against benches/record/RECORD-pods-pause-3.9.json --svg benches/record/RECORD-pods.svg
/// ```
#[test]
fn draws_the_picture_of_the_readme() {
    let record = common::root().join("benches/record/2026-11-25-x86_64-linux-6.18-2cpu-pods");
    let file = |end: &str| format!("{}{end}", record.display());
    let folder = tempfile::tempdir().unwrap();
    let drawn = folder.path().join("drawn.svg");
    let output = Command::new(env!("CARGO_BIN_EXE_pod-overhead"))
        .args(["--from", &file("-pause.json"), "--against", &file("-pause-3.9.json"), "--svg"])
        .arg(&drawn)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let same = fs::read(file(".svg")).unwrap() == fs::read(drawn).unwrap();
    assert!(same, "draw it again, with the command above");
}

/// The picture shows each run with its figure, and is the same each time.
#[test]
fn draws_a_picture() {
    let Some(node) = Node::new(PAUSE) else { return };
    let (saved, _) = node.measure(&["--svg", "/run/first.svg"]);
    let draw =
        ["--from", "/run/run.json", "--against", "/run/run.json", "--svg", "/run/second.svg"];
    node.cage.run(&[&[TOOL], &draw[..]].concat());
    let read = |name| fs::read_to_string(node.cage.path(name)).unwrap();
    let charged = format!("\n{:.0}\n", figure(&saved, "Memory charged", "charged"));
    for (name, runs) in [("/run/first.svg", 1), ("/run/second.svg", 2)] {
        let svg = read(name);
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert_eq!(svg.matches(&charged).count(), runs, "{charged}: {svg}");
    }
    let before = read("/run/second.svg");
    node.cage.run(&[&[TOOL], &draw[..]].concat());
    assert_eq!(read("/run/second.svg"), before);
    node.assert_nothing_is_left();
}

#[test]
fn signal_leaves_nothing() {
    let Some(node) = Node::new(PAUSE) else { return };
    for signal in ["INT", "TERM"] {
        let mut job = node.interrupt(signal);
        assert_eq!(job.end().code(), Some(1));
        let error = node.error();
        assert!(error.starts_with("error: ") && error.ends_with("interrupted\n"), "{error}");
        node.assert_nothing_is_left();
    }
}

#[test]
fn next_start_removes_pods_of_a_killed_run() {
    let Some(node) = Node::new(PAUSE) else { return };
    node.interrupt("KILL").end();
    assert!(node.pods().len() > 3);
    // It asks first. Without a terminal, it removes nothing.
    let error = node.tool(&["--pods", "3"]);
    assert!(error.contains("pods are left over from earlier runs"), "{error}");
    assert!(node.pods().len() > 3);
    // On a terminal, a signal ends the question.
    node.cage.run(&["busybox", "mkfifo", "/run/keyboard"]);
    let command = node.words(&["--pods", "3"]).join(" ");
    let script = "exec script --quiet --flush --command \"$0\" /run/screen <>/run/keyboard";
    let mut asked = node.cage.start(&["sh", "-c", script, &command], "/run/out", "/run/error");
    let screen = || fs::read_to_string(node.cage.path("/run/screen")).unwrap_or_default();
    until("it asks", || screen().contains("[y/N]") || asked.has_ended());
    node.send("TERM");
    until("it ends", || asked.has_ended());
    assert!(screen().contains("interrupted"), "{}", screen());
    assert!(node.pods().len() > 3);
    node.measure(&["--yes"]);
    node.assert_nothing_is_left();
}
