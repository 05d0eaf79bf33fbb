//! podman: pods with our infra image, with pause in place of podman's own program, and from YAML.

use std::path::PathBuf;

use common::cage::{Cage, TERMINATED};
use common::docs::snippet;
use common::images::{self, BUSYBOX, PAUSE};
use common::wait::until;
use serde_json::Value;

use crate::seccomp;

/// Where podman finds its configuration in the cage.
const CONF: &str = "/run/podman-test/containers.conf";

/// podman 5 prints a warning about cgroup v1 to stderr, where the output of containers goes, too. The
/// second variable turns the warning off.
const PODMAN: [&str; 4] = [
    "env",
    "CONTAINERS_CONF=/run/podman-test/containers.conf",
    "PODMAN_IGNORE_CGROUPSV1_WARNING=1",
    "podman",
];

/// What podman needs in a cage, and on a machine where root lacks some capabilities.
const BASE: &str = r#"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
default_rootless_network_cmd = "slirp4netns"
"#;

/// The words in front of the command, so that podman runs as an ordinary user.
const AS_USER: [&str; 8] = [
    "setpriv",
    "--reuid=1000",
    "--regid=1000",
    "--clear-groups",
    "env",
    "USER=user",
    "HOME=/run/home",
    "XDG_RUNTIME_DIR=/run/home/run",
];

/// Makes a user in the cage who has subordinate ids and can open `/dev/net/tun`.
const MAKE_USER: &str = "
    cp -a /etc /run/etc
    mount --bind /run/etc /etc
    echo user:x:1000:1000::/run/home:/bin/sh >>/etc/passwd
    echo user:x:1000: >>/etc/group
    echo user:100000:65536 | tee /etc/subuid >/etc/subgid
    mkdir -p /run/home/run
    chown -R 1000:1000 /run/home
    mknod -m 666 /run/tun c 10 200
    mount --bind /run/tun /dev/net/tun
";

/// podman in a cage.
struct Podman {
    /// The words that run podman, in front of its own arguments.
    command: Vec<&'static str>,
    cage: Cage,
}

impl Podman {
    fn new() -> Option<Self> {
        let programs = ["podman", "conmon", "runc", "busybox", "catatonit", "iptables", "tar"];
        Some(Self { command: PODMAN.into(), cage: Cage::new("podman", &programs)? }.loaded())
    }

    /// podman, run by an ordinary user, who has no bridge network and, with cgroup v1, no cgroups.
    fn rootless() -> Option<Self> {
        let programs = ["podman", "conmon", "runc", "busybox", "catatonit", "tar"];
        let others = ["newuidmap", "slirp4netns"];
        let cage = Cage::new("podman", &[&programs[..], &others].concat())?;
        cage.run(&["sh", "-ec", MAKE_USER]);
        Some(Self { command: [&AS_USER[..], &PODMAN].concat(), cage }.loaded())
    }

    fn is_rootless(&self) -> bool {
        self.command[0] == AS_USER[0]
    }

    /// Loads the images that the tests use.
    fn loaded(self) -> Self {
        let podman = self;
        podman.configure("");
        // Tests can write programs to /usr/local/lib. It is mounted now, because rootless podman does not see
        // mounts that are added later.
        podman.cage.run(&["mount", "-t", "tmpfs", "local", "/usr/local/lib"]);
        let busybox = images::busybox(&podman.cage);
        podman.run(&["load", "--quiet", "--input", &busybox]);
        let pause = images::pause(&podman.cage);
        podman.run(&["load", "--quiet", "--input", &pause]);
        podman
    }

    /// Sets this under `[engine]`.
    fn configure(&self, engine: &str) {
        let engine = engine.replace("[engine]", "");
        self.cage.write(CONF, BASE.replace("[engine]", &format!("[engine]\n{engine}")));
    }

    fn run(&self, words: &[&str]) -> String {
        self.cage.run(&[&self.command, words].concat())
    }

    /// Creates and starts a pod of two containers, `one` and `two`, which sleep.
    fn pod(&self, options: &[&str]) {
        let parent = format!("/{}", self.cage.cgroup);
        let place: &[&str] = match self.is_rootless() {
            true => &[],
            false => &["--cgroup-parent", &parent],
        };
        self.run(&[&["pod", "create", "--name", "pod"], place, options].concat());
        for name in ["one", "two"] {
            self.run(&[
                "run", "--detach", "--pod", "pod", "--name", name, BUSYBOX, "sleep", "1000",
            ]);
        }
    }

    fn exec(&self, container: &str, script: &str) -> String {
        self.run(&["exec", container, "sh", "-c", script])
    }

    fn inspect(&self, name: &str) -> Value {
        let answer: Value = serde_json::from_str(&self.run(&["inspect", name])).unwrap();
        answer[0].clone()
    }

    /// What `podman inspect` prints about the infra container of a pod.
    fn infra(&self, pod: &str) -> Value {
        let pod: Value = serde_json::from_str(&self.run(&["pod", "inspect", pod])).unwrap();
        // podman 5 and newer print a list.
        let pod = pod.get(0).unwrap_or(&pod);
        self.inspect(pod["InfraContainerID"].as_str().unwrap())
    }

    /// The PID, in the cage, of the infra container's first process.
    fn infra_pid(&self) -> i32 {
        self.infra("pod")["State"]["Pid"].as_i64().unwrap() as i32
    }

    /// The network namespace that a process of the cage is in.
    fn network(&self, pid: i32) -> PathBuf {
        std::fs::read_link(self.cage.path(&format!("/proc/{pid}/ns/net"))).unwrap()
    }

    /// Stops the pod, and checks that its infra container exits on SIGTERM and logs `messages`. If it did not
    /// exit in the grace period, SIGKILL would end it with another status.
    fn stop(&self, messages: &str) {
        let infra = self.infra("pod")["Id"].as_str().unwrap().to_string();
        self.run(&["stop", "--time", "0", "one", "two"]);
        self.run(&["pod", "stop", "--time", "50", "pod"]);
        assert_eq!(self.inspect(&infra)["State"]["ExitCode"], 0);
        let logs = self.cage.output(&[&self.command[..], &["logs", &infra]].concat());
        assert_eq!(String::from_utf8_lossy(&logs.stderr), messages);
        self.run(&["pod", "rm", "--force", "pod"]);
    }

    /// Waits until the pod's infra container is pause.
    fn wait_for_pause(&self) {
        self.cage.wait_for_pause(self.infra_pid());
    }

    /// Checks a pod with a shared PID namespace. The checks are the same for all pause programs.
    fn is_a_pod(&self, command: &str) {
        let processes = self.exec("one", "ps -o pid,args");
        let processes: Vec<_> = processes
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .collect();
        assert_eq!(processes[0].join(" "), format!("1 {command}"));
        let sleepers = processes.iter().filter(|process| process[1] == "sleep").count();
        assert_eq!(sleepers, 2, "{processes:?}");
        // Orphans of either container become children of the infra container, which reaps them.
        let infra = self.infra_pid();
        self.exec("two", "for i in 1 2 3 4 5 6 7 8 9; do (true &); done");
        until("the orphans were reaped", || self.cage.children(infra).is_empty());
        // The pod outlives its containers, and so does its address.
        let address = "ip -o -4 address show";
        let before = self.exec("one", address);
        assert_eq!(before.matches("inet ").count(), 2, "{before}");
        self.run(&["restart", "--time", "0", "one", "two"]);
        assert_eq!(self.exec("one", address), before);
        assert_eq!(self.exec("two", address), before);
        assert_eq!(self.infra_pid(), infra);
    }
}

const SHARE: [&str; 2] = ["--share", "net,ipc,uts,pid"];

macro_rules! test_each_user {
    ($($name:ident)*) => {
        mod root {
            $(#[test]
            fn $name() {
                if let Some(podman) = super::Podman::new() {
                    super::$name(&podman)
                }
            })*
        }
        mod rootless {
            $(#[test]
            fn $name() {
                if let Some(podman) = super::Podman::rootless() {
                    super::$name(&podman)
                }
            })*
        }
    };
}

test_each_user! {
    has_pods_with_our_infra_image
    has_pods_under_our_profile
    has_pods_with_our_program_as_its_own
    pause_answers_as_an_ordinary_container
}

fn has_pods_with_our_infra_image(podman: &Podman) {
    podman.pod(&[&SHARE[..], &["--infra-image", PAUSE]].concat());
    podman.is_a_pod("/pause");
    podman.wait_for_pause();
    podman.stop(TERMINATED);
    // The same by configuration.
    podman.configure(&snippet("podman.md", "toml", "infra_image"));
    podman.pod(&SHARE);
    podman.is_a_pod("/pause");
    podman.wait_for_pause();
    podman.stop(TERMINATED);
    // With neither a shared PID namespace nor a shared network.
    podman.pod(&["--share", "ipc,uts"]);
    assert!(podman.exec("one", "ps -o args").contains("sleep 1000"));
    podman.wait_for_pause();
    podman.stop(TERMINATED);
    // With another command.
    podman.pod(&["--infra-command", "/pause -P"]);
    podman.wait_for_pause();
    podman.stop(TERMINATED);
}

/// podman applies the seccomp profile of a pod only to its infra container.
fn has_pods_under_our_profile(podman: &Podman) {
    podman.cage.write("/run/seccomp.json", seccomp::shipped().to_string());
    let profile = ["--security-opt", "seccomp=/run/seccomp.json"];
    podman.pod(&[&SHARE[..], &profile, &["--infra-image", PAUSE]].concat());
    podman.is_a_pod("/pause");
    podman.wait_for_pause();
    let status = podman.cage.proc(&format!("{}/status", podman.infra_pid()));
    assert_eq!(crate::oci::field(&status, "Seccomp"), "2");
    podman.stop(TERMINATED);
    let run = [&["run", "--rm"], &profile[..]].concat();
    let version = format!("pause {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(podman.run(&[&run[..], &[PAUSE, "-v"]].concat()), version);
    // The negative control: busybox does not start under the profile, which shows that it is in force.
    let shell = [&podman.command[..], &run, &[BUSYBOX, "ls"]].concat();
    assert!(!podman.cage.output(&shell).status.success());
}

#[test]
fn pods_share_host_namespaces() {
    let Some(podman) = Podman::new() else { return };
    podman.pod(&["--infra-image", PAUSE, "--pid", "host", "--share", "net,ipc,uts,pid"]);
    let infra = podman.infra_pid();
    assert!(infra > 1);
    let ps = podman.exec("one", "ps -o pid,args");
    let line = ps.lines().find(|line| line.trim().starts_with(&format!("{infra} ")));
    assert!(line.is_some_and(|line| line.trim().ends_with("/pause")), "{ps}");
    podman.stop(&["pause: not PID #1\n", TERMINATED].concat());
    podman.pod(&["--infra-image", PAUSE, "--network", "host"]);
    assert_eq!(podman.network(podman.infra_pid()), podman.network(1));
    podman.stop(TERMINATED);
}

/// podman builds its own infra image from the program that it finds as `catatonit`.
fn has_pods_with_our_program_as_its_own(podman: &Podman) {
    // First with catatonit itself, as a control: if this fails, the cause is not pause.
    podman.pod(&SHARE);
    podman.is_a_pod("/catatonit -P");
    podman.stop("");
    podman.run(&["rmi", "--all", "--force"]);
    let busybox = "/run/images/busybox/image.tar";
    podman.run(&["load", "--quiet", "--input", busybox]);
    let conf = snippet("podman.md", "toml", "helper_binaries_dir");
    let folder = conf.split('"').nth(1).unwrap();
    podman.cage.write(&format!("{folder}/catatonit"), podpause::ELF);
    podman.configure(&conf);
    podman.pod(&SHARE);
    // busybox's ps adds the name of the thread in braces if it differs from that of the file.
    podman.is_a_pod("{pause} /catatonit");
    podman.wait_for_pause();
    podman.stop(TERMINATED);
}

fn pause_answers_as_an_ordinary_container(podman: &Podman) {
    let version = format!("pause {}\n", env!("CARGO_PKG_VERSION"));
    for options in [&[][..], &["--user", "999"], &["--read-only", "--cap-drop", "all"]] {
        let run = [&["run", "--rm"], options, &[PAUSE, "-v"]].concat();
        assert_eq!(podman.run(&run), version);
    }
}

/// Pods from YAML that use many features of `podman kube play`.
#[test]
fn plays_pods_from_yaml() {
    let Some(podman) = Podman::new() else { return };
    podman.configure(&snippet("podman.md", "toml", "infra_image"));
    podman.cage.write("/run/pod.yaml", include_str!("pod.yaml"));
    podman.run(&["kube", "play", "/run/pod.yaml"]);
    let infra = podman.infra_pid();
    podman.wait_for_pause();
    let ps = podman.exec("pod-one", "ps -o pid,args");
    assert!(ps.lines().any(|line| line.trim() == "1 /pause"), "{ps}");
    assert!(podman.exec("pod-one", "cat /etc/hosts").contains("192.0.2.7\tneighbour"));
    assert_eq!(podman.exec("pod-one", "cat /config/greeting"), "hello");
    // podman 4 leaves the value as it is in the YAML.
    let word = podman.exec("pod-one", "cat /password/word");
    assert!(["hidden", "aGlkZGVu"].contains(&word.as_str()), "{word}");
    assert_eq!(podman.inspect("pod-one")["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(podman.exec("pod-one", "hostname"), "pod\n");
    assert_eq!(podman.exec("pod-two", "id -u"), "1234\n");
    // A volume that both containers mount.
    podman.exec("pod-one", "echo shared >/shared/file");
    assert_eq!(podman.exec("pod-two", "cat /shared/file"), "shared\n");
    // A container that ends is restarted, and the infra container stays.
    let kill = |name| {
        let pid = podman.inspect(name)["State"]["Pid"].to_string();
        podman.cage.run(&["kill", "-KILL", &pid]);
    };
    let count = |name| podman.inspect(name)["RestartCount"].as_u64().unwrap();
    kill("pod-one");
    until("the container was restarted", || count("pod-one") > 0);
    assert_eq!(podman.infra_pid(), infra);
    // `host` has the restartPolicy Never, so its container is not restarted. `job` has OnFailure, so its
    // container is restarted after it fails, but not after it succeeds.
    let host = podman.infra("host")["State"]["Pid"].as_i64().unwrap() as i32;
    podman.cage.wait_for_pause(host);
    assert_eq!(podman.network(host), podman.network(1));
    assert_ne!(podman.network(infra), podman.network(1));
    kill("host-one");
    until("the container has ended", || podman.inspect("host-one")["State"]["ExitCode"] == 137);
    until("the job is done", || podman.inspect("job-one")["State"]["Status"] == "exited");
    assert_eq!((count("host-one"), count("job-one")), (0, 1));
    assert_eq!(podman.inspect("job-one")["State"]["ExitCode"], 0);
    // podman stops a pod when its last container has ended.
    for pod in ["host", "job"] {
        let state = || podman.infra(pod)["State"].clone();
        until("pause has ended", || state()["Status"] == "exited");
        assert_eq!(state()["ExitCode"], 0);
    }
    podman.run(&["kube", "down", "/run/pod.yaml"]);
    assert!(podman.run(&["pod", "ls", "--noheading"]).is_empty());
    assert!(podman.cage.proc(&format!("{infra}/status")).is_empty());
}
