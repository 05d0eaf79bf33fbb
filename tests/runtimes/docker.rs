//! docker: pause as a container that others join.

use common::cage::{Cage, Job, TERMINATED};
use common::docs::snippet;
use common::images::{self, BUSYBOX, PAUSE};
use common::wait::until;
use serde_json::Value;

use crate::seccomp;

/// dockerd in a cage, with the containerd that it starts itself.
struct Docker {
    // The daemon runs in the cage, so it is dropped before the cage.
    _daemon: Job,
    cage: Cage,
}

const SOCKET: &str = "unix:///run/docker.sock";

impl Docker {
    fn new() -> Option<Self> {
        let programs = ["dockerd", "docker", "containerd", "runc", "iptables", "tar"];
        let images = ["busybox", "catatonit"];
        let cage = Cage::new("docker", &[&programs[..], &images].concat())?;
        let parent = format!("/{}", cage.cgroup);
        let daemon = ["dockerd", "--host", SOCKET, "--cgroup-parent", &parent];
        let daemon = cage.start(&daemon, "/run/dockerd.log", "/run/dockerd.log");
        let mut docker = Self { _daemon: daemon, cage };
        until("dockerd answers", || {
            let has_ended = docker._daemon.has_ended();
            let log = || std::fs::read_to_string(docker.cage.path("/run/dockerd.log")).unwrap();
            assert!(!has_ended, "{}", log());
            let socket = docker.cage.path("/run/docker.sock");
            socket.exists()
                && docker.cage.output(&[&DOCKER[..], &["info"]].concat()).status.success()
        });
        for make in [images::pause, images::busybox, images::catatonit] {
            let archive = make(&docker.cage);
            docker.run(&["load", "--quiet", "--input", &archive]);
        }
        Some(docker)
    }

    fn run(&self, words: &[&str]) -> String {
        self.cage.run(&[&DOCKER[..], words].concat())
    }

    fn exec(&self, container: &str, script: &str) -> String {
        self.run(&["exec", container, "sh", "-c", script])
    }

    fn state(&self, container: &str) -> Value {
        let answer = self.run(&["inspect", "--format", "{{json .State}}", container]);
        serde_json::from_str(&answer).unwrap()
    }

    fn pid(&self, container: &str) -> i32 {
        self.state(container)["Pid"].as_i64().unwrap() as i32
    }

    /// Stops a container. Checks that it exits on SIGTERM, and that it has logged `messages`. If it did not
    /// exit in the grace period, SIGKILL would end it with another status.
    fn stop(&self, container: &str, messages: &str) {
        self.run(&["stop", "--time", "50", container]);
        assert_eq!(self.state(container)["ExitCode"], 0);
        // On a busy machine, docker may report the end before it has written the log.
        until("the log has the messages", || {
            let logs = self.cage.output(&[&DOCKER[..], &["logs", container]].concat());
            String::from_utf8_lossy(&logs.stderr) == messages
        });
    }

    /// Makes a pod around this image. Checks that its first process is `first`, and that it logs `messages`
    /// when it is stopped.
    fn has_a_pod(&self, image: &str, first: &str, messages: &str) {
        // The commands come from docs/docker.md.
        let page = snippet("docker.md", "sh", "shareable").replace(PAUSE, image);
        let commands = page.lines().map(|line| line.strip_prefix("docker ").unwrap().split(' '));
        let commands: Vec<Vec<_>> = commands.map(Iterator::collect).collect();
        self.run(&commands[0]);
        let pause = self.pid("pod");
        if image == PAUSE {
            self.cage.wait_for_pause(pause);
        }
        for name in ["one", "two"] {
            let (_, join) = commands[1].split_last().unwrap();
            self.run(&[join, &["--name", name, BUSYBOX, "sleep", "1000"]].concat());
        }
        let ps = self.exec("one", "ps -o pid,user,args");
        let rows: Vec<_> =
            ps.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(rows[0].join(" "), first);
        assert_eq!(rows.iter().filter(|row| row[2..] == ["sleep", "1000"]).count(), 2, "{ps}");
        // The containers share /dev/shm and the IPC, network and PID namespaces.
        self.exec("one", "touch /dev/shm/shared");
        assert_eq!(self.exec("two", "ls /dev/shm"), "shared\n");
        for kind in ["ipc", "net", "pid"] {
            let link = |pid| std::fs::read_link(self.cage.path(&format!("/proc/{pid}/ns/{kind}")));
            assert_eq!(link(self.pid("one")).unwrap(), link(pause).unwrap());
            assert_ne!(link(1).unwrap(), link(pause).unwrap());
        }
        let address = "ip -o -4 address show dev eth0";
        let before = self.exec("one", address);
        assert!(before.contains("inet "), "{before}");
        self.exec("one", "for i in 1 2 3 4 5 6 7 8 9; do (true &); done");
        until("the orphans were reaped", || self.cage.children(pause).is_empty());
        self.run(&["restart", "--time", "0", "one"]);
        assert_eq!(self.exec("one", address), before);
        assert_eq!(self.exec("two", address), before);
        self.run(&["rm", "--force", "one", "two"]);
        self.stop("pod", messages);
        self.run(&["rm", "pod"]);
    }
}

const DOCKER: [&str; 3] = ["docker", "--host", SOCKET];

#[test]
fn containers_join_pause() {
    let Some(docker) = Docker::new() else { return };
    // A control: if the checks fail with another pause program, too, the fault is not in ours.
    docker.has_a_pod(images::CATATONIT, "1 0 /catatonit -P", "");
    docker.has_a_pod(PAUSE, "1 65535 /pause", TERMINATED);
}

#[test]
fn pause_runs_with_other_options() {
    let Some(docker) = Docker::new() else { return };
    let version = format!("pause {}\n", env!("CARGO_PKG_VERSION"));
    for options in [&[][..], &["--user", "999"], &["--read-only", "--cap-drop", "ALL"]] {
        // `docker run` may lose the output of a container that ends before docker is attached to it, so
        // this reads the log.
        docker.run(&[&["run", "--detach", "--name", "version"], options, &[PAUSE, "-v"]].concat());
        assert_eq!(docker.run(&["wait", "version"]), "0\n");
        // On a busy machine, docker may report the end before it has written the log.
        until("the log has the version", || docker.run(&["logs", "version"]) == version);
        docker.run(&["rm", "version"]);
    }
    // Under our seccomp profile: as PID 1, not as PID 1, and without a network and with no_new_privs.
    docker.cage.write("/run/seccomp.json", seccomp::shipped().to_string());
    let seccomp = "seccomp=/run/seccomp.json";
    let run = ["run", "--detach", "--security-opt", seccomp, "--name"];
    docker.run(&[&run[..], &["filtered", PAUSE]].concat());
    docker.stop("filtered", TERMINATED);
    docker.run(&[&run[..], &["host", "--pid", "host", PAUSE]].concat());
    docker.stop("host", &["pause: not PID #1\n", TERMINATED].concat());
    let run =
        [&run[..], &["none", "--network", "none", "--security-opt", "no-new-privileges", PAUSE]];
    docker.run(&run.concat());
    docker.stop("none", TERMINATED);
    // The negative control: busybox does not start under the profile, which shows that it is in force.
    let shell = ["run", "--rm", "--security-opt", seccomp, BUSYBOX, "ls"];
    assert!(!docker.cage.output(&[&DOCKER[..], &shell].concat()).status.success());
}
