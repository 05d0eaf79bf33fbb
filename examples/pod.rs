//! A pod in one file: what a container runtime does around `pause`, with nothing but Linux and Rust.
//!
//! ```text
//! cargo run --example pod                 shows the life of a pod, step by step
//! cargo run --example pod -- COMMAND…     runs COMMAND in a pod, with this terminal
//! ```
//!
//! It runs as root or as anybody else, on Linux 5.8 or newer, and wants neither an image nor a
//! runtime nor another program. This is a demonstration, not a runtime: a container here shares all
//! namespaces of its pod and the files of the machine, and nothing limits what it uses.
//!
//! The exit status is that of COMMAND, or 128 and the number of the signal that ended it. It is 127
//! if there is no such command, 126 if it cannot be run, and 125 if the pod failed.
//!
//! Read `main` first, and the functions below it in their order.

use std::convert::Infallible;
use std::env;
use std::ffi::{CStr, OsString};
use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, PipeReader, PipeWriter, Read, Write};
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, mount};
use rustix::process::{
    Gid, Pid, PidfdFlags, Signal, Uid, WaitId, WaitIdOptions, WaitIdStatus, getegid, geteuid,
    getpgrp, getpid, kill_current_process_group, kill_process_group, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, setpgid, setsid, waitid,
};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

/// The namespaces of a pod, as clone3 and setns want them…
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNS;
/// …and as /proc/PID/ns names them.
const NAMESPACE_NAMES: [&str; 6] = ["user", "pid", "net", "ipc", "uts", "mnt"];

/// The address of the pod. It is on the pod's loopback, so it can be any.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
/// Where the container `web` listens. In its own network namespace, anybody may use a low port.
const PORT: u16 = 80;
/// The volume: a tmpfs that the containers of the pod share.
const VOLUME: &str = "/dev/shm";
/// A file in the volume, to which `web` adds a line at each start.
const LOG: &str = "/dev/shm/web.log";
/// How long any single thing may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// An error is a sentence for the person at the terminal.
type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let command: Vec<OsString> = env::args_os().skip(1).collect();
    let result = if command.is_empty() { demonstrate().map(|()| 0) } else { run_in_pod(&command) };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("pod: {error}");
            ExitCode::from(125)
        }
    }
}

/// Shows the life of a pod, and checks what it says with what the kernel says.
fn demonstrate() -> Result<()> {
    // Where nobody reads on, as in `pod | head`, we end without a word, as other programs do.
    set_disposition(libc::SIGPIPE, libc::SIG_DFL);

    title("A pod starts: pause is the first process in six new namespaces");
    let pod = Pod::start()?;
    fact("program", format!("{} bytes, run from memory", podpause::ELF.len()));
    fact("process", format!("{} on this machine, 1 in the pod", pod.pause.pid));
    let (its, ours) = (namespaces(&pod.pause.pid.to_string())?, namespaces("self")?);
    for ((name, its), ours) in NAMESPACE_NAMES.iter().zip(&its).zip(&ours) {
        fact(name, format!("{its:<18} outside {ours}"));
    }
    check("none of them is ours", its.iter().all(|namespace| !ours.contains(namespace)))?;

    title("Two containers join: they share a network, a volume and a process list");
    let web = pod.start_web()?;
    let (network, volume) = pod.ask_web()?;
    fact("client hears", &network);
    fact("client reads", volume.trim_end());
    check("they talk over the pod's loopback", network.starts_with("hello from web"))?;
    check("they share the volume", volume.lines().count() == 1)?;

    title("An orphan is made: a daemon leaves its child behind, which pause adopts");
    // pause may still be on its way to sleep: it is ready one system call earlier.
    until("pause sleeps", || Ok(pod.pause_status("State")?.starts_with('S')))?;
    let switches_before = pod.pause_status("voluntary_ctxt_switches")?;
    let (hold, mut release) = io::pipe().context("pipe")?;
    pod.join(c"daemon", move || {
        let child = fork(0, move || (&hold).read_exact(&mut [0]).context("daemon: wait"))?;
        mem::forget(child); // It is not killed, as its guard would do, but left behind.
        Ok(())
    })?
    .succeed()?;
    let processes = pod.processes()?;
    show(&processes);
    let is_named_pause = processes.iter().any(|p| p.pid == 1 && p.command == "/pause");
    check("PID 1 shows the name /pause", is_named_pause)?;
    // The parent of a container is outside, which the pod sees as 0.
    let orphan = processes.iter().find(|p| p.parent == 1).map(|p| p.pid);
    check("the orphan is now a child of PID 1", orphan.is_some())?;

    title("The orphan ends: the kernel reaps it on behalf of pause, which sleeps on");
    release.write_all(b"!").context("release the orphan")?;
    until("the orphan is gone", || Ok(pod.processes()?.iter().all(|p| Some(p.pid) != orphan)))?;
    let processes = pod.processes()?;
    show(&processes);
    let switches = pod.pause_status("voluntary_ctxt_switches")?;
    let zombies = processes.iter().filter(|p| p.state.starts_with('Z')).count();
    fact("context switches", format!("{switches_before} before, {switches} now"));
    fact("zombies", zombies);
    check("no zombie is left", zombies == 0)?;
    check("pause was not woken", switches == switches_before)?;

    title("What pause takes");
    for (field, meaning) in [
        ("VmRSS", "memory"),
        ("RssAnon", "of that, its own: the rest is the text of the program"),
        ("VmPTE", "page tables"),
    ] {
        fact(field, format!("{:<8} {meaning}", pod.pause_status(field)?));
    }
    let own = pod.pause_status("RssAnon")?;
    let own_kib: usize = own.trim_end_matches(" kB").parse().context("RssAnon")?;
    // Where the kernel lacks CONFIG_CHECKPOINT_RESTORE, pause works but keeps its first stack.
    check("its own memory is one page", own_kib <= rustix::param::page_size() / 1024)?;

    title("A container is restarted: the pod keeps its address");
    web.kill()?;
    fact("web", format!("PID {} of this machine ended by {}", web.pid, ended(web.wait()?)));
    let (network, _) = pod.ask_web()?;
    fact("client hears", &network);
    // Refused by the pod itself: without the address, it would be unreachable.
    check("nobody listens, but the address is there", network.contains("refused"))?;
    let web = pod.start_web()?;
    let (network, volume) = pod.ask_web()?;
    fact("client hears", &network);
    for line in volume.lines() {
        fact("client reads", line);
    }
    check("web answers at the same address", network.starts_with("hello from web"))?;
    check("the volume has the lines of both starts", volume.lines().count() == 2)?;

    title("The pod ends by SIGTERM: the kernel kills what is still in it");
    // This does not hold the volume, but tells when it goes: with the mount namespace, the last one.
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).context("inotify")?;
    let volume = format!("/proc/{}/root{VOLUME}", pod.pause.pid);
    inotify::add_watch(&watch, volume, inotify::WatchFlags::DELETE_SELF).context("inotify")?;
    pidfd_send_signal(&pod.pause.fd, Signal::TERM).context("SIGTERM to pause")?;
    // PID 1 is not gone before everything in its namespace is reaped, and web is for us to reap.
    let (web, pause) = (web.wait()?, pod.pause.wait()?);
    let last_words = read_all(pod.last_words, "the last words of pause")?;
    fact("web", format!("ended by {}", ended(web)));
    fact("pause", format!("ended by {}, and said: {}", ended(pause), last_words.trim_end()));
    check("pause ended with status 0", pause.exit_status() == Some(0))?;
    check("web did not outlive it", web.terminating_signal() == Some(Signal::KILL.as_raw()))?;
    let children = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    check("we have no child left", children.err() == Some(Errno::CHILD))?;
    wait_for(&watch, "the volume is unmounted")?;
    let mut event = [MaybeUninit::uninit(); 64];
    let event = inotify::Reader::new(&watch, &mut event).next().context("inotify")?.events();
    check("the pod's mounts are gone", event.contains(inotify::ReadFlags::UNMOUNT))?;

    println!("\nAll of this was read from the kernel, and all of it holds.");
    Ok(())
}

/// Runs a command as the only container of a pod. Says its exit status, as a shell would.
fn run_in_pod(command: &[OsString]) -> Result<u8> {
    let pod = Pod::start()?;
    let folder = env::current_dir();
    let terminal = Terminal::of_ours();
    // We and the container may hand on the terminal, without being stopped for it.
    set_disposition(libc::SIGTTOU, libc::SIG_IGN);
    let container = pod.join(c"command", || {
        if let Some(terminal) = &terminal {
            // A shell in the pod could not even see the number of our process group.
            setpgid(None, None).context("setpgid")?;
            terminal.hand_to(getpid())?;
        }
        set_disposition(libc::SIGTTOU, libc::SIG_DFL);
        // To join a mount namespace is to stand in its root folder. Go back, if that is possible.
        if let Ok(folder) = folder {
            let _ = env::set_current_dir(folder);
        }
        let error = Command::new(&command[0]).args(&command[1..]).exec();
        eprintln!("pod: cannot run {:?}: {error}", command[0]);
        process::exit(if error.kind() == ErrorKind::NotFound { 127 } else { 126 })
    })?;
    let status = match &terminal {
        Some(terminal) => terminal.attend(&container)?,
        None => {
            // Ctrl-C and Ctrl-\ reach us, too. We stay to see what the command makes of them.
            set_disposition(libc::SIGINT, libc::SIG_IGN);
            set_disposition(libc::SIGQUIT, libc::SIG_IGN);
            container.wait_for_state(WaitIdOptions::EXITED)?
        }
    };
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    Ok(status.exit_status().or(signal).unwrap_or(125) as u8)
}

/// The terminal, with our process group in front, the one that reads keys and gets their signals.
///
/// It is handed to the process group of a container, and taken back.
struct Terminal(io::Stdin);

impl Terminal {
    /// There is none to hand on in a service, in the background, or where we are part of a pipeline
    /// like `pod ls | less`: then the container stays in our process group.
    fn of_ours() -> Option<Terminal> {
        let terminal = Terminal(io::stdin());
        (terminal.is_ours() && io::stdout().is_terminal()).then_some(terminal)
    }

    fn is_ours(&self) -> bool {
        tcgetpgrp(&self.0).is_ok_and(|group| group == getpgrp())
    }

    fn hand_to(&self, group: Pid) -> Result<()> {
        tcsetpgrp(&self.0, group).context("tcsetpgrp")
    }

    /// Waits for the end of a container that the terminal was handed to, and takes it back.
    fn attend(&self, container: &Process) -> Result<WaitIdStatus> {
        let mut is_in_front = true;
        loop {
            let status =
                container.wait_for_state(WaitIdOptions::EXITED | WaitIdOptions::STOPPED)?;
            if !status.stopped() {
                if is_in_front {
                    let _ = self.hand_to(getpgrp()); // The terminal may be gone.
                }
                return Ok(status);
            }
            // Ctrl-Z has stopped the container. We stop as well, for our shell to notice, and with us
            // our process group, as `cargo run` may be in it; `fg` or `bg` lets us go on here. But a
            // container that stops in the background because it wants the terminal, which `fg` has
            // made ours by now, has it at once.
            if !self.is_ours() {
                kill_current_process_group(Signal::TSTP).context("stop")?;
            }
            is_in_front = self.is_ours();
            if is_in_front {
                self.hand_to(container.pid)?;
            }
            kill_process_group(container.pid, Signal::CONT).context("continue")?;
        }
    }
}

/// Sets what a signal does.
fn set_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    // SAFETY: the dispositions here are SIG_IGN and SIG_DFL: no code of ours runs in a handler.
    unsafe { libc::signal(signal, disposition) };
}

/// A pod: its pause, and what can be seen of it from outside.
struct Pod {
    pause: Process,
    /// What pause writes to stderr.
    last_words: PipeReader,
    /// The pod's own /proc.
    proc: PathBuf,
}

impl Pod {
    /// Starts pause in new namespaces, and returns when it is ready.
    fn start() -> Result<Pod> {
        let program = podpause::memfd().context("put pause into memory")?;
        let runtime = pidfd_open(getpid(), PidfdFlags::empty()).context("pidfd_open")?;
        let (last_words, stderr) = io::pipe().context("pipe")?;
        let (ready, mut is_ready) = io::pipe().context("pipe")?;
        let (uid, gid) = (geteuid(), getegid());

        let pause = fork(NAMESPACES, move || {
            let Err(error) = set_up_pod(&runtime, uid, gid)
                .and_then(|()| become_pause(&program, &stderr, &is_ready));
            is_ready.write_all(error.as_bytes()).context("report")
        })
        .map_err(explain)?;
        // pause closes the pipe, its last act before it sleeps. Before that, it might miss SIGTERM.
        let error = read_all(ready, "pause gets ready")?;
        if !error.is_empty() {
            return Err(explain(error));
        }
        let proc = PathBuf::from(format!("/proc/{}/root/proc", pause.pid));
        Ok(Pod { pause, last_words, proc })
    }

    /// Starts a container: a process that joins the namespaces of the pod, to do some work there.
    ///
    /// A process cannot change its PID namespace, only choose that of its children. So a helper
    /// joins, and its child is the container; with CLONE_PARENT, it is our child nevertheless.
    fn join(&self, name: &CStr, work: impl FnOnce() -> Result<()>) -> Result<Process> {
        let (mut answer, mut to_us) = io::pipe().context("pipe")?;
        let helper = fork(0, move || {
            let namespaces = ThreadNameSpaceType::from_bits_retain(NAMESPACES as u32);
            move_into_thread_name_spaces(self.pause.fd.as_fd(), namespaces).context("setns")?;
            rustix::thread::set_name(name).context("name the container")?;
            let container = fork(libc::CLONE_PARENT, work)?;
            let pid = container.pid.as_raw_nonzero().get();
            to_us.write_all(&pid.to_ne_bytes()).context("report the container")?;
            mem::forget(container); // It is not the helper's to end.
            Ok(())
        })?;
        helper.succeed()?;
        let mut pid = [0; 4];
        answer.read_exact(&mut pid).context("a container's PID")?;
        let pid = Pid::from_raw(i32::from_ne_bytes(pid)).ok_or("a container's PID is 0")?;
        // The number cannot be another's by now: a child of ours keeps it until we reap the child.
        let fd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
        Ok(Process { pid, fd })
    }

    /// Starts the container `web`, and returns when it listens.
    fn start_web(&self) -> Result<Process> {
        let (listens, to_us) = io::pipe().context("pipe")?;
        let web = self.join(c"web", move || web(to_us))?;
        read_all(listens, "web listens")?;
        Ok(web)
    }

    /// Runs the container `client`. Returns what it heard from the network, and read in the volume.
    fn ask_web(&self) -> Result<(String, String)> {
        let (said, to_us) = io::pipe().context("pipe")?;
        let client = self.join(c"client", move || client(to_us))?;
        let said = read_all(said, "client reports")?;
        client.succeed()?;
        let (network, volume) = said.split_once('\n').ok_or("client said nothing")?;
        Ok((network.to_owned(), volume.to_owned()))
    }

    /// A field of pause's own status.
    fn pause_status(&self, field: &str) -> Result<String> {
        status_field(&self.proc.join("1"), field)
    }

    /// The processes in the pod, as the pod sees them.
    fn processes(&self) -> Result<Vec<Listed>> {
        let mut list = Vec::new();
        for entry in fs::read_dir(&self.proc).context("read the pod's /proc")? {
            let folder = entry.context("read the pod's /proc")?.path();
            let pid = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
            // A process may end while it is looked at: then it is not in the list.
            if let Some(pid) = pid
                && let Ok(process) = Listed::read(pid, &folder)
            {
                list.push(process);
            }
        }
        list.sort_by_key(|process| process.pid);
        Ok(list)
    }
}

/// Prepares a new pod from within, as its first process.
fn set_up_pod(runtime: &OwnedFd, uid: Uid, gid: Gid) -> Result<()> {
    // Should the runtime die, pause shall, and with PID 1 everything in the pod. The kernel keeps an
    // eye on the parent only from here on, so look once whether it had died before.
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl PR_SET_PDEATHSIG")?;
    let mut runtime = [PollFd::new(runtime, PollFlags::IN)];
    if poll(&mut runtime, Some(&Timespec::default())).context("poll")? > 0 {
        return Err("the runtime is dead".into());
    }
    // The keys of a terminal do not reach another session.
    setsid().context("setsid")?;

    // Whoever we are outside, we are root in here. Who maps its own group must give up setgroups.
    fs::write("/proc/self/setgroups", "deny").context("write /proc/self/setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("write /proc/self/uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("write /proc/self/gid_map")?;

    rustix::system::sethostname(b"pod").context("sethostname")?;
    // Mounts do not propagate out of a mount namespace that belongs to a new user namespace.
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", safe, None).context("mount /proc")?;
    mount("volume", VOLUME, "tmpfs", safe, c"mode=1777").context("mount the volume")?;
    set_up_loopback().context("set up the loopback")
}

/// Brings up the pod's loopback, with a second address.
fn set_up_loopback() -> io::Result<()> {
    let address = |address: Ipv4Addr| {
        let mut data = [0; 14]; // The port, which is 0, and the address.
        data[2..6].copy_from_slice(&address.octets().map(|octet| octet as libc::c_char));
        libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
    };
    set_interface("lo", libc::SIOCSIFFLAGS, |value| value.ifru_flags = libc::IFF_UP as _)?;
    set_interface("lo:pod", libc::SIOCSIFADDR, |value| value.ifru_addr = address(ADDRESS))?;
    set_interface("lo:pod", libc::SIOCSIFNETMASK, |value| {
        value.ifru_netmask = address(Ipv4Addr::BROADCAST)
    })
}

/// Sets one thing about a network interface; see netdevice(7).
fn set_interface(
    name: &str,
    request: libc::c_ulong,
    set: impl FnOnce(&mut libc::__c_anonymous_ifr_ifru),
) -> io::Result<()> {
    // SAFETY: `ifreq` is made of integers and of a pointer, all of which may be zero.
    let mut argument: libc::ifreq = unsafe { mem::zeroed() };
    // The name is shorter than its room: a zero byte follows.
    for (to, from) in argument.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    set(&mut argument.ifr_ifru);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?; // Any socket will do.
    // SAFETY: these requests read an `ifreq`, which `argument` is, and which lives until they return.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request as _, &raw const argument) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Executes pause from memory. There is no file of it, and it needs none.
fn become_pause(
    program: &OwnedFd,
    stderr: &PipeWriter,
    is_ready: &PipeWriter,
) -> Result<Infallible> {
    rustix::stdio::dup2_stderr(stderr).context("dup2")?;
    fcntl_setfd(is_ready, FdFlags::empty()).context("fcntl")?; // Otherwise, exec would close it.
    Err(format!("execute pause: {}", podpause::exec(program.as_fd())))
}

/// The container `web`: notes in the volume that it starts, and answers on the network.
fn web(listens: PipeWriter) -> Result<()> {
    let listener = TcpListener::bind((ADDRESS, PORT)).context("web: listen")?;
    let log = OpenOptions::new().append(true).create(true).open(LOG);
    writeln!(log.context("web: open the log")?, "web starts as PID {}", getpid())
        .context("web: write to the log")?;
    drop(listens); // The other end of the pipe is told by its end.
    loop {
        let (mut client, _) = listener.accept().context("web: accept")?;
        write!(client, "hello from web, PID {}, at {ADDRESS}:{PORT}", getpid())
            .context("web: answer")?;
    }
}

/// The container `client`: reports what `web` says on the network, and what it wrote in the volume.
fn client(mut report: PipeWriter) -> Result<()> {
    let web = SocketAddr::from((ADDRESS, PORT));
    let mut heard = String::new();
    let result = TcpStream::connect_timeout(&web, DEADLINE)
        .and_then(|mut stream| stream.read_to_string(&mut heard));
    if let Err(error) = result {
        heard = format!("{web}: {error}");
    }
    let log = fs::read_to_string(LOG).context("client: read the log")?;
    write!(report, "{heard}\n{log}").context("client: report")
}

/// A child of ours. It does not outlive this guard.
struct Process {
    pid: Pid,
    fd: OwnedFd,
}

impl Process {
    /// Kills the process. It is still to be waited for.
    fn kill(&self) -> Result<()> {
        pidfd_send_signal(&self.fd, Signal::KILL).context("kill")
    }

    /// Waits for the end of the process, and reaps it.
    fn wait(&self) -> Result<WaitIdStatus> {
        wait_for(&self.fd, &format!("process {} ends", self.pid))?;
        self.wait_for_state(WaitIdOptions::EXITED)
    }

    /// Waits for the end or another state of the process, however long it takes.
    fn wait_for_state(&self, states: WaitIdOptions) -> Result<WaitIdStatus> {
        let status = waitid(WaitId::PidFd(self.fd.as_fd()), states);
        status.context("waitid")?.ok_or("waitid says nothing".into())
    }

    /// Waits for the end of the process, which must be a success.
    fn succeed(self) -> Result<()> {
        let status = self.wait()?;
        if status.exit_status() == Some(0) {
            return Ok(());
        }
        Err(format!("process {} ended by {}", self.pid, ended(status)))
    }
}

impl Drop for Process {
    /// If the process was reaped already, both calls fail, and hit nobody else: it is a pidfd.
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = self.wait();
    }
}

/// Starts a child that does this work, and ends.
fn fork(flags: libc::c_int, work: impl FnOnce() -> Result<()>) -> Result<Process> {
    let mut pidfd: libc::c_int = -1;
    // With CLONE_PARENT, the child has the exit signal of the caller, and must not be given one.
    let exit_signal = if flags & libc::CLONE_PARENT == 0 { libc::SIGCHLD } else { 0 };
    // This is `struct clone_args` of the kernel, as long as it was at first: flags, pidfd,
    // child_tid, parent_tid, exit_signal, stack, stack_size, tls.
    let flags = (flags | libc::CLONE_PIDFD) as u64;
    let arguments = [flags, (&raw mut pidfd).addr() as u64, 0, 0, exit_signal as u64, 0, 0, 0];
    // SAFETY: the arguments are as described above, and `pidfd` is there to be written to. Without
    // CLONE_VM the child has memory of its own; as there is only one thread here, no lock in that
    // memory is held by a thread that the child lacks.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, arguments.as_ptr(), mem::size_of_val(&arguments))
    };
    match result {
        -1 => Err(format!("clone3: {}", io::Error::last_os_error())),
        0 => {
            let result = work();
            if let Err(error) = &result {
                eprintln!("pod: {error}");
            }
            // The guards that the child inherited are its parent's: exit drops none of them.
            process::exit(result.is_err().into())
        }
        pid => {
            // SAFETY: clone3 has opened it for us, and nobody else knows of it.
            let fd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Process { pid: Pid::from_raw(pid as i32).ok_or("clone3 returned 0")?, fd })
        }
    }
}

/// A line of the process list.
struct Listed {
    pid: i32,
    parent: i32,
    state: String,
    name: String,
    command: String,
}

impl Listed {
    fn read(pid: i32, folder: &Path) -> Result<Listed> {
        let command = fs::read(folder.join("cmdline")).context("cmdline")?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
        let parent = status_field(folder, "PPid")?.parse().context("PPid")?;
        let (state, name) = (status_field(folder, "State")?, status_field(folder, "Name")?);
        Ok(Listed { pid, parent, state, name, command })
    }
}

/// Shows a process list.
fn show(processes: &[Listed]) {
    println!("  {:>5} {:>5}  {:<14} {:<8} COMMAND", "PID", "PPID", "STATE", "NAME");
    for Listed { pid, parent, state, name, command } in processes {
        println!("  {pid:>5} {parent:>5}  {state:<14} {name:<8} {command}");
    }
}

/// A field of /proc/PID/status.
fn status_field(folder: &Path, field: &str) -> Result<String> {
    let path = folder.join("status");
    let status = fs::read_to_string(&path).context(path.display())?;
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) =
        lines.find(|(name, _)| *name == field).ok_or(format!("{}: no {field}", path.display()))?;
    Ok(value.trim().to_owned())
}

/// The namespaces of a process.
fn namespaces(pid: &str) -> Result<Vec<String>> {
    let identity = |name| {
        let path = format!("/proc/{pid}/ns/{name}");
        Ok(fs::read_link(&path).context(path)?.to_string_lossy().into_owned())
    };
    NAMESPACE_NAMES.into_iter().map(identity).collect()
}

/// Says how a process ended.
fn ended(status: WaitIdStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => format!("exit with status {status}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "unknown means".into(),
    }
}

/// Waits until there is something to read: the end of a process, from a pidfd.
fn wait_for(fd: impl AsFd, what: &str) -> Result<()> {
    let deadline = Timespec::try_from(DEADLINE).context(what)?;
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&deadline)).context(what)? {
        0 => Err(format!("{what}: this took more than {DEADLINE:?}")),
        _ => Ok(()),
    }
}

/// Reads until nobody has the other end of the pipe any more.
fn read_all(mut pipe: PipeReader, what: &str) -> Result<String> {
    let (mut text, mut part) = (Vec::new(), [0; 1024]);
    loop {
        wait_for(&pipe, what)?;
        match pipe.read(&mut part).context(what)? {
            0 => return String::from_utf8(text).context(what),
            length => text.extend_from_slice(&part[..length]),
        }
    }
}

/// Looks again and again, for what the kernel sends no message about.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        if start.elapsed() > DEADLINE {
            return Err(format!("{what}: this took more than {DEADLINE:?}"));
        }
        thread::yield_now();
    }
    Ok(())
}

/// Prints the title of a step.
fn title(text: &str) {
    println!("\n{text}");
}

/// Prints a fact.
fn fact(name: &str, value: impl Display) {
    println!("  {name:<16} {value}");
}

/// Prints a claim, which must hold.
fn check(claim: &str, holds: bool) -> Result<()> {
    if !holds {
        return Err(format!("this does not hold: {claim}"));
    }
    println!("  ok: {claim}");
    Ok(())
}

/// Adds to an error what the settings of this kernel have to do with it.
fn explain(error: String) -> String {
    let mut text = format!("no pod can be started here: {error}");
    let mut settings = vec![
        ("kernel.unprivileged_userns_clone".into(), "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns".into(), "1", "0"),
    ];
    for name in NAMESPACE_NAMES {
        settings.push((format!("user.max_{name}_namespaces"), "0", "10000"));
    }
    settings.retain(|(setting, forbids, _)| {
        let value = fs::read_to_string(format!("/proc/sys/{}", setting.replace('.', "/")));
        value.is_ok_and(|value| value.trim() == *forbids)
    });
    for (setting, forbids, allows) in &settings {
        text += &format!("\n  {setting} is {forbids}, which forbids it.");
        text += &format!(" Root allows it by: sysctl -w {setting}={allows}");
    }
    if settings.is_empty() {
        text += "\n  No sysctl forbids it. If this is a container, its seccomp filter may, or that";
        text += "\n  parts of its /proc are hidden. The kernel must be Linux 5.8 or newer.";
    }
    text
}

/// Says what was being done when an error happened.
trait Context<T> {
    fn context(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl Display) -> Result<T> {
        self.map_err(|error| format!("{doing}: {error}"))
    }
}
