//! The process of a sandbox: how it starts, what it is, and how it ends.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use podpause::{Namespace, Program, Sandbox};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::harness::{
    DEADLINE, Guard, KINDS, again, as_ordinary_user, case, close_stdio, count, descriptors, exit,
    handled, has_children, ignore, interrupt_often, is_readable, is_root, programs, sandbox,
    status, succeeds,
};

/// The whole life of a sandbox, in each form of the program, as this user and as an ordinary user.
#[test]
fn holds_from_spawn_to_terminate() {
    if case().is_none() {
        for mut command in [again("process::holds_from_spawn_to_terminate", "own"), {
            let mut command = again("process::holds_from_spawn_to_terminate", "ordinary");
            as_ordinary_user(&mut command);
            command
        }] {
            succeeds(&mut command);
        }
        return;
    }
    let before = descriptors();
    for program in programs() {
        let (mut words, stderr) = io::pipe().unwrap();
        let mut sandbox =
            sandbox(&program, &KINDS).host_name("pod-1").stderr(stderr).spawn().unwrap();
        let pid = sandbox.pid();
        // pause is ready: it has only standard input, output and error open.
        let files = fs::read_dir(format!("/proc/{pid}/fd")).map(|files| files.count());
        if is_root() {
            assert_eq!(files.unwrap(), 3);
            let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
            assert_eq!(link("fd/0").to_str(), Some("/dev/null"));
            assert_eq!(link("fd/1").to_str(), Some("/dev/null"));
            assert!(link("fd/2").to_str().unwrap().starts_with("pipe:"));
            assert_eq!(link("cwd").to_str(), Some("/"));
        }
        assert_eq!(status(pid, "NSpid"), format!("{pid} 1"));
        // pause has its own session and process group, so signals of the caller's terminal do not reach it.
        assert_eq!(status(pid, "NSsid"), format!("{pid} 1"));
        assert_eq!(status(pid, "NSpgid"), format!("{pid} 1"));
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        if is_root() {
            assert_eq!(status(pid, "Groups"), "");
        }
        let end = sandbox.terminate().unwrap();
        assert_eq!(end.code(), Some(0));
        assert_eq!(sandbox.wait().unwrap(), end, "a second time");
        sandbox.kill().unwrap();
        let mut said = String::new();
        words.read_to_string(&mut said).unwrap();
        assert_eq!(said, "pause: SIGTERM 15\n");
    }
    assert!(!has_children());
    assert_eq!(descriptors(), before);
}

#[test]
fn runs_as_nobody_by_default() {
    if !is_root() {
        crate::harness::skip!("root", "an ordinary user cannot become another");
    }
    let program = Program::new().unwrap();
    let ids = |sandbox: &podpause::Sandbox| {
        let (uid, gid) = (status(sandbox.pid(), "Uid"), status(sandbox.pid(), "Gid"));
        assert_eq!(uid.replace(' ', ","), gid.replace(' ', ","));
        uid
    };
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
    let plain = program.sandbox().new_namespaces([Namespace::Pid]).spawn().unwrap();
    assert_eq!(ids(&plain), four(65_535));
    assert_eq!(status(plain.pid(), "CapEff"), "0000000000000000");
    let other = program.sandbox().new_namespaces([Namespace::Pid]).user(7, 7).spawn().unwrap();
    assert_eq!(ids(&other), four(7));
    let mapped = |count| {
        let builder = program.sandbox().new_namespaces([Namespace::User, Namespace::Pid]);
        builder.map_uids(0, 200_000, count).map_gids(0, 200_000, count)
    };
    assert_eq!(ids(&mapped(65_536).spawn().unwrap()), four(265_535));
    // If 65535 is not mapped, pause is root of its user namespace, but not of the machine.
    assert_eq!(ids(&mapped(1_000).spawn().unwrap()), four(200_000));
    assert_eq!(ids(&mapped(1_000).user(5, 5).spawn().unwrap()), four(200_005));
}

#[test]
fn stderr_is_dev_null_by_default() {
    if !is_root() {
        crate::harness::skip!("root", "the descriptors of another user's process cannot be seen");
    }
    let program = Program::new().unwrap();
    let sandbox = sandbox(&program, &[Namespace::Pid]).spawn().unwrap();
    let link = fs::read_link(format!("/proc/{}/fd/2", sandbox.pid())).unwrap();
    assert_eq!(link.to_str(), Some("/dev/null"));
}

/// If a runtime has closed its standard streams, new descriptors get the numbers 0 to 2.
#[test]
fn starts_when_the_runtime_has_closed_standard_streams() {
    if case().is_none() {
        succeeds(&mut again(
            "process::starts_when_the_runtime_has_closed_standard_streams",
            "inside",
        ));
        return;
    }
    close_stdio();
    let start = |program: io::Result<Program>| -> Option<i32> {
        let program = program.ok()?;
        let stderr = rustix::fs::memfd_create("stderr", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        let builder = sandbox(&program, &KINDS).stderr(stderr).kill_with_parent();
        let mut sandbox = builder.spawn().ok()?;
        let mut command = Command::new("true");
        command.stdout(Stdio::piped());
        sandbox.start(command).ok()?.wait().ok()?.code().filter(|code| *code == 0)?;
        sandbox.terminate().ok()?.code()
    };
    let ends = [start(Program::new()), start(Ok(Program::without_exec()))];
    // There is no stderr for the message of an assertion.
    exit(if ends == [Some(0); 2] { 0 } else { 1 })
}

#[test]
fn is_killed_and_reaped_on_drop() {
    let program = Program::new().unwrap();
    let sandbox = sandbox(&program, &[Namespace::Pid]).spawn().unwrap();
    let pidfd = sandbox.pidfd().try_clone_to_owned().unwrap();
    let pid = sandbox.pid();
    drop(sandbox);
    assert!(is_readable(&pidfd, Duration::ZERO), "it should have ended");
    assert_eq!(pidfd_send_signal(&pidfd, Signal::KILL), Err(rustix::io::Errno::SRCH), "{pid}");
}

/// A sandbox may outlive the runtime that started it.
#[test]
fn into_pidfd_lets_it_outlive_object_and_runtime() {
    ends_with_its_runtime("process::into_pidfd_lets_it_outlive_object_and_runtime", false);
}

#[test]
fn kill_with_parent_kills_it_with_the_runtime() {
    ends_with_its_runtime("process::kill_with_parent_kills_it_with_the_runtime", true);
}

/// A runtime starts a sandbox, takes its pidfd and ends. The sandbox ends with it only if that
/// `is_asked_for`.
fn ends_with_its_runtime(test: &str, is_asked_for: bool) {
    if case().is_some() {
        let program = Program::new().unwrap();
        let mut builder = sandbox(&program, &[Namespace::Pid]);
        if is_asked_for {
            builder = builder.kill_with_parent();
        }
        let sandbox = builder.spawn().unwrap();
        println!("\npid {}", sandbox.pid());
        let _pidfd = sandbox.into_pidfd();
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
        exit(0)
    }
    let mut command = again(test, "runtime");
    let runtime = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut runtime = Guard(runtime);
    let mut lines = io::BufRead::lines(io::BufReader::new(runtime.0.stdout.take().unwrap()));
    let pid = lines.find_map(|line| line.unwrap().strip_prefix("pid ")?.parse().ok()).unwrap();
    // The sandbox is a child of the runtime, which lives until its stdin is closed and never reaps the
    // sandbox. So the PID is not reused meanwhile.
    let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    assert!(!is_readable(&pidfd, Duration::ZERO), "it should be alive");
    drop(runtime.0.stdin.take());
    assert!(runtime.0.wait().unwrap().success());
    if is_asked_for {
        assert!(is_readable(&pidfd, DEADLINE), "it should end with its runtime");
    } else {
        assert!(!is_readable(&pidfd, Duration::from_millis(200)), "it should outlive its runtime");
        // The next runtime takes the sandbox over. As it is not the parent, it cannot get the exit status.
        let mut sandbox = Sandbox::from_pidfd(pidfd.try_clone().unwrap()).unwrap();
        assert_eq!(sandbox.pid(), pid as u32);
        let mut command = Command::new("sh");
        command.args(["-c", "exit $(($$ - 2))"]); // the second process in the PID namespace
        assert_eq!(sandbox.start(command).unwrap().wait().unwrap().code(), Some(0));
        assert_eq!(sandbox.terminate().unwrap_err().kind(), ErrorKind::NotFound);
        assert!(is_readable(&pidfd, Duration::ZERO), "it should have ended");
        drop(sandbox);
        assert_eq!(Sandbox::from_pidfd(pidfd).unwrap_err().kind(), ErrorKind::NotFound);
        let other = fs::File::open("/dev/null").unwrap();
        let error = Sandbox::from_pidfd(other.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

/// The kernel reaps the children of such a runtime.
#[test]
fn starts_and_ends_under_a_runtime_that_ignores_sigchld() {
    if case().is_none() {
        let test = "process::starts_and_ends_under_a_runtime_that_ignores_sigchld";
        succeeds(&mut again(test, "inside"));
        return;
    }
    ignore(libc::SIGCHLD);
    let program = Program::new().unwrap();
    let mut sandbox = sandbox(&program, &KINDS).spawn().unwrap();
    let mut container = sandbox.start(Command::new("true")).unwrap();
    assert_eq!(container.wait().unwrap_err().kind(), ErrorKind::NotFound);
    let error = sandbox.terminate().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("SIGCHLD"), "{error}");
    assert!(!has_children());
}

/// The signal handlers of a runtime do not run in its new sandbox, and SIGTERM to the sandbox is not lost.
#[test]
fn runs_no_handler_of_the_runtime() {
    if case().is_none() {
        succeeds(&mut again("process::runs_no_handler_of_the_runtime", "inside"));
        return;
    }
    for signal in [libc::SIGTERM, libc::SIGUSR1, libc::SIGHUP] {
        count(signal);
    }
    for program in programs() {
        for _ in 0..20 {
            let mut sandbox = sandbox(&program, &[Namespace::Pid]).spawn().unwrap();
            // SIGHUP has no effect on PID 1, and SIGTERM ends it.
            for signal in [Signal::HUP, Signal::TERM] {
                pidfd_send_signal(sandbox.pidfd(), signal).unwrap();
            }
            assert_eq!(sandbox.wait().unwrap().code(), Some(0));
        }
    }
    assert_eq!(handled().load(Ordering::Relaxed), 0);
    // The negative control: the handler counts a signal to this process.
    crate::harness::raise(libc::SIGUSR1);
    assert_eq!(handled().load(Ordering::Relaxed), 1);
}

/// A runtime may have handlers without SA_RESTART, so a blocking call can fail with EINTR at any time.
#[test]
fn starts_and_ends_although_signals_interrupt_the_runtime() {
    if case().is_none() {
        let test = "process::starts_and_ends_although_signals_interrupt_the_runtime";
        succeeds(&mut again(test, "inside"));
        return;
    }
    let programs = programs();
    interrupt_often();
    for program in &programs {
        for kinds in [&KINDS[..], &[Namespace::Pid]] {
            for _ in 0..20 {
                let mut sandbox = sandbox(program, kinds).spawn().unwrap();
                assert_eq!(sandbox.terminate().unwrap().code(), Some(0));
            }
        }
    }
    // Drop gives up after a second, although its wait is interrupted more often than that.
    let holder = sandbox(&programs[0], &[Namespace::Pid]).spawn().unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("infinity");
    let mut container = holder.start(sleep).unwrap();
    drop(holder);
    container.kill().unwrap();
    container.wait().unwrap();
}

/// A pidfd from an event loop may be non-blocking.
#[test]
fn ends_by_a_non_blocking_pidfd() {
    let program = Program::new().unwrap();
    let pidfd = sandbox(&program, &[Namespace::Pid]).spawn().unwrap().into_pidfd();
    rustix::fs::fcntl_setfl(&pidfd, rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut sandbox = Sandbox::from_pidfd(pidfd).unwrap();
    assert_eq!(sandbox.terminate().unwrap().code(), Some(0));
}

#[test]
fn wait_returns_the_status() {
    let program = Program::new().unwrap();
    let mut killed = sandbox(&program, &[Namespace::Pid]).spawn().unwrap();
    killed.kill().unwrap();
    assert_eq!(killed.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(killed.namespace(Namespace::Pid).is_err(), "it has ended");
    // If pause is not PID 1, other signals kill it, too.
    let mut sandbox = sandbox(&program, &[Namespace::Uts]).spawn().unwrap();
    pidfd_send_signal(sandbox.pidfd(), Signal::USR1).unwrap();
    assert_eq!(sandbox.wait().unwrap().signal(), Some(libc::SIGUSR1));
}

/// The runtime cannot execute memfds, because `vm.memfd_noexec` is 2.
#[test]
fn starts_without_executable_memfds() {
    let test = "process::starts_without_executable_memfds";
    if case().is_none() {
        let script = "echo 2 > /proc/sys/vm/memfd_noexec || exit 77; exec \"$@\"";
        let shell = [
            "unshare",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "sh",
            "-c",
            script,
            "sh",
        ];
        let output = crate::harness::output(&mut crate::harness::again_in(&shell, test, "inside"));
        if matches!(output.status.code(), Some(1 | 77)) {
            crate::harness::skip!("memfd_noexec", "this needs root and Linux 6.3: {output:?}");
        }
        assert!(output.status.success(), "{output:?}");
        return;
    }
    assert_eq!(Program::new().unwrap_err().kind(), ErrorKind::PermissionDenied);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pause");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(podpause::ELF).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    file.set_permissions(mode).unwrap();
    drop(file);
    for program in [
        Program::new().or_else(|_| Program::from_file(&path)).unwrap(),
        Program::new().unwrap_or_else(|_| Program::without_exec()),
    ] {
        let mut sandbox = sandbox(&program, &KINDS).spawn().unwrap();
        assert_eq!(sandbox.terminate().unwrap().code(), Some(0));
    }
}

#[test]
fn starts_in_the_given_cgroup() {
    let Some(cgroup) = Cgroup::new("start") else {
        crate::harness::skip!("cgroup", "no cgroup v2 can be created here");
    };
    let program = Program::new().unwrap();
    let sandbox = sandbox(&program, &KINDS).cgroup(&cgroup.0).spawn().unwrap();
    let processes = fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap();
    assert_eq!(processes.trim(), sandbox.pid().to_string());
}

/// The folder of a cgroup, which is removed when this is dropped.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    /// Creates a cgroup v2, if that is possible here.
    pub fn new(name: &str) -> Option<Self> {
        Self::below(&Self::root()?, name)
    }

    /// Creates a cgroup below this one, which may be of v1 or v2.
    pub fn below(folder: &Path, name: &str) -> Option<Self> {
        let path = folder.join(format!("podpause-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    /// The root of cgroup v2, if it is mounted.
    pub fn root() -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next() == Some("cgroup2")).then(|| PathBuf::from(path))
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = fs::remove_dir(&self.0);
        } else {
            fs::remove_dir(&self.0).unwrap();
        }
    }
}

/// PID 1 does not end before every container in its PID namespace is reaped. If one is not, drop gives up
/// instead of hanging.
#[test]
fn does_not_hang_on_drop_if_a_container_is_not_reaped() {
    let program = Program::new().unwrap();
    let sandbox = sandbox(&program, &[Namespace::Pid]).spawn().unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("infinity");
    let mut container = sandbox.start(sleep).unwrap();
    let pidfd = sandbox.pidfd().try_clone_to_owned().unwrap();
    drop(sandbox);
    assert!(!is_readable(&pidfd, Duration::ZERO), "PID 1 waits for the container to be reaped");
    assert_eq!(container.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(is_readable(&pidfd, DEADLINE));
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
}
