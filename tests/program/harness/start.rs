//! Starts processes as a container runtime does.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::fs::MemfdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, pidfd_open};

use super::child::{TESTS, check, close, close_all_but, die_with_parent, exit, is_root};
use super::namespaces::set_namespaces;
use super::process::Process;
use super::program::program;
use super::seccomp::{deny, set_filter};
use super::signals::{empty_set, full_set, set_handler, set_mask};
use super::trace::{Trace, seize};

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

/// The mask of signals that a process starts with.
#[derive(Clone, Copy, PartialEq)]
pub enum SignalMask {
    /// All are blocked: none can be lost before the program's first instruction.
    All,
    None,
}

/// Forks into these new namespaces: `None` in the child.
fn clone3(namespaces: libc::c_int) -> io::Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    // `struct clone_args`, which libc does not have for each architecture: flags, pidfd, child_tid,
    // parent_tid, exit_signal, stack, stack_size and tls, all of 64 bits.
    let flags = (libc::CLONE_PIDFD | namespaces) as u64;
    let pidfd_address = (&raw mut pidfd).expose_provenance() as u64;
    let arguments = [flags, pidfd_address, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    // SAFETY: without CLONE_VM the child has a copy of the memory, this stack among it, and returns
    // here as fork(2) does. It then only makes system calls, by the rule for steps.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments))
    })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel made this descriptor for us, and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some((pid as i32, pidfd)))
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

/// Executes a program with the name `/pause`, and returns only if that fails.
pub fn execute(path: &CStr) -> io::Result<()> {
    execve(path, &[c"/pause".as_ptr(), std::ptr::null()], &[std::ptr::null()])
}

impl Process {
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
}
