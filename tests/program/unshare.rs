//! pause under unshare(1) and nsenter(1), as root and as an unprivileged user.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use crate::answers::output;
use crate::harness::{
    Body, DEADLINE, End, Process, SignalMask, Start, become_user, is_readable, is_root,
    readable_copy, skip,
};
use crate::messages::WARNING;

/// Who runs unshare(1).
#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    Root,
    /// An ordinary user: the one who runs the tests or, if that is root, the one with this uid.
    User(Option<u32>),
}

impl Who {
    /// The users as whom the tests can run unshare(1).
    fn all() -> Vec<Self> {
        match is_root() {
            true => vec![Self::Root, Self::User(Some(54_321))],
            false => vec![Self::User(None)],
        }
    }

    /// The options that make a new pod, without the program that becomes its PID 1.
    fn options(self) -> Vec<&'static str> {
        let options = "--pid --fork --kill-child --net --ipc --uts --cgroup \
                       --time --boottime 1000000000";
        let user = match self {
            Self::Root => "",
            Self::User(_) => "--user --map-root-user",
        };
        user.split_whitespace().chain(options.split_whitespace()).collect()
    }

    /// unshare(1) with these arguments: options, and the program that it runs.
    fn unshare(self, options: &[&str]) -> Start {
        let names = ["unshare"].iter().chain(options);
        let start = Start::body(Body::File(find("unshare").unwrap()))
            .argv(names.map(|name| CString::new(*name).unwrap()).collect())
            .blocked(SignalMask::None);
        match self {
            Self::User(Some(id)) => start.step(move || become_user(id)),
            _ => start,
        }
    }

    /// The output of a shell that enters all of the pod's namespaces and runs this line.
    fn nsenter(self, pause: &Process, line: &str) -> String {
        self.nsenter_some(pause, &["--all"], line)
    }

    fn nsenter_some(self, pause: &Process, namespaces: &[&str], line: &str) -> String {
        let mut command = Command::new("nsenter");
        command.args(["--target", &pause.pid.to_string()]).args(namespaces);
        if let Self::User(id) = self {
            command.arg("--preserve-credentials");
            id.map(|id| command.uid(id).gid(id));
        }
        let output = command.args(["sh", "-e", "-c", line]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self:?}: {line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Where the shell would find a program.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists())
}

/// Says why this user cannot create a pod here. Returns `None` if the user can.
fn obstacle(who: Who, options: &[&str]) -> Option<String> {
    for name in ["unshare", "nsenter", "ps", "hostname", "ipcmk", "ipcs", "mount"] {
        if find(name).is_none() {
            return Some(format!("there is no {name}(1)"));
        }
    }
    let mut probe = who.unshare(&[options, &["true"]].concat()).spawn();
    let end = probe.end();
    (end != End::Exit(0)).then(|| format!("{who:?}, {options:?}: {end:?}: {}", probe.messages()))
}

/// The process that unshare(1) has forked, once it is pause and sleeps.
fn forked(unshare: &Process) -> Process {
    let mut child = None;
    unshare.until("had pause as its child", || {
        child = unshare.children().into_iter().find(|child| child.comm == "pause");
        child.is_some()
    });
    let pause = Process::found(child.unwrap().pid);
    pause.sleeps();
    pause
}

#[test]
fn makes_a_pod_that_containers_enter_one_after_the_other() {
    for who in Who::all() {
        let options = [&who.options()[..], &["--mount-proc"]].concat();
        if let Some(reason) = obstacle(who, &options) {
            skip!("unshare", "{reason}");
        }
        let folder = tempfile::tempdir().unwrap();
        let program = readable_copy(folder.path());
        let program = program.to_str().unwrap();
        let mut unshare = who.unshare(&[&options[..], &[program]].concat()).spawn();
        let pause = forked(&unshare);

        who.nsenter(
            &pause,
            "hostname podpause-test
             ipcmk --shmem 4096
             mount -t tmpfs none /tmp
             echo a volume >/tmp/podpause-test
             echo 42 >/proc/sys/net/ipv4/ip_default_ttl",
        );
        for _ in 0..2 {
            let state = "uname -n; cat /tmp/podpause-test /proc/sys/net/ipv4/ip_default_ttl";
            assert_eq!(who.nsenter(&pause, state), "podpause-test\na volume\n42\n");
            assert!(who.nsenter(&pause, "ipcs --shmems").contains(" 4096 "));
            let uptime = who.nsenter(&pause, "cat /proc/uptime");
            assert!(uptime.split('.').next().unwrap().parse::<u64>().unwrap() > 1_000_000_000);
            for kind in ["pid", "net", "ipc", "uts", "mnt", "user", "cgroup", "time"] {
                let inside = who.nsenter(&pause, &format!("readlink /proc/self/ns/{kind}"));
                let held = fs::read_link(format!("/proc/{}/ns/{kind}", pause.pid)).unwrap();
                assert_eq!(inside.trim_end(), held.to_str().unwrap());
                let own = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
                assert_eq!(held == own, (who, kind) == (Who::Root, "user"), "{kind}");
            }
            let processes = who.nsenter(&pause, "ps -A -o pid=,args=");
            let mut processes = processes.lines().map(str::trim);
            assert_eq!(processes.next(), Some(&*format!("1 {program}")));
            assert!(processes.all(|process| !process.starts_with("1 ")));
        }

        // The shell ends before its child, which becomes an orphan and is killed with the pod.
        let sleeper = who.nsenter(&pause, "sleep 1000000 >/dev/null 2>&1 & echo");
        assert_eq!(sleeper, "\n");
        let orphan = Process::found(pause.children()[0].pid);

        pause.send(Signal::TERM);
        assert_eq!(unshare.end(), End::Exit(0));
        assert_eq!(unshare.messages(), "pause: SIGTERM 15\n");
        assert!(is_readable(orphan.pidfd.as_fd(), DEADLINE));
    }
}

/// A folder that contains only pause can serve as an image.
#[test]
fn runs_an_image_that_is_only_a_folder() {
    for who in Who::all() {
        let options = [&who.options()[..], &["--mount"]].concat();
        if let Some(reason) = obstacle(who, &options) {
            skip!("unshare", "{reason}");
        }
        let folder = tempfile::tempdir().unwrap();
        readable_copy(folder.path());
        let folder = folder.path().to_str().unwrap();
        let image = [&options[..], &["--root", folder, "/pause"]].concat();
        let mut unshare = who.unshare(&image).spawn();
        let pause = forked(&unshare);
        let ps = Command::new("ps").args(["-o", "args=", "-p", &pause.pid.to_string()]).output();
        assert_eq!(ps.unwrap().stdout, b"/pause\n");
        assert_eq!(fs::read_dir(format!("/proc/{}/root", pause.pid)).unwrap().count(), 1);
        pause.send(Signal::INT);
        assert_eq!(unshare.end(), End::Exit(0));
        assert_eq!(unshare.messages(), "pause: SIGINT   2\n");

        let version = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
        assert_eq!(output(who.unshare(&[&image[..], &["-v"]].concat())), (version, End::Exit(0)));
    }
}

/// Without `--fork`, unshare(1) becomes pause, which then is not PID 1.
#[test]
fn makes_a_pod_in_the_host_s_pid_namespace() {
    for who in Who::all() {
        let mut namespaces = vec!["--net", "--ipc", "--uts"];
        let mut options = namespaces.clone();
        if who != Who::Root {
            namespaces.push("--user");
            options.extend(["--user", "--map-root-user"]);
        }
        if let Some(reason) = obstacle(who, &options) {
            skip!("unshare", "{reason}");
        }
        let folder = tempfile::tempdir().unwrap();
        let program = readable_copy(folder.path());
        options.push(program.to_str().unwrap());
        let mut pause = who.unshare(&options).spawn().asleep();
        assert_eq!(pause.messages(), WARNING);
        who.nsenter_some(&pause, &namespaces, "hostname podpause-test");
        let name = who.nsenter_some(&pause, &namespaces, "uname -n");
        assert_eq!(name, "podpause-test\n");
        pause.send(Signal::TERM);
        assert_eq!(pause.end(), End::Exit(0));
    }
}
