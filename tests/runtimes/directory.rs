//! pause under bubblewrap, systemd-nspawn and LXC, which run it from a directory, without an image.

use common::cage::{Cage, Job, TERMINATED, find};
use common::wait::until;

/// The directory that is the root of the container, in the cage.
const ROOT: &str = "/run/root";
const ORPHANS: usize = 50;

/// How to use one of these container managers in a cage.
struct Manager {
    programs: &'static [&'static str],
    /// The words that start a container with the root `ROOT`. The program that follows them is its PID 1.
    start: &'static [&'static str],
    /// The command that stops the container. Without one, the test sends SIGTERM to the manager.
    stop: Option<&'static [&'static str]>,
    /// The options of nsenter: the namespaces that a process must join so that pause adopts its orphans
    /// and may trace them.
    enter: &'static [&'static str],
}

const BUBBLEWRAP: Manager = Manager {
    programs: &["bwrap"],
    start: &[
        "bwrap",
        "--unshare-all",
        "--as-pid-1",
        "--ro-bind",
        ROOT,
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
    ],
    // The bwrap process outside the container only waits. A signal to it would end it, but not pause.
    stop: Some(&["pkill", "-TERM", "-f", "^/pause"]),
    enter: &["--pid", "--user"],
};

const NSPAWN: Manager = Manager {
    programs: &["systemd-nspawn"],
    start: &[
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--private-network",
        "--read-only",
        "--timezone=off",
        "--kill-signal=SIGTERM",
        "--directory",
        ROOT,
    ],
    stop: None,
    enter: &["--pid"],
};

/// Its configuration comes from docs/lxc.md.
const LXC: Manager = Manager {
    programs: &["lxc-start", "lxc-stop"],
    start: &[
        "lxc-start",
        "--lxcpath",
        "/run/lxc",
        "--name",
        "pod",
        "--foreground",
        "--console-log",
        "/run/console",
        "--",
    ],
    stop: Some(&[
        "lxc-stop",
        "--lxcpath",
        "/run/lxc",
        "--name",
        "pod",
        "--nokill",
        "--timeout",
        "60",
    ]),
    enter: &["--pid"],
};

/// Where LXC looks for the configuration.
const LXC_CONFIG: &str = "/run/lxc/pod/config";

/// A container.
struct Container<'c> {
    cage: &'c Cage,
    job: Job,
    /// The PID, in the cage, of the container's PID 1.
    pid: i32,
    enter: &'static [&'static str],
}

impl Manager {
    fn cage(&self, what: &str) -> Option<Cage> {
        let cage = Cage::new(what, &[self.programs, &["busybox", "pkill", "setpriv"]].concat())?;
        let write = |name: &str, content: &[u8]| cage.write(&format!("{ROOT}/{name}"), content);
        write("pause", podpause::ELF);
        write("busybox", &std::fs::read(find("busybox").unwrap()).unwrap());
        for folder in ["dev", "etc", "proc", "run", "sys", "tmp", "usr", "var"] {
            std::fs::create_dir_all(cage.path(&format!("{ROOT}/{folder}"))).unwrap();
        }
        cage.write("/run/orphans", common::orphans::program());
        let conf = common::docs::snippet("lxc.md", "ini", "lxc.signal.halt");
        let conf = conf.replace("/var/lib/lxc/pod/rootfs", ROOT);
        cage.write(LXC_CONFIG, conf);
        Some(cage)
    }

    /// Starts a container with this program, and waits until the program runs.
    fn run<'c>(&self, cage: &'c Cage, program: &[&str]) -> Container<'c> {
        let words = [self.start, program].concat();
        let mut job = cage.start(&words, "/run/output", "/run/errors");
        let mut pid = None;
        until("the container runs", || {
            let read = |name| std::fs::read_to_string(cage.path(name)).unwrap();
            assert!(!job.has_ended(), "{}{}", read("/run/output"), read("/run/errors"));
            let command = format!("{}\0", program.join("\0"));
            pid = cage.processes().into_iter().find(|pid| {
                // PID 1 of the cage is a pause, too.
                *pid != 1 && cage.proc(&format!("{pid}/cmdline")) == command
            });
            pid.is_some()
        });
        Container { cage, job, pid: pid.unwrap(), enter: self.enter }
    }
}

impl Container<'_> {
    /// Makes orphans without capabilities in the container, and fails unless all of them were made.
    fn make_orphans(&self, kind: &str) {
        let (target, count) = (self.pid.to_string(), ORPHANS.to_string());
        let enter = [&["nsenter", "--target", &target], self.enter].concat();
        let confine = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"];
        let made = self.cage.run(&[&enter[..], &confine, &["/run/orphans", kind, &count]].concat());
        assert_eq!(made.trim(), count, "{kind}");
    }

    fn zombies(&self) -> usize {
        self.cage.children(self.pid).iter().filter(|child| child.1 == 'Z').count()
    }
}

/// Checks that pause is PID 1, holds the container, reaps orphans, and exits when it is stopped.
fn holds_reaps_and_ends(what: &str, manager: &Manager) {
    let Some(cage) = manager.cage(what) else { return };
    let mut pause = manager.run(&cage, &["/pause"]);
    cage.wait_for_pause(pause.pid);
    let status = cage.proc(&format!("{}/status", pause.pid));
    let numbers = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
    assert_eq!(numbers.split_whitespace().last(), Some("1"), "{numbers}");
    for kind in ["ordinary", "traced"] {
        pause.make_orphans(kind);
        until("no orphan is left", || pause.zombies() == 0);
    }
    match manager.stop {
        Some(stop) => drop(cage.run(stop)),
        None => pause.job.terminate(),
    }
    let end = pause.job.end();
    let said = |name| std::fs::read_to_string(cage.path(name)).unwrap_or_default();
    let said = said("/run/output") + &said("/run/errors") + &said("/run/console");
    assert!(end.success() && said.contains(TERMINATED.trim_end()), "{end}: {said}");
    drop(pause);

    // The negative control: under a PID 1 that does not reap, the zombies stay.
    let sleeper = manager.run(&cage, &["/busybox", "sleep", "1000000"]);
    sleeper.make_orphans("ordinary");
    until("all the zombies are there", || sleeper.zombies() == ORPHANS);
}

#[test]
fn bubblewrap() {
    holds_reaps_and_ends("bubblewrap", &BUBBLEWRAP);
}

#[test]
fn nspawn() {
    holds_reaps_and_ends("nspawn", &NSPAWN);
}

#[test]
fn lxc() {
    holds_reaps_and_ends("lxc", &LXC);
}

/// By default, LXC sends SIGPWR to stop a container. SIGPWR does not end pause.
#[test]
fn lxc_needs_the_setting() {
    let Some(cage) = LXC.cage("lxc") else { return };
    let path = cage.path(LXC_CONFIG);
    let conf = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, conf.replace("lxc.signal.halt", "# lxc.signal.halt")).unwrap();
    let mut pause = LXC.run(&cage, &["/pause"]);
    cage.wait_for_pause(pause.pid);
    let stop = ["lxc-stop", "--lxcpath", "/run/lxc", "--name", "pod", "--nokill", "--timeout", "1"];
    assert!(!cage.output(&stop).status.success());
    assert!(!pause.job.has_ended());
}
