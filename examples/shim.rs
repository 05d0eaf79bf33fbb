//! A shim in one file. pause is PID 1 of a pod with a shared PID namespace, and this example does and checks
//! each step that a shim takes around it. `docs/sandbox-init.md` explains the steps, and the numbers here are those of
//! its table.
//!
//! ```text
//! cargo run --example shim
//! ```
//!
//! Any user who may create user namespaces can run it. It reports and skips what needs more rights.

use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use podpause::{Container, Error, Namespace, Program, Sandbox};
use procfs::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_child_subreaper,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[1..] {
        [] => start(),
        ["upgraded", state] => end(Path::new(state)),
        ["container"] => container(),
        _ => Err("this example takes no arguments".into()),
    }
}

/// The first half of the shim's life. The second half is `end`, which the upgraded shim runs.
fn start() -> Result<()> {
    // 1. A runtime such as runc double-forks. Its container has to become a child of the shim.
    set_child_subreaper(Pid::from_raw(process::id() as i32))?;

    // 2. One program serves all pods. This shim has only one pod.
    let program = Program::new()?;

    // 3. pause joins existing namespaces and creates the others. In a cluster, CNI creates the network
    // namespace. Here, the sandbox `cni` stands in for CNI.
    let cni = program.sandbox().new_namespaces([Namespace::User, Namespace::Net]).spawn()?;
    let cgroup = make_cgroup();
    let sandbox = start_sandbox(&program, &cni, cgroup.as_deref())?;
    step("the sandbox is ready", format!("PID 1 of the pod is process {}", sandbox.pid()));
    let status = || Process::new(sandbox.pid() as i32)?.status();
    check("it has a PID namespace of its own", status()?.nspid.map(|ids| ids[1]) == Some(1))?;
    check("it has no descriptor of the shim", fs::read_dir(proc(&sandbox, "fd"))?.count() == 3)?;

    // 4. The filter is set only on the thread that calls `spawn`.
    check("it has a seccomp filter", status()?.seccomp == Some(2))?;
    check("the shim has none", Process::myself()?.status()?.seccomp == Some(0))?;

    // 5. pause starts in the cgroup of the pod.
    match &cgroup {
        Some(folder) => {
            let members = fs::read_to_string(folder.join("cgroup.procs"))?;
            check("it is in the pod's cgroup", members.trim() == sandbox.pid().to_string())?;
        }
        None => step("cgroup", "skipped: no cgroup v2 can be created here"),
    }

    // 6. If memory runs out, the kernel should kill a container first. containerd gives the sandbox -998,
    // which needs CAP_SYS_RESOURCE. Without that capability, setting a higher score shows just as well that
    // the shim can set the score.
    let set =
        |score: &str| fs::write(proc(&sandbox, "oom_score_adj"), score).map(|()| score.to_owned());
    let score = set("-998").or_else(|_| set("500"))?;
    let seen = fs::read_to_string(proc(&sandbox, "oom_score_adj"))?;
    check(&format!("its OOM score is {score}"), seen.trim() == score)?;

    // 7. Save what another version of the shim needs to find the sandbox again.
    let state = std::env::temp_dir().join(format!("shim-{}", process::id()));
    let start_time = Process::new(sandbox.pid() as i32)?.stat()?.starttime;
    let cgroup = cgroup.unwrap_or_default();
    fs::write(&state, format!("{} {start_time} {}", sandbox.pid(), cgroup.display()))?;

    // 8. A container ends. The shim reaps it, since it is the shim's child, and the pod keeps running.
    let mut first = start_container(&sandbox)?;
    check("a container is a child of the shim", parent(first.pid())? == process::id())?;
    first.kill()?;
    check("the shim reaps it", first.wait()?.signal() == Some(Signal::KILL.as_raw()))?;
    check("the pod keeps running", !has_ended(&sandbox)?)?;

    // 9. The parent of an orphan is PID 1 of the pod, not the shim, although the shim is a subreaper.
    let orphan = start_orphan(&sandbox)?;
    check("an orphan is a child of PID 1", parent(orphan)? == sandbox.pid())?;
    let pidfd = pidfd_open(Pid::from_raw(orphan as i32).ok_or("no orphan")?, PidfdFlags::empty())?;
    pidfd_send_signal(&pidfd, Signal::KILL)?;
    wait_for(&pidfd)?;
    // The pidfd is readable shortly before the kernel has released the process.
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::exists(format!("/proc/{orphan}"))? && Instant::now() < deadline {
        thread::yield_now();
    }
    check("it is reaped without the shim", !fs::exists(format!("/proc/{orphan}"))?)?;

    // 10. The shim is upgraded. The new version is executed in the same process, which keeps its children.
    drop(cni); // pause holds the network namespace now.
    let _pidfd = sandbox.into_pidfd();
    let error = Command::new("/proc/self/exe").arg("upgraded").arg(&state).exec();
    Err(error.into())
}

/// Starts pause on a separate thread, which sets the filter that pause inherits.
fn start_sandbox(
    program: &Program,
    cni: &Sandbox,
    cgroup: Option<&Path>,
) -> std::result::Result<Sandbox, Error> {
    let [user, net] = [Namespace::User, Namespace::Net].map(|kind| (kind, cni.namespace(kind)));
    let mut builder = program
        .sandbox()
        .new_namespaces([Namespace::Pid, Namespace::Ipc, Namespace::Uts])
        .host_name("pod-1");
    for (kind, namespace) in [user, net] {
        builder = builder.join(kind, namespace.expect("it is there"));
    }
    if let Some(cgroup) = cgroup {
        builder = builder.cgroup(cgroup);
    }
    thread::scope(|scope| {
        let start = move || {
            set_filter().expect("the filter");
            builder.spawn()
        };
        scope.spawn(start).join().expect("the thread")
    })
}

/// Forbids ptrace(2) to the calling thread. This filter stands in for a runtime's real seccomp profile. A
/// filter has to allow what `spawn` needs, in addition to the calls in `docs/seccomp.json`.
fn set_filter() -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0), // the call's number
        libc::sock_filter { code: equal, jt: 0, jf: 1, k: libc::SYS_ptrace as u32 },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_ptr().cast_mut() };
    rustix::thread::set_no_new_privs(true)?;
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the kernel reads four instructions, and the array has four.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The second half of the shim's life, in the new version.
fn end(state: &Path) -> Result<()> {
    // 11. The process id could by now belong to another process. So this opens a pidfd first, and then compares
    // the start time. If the start time is unchanged, the pidfd refers to pause.
    let text = fs::read_to_string(state)?;
    let (pid, rest) = text.split_once(' ').ok_or("no state")?;
    let (start_time, cgroup) = rest.split_once(' ').ok_or("no state")?;
    let pid: i32 = pid.parse()?;
    let pidfd = pidfd_open(Pid::from_raw(pid).ok_or("no pid")?, PidfdFlags::empty())?;
    let is_same = Process::new(pid)?.stat()?.starttime.to_string() == start_time;
    check("the upgraded shim finds the sandbox", is_same)?;
    let mut sandbox = Sandbox::from_pidfd(pidfd)?;
    let mut container = start_container(&sandbox)?;
    step("the upgraded shim starts a container", format!("process {}", container.pid()));

    // 12. SIGTERM ends pause, and the kernel kills the container. pause is gone only after the shim has
    // reaped the container.
    pidfd_send_signal(sandbox.pidfd(), Signal::TERM)?;
    wait_for(&container.pidfd().try_clone_to_owned()?)?;
    check("PID 1 waits for a container that is not reaped", !has_ended(&sandbox)?)?;
    check("the container was killed", container.wait()?.signal() == Some(Signal::KILL.as_raw()))?;
    check("pause ends with status 0", sandbox.wait()?.code() == Some(0))?;

    // 13. The shim removes the cgroup, and then the state. It has no pinned namespace to remove (`Sandbox::pin`).
    if !cgroup.is_empty() {
        fs::remove_dir(cgroup)?;
    }
    fs::remove_file(state)?;
    let none = rustix::process::waitid(
        rustix::process::WaitId::All,
        rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG,
    );
    check("the shim has no child left", none.is_err())
}

/// The container: reports that it runs, and then sleeps.
fn container() -> Result<()> {
    println!("{}", process::id());
    loop {
        thread::park();
    }
}

/// Starts this program as a container, and returns when the container runs.
fn start_container(sandbox: &Sandbox) -> Result<Container> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("container").stdout(Stdio::piped());
    let mut container = sandbox.start(command)?;
    let stdout = container.stdout.take().ok_or("no stdout")?;
    BufReader::new(stdout).read_line(&mut String::new())?;
    Ok(container)
}

/// Runs a container that leaves a process behind. Returns the id of that process, as the shim sees it.
fn start_orphan(sandbox: &Sandbox) -> Result<u32> {
    let mut command = Command::new("sh");
    command.args(["-c", "exec >/dev/null; sleep infinity & exit 0"]);
    if !sandbox.start(command)?.wait()?.success() {
        return Err("the container failed".into());
    }
    let namespace = fs::read_link(proc(sandbox, "ns/pid"))?;
    let is_inside = |pid: i32| {
        fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|other| other == namespace)
    };
    let processes = procfs::process::all_processes()?;
    let mut pids = processes.filter_map(|process| Some(process.ok()?.pid));
    let orphan = pids.find(|pid| is_inside(*pid) && *pid != sandbox.pid() as i32);
    Ok(orphan.ok_or("there is no orphan")? as u32)
}

/// Creates a cgroup for the pod, if that is possible.
fn make_cgroup() -> Option<PathBuf> {
    let mounts = Process::myself().ok()?.mountinfo().ok()?;
    let root = mounts.into_iter().find(|mount| mount.fs_type == "cgroup2")?.mount_point;
    let folder = root.join(format!("shim-{}", process::id()));
    fs::create_dir(&folder).ok()?;
    Some(folder)
}

fn proc(sandbox: &Sandbox, name: &str) -> PathBuf {
    format!("/proc/{}/{name}", sandbox.pid()).into()
}

fn parent(pid: u32) -> Result<u32> {
    Ok(Process::new(pid as i32)?.stat()?.ppid as u32)
}

fn has_ended(sandbox: &Sandbox) -> Result<bool> {
    let now = Timespec::default();
    let pidfd = sandbox.pidfd();
    Ok(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now))? > 0)
}

fn wait_for(pidfd: &OwnedFd) -> Result<()> {
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None)?;
    Ok(())
}

/// Prints a step.
fn step(what: &str, value: impl Display) {
    println!("{what}: {value}");
}

/// Prints a claim, or returns an error if it does not hold.
fn check(claim: &str, holds: bool) -> Result<()> {
    if !holds {
        return Err(format!("this does not hold: {claim}").into());
    }
    println!("ok: {claim}");
    Ok(())
}
