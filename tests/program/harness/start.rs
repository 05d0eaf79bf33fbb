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

/// The three forms of pause.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Form {
    /// The file that cargo linked.
    File,
    /// The memfd of the library.
    Memfd,
    /// The library's `run`, in a child of the test.
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

/// What the child does before it runs its [`Body`]. The child is a copy of a process with threads, so a step
/// must not allocate. It may only make system calls.
type Step = Box<dyn FnMut() -> io::Result<()>>;

/// What a process runs.
pub enum Body {
    File(PathBuf),
    /// A memfd or an open file.
    Descriptor(OwnedFd),
    /// The library's `run`, called in the child without an exec.
    Run,
    /// A function that runs in the child without an exec. Like a [`Step`], it may only make system calls. All
    /// descriptors above stderr are closed, except those given to [`Start::keeping`].
    Function(Box<dyn FnMut() -> i32>),
}

/// What process to start, and how.
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

    /// A process that sleeps for ever and reaps no children: a negative control.
    pub fn sleeper() -> Self {
        Self::body(Body::Function(Box::new(|| {
            loop {
                // SAFETY: pause(2) takes no arguments and touches no memory.
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

    /// Adds these arguments after the name.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|text| CString::new(*text).unwrap()));
        self
    }

    /// Sets all arguments, including the name.
    pub fn argv(mut self, arguments: Vec<CString>) -> Self {
        self.arguments = arguments;
        self
    }

    pub fn environment(mut self, environment: Vec<CString>) -> Self {
        self.environment = environment;
        self
    }

    /// Adds new namespaces (CLONE_NEW…). If the tests do not run as root, the process
    /// also gets a user namespace.
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

    /// Keeps this descriptor open for [`Body::Function`], which has to know its number.
    pub fn keeping(mut self, file: impl Into<OwnedFd>) -> Self {
        self.kept.push(file.into());
        self
    }

    /// Adds a [`Step`], which the child runs before its [`Body`].
    pub fn step(mut self, step: impl FnMut() -> io::Result<()> + 'static) -> Self {
        self.steps.push(Box::new(step));
        self
    }

    /// Starts the program with this signal ignored.
    pub fn ignoring(self, signal: i32) -> Self {
        self.step(move || set_handler(signal, libc::SIG_IGN))
    }

    /// Makes a system call fail with this error, from the program's first instruction on.
    pub fn denying(self, number: libc::c_long, errno: i32) -> Self {
        self.filtered(deny(number as u32, errno))
    }

    /// Installs a seccomp filter before the program starts.
    pub fn filtered(self, filter: Vec<libc::sock_filter>) -> Self {
        self.step(move || set_filter(&filter))
    }

    /// Runs the program to its end, and records each of its system calls. Sends it SIGTERM as
    /// soon as it waits for a signal.
    pub fn trace(mut self) -> Trace {
        self.is_traced = true;
        self.spawn().trace()
    }

    pub fn spawn(self) -> Process {
        self.try_spawn().unwrap_or_else(|error| panic!("a process could not be started: {error}"))
    }

    /// Starts the process. If a step or the execve fails, returns its error.
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
        // Only one start at a time. Otherwise a child could inherit the write end of another child's pipe.
        static STARTING: Mutex<()> = Mutex::new(());
        let _starting = STARTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());

        TESTS.get_or_init(|| pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap());
        let (ready, ready_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (failure, failure_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // The child waits for EOF on this pipe until its user namespace has its maps and
        // its tracer is attached.
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
                // This fails for SIGKILL and SIGSTOP, whose actions are fixed.
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
                // SAFETY: the child has one thread. It runs nothing else that could use a descriptor.
                Body::Run => unsafe { podpause::run() },
                Body::Function(function) => {
                    close_all_but(self.kept.iter().map(AsRawFd::as_raw_fd));
                    exit(function())
                }
            }
        };

        // A signal that arrives between the clone and the program must stay pending. For example, the kernel
        // would drop an unblocked SIGTERM to a PID 1 with default actions.
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
        // EOF on this pipe means success: the execve, or the body that runs without one,
        // closes the write end.
        process.wait_for(failure.as_fd(), "its execve");
        let mut errno = [0; 4];
        match rustix::io::read(&failure, &mut errno)? {
            0 => Ok(process),
            _ => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
        }
    }
}

/// The signals that are blocked when a process starts.
#[derive(Clone, Copy, PartialEq)]
pub enum SignalMask {
    /// All are blocked, so none can be lost before the program's first instruction.
    All,
    None,
}

/// Forks into these new namespaces. Returns the id and a pidfd of the child, or `None` in the child.
fn clone3(namespaces: libc::c_int) -> io::Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    // `struct clone_args`, which libc lacks on some architectures. Its fields have 64 bits each: flags,
    // pidfd, child_tid, parent_tid, exit_signal, stack, stack_size and tls.
    let flags = (libc::CLONE_PIDFD | namespaces) as u64;
    let pidfd_address = (&raw mut pidfd).expose_provenance() as u64;
    let arguments = [flags, pidfd_address, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    // SAFETY: without CLONE_VM, the child has a copy of the memory, including this stack, and returns here as
    // after fork(2). It then only makes system calls, as `Step` requires.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments))
    })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has created this descriptor for us, and nothing else owns it.
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
    // SAFETY: the path ends with a zero byte, and both arrays with a null pointer. All outlive the call.
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

/// Executes a program with the name `/pause`. Returns only if that fails.
pub fn execute(path: &CStr) -> io::Result<()> {
    execve(path, &[c"/pause".as_ptr(), std::ptr::null()], &[std::ptr::null()])
}

impl Process {
    /// A child of the tests that joins these namespaces of the process and then runs this function,
    /// which may only make system calls. For CLONE_NEWPID, the function has to fork: only its
    /// children enter a PID namespace.
    pub fn join(&self, namespaces: libc::c_int, run: impl FnMut() -> i32 + 'static) -> Start {
        let pidfd = self.pidfd.try_clone().unwrap();
        let namespaces = match is_root() {
            true => namespaces,
            false => namespaces | libc::CLONE_NEWUSER,
        };
        Start::body(Body::Function(Box::new(run)))
            .step(move || set_namespaces(pidfd.as_fd(), namespaces))
    }

    /// Like [`join`](Self::join), but joins only one namespace, such as `net`, through
    /// its file, as nsenter(1) does.
    pub fn join_by_file(&self, name: &str, run: impl FnMut() -> i32 + 'static) -> Start {
        let open = |name: &str| fs::File::open(format!("/proc/{}/ns/{name}", self.pid)).unwrap();
        let user = (!is_root() && name != "user").then(|| open("user"));
        let files: Vec<fs::File> = user.into_iter().chain([open(name)]).collect();
        Start::body(Body::Function(Box::new(run)))
            .step(move || files.iter().try_for_each(|file| set_namespaces(file.as_fd(), 0)))
    }
}
