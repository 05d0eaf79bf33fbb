//! Helpers of these tests, for example to run one test in a new process of this program and to read /proc.
//!
//! It contains all unsafe code of these tests.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};

use podpause::{Error, Namespace, Program, Sandbox, SandboxBuilder};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub use common::report::skip;
pub use common::wait::{DEADLINE, is_readable};

/// The environment variable that tells a process which case of its test to run.
const CASE: &str = "PODPAUSE_TEST_CASE";
/// The user ID of an ordinary user without a line in /etc/subuid.
pub const ORDINARY: u32 = 54_321;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The kinds of namespace that a pod usually has of its own, and a user namespace, without which an ordinary
/// user cannot create the others.
pub const KINDS: [Namespace; 6] = [
    Namespace::User,
    Namespace::Pid,
    Namespace::Net,
    Namespace::Ipc,
    Namespace::Uts,
    Namespace::Mount,
];

/// The program in each form: as a memfd, as a file, and without exec.
pub fn programs() -> [Program; 3] {
    let file = Program::from_file(env!("CARGO_BIN_EXE_pause")).unwrap();
    [Program::new().unwrap(), file, Program::without_exec()]
}

/// Builds a sandbox with these new namespaces, and with a user namespace if this process needs one.
pub fn sandbox<'a>(program: &'a Program, kinds: &[Namespace]) -> SandboxBuilder<'a> {
    let user = (!is_root() && !kinds.contains(&Namespace::User)).then_some(Namespace::User);
    program.sandbox().new_namespaces(user.into_iter().chain(kinds.iter().copied()))
}

/// The error of a sandbox that must fail to start.
pub fn error(result: Result<Sandbox, Error>) -> Error {
    match result {
        Ok(sandbox) => panic!("{sandbox:?} was started"),
        Err(error) => error,
    }
}

/// The case that this process has to run, if [`again`] or [`again_in`] started it.
pub fn case() -> Option<String> {
    std::env::var(CASE).ok()
}

/// A command that runs the test `test` in a new process of this program, where [`case`] returns this case.
/// The process is killed when the thread that starts it ends.
pub fn again(test: &str, case: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CASE, case);
    command.stdin(Stdio::null());
    // SAFETY: the function makes one system call.
    unsafe { command.pre_exec(die_with_parent) };
    command
}

/// Like [`again`], but this program and its arguments follow the words of `shell`. In a script of `sh -c`,
/// they are `"$@"`.
pub fn again_in(shell: &[&str], test: &str, case: &str) -> Command {
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CASE, case);
    command.stdin(Stdio::null());
    // SAFETY: the function makes one system call.
    unsafe { command.pre_exec(die_with_parent) };
    command
}

/// Makes the command run as an ordinary user: another one if this process is root, or else the same one.
pub fn as_ordinary_user(command: &mut Command) -> &mut Command {
    if is_root() {
        command.uid(ORDINARY).gid(ORDINARY);
    }
    command
}

/// Runs a command, which must succeed, and returns its stdout.
pub fn succeeds(command: &mut Command) -> String {
    let output = output(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{errors}", output.status);
    text
}

/// Runs a command to its end. At the deadline, this kills it and panics.
pub fn output(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let watch = std::thread::spawn(move || {
        if !is_readable(&pidfd, DEADLINE) {
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            panic!("process {pid} took more than {DEADLINE:?}");
        }
    });
    let [out, err] = [read(child.stdout.take()), read(child.stderr.take())];
    let status = child.wait().unwrap();
    watch.join().unwrap();
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

fn read<R: io::Read + Send + 'static>(file: Option<R>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        file.unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// The identity of a process's namespace: its kind and inode number.
pub fn namespace(pid: impl ToString, kind: Namespace) -> String {
    let path = format!("/proc/{}/ns/{}", pid.to_string(), kind.name());
    fs::read_link(&path).unwrap_or_else(|error| panic!("{path}: {error}")).display().to_string()
}

/// A field of /proc/PID/status.
pub fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field}")).trim().replace('\t', " ")
}

/// Whether this process has a child, running or zombie.
pub fn has_children() -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::All, options).err() != Some(rustix::io::Errno::CHILD)
}

/// The files to which the descriptors of this process refer, sorted.
pub fn descriptors() -> Vec<String> {
    let folder = fs::read_dir("/proc/self/fd").unwrap();
    let link = |entry: io::Result<fs::DirEntry>| fs::read_link(entry.unwrap().path()).ok();
    let mut files: Vec<_> =
        folder.filter_map(link).map(|link| link.display().to_string()).collect();
    files.retain(|file| !file.ends_with("/fd")); // /proc/self/fd itself, which is open here
    files.sort();
    files
}

fn die_with_parent() -> io::Result<()> {
    let signal = rustix::process::Signal::KILL;
    Ok(rustix::process::set_parent_process_death_signal(Some(signal))?)
}

/// A fork of this process, which has copies of all descriptors and does nothing. It stands for a child that
/// another thread of a runtime forks. It is killed and reaped when this is dropped.
pub struct Fork(i32);

impl Fork {
    pub fn new() -> Self {
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", io::Error::last_os_error()),
            0 => loop {
                let _ = die_with_parent();
                // SAFETY: pause(2) has no arguments, and touches no memory.
                unsafe { libc::pause() };
            },
            pid => Self(pid),
        }
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        // SAFETY: the process is a child of ours that is not reaped yet.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: with a null pointer, the kernel writes no status.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

/// Makes a function run in the child of a command, between fork and exec. It must make system calls only.
pub fn before_exec(
    command: &mut Command,
    run: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the callers pass functions that make system calls only.
    unsafe { command.pre_exec(run) };
}

/// Closes standard input, output and error.
pub fn close_stdio() {
    for number in 0..3 {
        // SAFETY: close(2) takes a number. The caller does not use its standard streams any more.
        unsafe { libc::close(number) };
    }
}

/// Ends this process at once.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes a number, and does not return.
    unsafe { libc::_exit(status) }
}

/// Sends this thread a signal.
pub fn raise(signal: i32) {
    // SAFETY: raise(3) takes a number. The handler of `count` may run at any time.
    unsafe { libc::raise(signal) };
}

/// Ignores a signal in this process.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is not a function, so no code of ours runs on the signal.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// The number of times that the handler of [`count`] has run, in this process and its children, which share
/// this memory.
pub fn handled() -> &'static std::sync::atomic::AtomicU32 {
    static SHARED: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    let address = SHARED.get_or_init(|| {
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: with a null hint, the kernel chooses unused addresses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), 4_096, access, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        start.expose_provenance()
    });
    let counter = std::ptr::with_exposed_provenance::<std::sync::atomic::AtomicU32>(*address);
    // SAFETY: the mapping is never unmapped, is aligned to a page, and is zero at first.
    unsafe { &*counter }
}

/// Sets a handler for this signal that counts its calls in [`handled`].
pub fn count(signal: i32) {
    extern "C" fn handler(_: libc::c_int) {
        handled().fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    handled(); // Creates the mapping now, because a handler must not.
    // SAFETY: the handler only increments an atomic number, which is async-signal-safe.
    unsafe { libc::signal(signal, handler as extern "C" fn(libc::c_int) as libc::sighandler_t) };
}

/// Interrupts the blocking system calls of this process again and again. The handler has no SA_RESTART, so the
/// calls fail with EINTR.
pub fn interrupt_often() {
    extern "C" fn handler(_: libc::c_int) {}
    // SAFETY: all fields are integers or absent handlers, for which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler does nothing, and the function reads one struct.
    let set = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let interval = libc::timeval { tv_sec: 0, tv_usec: 300 };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the kernel reads one struct.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

/// The ids of this process's children, dead or alive.
pub fn children() -> Vec<i32> {
    let own = std::process::id() as i32;
    let all = procfs::process::all_processes().unwrap();
    let stats = all.filter_map(|process| process.ok()?.stat().ok());
    stats.filter(|stat| stat.ppid == own).map(|stat| stat.pid).collect()
}

/// Makes this system call fail with this error, in this thread and in its future children and threads.
pub fn deny(call: libc::c_long, errno: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0), // the call's number
        libc::sock_filter { code: equal, jt: 0, jf: 1, k: call as u32 },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_ptr().cast_mut() };
    rustix::thread::set_no_new_privs(true).unwrap();
    // SAFETY: the kernel reads `len` instructions, and the array has as many.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

/// Kills and reaps a command's process when this is dropped.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
