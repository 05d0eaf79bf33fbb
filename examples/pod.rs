//! A pod in one file: what a container runtime does around `pause`.
//!
//! ```text
//! cargo run --example pod                 shows the life of a pod, step by step
//! cargo run --example pod -- COMMAND…     runs COMMAND in a pod
//! ```
//!
//! Any user who may create user namespaces can run it, on Linux 5.9 or newer. It needs no image, no runtime and no
//! other program. It is a demonstration, not a runtime: a container shares all namespaces of its pod, sees the machine's files, and
//! has no limits.
//!
//! Read `main` first, and then the functions below it in order. The containers are this program, executed
//! again under other names.

use std::env;
use std::ffi::{CString, OsString};
use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{self, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use podpause::{Container, Namespace, Program, Sandbox};
use procfs::process::{Process, Stat};
use rustix::mount::{MountFlags, mount};

/// The namespaces of a pod.
const NAMESPACES: [Namespace; 6] = [
    Namespace::User,
    Namespace::Pid,
    Namespace::Net,
    Namespace::Ipc,
    Namespace::Uts,
    Namespace::Mount,
];
/// The address of the pod. It is on the pod's loopback, so any address will do.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
/// The port on which the container `web` listens. In the pod's own namespaces, an ordinary user may use a low
/// port.
const PORT: u16 = 80;
/// The volume: a tmpfs that the containers of the pod share.
const VOLUME: &str = "/dev/shm";
/// A file in the volume, to which `web` adds a line at each start.
const LOG: &str = "/dev/shm/web.log";
/// How long the demonstration waits for the network and the kernel.
const DEADLINE: Duration = Duration::from_secs(10);

/// An error is a text for the person at the terminal.
type Result<T> = std::result::Result<T, String>;

/// Shows the life of a pod, step by step, or runs a command in a pod.
///
/// The exit status is that of the command, or 128 plus the number of the signal that ended it. It is 127
/// if there is no such command, 126 if the command cannot be run, and 125 if the pod failed.
#[derive(Parser)]
#[command(name = "pod", bin_name = "cargo run --example pod --", max_term_width = 100)]
struct Options {
    /// The command to run, with its arguments, as root of the pod. A shell there has no job control.
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let name = env::args().next().unwrap_or_default();
    if let Ok(name) = CString::new(name.rsplit('/').next().unwrap_or_default()) {
        let _ = rustix::thread::set_name(&name); // for the process list
    }
    let result = match name.as_str() {
        "set-up" => set_up().map(|()| 0),
        "web" => web().map(|()| 0),
        "client" => client().map(|()| 0),
        "daemon" => daemon().map(|()| 0),
        "orphan" => wait_for_release().map(|()| 0),
        "command" => Ok(command()),
        _ => match Options::parse().command.as_slice() {
            [] => demonstrate().map(|()| 0),
            command => run_in_pod(command),
        },
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("pod: {error}");
            ExitCode::from(125)
        }
    }
}

/// Shows the life of a pod, and checks each claim against the kernel.
fn demonstrate() -> Result<()> {
    // If the reader of stdout ends, as in `pod | head`, we end silently, as other programs do.
    set_action(libc::SIGPIPE, libc::SIG_DFL);

    title("A pod starts: pause is the first process in six new namespaces");
    let mut pod = Pod::start()?;
    let pid = pod.sandbox.pid();
    fact("program", format!("{} bytes, run from memory", podpause::ELF.len()));
    fact("process", format!("{pid} on this machine, 1 in the pod"));
    let mut are_new = true;
    for kind in NAMESPACES {
        let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{}", kind.name()));
        let its = link(&pid.to_string()).context("its namespace")?;
        let ours = link("self").context("our namespace")?;
        are_new &= its != ours;
        fact(kind.name(), format!("{:<18} outside {}", its.display(), ours.display()));
    }
    check("none of them is one of ours", are_new)?;

    title("Two containers join: they share a network, a volume and a process list");
    let mut web = pod.start_web()?;
    let (network, volume) = pod.ask_web()?;
    fact("client hears", &network);
    fact("client reads", volume.trim_end());
    check("they talk over the pod's loopback", network.starts_with("hello from web"))?;
    check("they share the volume", volume.lines().count() == 1)?;

    title("An orphan: a daemon ends and leaves its child behind, which pause adopts");
    // pause may still be awake: it reports readiness one system call before it sleeps.
    until("pause sleeps", || Ok(pod.process(1)?.state == 'S'))?;
    let switches_before = pod.context_switches()?;
    let (hold, release) = io::pipe().context("pipe")?;
    pod.run("daemon", |command| command.stdin(hold))?;
    let orphan = pod.processes()?.into_iter().find(|process| process.ppid == 1);
    show(&pod.processes()?);
    // The parent of a container is outside the pod, so the pod sees the parent's id as 0.
    check("the orphan is now a child of PID 1", orphan.is_some())?;
    let orphan = orphan.map(|process| process.pid);

    title("The orphan ends: the kernel reaps it on behalf of pause, which sleeps on");
    drop(release);
    until("the orphan is gone", || Ok(pod.processes()?.iter().all(|p| Some(p.pid) != orphan)))?;
    show(&pod.processes()?);
    let switches = pod.context_switches()?;
    fact("context switches", format!("{switches_before} before, {switches} now"));
    check("no zombie is left", pod.processes()?.iter().all(|process| process.state != 'Z'))?;
    check("pause was not woken", switches == switches_before)?;

    title("What pause costs");
    let status = Process::new(pid as i32).and_then(|pause| pause.status()).context("status")?;
    for (field, kib, meaning) in [
        ("VmRSS", status.vmrss, "memory"),
        ("RssAnon", status.rssanon, "of that, its own: the rest is the text of the program"),
        ("VmPTE", status.vmpte, "page tables"),
    ] {
        fact(field, format!("{:>2} kB  {meaning}", kib.unwrap_or_default()));
    }
    // If the kernel lacks CONFIG_CHECKPOINT_RESTORE, pause works but keeps its start stack, so this check can
    // fail.
    let page_kib = procfs::page_size() / 1_024;
    check("its own memory is one page", status.rssanon.is_some_and(|kib| kib <= page_kib))?;

    title("A container is restarted: the pod keeps its address");
    web.kill().context("kill web")?;
    fact("web", format!("ended by {}", web.wait().context("wait for web")?));
    let (network, _) = pod.ask_web()?;
    fact("client hears", &network);
    // The pod itself refuses the connection. Without the address, it would be unreachable.
    check("nobody listens, but the address is there", network.contains("refused"))?;
    let mut web = pod.start_web()?;
    let (network, volume) = pod.ask_web()?;
    fact("client hears", &network);
    volume.lines().for_each(|line| fact("client reads", line));
    check("web answers at the same address", network.starts_with("hello from web"))?;
    check("the volume has the lines of both starts", volume.lines().count() == 2)?;

    title("The pod ends by SIGTERM: the kernel kills what is still in it");
    use rustix::process::{Signal, pidfd_send_signal};
    pidfd_send_signal(pod.sandbox.pidfd(), Signal::TERM).context("SIGTERM to pause")?;
    // PID 1 is gone only after everything else in its namespace is reaped, and web is ours to reap.
    let web = web.wait().context("wait for web")?;
    let pause = pod.sandbox.wait().context("wait for pause")?;
    let last_words = io::read_to_string(pod.last_words).context("its last words")?;
    fact("web", format!("ended by {web}"));
    fact("pause", format!("ended by {pause}, and said: {}", last_words.trim_end()));
    check("pause ended with status 0", pause.code() == Some(0))?;
    check("web did not outlive it", web.signal() == Some(Signal::KILL.as_raw()))?;

    println!("\nAll of this was read from the kernel, and all checks passed.");
    Ok(())
}

/// Runs a command as the only container of a pod. Returns its exit status, as a shell would report it.
fn run_in_pod(command: &[OsString]) -> Result<u8> {
    let pod = Pod::start()?;
    let folder = env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let mut container = pod.container("command", |run| run.arg(folder).args(command))?;
    // Ctrl-C and Ctrl-\ reach this program, too. It ignores them, so the command decides whether to end.
    set_action(libc::SIGINT, libc::SIG_IGN);
    set_action(libc::SIGQUIT, libc::SIG_IGN);
    let status = container.wait().context("wait for the command")?;
    let signal = status.signal().map(|signal| 128 + signal);
    Ok(status.code().or(signal).unwrap_or(125) as u8)
}

/// Sets the action of a signal.
fn set_action(signal: libc::c_int, action: libc::sighandler_t) {
    // SAFETY: the callers pass only SIG_IGN and SIG_DFL, so no code of ours runs in a handler.
    unsafe { libc::signal(signal, action) };
}

/// The container `command`: changes to the directory in its first argument, and executes the other arguments.
fn command() -> u8 {
    let mut arguments = env::args_os().skip(1);
    // Joining a mount namespace changed the working directory to the root directory.
    if let Some(folder) = arguments.next() {
        let _ = env::set_current_dir(folder);
    }
    let Some(program) = arguments.next() else { return 127 };
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("pod: cannot run {}: {error}", program.display());
    if error.kind() == ErrorKind::NotFound { 127 } else { 126 }
}

/// A pod: its sandbox, and what pause writes.
struct Pod {
    sandbox: Sandbox,
    /// What pause writes to stderr.
    last_words: io::PipeReader,
}

impl Pod {
    /// Starts pause in new namespaces, and sets up what the pod's containers share.
    fn start() -> Result<Pod> {
        let program = Program::new().context("put pause into memory")?;
        let (last_words, stderr) = io::pipe().context("pipe")?;
        let sandbox = program.sandbox().new_namespaces(NAMESPACES).host_name("pod");
        // If this program dies, pause must die, too. pause is PID 1, so everything in the pod dies with it.
        let sandbox =
            sandbox.stderr(stderr).kill_with_parent().spawn().map_err(|e| e.to_string())?;
        let pod = Pod { sandbox, last_words };
        pod.run("set-up", |command| command)?;
        Ok(pod)
    }

    /// Starts this program as a container.
    fn container(
        &self,
        name: &str,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Container> {
        let mut command = Command::new("/proc/self/exe");
        with(command.arg0(name));
        self.sandbox.start(command).context(name)
    }

    /// Runs a container until it ends, and returns its output. It is an error if the container fails.
    fn run(&self, name: &str, with: impl FnOnce(&mut Command) -> &mut Command) -> Result<String> {
        let mut container = self.container(name, |command| with(command).stdout(Stdio::piped()))?;
        let stdout = container.stdout.take().ok_or("no stdout")?;
        let said = io::read_to_string(stdout).context(name)?;
        match container.wait().context(name)? {
            status if status.success() => Ok(said),
            status => Err(format!("{name}: {status}")),
        }
    }

    /// Starts the container `web`, and returns when `web` listens.
    fn start_web(&self) -> Result<Container> {
        let mut web = self.container("web", |command| command.stdout(Stdio::piped()))?;
        let mut line = String::new();
        BufReader::new(web.stdout.take().ok_or("no stdout")?)
            .read_line(&mut line)
            .context("web")?;
        check("web listens", line == "listening\n").map(|()| web)
    }

    /// Runs the container `client`. Returns what the client read from the network and from the volume.
    fn ask_web(&self) -> Result<(String, String)> {
        let said = self.run("client", |command| command)?;
        let (network, volume) = said.split_once('\n').ok_or("client said nothing")?;
        Ok((network.to_owned(), volume.to_owned()))
    }

    /// The processes in the pod, as the pod's own /proc shows them.
    fn processes(&self) -> Result<Vec<Stat>> {
        let root = format!("/proc/{}/root/proc", self.sandbox.pid());
        let processes = procfs::process::all_processes_with_root(root).context("processes")?;
        // A process that ends meanwhile is left out of the list.
        let mut list: Vec<_> = processes.filter_map(|process| process.ok()?.stat().ok()).collect();
        list.sort_by_key(|process| process.pid);
        Ok(list)
    }

    fn process(&self, pid: i32) -> Result<Stat> {
        let found = self.processes()?.into_iter().find(|process| process.pid == pid);
        found.ok_or(format!("the pod has no process {pid}"))
    }

    /// How often pause has gone to sleep: its voluntary context switches.
    fn context_switches(&self) -> Result<u64> {
        let pause = Process::new(self.sandbox.pid() as i32).and_then(|pause| pause.status());
        pause.context("status")?.voluntary_ctxt_switches.ok_or("no context switches".into())
    }
}

/// The container `set-up`: mounts the pod's /proc and volume, and sets up its network.
fn set_up() -> Result<()> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", safe, None).context("mount /proc")?;
    mount("volume", VOLUME, "tmpfs", safe, c"mode=1777").context("mount the volume")?;
    set_up_loopback().context("set up the loopback")
}

/// Brings up the pod's loopback, with a second address.
fn set_up_loopback() -> io::Result<()> {
    let address = |address: Ipv4Addr| {
        let mut data = [0; 14]; // the port, which is 0, and the address
        data[2..6].copy_from_slice(&address.octets().map(|octet| octet as libc::c_char));
        libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
    };
    set_interface("lo", libc::SIOCSIFFLAGS, |value| value.ifru_flags = libc::IFF_UP as _)?;
    set_interface("lo:pod", libc::SIOCSIFADDR, |value| value.ifru_addr = address(ADDRESS))?;
    set_interface("lo:pod", libc::SIOCSIFNETMASK, |value| {
        value.ifru_netmask = address(Ipv4Addr::BROADCAST)
    })
}

/// Sets one property of a network interface. See netdevice(7).
fn set_interface(
    name: &str,
    request: libc::c_ulong,
    set: impl FnOnce(&mut libc::__c_anonymous_ifr_ifru),
) -> io::Result<()> {
    // SAFETY: `ifreq` consists of integers and a pointer, all of which may be zero.
    let mut argument: libc::ifreq = unsafe { std::mem::zeroed() };
    // The name is shorter than the array, so a zero byte follows it.
    for (to, from) in argument.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    set(&mut argument.ifr_ifru);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?; // Any socket will do.
    // SAFETY: these requests read an `ifreq`. `argument` is one, and lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request as _, &raw const argument) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The container `web`: adds a line to the log in the volume, and answers on the network.
fn web() -> Result<()> {
    let listener = TcpListener::bind((ADDRESS, PORT)).context("web: listen")?;
    let log = OpenOptions::new().append(true).create(true).open(LOG);
    writeln!(log.context("web: open the log")?, "web starts as PID {}", process::id())
        .context("web: write to the log")?;
    println!("listening");
    loop {
        let (mut client, _) = listener.accept().context("web: accept")?;
        write!(client, "hello from web, PID {}, at {ADDRESS}:{PORT}", process::id())
            .context("web: answer")?;
    }
}

/// The container `client`: prints what `web` says on the network, and what `web` wrote in the volume.
fn client() -> Result<()> {
    let web = SocketAddr::from((ADDRESS, PORT));
    let mut heard = String::new();
    let result = TcpStream::connect_timeout(&web, DEADLINE)
        .and_then(|mut stream| stream.read_to_string(&mut heard));
    if let Err(error) = result {
        heard = format!("{web}: {error}");
    }
    print!("{heard}\n{}", fs::read_to_string(LOG).context("client: read the log")?);
    Ok(())
}

/// The container `daemon`: starts a process, and ends before that process does.
fn daemon() -> Result<()> {
    let mut orphan = Command::new("/proc/self/exe");
    orphan.arg0("orphan").stdout(Stdio::null()).spawn().context("daemon: start a process").map(drop)
}

/// The orphan: waits for the end of its standard input.
fn wait_for_release() -> Result<()> {
    io::stdin().read_to_end(&mut Vec::new()).context("orphan: wait").map(drop)
}

/// Shows a process list.
fn show(processes: &[Stat]) {
    println!("  {:>5} {:>5}  STATE  NAME", "PID", "PPID");
    for Stat { pid, ppid, state, comm, .. } in processes {
        println!("  {pid:>5} {ppid:>5}  {state:<5}  {comm}");
    }
}

/// Polls until the condition holds, for events that the kernel does not announce.
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

/// Prints a claim, or returns an error if it does not hold.
fn check(claim: &str, holds: bool) -> Result<()> {
    if !holds {
        return Err(format!("this does not hold: {claim}"));
    }
    println!("  ok: {claim}");
    Ok(())
}

/// Adds to an error what the program was doing.
trait Context<T> {
    fn context(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl Display) -> Result<T> {
        self.map_err(|error| format!("{doing}: {error}"))
    }
}
