//! A cage for runtimes: namespaces for daemons and containers that end with the test.
//!
//! The cage has its own PID namespace, so ending it kills every process in it, including shims and
//! containers. It has its own network and its own mount namespace, with empty file systems on /run and
//! /var/lib for the state of the runtimes. Its cgroups are not isolated: they are created in the machine's
//! hierarchies, below a cgroup with the name of the cage, and removed on drop.
//!
//! `PODPAUSE_ROOT` names the root of another system, such as `ci/releases.sh` creates. Cages use it as their
//! root, so the tests run the programs in it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use walkdir::WalkDir;

use crate::report::skipped;
use crate::wait::{DEADLINE, is_readable, until};

/// What pause prints when SIGTERM ends it.
pub const TERMINATED: &str = "pause: SIGTERM 15\n";

/// A CNI configuration for pods in a cage: a bridge in the network namespace of the cage.
pub const NETWORK: &str = r#"{
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [{
        "type": "bridge",
        "bridge": "pods",
        "isGateway": true,
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.99.0.0/16" }]] }
    }]
}"#;

/// The path of a program that a cage can run, as the test sees it.
pub fn find(name: &str) -> Option<PathBuf> {
    PATH.split(':')
        .find_map(|folder| fs::canonicalize(format!("{}{folder}/{name}", system_root())).ok())
}

/// The root of the other system, or an empty string.
fn system_root() -> String {
    std::env::var("PODPAUSE_ROOT").unwrap_or_default()
}

/// Where a cage looks for programs. The tests do not use programs elsewhere, such as in a home directory.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Namespaces for runtimes.
pub struct Cage {
    /// The process that created the namespaces. It is killed when the test ends, which ends the cage.
    maker: Child,
    /// PID 1 of the cage.
    init: i32,
    init_pidfd: OwnedFd,
    /// The parent of all cgroups of the cage, in every hierarchy.
    pub cgroup: String,
}

/// The script that sets up the cage in its new namespaces. It unmounts cgroup v2 where v1 is mounted, too:
/// crun 1.8 refuses to run if both are mounted, and no test needs v2 in that case.
const SET_UP: &str = r#"
    if [ -n "$0" ]; then
        # Nothing is changed in that system: what the cage writes is kept in memory.
        mount -t tmpfs changes /run
        mkdir /run/upper /run/work /run/root
        mount -t overlay -o "lowerdir=$0,upperdir=/run/upper,workdir=/run/work" root /run/root
        for folder in dev proc sys; do mount --rbind /$folder /run/root/$folder; done
        cd /run/root
        pivot_root . .
        umount --lazy .
        cd /
    fi
    mount -t tmpfs -o mode=755 run /run
    mount -t tmpfs -o mode=755 state /var/lib
    mkdir /run/lock
    if [ -e /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
    cat >/run/pause
    chmod 755 /run/pause
    echo ready
    exec /run/pause -P </dev/null
"#;

impl Cage {
    /// A cage for the test called `what`, which needs these programs. If a program is missing or the cage
    /// cannot be created, reports the test as skipped and returns `None`.
    pub fn new(what: &str, programs: &[&str]) -> Option<Self> {
        let tools = ["sh", "setpriv", "unshare", "nsenter", "timeout", "mount", "umount"];
        for name in tools.iter().chain(programs) {
            if find(name).is_none() {
                skipped(what, &format!("there is no {name}"));
                return None;
            }
        }
        if !rustix::process::geteuid().is_root() {
            skipped(what, "only root can run it");
            return None;
        }
        match Self::make() {
            Ok(cage) => Some(cage),
            Err(error) => {
                skipped(what, &format!("no namespaces can be made here: {error}"));
                None
            }
        }
    }

    fn make() -> Result<Self, String> {
        remove_cgroups_of_the_dead();
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("podpause-{}-{count}", std::process::id());
        let mut maker = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(["unshare", "--mount", "--propagation", "private", "--net", "--uts", "--ipc"])
            .args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"])
            .args(["sh", "-ec", SET_UP])
            .arg(system_root())
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        // pause is PID 1 of the cage, and reaps the daemons that nobody waits for. If the script fails before
        // it reads the program, this write may fail. The missing line "ready" shows that.
        let _ = maker.stdin.take().unwrap().write_all(podpause::ELF);
        let mut line = String::new();
        let mut stdout = BufReader::new(maker.stdout.take().unwrap());
        stdout.read_line(&mut line).map_err(|error| error.to_string())?;
        if line != "ready\n" {
            let _ = maker.kill();
            let output = maker.wait_with_output().unwrap();
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let children = format!("/proc/{0}/task/{0}/children", maker.id());
        let init = fs::read_to_string(children).unwrap().trim().parse().unwrap();
        let pidfd = pidfd_open(Pid::from_raw(init).unwrap(), PidfdFlags::empty()).unwrap();
        Ok(Self { maker, init, init_pidfd: pidfd, cgroup })
    }

    /// The path of a file of the cage, as the test sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// Writes a file in the cage, and creates the folders above it. All users can read and execute the file.
    pub fn write(&self, inside: &str, content: impl AsRef<[u8]>) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap_or_else(|error| panic!("{inside}: {error}"));
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// The content of a file in the cage's /proc, or an empty string if it cannot be read.
    pub fn proc(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("/proc/{name}"))).unwrap_or_default()
    }

    /// Waits until a process has executed pause, and pause has given its memory back. A runtime reports a
    /// container as running before that, when the runtime's own process has yet to execute the program.
    pub fn wait_for_pause(&self, pid: i32) {
        let is_pause = || {
            let status = self.proc(&format!("{pid}/status"));
            let lines: Vec<_> = status.lines().map(|line| line.split_whitespace()).collect();
            let has = |words: &str| lines.iter().any(|line| line.clone().eq(words.split(' ')));
            has("Name: pause") && has("RssAnon: 4 kB")
        };
        until("the process was pause", is_pause);
    }

    /// A command that runs in the cage, and is killed at the deadline.
    pub fn command(&self, words: &[&str]) -> Command {
        let seconds = DEADLINE.as_secs().to_string();
        self.unlimited(&[&["timeout", "--signal=KILL", &seconds], words].concat())
    }

    /// A command that runs in the cage, and is killed when the calling thread ends.
    fn unlimited(&self, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "nsenter"]);
        self.enter(&mut command);
        command.args(words);
        command
    }

    /// Adds the arguments of `nsenter` up to the command that runs in the cage.
    fn enter(&self, nsenter: &mut Command) {
        nsenter
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--"])
            .env("PATH", PATH)
            .stdin(Stdio::null());
    }

    /// Starts a daemon that has no deadline and may outlive the calling thread. It ends with the cage.
    /// What it prints is appended to this file of the cage.
    pub fn daemon(&self, words: &[&str], log: &str) -> Daemon {
        let log = File::options().create(true).append(true).open(self.path(log)).unwrap();
        let mut command = Command::new("nsenter");
        self.enter(&mut command);
        command.args(words).stdout(log.try_clone().unwrap()).stderr(log);
        Daemon(command.spawn().unwrap())
    }

    /// Runs a command to its end.
    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command that has to succeed, and returns its stdout.
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.output(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {} {error}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a command that runs beside the test, and writes its output to these files of the cage.
    pub fn start(&self, words: &[&str], stdout: &str, stderr: &str) -> Job {
        // Append mode, so that both may be the same file.
        let create = |name| {
            let path = self.path(name);
            File::create(&path).and(File::options().append(true).open(path)).unwrap()
        };
        let mut command = self.unlimited(words);
        Job(command.stdout(create(stdout)).stderr(create(stderr)).spawn().unwrap())
    }

    /// The processes of the cage.
    pub fn processes(&self) -> Vec<i32> {
        let entries = fs::read_dir(self.path("/proc")).unwrap();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// The processes of the cage whose parent is `pid`, with their states.
    pub fn children(&self, pid: i32) -> Vec<(i32, char)> {
        let stats = self.processes().into_iter().filter_map(|id| {
            let stat = self.proc(&format!("{id}/stat"));
            // The name of the process is in parentheses, and may contain spaces and parentheses.
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            let state = fields.next()?.chars().next()?;
            (fields.next()?.parse() == Ok(pid)).then_some((id, state))
        });
        stats.collect()
    }

    /// The cgroups of the cage: its own in each hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        cgroups_called(&self.cgroup)
    }

    /// The file of a controller for the cgroup `name`, which is below the cage's cgroup. `files` are the
    /// names of the file in cgroup v1 and v2. If both files exist, the v1 file is returned.
    pub fn cgroup_file(&self, name: &str, controller: &str, files: [&str; 2]) -> Option<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let below = format!("{}/{name}", self.cgroup);
        let v1 = root.join(controller).join(&below).join(files[0]);
        [v1, root.join(&below).join(files[1])].into_iter().find(|path| path.exists())
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let _ = self.maker.kill();
        let _ = self.maker.wait();
        // PID 1 of a PID namespace ends only after all other processes in the namespace.
        let is_over = is_readable(&self.init_pidfd, DEADLINE);
        let start = Instant::now();
        while is_over && start.elapsed() < DEADLINE {
            let cgroups = self.cgroups();
            if cgroups.is_empty() {
                // `podman kube play` has no option for the parent cgroup, and uses this one. If other pods
                // use this cgroup, it is not empty, so it is not removed.
                cgroups_called("libpod_parent").iter().for_each(|path| remove_cgroup(path));
                return;
            }
            cgroups.iter().for_each(|path| remove_cgroup(path));
        }
        eprintln!("could not remove cgroups: {:?}", self.cgroups());
    }
}

/// The cgroups with this path in all hierarchies.
fn cgroups_called(name: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    let roots = hierarchies.map(|entry| entry.unwrap().path());
    let roots = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
    roots.map(|root| root.join(name)).filter(|path| path.is_dir()).collect()
}

/// Removes the cgroups of cages whose test was killed. The kernel removes the rest of such a cage.
fn remove_cgroups_of_the_dead() {
    let hierarchies = cgroups_called("");
    let entries = hierarchies.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let numbers = name.strip_prefix("podpause-").and_then(|rest| rest.split_once('-'));
        let pid = numbers.and_then(|(pid, count)| count.parse::<u32>().ok().and(pid.parse().ok()));
        let is_dead = |pid: u32| !Path::new(&format!("/proc/{pid}")).exists();
        if pid.is_some_and(is_dead) {
            remove_cgroup(&path);
        }
    }
}

/// Removes a cgroup and the cgroups below it, except those that have processes.
fn remove_cgroup(path: &Path) {
    // The kernel removes a cgroup's files with its folder.
    for entry in WalkDir::new(path).contents_first(true).into_iter().flatten() {
        if entry.file_type().is_dir() {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// A command that runs beside the test, and is killed on drop. Processes that it started end with the cage.
pub struct Job(Child);

impl Job {
    /// Waits for its end, and returns its exit status.
    pub fn end(&mut self) -> ExitStatus {
        if let Some(status) = self.0.try_wait().unwrap() {
            return status;
        }
        let pid = Pid::from_child(&self.0);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(is_readable(&pidfd, DEADLINE), "it never ended");
        self.0.wait().unwrap()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Sends SIGTERM to the command, which is the child of `nsenter`.
    pub fn terminate(&self) {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon in a cage. The process is `nsenter`, and the daemon is its only child: nsenter has to fork to
/// start a program in another PID namespace.
pub struct Daemon(Child);

impl Daemon {
    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Sends SIGTERM to the daemon, and waits until it has ended.
    pub fn stop(mut self) {
        let nsenter = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty()).unwrap();
        self.signal(Signal::TERM);
        assert!(is_readable(&nsenter, DEADLINE), "it does not end on SIGTERM");
    }

    fn signal(&mut self, signal: Signal) {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal(Signal::KILL);
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}
