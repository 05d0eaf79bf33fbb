//! Starts processes the way a container runtime does, and looks at them from outside.
//!
//! All that is unsafe in the tests is here. Every process has a guard that kills and reaps it, and
//! every wait has a deadline.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read, Seek};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use procfs::process::{Process as Proc, Stat, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

pub(crate) use crate::report::skip;
use crate::start::{StackString, StartStack};

/// How long anything may take before a test fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The program under test: the file that cargo linked.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pause"))
}

/// Whether the tests run as root, which then need no user namespace of their own.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What the child does before it becomes the body. It runs in a copy of a process with threads, so
/// it must not allocate: it makes system calls, and nothing else.
type Step = Box<dyn FnMut() -> io::Result<()>>;

/// What a process runs.
pub enum Body {
    File(PathBuf),
    /// A memfd or an open file.
    Descriptor(OwnedFd),
    /// pause, without a program.
    Run,
    /// Runs in the copy of the test, under the rule for steps, without any descriptor above stderr
    /// but those that are kept for it.
    Function(Box<dyn FnMut() -> i32>),
}

/// The three forms in which pause comes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Form {
    /// The file that cargo linked.
    File,
    /// The memfd of the library.
    Memfd,
    /// The library's `run`, in a copy of the test.
    Run,
}

impl Form {
    /// pause as an ordinary process, with the name `/pause`.
    pub fn start(self) -> Start {
        Start::body(match self {
            Self::File => Body::File(program()),
            Self::Memfd => Body::Descriptor(podpause::memfd().unwrap()),
            Self::Run => Body::Run,
        })
    }

    /// pause as PID 1 of a new PID namespace.
    pub fn pid1(self) -> Start {
        self.start().namespaces(libc::CLONE_NEWPID)
    }
}

/// Makes tests of these functions, one for each form of pause.
macro_rules! test_each_form {
    ($($name:ident)*) => {$(
        mod $name {
            use crate::harness::Form;

            #[test]
            fn file() {
                super::$name(Form::File);
            }

            #[test]
            fn memfd() {
                super::$name(Form::Memfd);
            }

            #[test]
            fn run() {
                super::$name(Form::Run);
            }
        }
    )*};
}
pub(crate) use test_each_form;

/// A process that is to be started.
pub struct Start {
    body: Body,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    namespaces: libc::c_int,
    stdio: [Option<OwnedFd>; 3],
    blocked: SignalMask,
    kept: Vec<OwnedFd>,
    steps: Vec<Step>,
    is_traced: bool,
}

/// The mask of signals that a process starts with.
#[derive(Clone, Copy, PartialEq)]
pub enum SignalMask {
    /// All are blocked: none can be lost before the program's first instruction.
    All,
    None,
}

impl Start {
    /// The program under test as an ordinary process, with the name `/pause`.
    pub fn new() -> Self {
        Form::File.start()
    }

    /// The program under test as PID 1 of a new PID namespace.
    pub fn pid1() -> Self {
        Form::File.pid1()
    }

    /// A process that sleeps for ever and reaps nobody: a negative control.
    pub fn sleeper() -> Self {
        Self::body(Body::Function(Box::new(|| {
            loop {
                // SAFETY: pause(2) has no arguments, and no memory to touch.
                unsafe { libc::pause() };
            }
        })))
    }

    pub fn body(body: Body) -> Self {
        Self {
            body,
            arguments: vec![c"/pause".into()],
            environment: Vec::new(),
            namespaces: 0,
            stdio: [None, None, None],
            blocked: SignalMask::All,
            kept: Vec::new(),
            steps: Vec::new(),
            is_traced: false,
        }
    }

    /// These arguments behind the name.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|text| CString::new(*text).unwrap()));
        self
    }

    /// All arguments, with the name.
    pub fn argv(mut self, arguments: Vec<CString>) -> Self {
        self.arguments = arguments;
        self
    }

    pub fn environment(mut self, environment: Vec<CString>) -> Self {
        self.environment = environment;
        self
    }

    /// New namespaces (CLONE_NEW…), beside a user namespace where the tests do not run as root.
    pub fn namespaces(mut self, namespaces: libc::c_int) -> Self {
        self.namespaces |= namespaces;
        self
    }

    pub fn stdout(mut self, file: impl Into<OwnedFd>) -> Self {
        self.stdio[1] = Some(file.into());
        self
    }

    pub fn stderr(mut self, file: impl Into<OwnedFd>) -> Self {
        self.stdio[2] = Some(file.into());
        self
    }

    pub fn blocked(mut self, mask: SignalMask) -> Self {
        self.blocked = mask;
        self
    }

    /// Hands this descriptor over to a function, which knows its number.
    pub fn keeping(mut self, file: impl Into<OwnedFd>) -> Self {
        self.kept.push(file.into());
        self
    }

    /// Something that the child does before it executes the program: system calls only.
    pub fn step(mut self, step: impl FnMut() -> io::Result<()> + 'static) -> Self {
        self.steps.push(Box::new(step));
        self
    }

    /// Ignores a signal before the program starts.
    pub fn ignoring(self, signal: i32) -> Self {
        self.step(move || set_handler(signal, libc::SIG_IGN))
    }

    /// Makes a system call fail with this error, from the program's first instruction on.
    pub fn denying(self, number: libc::c_long, errno: i32) -> Self {
        self.filtered(deny(number as u32, errno))
    }

    /// Puts a seccomp filter on the program.
    pub fn filtered(self, filter: Vec<libc::sock_filter>) -> Self {
        self.step(move || set_filter(&filter))
    }

    /// Runs the program to its end, and notes each of its system calls. It is sent a SIGTERM as soon
    /// as it waits for a signal.
    pub fn trace(mut self) -> Trace {
        self.is_traced = true;
        self.spawn().trace()
    }

    pub fn spawn(self) -> Process {
        self.try_spawn().unwrap_or_else(|error| panic!("a process could not be started: {error}"))
    }

    /// Starts the process. The error is that of the step or of the execve that failed.
    pub fn try_spawn(mut self) -> io::Result<Process> {
        if !is_root() && self.namespaces & !libc::CLONE_NEWUSER != 0 {
            self.namespaces |= libc::CLONE_NEWUSER;
        }
        let stderr = match &self.stdio[2] {
            Some(_) => None,
            None => {
                let file = rustix::fs::memfd_create("stderr", MemfdFlags::CLOEXEC)?;
                self.stdio[2] = Some(file.try_clone()?);
                Some(fs::File::from(file))
            }
        };
        // One start at a time: no child has a copy of the write end of another's pipe.
        static STARTING: Mutex<()> = Mutex::new(());
        let _starting = STARTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());

        TESTS.get_or_init(|| pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap());
        let (ready, ready_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (failure, failure_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // Holds the child until its user namespace has its maps.
        let (go, go_writer) = pipe_with(PipeFlags::CLOEXEC)?;

        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let argv = pointers(&self.arguments);
        let envp = pointers(&self.environment);
        let path = match &self.body {
            Body::File(path) => CString::new(path.as_os_str().as_encoded_bytes()).unwrap(),
            _ => CString::default(),
        };
        self.kept.sort_by_key(AsRawFd::as_raw_fd);
        let mut child = || -> io::Result<()> {
            wait_for_end_of_file(go.as_fd())?;
            for (number, file) in self.stdio.iter().enumerate() {
                match file {
                    Some(file) => duplicate(file.as_fd(), number as RawFd)?,
                    None => open_null(number as RawFd)?,
                }
            }
            for signal in 1..=64 {
                // It fails for those that cannot be handled.
                let _ = set_handler(signal, libc::SIG_DFL);
            }
            keep_across_execve(ready_writer.as_fd())?;
            die_with_parent()?;
            for step in &mut self.steps {
                step()?;
            }
            if self.blocked == SignalMask::None {
                set_mask(&empty_set());
            }
            match &mut self.body {
                Body::File(_) => execve(&path, &argv, &envp),
                Body::Descriptor(file) => execveat(file.as_fd(), &argv, &envp),
                // SAFETY: the child of a clone has one thread, and nothing else runs in it.
                Body::Run => unsafe { podpause::run() },
                Body::Function(function) => {
                    close_all_but(self.kept.iter().map(AsRawFd::as_raw_fd));
                    exit(function())
                }
            }
        };

        // A signal that arrives between the clone and the program must stay pending. SIGTERM, say,
        // to a PID 1 with default actions would be dropped.
        let mask = set_mask(&full_set());
        let cloned = clone3(self.namespaces);
        if let Ok(None) = cloned {
            close(go_writer.as_raw_fd());
            let error = child().err().and_then(|error| error.raw_os_error()).unwrap_or(0);
            let _ = rustix::io::write(&failure_writer, &error.to_ne_bytes());
            exit(127)
        }
        set_mask(&mask);
        let Some((pid, pidfd)) = cloned? else { unreachable!() };
        let process = Process { pid, pidfd, ready, stderr, is_reaped: false };

        if self.namespaces & libc::CLONE_NEWUSER != 0 {
            process.map_ids()?;
        }
        if self.is_traced {
            seize(process.pid)?;
        }
        drop((go_writer, failure_writer, ready_writer));
        // The end of this pipe is the execve, which closes it.
        process.wait_for(failure.as_fd(), "its execve");
        let mut errno = [0; 4];
        match rustix::io::read(&failure, &mut errno)? {
            0 => Ok(process),
            _ => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
        }
    }
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum End {
    Exit(i32),
    Killed(i32),
}

/// The system calls of a process, and how it ended.
pub struct Trace {
    /// The numbers of the calls and their results, in order. One that does not return has none.
    pub calls: Vec<(libc::c_long, Option<i64>)>,
    pub end: End,
    pub messages: String,
}

/// A process that runs. It is killed and reaped when this is dropped.
pub struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
    ready: OwnedFd,
    stderr: Option<fs::File>,
    is_reaped: bool,
}

impl Process {
    /// A process that somebody else started, and reaps.
    pub fn found(pid: i32) -> Self {
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty());
        let ready = rustix::fs::memfd_create("none", MemfdFlags::CLOEXEC).unwrap();
        Self { pid, pidfd: pidfd.unwrap(), ready, stderr: None, is_reaped: false }
    }

    /// Waits until pause is armed, and all that it does at its start is done: it closes inherited
    /// descriptors last, and among them the write end of a pipe.
    pub fn ready(self) -> Self {
        self.wait_for(self.ready.as_fd(), "it to be ready");
        let mut byte = [0];
        let count = rustix::io::read(&self.ready, &mut byte).unwrap();
        assert_eq!(count, 0, "nobody writes to the pipe");
        self
    }

    /// Waits until pause is ready and sleeps: then all that could wake it has been handled.
    pub fn asleep(self) -> Self {
        let this = self.ready();
        this.sleeps();
        this
    }

    /// Waits until the process sleeps in `rt_sigtimedwait`.
    pub fn sleeps(&self) {
        let call = format!("{} ", libc::SYS_rt_sigtimedwait);
        self.until("sleeps in rt_sigtimedwait", || {
            self.read_proc("syscall").starts_with(&call) && self.stat().state == 'S'
        });
    }

    pub fn send(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).unwrap();
    }

    pub fn send_number(&self, signal: i32) {
        send_signal(self.pidfd.as_fd(), signal).unwrap();
    }

    /// Waits for the end, and reaps.
    pub fn end(&mut self) -> End {
        self.wait_for(self.pidfd.as_fd(), "its end");
        let options = WaitIdOptions::EXITED;
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), options).unwrap().unwrap();
        self.is_reaped = true;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Exit(code),
            (_, Some(signal)) => End::Killed(signal),
            _ => panic!("{status:?} is no end"),
        }
    }

    fn trace(mut self) -> Trace {
        let mut calls = Vec::new();
        let end = loop {
            let mut status = None;
            // A stop does not show on the pidfd, and so does not end this wait early.
            let start = Instant::now();
            while status.is_none() {
                assert!(start.elapsed() < DEADLINE, "process {} does not stop", self.pid);
                status = wait_for_stop(self.pid);
                if status.is_none() {
                    is_readable(self.pidfd.as_fd(), Duration::from_millis(1));
                }
            }
            match status.unwrap() {
                Stop::End(end) => break end,
                Stop::Entry(number) => {
                    assert!(calls.len() < 100, "it does not come to an end: {calls:?}");
                    calls.push((number, None));
                    if number == libc::SYS_rt_sigtimedwait {
                        self.send(Signal::TERM);
                    }
                }
                // The first return is that of the execve.
                Stop::Return(result) => {
                    if let Some(call) = calls.last_mut() {
                        call.1 = Some(result);
                    }
                }
                Stop::Signal(signal) => {
                    go_on(self.pid, signal);
                    continue;
                }
                Stop::Other => {}
            }
            go_on(self.pid, 0);
        };
        self.is_reaped = true;
        Trace { calls, end, messages: self.messages() }
    }

    /// Ends pause with a SIGTERM, which gives status 0.
    pub fn terminate(mut self) {
        self.send(Signal::TERM);
        assert_eq!(self.end(), End::Exit(0));
    }

    /// What was written to stderr so far.
    pub fn messages(&mut self) -> String {
        let file = self.stderr.as_mut().expect("stderr was not redirected");
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    /// Whether it is still there, and not a zombie.
    pub fn lives(&self) -> bool {
        !is_readable(self.pidfd.as_fd(), Duration::ZERO)
    }

    pub fn proc(&self) -> Proc {
        Proc::new(self.pid).unwrap()
    }

    pub fn status(&self) -> Status {
        self.proc().status().unwrap()
    }

    pub fn stat(&self) -> Stat {
        self.proc().stat().unwrap()
    }

    pub fn read_proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap_or_default()
    }

    /// How often it was given or left the CPU.
    pub fn context_switches(&self) -> u64 {
        let status = self.status();
        status.voluntary_ctxt_switches.unwrap() + status.nonvoluntary_ctxt_switches.unwrap()
    }

    /// Its children.
    pub fn children(&self) -> Vec<Stat> {
        let processes = procfs::process::all_processes().unwrap();
        let stats = processes.filter_map(|process| process.ok()?.stat().ok());
        stats.filter(|stat| stat.ppid == self.pid).collect()
    }

    /// Its children that are dead and not reaped.
    pub fn zombies(&self) -> usize {
        self.children().iter().filter(|stat| stat.state == 'Z').count()
    }

    /// Waits until something is so. It looks again every millisecond, or when the process ends.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(self.lives(), "process {} ended before it {what}", self.pid);
            assert!(start.elapsed() < DEADLINE, "process {} never {what}", self.pid);
            is_readable(self.pidfd.as_fd(), Duration::from_millis(1));
        }
    }

    /// A child of the tests that will have joined these namespaces of the process, and then runs this
    /// function, under the rule for steps. To be in a PID namespace it has to fork once more.
    pub fn join(&self, namespaces: libc::c_int, run: impl FnMut() -> i32 + 'static) -> Start {
        let pidfd = self.pidfd.try_clone().unwrap();
        let namespaces = match is_root() {
            true => namespaces,
            false => namespaces | libc::CLONE_NEWUSER,
        };
        Start::body(Body::Function(Box::new(run)))
            .step(move || set_namespaces(pidfd.as_fd(), namespaces))
    }

    /// As [`join`](Self::join), but one namespace by its file, as nsenter(1) does: `net`, say.
    pub fn join_by_file(&self, name: &str, run: impl FnMut() -> i32 + 'static) -> Start {
        let open = |name: &str| fs::File::open(format!("/proc/{}/ns/{name}", self.pid)).unwrap();
        let user = (!is_root() && name != "user").then(|| open("user"));
        let files: Vec<fs::File> = user.into_iter().chain([open(name)]).collect();
        Start::body(Body::Function(Box::new(run)))
            .step(move || files.iter().try_for_each(|file| set_namespaces(file.as_fd(), 0)))
    }

    /// Makes the caller root in the user namespace of the process.
    fn map_ids(&self) -> io::Result<()> {
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        let file = |name: &str| format!("/proc/{}/{name}", self.pid);
        fs::write(file("setgroups"), "deny")?;
        fs::write(file("uid_map"), format!("0 {} 1", uid.as_raw()))?;
        fs::write(file("gid_map"), format!("0 {} 1", gid.as_raw()))
    }

    fn wait_for(&self, file: BorrowedFd, what: &str) {
        assert!(is_readable(file, DEADLINE), "process {} took too long for {what}", self.pid);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_reaped {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}

/// Whether there is something to read, or the end, within this time.
pub fn is_readable(file: BorrowedFd, within: Duration) -> bool {
    let start = Instant::now();
    loop {
        let left = within.saturating_sub(start.elapsed());
        let mut files = [PollFd::from_borrowed_fd(file, PollFlags::IN)];
        match poll(&mut files, Some(&Timespec::try_from(left).unwrap())) {
            Ok(count) => return count == 1,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// Copies the program. Another process does it: a child that is forked meanwhile would have a copy of
/// our descriptor for writing, and a file that is open for writing cannot be executed.
pub fn copy_program(to: &Path) {
    let status = std::process::Command::new("cp").arg(program()).arg(to).status().unwrap();
    assert!(status.success());
}

/// A copy of the program that others than its owner can execute.
pub fn readable_copy(folder: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let copy = folder.join("pause");
    copy_program(&copy);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// Memory behind which nothing can be read: who reads a byte too many ends by SIGSEGV.
pub struct GuardedMemory {
    start: *mut libc::c_void,
    /// In bytes, without the page that cannot be read.
    length: usize,
}

impl GuardedMemory {
    /// Memory with these bytes at its end.
    pub fn new(bytes: &[u8]) -> Self {
        let length = bytes.len().next_multiple_of(rustix::param::page_size());
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let (null, readable) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        let whole = length + rustix::param::page_size();
        // SAFETY: without MAP_FIXED, the kernel takes addresses where nothing is.
        let start = unsafe { libc::mmap(null, whole, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        // SAFETY: these are pages of the new mapping, which nobody else knows.
        check(unsafe { libc::mprotect(start, length, readable) }.into()).unwrap();
        // SAFETY: the mapping is at least as long as the bytes.
        let to = unsafe { start.cast::<u8>().add(length - bytes.len()) };
        // SAFETY: from there to its last byte that can be written, it is as long as the bytes.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Self { start, length }
    }

    /// Where it ends.
    pub fn end(&self) -> usize {
        self.start.expose_provenance() + self.length
    }
}

impl Drop for GuardedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and so long; what points there has ended before.
        unsafe { libc::munmap(self.start, self.length + rustix::param::page_size()) };
    }
}

/// The bytes of a string on a start stack, without the zero that ends it.
pub fn bytes_of(text: StackString) -> Vec<u8> {
    // SAFETY: `take_while` goes no further than the zero byte.
    (0..).map(|index| unsafe { text.byte(index) }).take_while(|byte| *byte != 0).collect()
}

/// The start stack at this address.
pub fn start_stack(address: usize) -> StartStack {
    let stack = std::ptr::with_exposed_provenance(address);
    // SAFETY: the caller has laid out a start stack there, which outlives what is made from it.
    unsafe { StartStack::new(stack) }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// Forks into these new namespaces: `None` in the child.
fn clone3(namespaces: libc::c_int) -> io::Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: the struct is made of integers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (libc::CLONE_PIDFD | namespaces) as u64;
    arguments.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    let size = size_of::<libc::clone_args>();
    // SAFETY: without CLONE_VM the child has a copy of the memory, this stack among it, and returns
    // here as fork(2) does. It then only makes system calls, by the rule for steps.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel made this descriptor for us, and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some((pid as i32, pidfd)))
}

/// Forks. For use in a child: there is no guard, and the new process must end by itself.
/// Returns its id, or 0 in it.
pub fn fork() -> i32 {
    fork_with(libc::SIGCHLD)
}

/// Forks with another signal, or none, for the end of the child.
pub fn fork_with(exit_signal: libc::c_int) -> i32 {
    // SAFETY: without CLONE_VM this is fork(2), but for the signal: see `clone3`.
    unsafe { libc::syscall(libc::SYS_clone, exit_signal, 0, 0, 0, 0) as i32 }
}

/// Waits for the end of one child. Returns its exit status, or -1 where it did not exit.
pub fn wait_for_child(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the kernel writes one int to `status`.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    match waited == pid && libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status),
        false => -1,
    }
}

/// Waits until a child is dead, and leaves it a zombie.
pub fn wait_for_zombie(pid: i32) {
    // SAFETY: the struct is plain data, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
    // SAFETY: the kernel writes one siginfo_t.
    unsafe { libc::waitid(libc::P_PID, pid as u32, &raw mut info, options) };
}

/// Ends the process at once, without any handler or destructor.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes a number, and does not return.
    unsafe { libc::_exit(status) }
}

pub fn close(file: RawFd) {
    // SAFETY: close(2) takes a number. This is for children, whose copies of owned descriptors are
    // never dropped.
    unsafe { libc::close(file) };
}

/// Closes all descriptors above stderr but these, which are in order. A child that lives on does
/// this first: else it would keep pipes open whose end somebody waits for.
pub fn close_all_but(kept: impl IntoIterator<Item = RawFd>) {
    let mut first = 3;
    for file in kept.into_iter().map(|file| file as u32) {
        if first < file {
            // SAFETY: for the same reason as in `close`.
            unsafe { libc::syscall(libc::SYS_close_range, first, file - 1, 0) };
        }
        first = file + 1;
    }
    // SAFETY: for the same reason.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Waits until there is a byte to read, or the end. Returns the number of bytes, 0 or 1.
pub fn read_byte(file: RawFd) -> i32 {
    let mut byte = 0_u8;
    // SAFETY: the kernel writes at most one byte.
    unsafe { libc::read(file, (&raw mut byte).cast(), 1) as i32 }
}

/// Ends this thread, the leader of its process, and leaves another behind, which ends when this
/// descriptor says so.
pub fn leave_thread_behind(file: RawFd) -> ! {
    static STACK: Mutex<[u64; 2_048]> = Mutex::new([0; 2_048]);

    extern "C" fn wait(file: *mut libc::c_void) -> libc::c_int {
        read_byte(file.addr() as RawFd)
    }

    let Ok(mut stack) = STACK.try_lock() else { exit(1) };
    let flags = libc::CLONE_VM
        | libc::CLONE_THREAD
        | libc::CLONE_SIGHAND
        | libc::CLONE_FS
        | libc::CLONE_FILES;
    let top = stack.as_mut_ptr_range().end.cast();
    let argument = std::ptr::without_provenance_mut(file as usize);
    // SAFETY: the thread has a stack of its own, which lives as long as the process, and makes
    // system calls only. This one never returns from here, so that the lock stays with the thread.
    unsafe { libc::clone(wait, top, flags, argument) };
    // SAFETY: the call ends this thread, and takes a number.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

/// Executes a program with the name `/pause`, and returns only if that fails.
pub fn execute(path: &CStr) -> io::Result<()> {
    execve(path, &[c"/pause".as_ptr(), std::ptr::null()], &[std::ptr::null()])
}

/// Unblocks all signals.
pub fn unblock_all() {
    set_mask(&empty_set());
}

fn duplicate(file: BorrowedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: dup2(2) takes two numbers. The target is one of the child's standard streams.
    check(unsafe { libc::dup2(file.as_raw_fd(), number) }.into()).map(drop)
}

fn open_null(number: RawFd) -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
    duplicate(null.as_fd(), number)
}

fn keep_across_execve(file: BorrowedFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?)
}

/// Has the child killed when the test that started it ends, or ends it if that has happened already.
fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if TESTS.get().is_some_and(|tests| is_readable(tests.as_fd(), Duration::ZERO)) {
        exit(1)
    }
    Ok(())
}

/// The process that runs the tests.
static TESTS: OnceLock<OwnedFd> = OnceLock::new();

fn wait_for_end_of_file(file: BorrowedFd) -> io::Result<()> {
    while rustix::io::read(file, &mut [0_u8; 1])? > 0 {}
    Ok(())
}

fn execve(
    path: &CStr,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
) -> io::Result<()> {
    // SAFETY: the path is a string, and both arrays end with a null; they outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Err(io::Error::last_os_error())
}

fn execveat(
    file: BorrowedFd,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
) -> io::Result<()> {
    let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    let (argv, envp) = (argv.as_ptr(), envp.as_ptr());
    // SAFETY: as for `execve`.
    unsafe { libc::syscall(libc::SYS_execveat, file.as_raw_fd(), empty, argv, envp, flags) };
    Err(io::Error::last_os_error())
}

/// Becomes the tracer of a child that has not executed the program yet.
fn seize(pid: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_EXITKILL;
    let none = std::ptr::null_mut::<libc::c_void>();
    let options = std::ptr::without_provenance_mut::<libc::c_void>(options as usize);
    // SAFETY: the request takes numbers.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, options) }).map(drop)
}

/// Lets a traced process go on to its next system call, or return from it, with this signal.
fn go_on(pid: i32, signal: i32) {
    let none = std::ptr::null_mut::<libc::c_void>();
    let signal = std::ptr::without_provenance_mut::<libc::c_void>(signal as usize);
    // SAFETY: the request takes numbers.
    check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, none, signal) }).unwrap();
}

/// Why a traced process has stopped.
enum Stop {
    Entry(libc::c_long),
    Return(i64),
    Signal(i32),
    Other,
    End(End),
}

/// The stop or the end of a traced process, if it has come.
fn wait_for_stop(pid: i32) -> Option<Stop> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG | libc::__WALL) };
    if waited != pid {
        return None;
    }
    if libc::WIFEXITED(status) {
        return Some(Stop::End(End::Exit(libc::WEXITSTATUS(status))));
    }
    if libc::WIFSIGNALED(status) {
        return Some(Stop::End(End::Killed(libc::WTERMSIG(status))));
    }
    match libc::WSTOPSIG(status) {
        stop if stop == libc::SIGTRAP | 0x80 => {} // a system call
        _ if status >> 16 != 0 => return Some(Stop::Other), // an event: the execve
        signal => return Some(Stop::Signal(signal)),
    }
    // SAFETY: the struct is plain data, for which zero is a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = std::ptr::without_provenance_mut::<libc::c_void>(size_of_val(&info));
    let request = libc::PTRACE_GET_SYSCALL_INFO;
    // SAFETY: the kernel writes one struct, whose size it is told.
    check(unsafe { libc::ptrace(request, pid, size, &raw mut info) }).unwrap();
    match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: `op` says which part of the union has been written.
            Some(Stop::Entry(unsafe { info.u.entry }.nr as libc::c_long))
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: for the same reason.
            Some(Stop::Return(unsafe { info.u.exit }.sval))
        }
        _ => Some(Stop::Other),
    }
}

/// Joins these namespaces of a process by its pidfd, or the one namespace that the file is of.
pub fn set_namespaces(file: BorrowedFd, namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: setns(2) takes two numbers.
    check(unsafe { libc::setns(file.as_raw_fd(), namespaces) }.into()).map(drop)
}

/// Leaves these namespaces for new ones; of CLONE_NEWPID, only children to come are in the new one.
pub fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare(2) takes a number. Without CLONE_FILES or CLONE_FS, nothing that safe code
    // relies on is taken from under it.
    check(unsafe { libc::unshare(namespaces) }.into()).map(drop)
}

/// Makes a System V segment with this byte in it.
pub fn make_segment(key: libc::key_t, byte: u8) -> io::Result<()> {
    let address = attach_segment(key, libc::IPC_CREAT | libc::IPC_EXCL | 0o600)?;
    // SAFETY: a segment is at least a page, which nobody else has mapped yet.
    unsafe { address.write(byte) };
    detach_segment(address)
}

/// The byte that is in a System V segment.
pub fn read_segment(key: libc::key_t) -> io::Result<u8> {
    let address = attach_segment(key, 0)?;
    // SAFETY: a segment is at least a page, which nobody writes to once it is made.
    let byte = unsafe { address.read() };
    detach_segment(address)?;
    Ok(byte)
}

fn attach_segment(key: libc::key_t, flags: libc::c_int) -> io::Result<*mut u8> {
    // SAFETY: shmget(2) takes numbers.
    let id = check(unsafe { libc::shmget(key, 1, flags) }.into())? as libc::c_int;
    // SAFETY: the kernel chooses an address where nothing is mapped.
    let address = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    check(address.addr() as libc::c_long)?;
    Ok(address.cast())
}

fn detach_segment(address: *mut u8) -> io::Result<()> {
    // SAFETY: this is where a segment was attached; the callers do not use it again.
    check(unsafe { libc::shmdt(address.cast()) }.into()).map(drop)
}

/// Makes a POSIX message queue with a message of this one byte in it.
pub fn make_queue(name: &CStr, byte: u8) -> io::Result<()> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    // SAFETY: the struct is made of integers, for which zero is a value.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    (attributes.mq_maxmsg, attributes.mq_msgsize) = (1, 1);
    // SAFETY: the kernel reads a string, which ends with a zero byte, and one struct.
    let queue = unsafe { libc::mq_open(name.as_ptr(), flags, 0o600, &raw const attributes) };
    check(queue.into())?;
    // SAFETY: the kernel reads one byte.
    check(unsafe { libc::mq_send(queue, (&raw const byte).cast(), 1, 0) }.into())?;
    close(queue);
    Ok(())
}

/// The byte that is in the message of a POSIX message queue. The message is put back.
pub fn read_queue(name: &CStr) -> io::Result<u8> {
    // SAFETY: the kernel reads a string, which ends with a zero byte.
    let queue = unsafe { libc::mq_open(name.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK) };
    check(queue.into())?;
    let mut byte = 0_u8;
    let (message, priority) = ((&raw mut byte).cast(), std::ptr::null_mut());
    // SAFETY: the kernel writes one byte, and no priority.
    check(unsafe { libc::mq_receive(queue, message, 1, priority) } as libc::c_long)?;
    // SAFETY: the kernel reads one byte.
    check(unsafe { libc::mq_send(queue, (&raw const byte).cast(), 1, 0) }.into())?;
    close(queue);
    Ok(byte)
}

/// Switches the loopback interface on, and gives it one more address.
pub fn set_up_loopback(address: Ipv4Addr) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = interface(b"lo");
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    set_interface(socket.as_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request)?;

    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    let mut request = interface(b"lo:1");
    // SAFETY: both structs are plain data of 16 bytes: sockaddr is the general form of sockaddr_in.
    request.ifr_ifru.ifru_addr =
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
    set_interface(socket.as_fd(), libc::SIOCSIFADDR as libc::Ioctl, &request)
}

fn interface(name: &[u8]) -> libc::ifreq {
    // SAFETY: the struct is plain data, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request
}

fn set_interface(socket: BorrowedFd, what: libc::Ioctl, request: &libc::ifreq) -> io::Result<()> {
    // SAFETY: for the two requests of `set_up_loopback`, the kernel reads one struct.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw const *request) }.into()).map(drop)
}

/// Sets what a signal does in this process: SIG_DFL or SIG_IGN.
pub fn set_handler(signal: i32, handler: libc::sighandler_t) -> io::Result<()> {
    // The C library would refuse the two signals that it keeps for itself, and both are inherited.
    // All but the first word of the kernel's `struct sigaction`, of at most five, is zero here.
    let action: [usize; 5] = [handler, 0, 0, 0, 0];
    let (call, none) = (libc::SYS_rt_sigaction, std::ptr::null::<()>());
    // SAFETY: the kernel reads the struct. Neither default nor ignored is a function that could run.
    check(unsafe { libc::syscall(call, signal, action.as_ptr(), none, 8) }).map(drop)
}

fn send_signal(pidfd: BorrowedFd, signal: i32) -> io::Result<()> {
    let (pidfd, call) = (pidfd.as_raw_fd(), libc::SYS_pidfd_send_signal);
    // SAFETY: the kernel reads no siginfo, since there is none.
    let sent = unsafe { libc::syscall(call, pidfd, signal, std::ptr::null::<()>(), 0) };
    check(sent).map(drop)
}

/// Sends a signal to a process by its number in this PID namespace.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes two numbers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

fn full_set() -> libc::sigset_t {
    let mut set = empty_set();
    // SAFETY: the function writes one set.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: the struct is made of integers; zero is the empty set.
    unsafe { std::mem::zeroed() }
}

/// Sets the mask of this thread, and returns the one before.
fn set_mask(set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = empty_set();
    // SAFETY: the function reads one set, and writes one.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, &raw mut before) };
    before
}

pub fn set_limit(resource: libc::__rlimit_resource_t, limit: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the kernel reads one struct.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }.into()).map(drop)
}

/// Gives up root: this user and group, no other groups, no capabilities, no new privileges.
pub fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: an empty list is read from nowhere.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) })?;
    // SAFETY: the raw calls take numbers, and change this thread, which is the only one.
    check(unsafe { libc::syscall(libc::SYS_setresgid, id, id, id) })?;
    // SAFETY: for the same reason.
    check(unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) })?;
    die_with_parent()?; // a change of user has forgotten this
    refuse_new_privileges()
}

/// Has no execve give rights any more.
pub fn refuse_new_privileges() -> io::Result<()> {
    // SAFETY: the operation takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// A seccomp filter that lets everything pass but one call, which fails with this error.
fn deny(number: u32, errno: i32) -> Vec<libc::sock_filter> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    vec![
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0), // the call's number
        libc::sock_filter { code: equal, jt: 0, jf: 1, k: number },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ]
}

fn set_filter(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    refuse_new_privileges()?;
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the kernel reads `len` instructions, as many as there are.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }.into()).map(drop)
}
