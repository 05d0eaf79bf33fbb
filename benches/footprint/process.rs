//! Starts processes as a runtime does, ends them, and reads /proc.
//!
//! It contains all unsafe code of the benchmark. Each public function that leaves a process running returns a guard
//! that kills and reaps it. If the benchmark is killed, the kernel also kills the processes of `start` and
//! `fork`, but not those of `start_bare`. `ends_within`, `wait_until_asleep`, `wait_until_stopped` and
//! `bytes_until_end` have a deadline.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::wait::is_readable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getppid, kill_process, pidfd_open,
    set_parent_process_death_signal, setpgid, waitpid,
};
use rustix::thread::{CpuSet, ThreadNameSpaceType, UnshareFlags};

use crate::Result;
use crate::cgroup::Group;
use crate::programs::Program;

/// How long processes may take to fall asleep or to stop, and orphans to end.
const DEADLINE: Duration = Duration::from_secs(30);

/// Set by SIGINT (Ctrl-C), SIGTERM and SIGHUP.
static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// After this call, each of these signals makes the next `check_interrupt` fail, so that all guards are
/// dropped.
pub fn catch_interrupts() -> Result<()> {
    ctrlc::set_handler(|| IS_INTERRUPTED.store(true, Ordering::Relaxed))
        .map_err(|error| format!("signals could not be caught: {error}"))
}

pub fn check_interrupt() -> Result<()> {
    match IS_INTERRUPTED.load(Ordering::Relaxed) {
        true => Err("interrupted; all processes and cgroups are gone".into()),
        false => Ok(()),
    }
}

/// Sleeps. It fails if the benchmark is interrupted.
pub fn sleep(duration: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < duration {
        check_interrupt()?;
        let left = duration.saturating_sub(start.elapsed());
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
    Ok(())
}

/// Makes an ordinary user root in a new user namespace, so that the benchmark can create PID namespaces.
///
/// Call this before any thread is started: a process with threads cannot enter a user namespace. unshare(2)
pub fn enter_user_namespace() -> Result<()> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // SAFETY: without `FILES`, the table of descriptors is not unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }
        .map_err(|error| format!("users cannot make namespaces here ({error}): run it as root"))?;
    let maps = [
        ("setgroups", "deny".into()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ];
    for (file, text) in maps {
        std::fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| format!("/proc/self/{file}: {error}: run it as root"))?;
    }
    Ok(())
}

/// How a process is started. It always leads a process group of its own, so that the terminal's
/// Ctrl-C does not reach it, and has /dev/null for 0, 1 and 2.
#[derive(Clone, Copy, Default)]
pub struct Setting<'a> {
    /// It is PID 1 of a new PID namespace.
    pub is_pid1: bool,
    /// It also has new network, IPC, UTS and mount namespaces, like the sandbox of a pod.
    pub is_sandbox: bool,
    /// It is executed from this memfd, by the library.
    pub memfd: Option<BorrowedFd<'a>>,
    /// It moves to this group after the fork and before the exec.
    pub group: Option<&'a Group>,
    /// It runs on this CPU only.
    pub cpu: Option<usize>,
    /// It stops at its first instruction, for a tracer.
    pub is_traced: bool,
}

/// A process. It is killed and reaped when this is dropped.
pub struct Process {
    pub pid: Pid,
    /// The page faults that it had between fork and exec.
    faults_before: u64,
    is_reaped: bool,
}

/// The data that the child needs until its execve.
struct Child<'a> {
    path: &'a CStr,
    argv: &'a [*const libc::c_char],
    null: &'a File,
    setting: Setting<'a>,
    faults: u64,
    error: Option<Errno>,
}

/// Starts a program, and returns when it has been executed.
pub fn start(program: &Program, argv: &[CString], setting: Setting) -> Result<Process> {
    let argv: Vec<_> = argv.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
    let failed = |error| format!("{}: {}", program.name, io::Error::from(error));
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| format!("/dev/null: {error}"))?;
    let path = &program.path;
    let mut child = Child { path, argv: &argv, null: &null, setting, faults: 0, error: None };
    let mut stack = [0_u128; 2_048]; // an aligned end, on every architecture
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    if setting.is_pid1 {
        flags |= libc::CLONE_NEWPID;
    }
    if setting.is_sandbox {
        flags |= libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNS;
    }
    let (top, context) = (stack.as_mut_ptr_range().end.cast(), (&raw mut child).cast());
    // SAFETY: the child has a stack of its own, and `top` is its aligned end. The child shares the memory,
    // but this thread waits until the child has executed the program or has ended (CLONE_VFORK). So stack and
    // context outlive the child's use of them.
    let pid = unsafe { libc::clone(become_program, top, flags, context) };
    let Some(pid) = Pid::from_raw(pid.max(0)) else {
        return Err(failed(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)));
    };
    let process = Process { pid, faults_before: child.faults, is_reaped: false };
    match child.error {
        Some(error) => Err(failed(error)),
        None => Ok(process),
    }
}

/// Starts a program in these namespaces (CLONE_NEW…) with a bare clone3 and execve: the least work with which
/// a sandbox can be started. It returns when the program has been executed, or when the execve has failed.
pub fn start_bare(program: &Program, namespaces: u32) -> Result<Process> {
    let failed = |error: io::Error| format!("{}: {error}", program.name);
    let argv: Vec<_> =
        program.hold.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
    let none = [std::ptr::null()];
    // The execve closes the child's copy of the writing end, so that the read below returns.
    let (mut executed, writer) = io::pipe().map_err(failed)?;
    // SAFETY: the struct has only integers, for which zero is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    (arguments.flags, arguments.exit_signal) = (namespaces.into(), libc::SIGCHLD as u64);
    let size = size_of_val(&arguments);
    // SAFETY: without CLONE_VM, the child has a copy of the memory, and makes nothing but system calls.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) };
    if pid == 0 {
        // SAFETY: the path is a string, both arrays end with a null, and all outlive the call.
        unsafe { libc::execve(program.path.as_ptr(), argv.as_ptr(), none.as_ptr()) };
        // A byte instead of EOF tells the parent that execve has failed.
        let _ = rustix::io::write(&writer, &[0]);
        exit(127)
    }
    let Some(pid) = Pid::from_raw(pid.max(0) as i32) else {
        return Err(failed(io::Error::last_os_error()));
    };
    let process = Process { pid, faults_before: 0, is_reaped: false };
    drop(writer);
    match io::Read::read(&mut executed, &mut [0]).map_err(failed)? {
        0 => Ok(process),
        _ => Err(format!("{} could not be executed", program.name)),
    }
}

/// Runs in the child. It returns, which ends the child, only if something fails.
extern "C" fn become_program(context: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `start` passes a `Child`, and does not touch it before the child has executed the program or
    // ended.
    let child = unsafe { &mut *context.cast::<Child>() };
    child.error = prepare(child).and_then(|()| execute(child)).err();
    127
}

/// Makes system calls only: the child shares the benchmark's memory, in which another thread may hold a lock.
fn prepare(child: &mut Child) -> rustix::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    setpgid(None, None)?;
    if let Some(group) = child.setting.group {
        group.take_caller()?;
    }
    if let Some(cpu) = child.setting.cpu {
        pin(cpu)?;
    }
    rustix::stdio::dup2_stdin(child.null)?;
    rustix::stdio::dup2_stdout(child.null)?;
    rustix::stdio::dup2_stderr(child.null)?;
    if child.setting.is_traced {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the kernel ignores the other arguments of this request. ptrace(2)
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) };
    }
    // SAFETY: the struct has only integers, for which zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `rusage`, and the pointer is to one.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    child.faults = (usage.ru_minflt + usage.ru_majflt) as u64;
    Ok(())
}

fn execute(child: &Child) -> rustix::io::Result<()> {
    let failed = |error| Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    if let Some(memfd) = child.setting.memfd {
        return failed(podpause::exec(memfd));
    }
    let none = [std::ptr::null()];
    // SAFETY: the path is a string, both arrays end with a null, and all outlive the call.
    unsafe { libc::execve(child.path.as_ptr(), child.argv.as_ptr(), none.as_ptr()) };
    failed(io::Error::last_os_error())
}

fn pin(cpu: usize) -> rustix::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
}

/// Keeps the benchmark, and what it starts, on one CPU until this is dropped.
pub struct Pinned(CpuSet);

impl Pinned {
    pub fn to(cpu: usize) -> Result<Self> {
        let before = rustix::thread::sched_getaffinity(None);
        let before = before.map_err(|error| format!("sched_getaffinity: {error}"))?;
        pin(cpu).map_err(|error| format!("CPU {cpu}: {error}"))?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = rustix::thread::sched_setaffinity(None, &self.0);
    }
}

/// The first CPU that the benchmark may use.
pub fn first_cpu() -> Result<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    let set = set.map_err(|error| format!("sched_getaffinity: {error}"))?;
    (0..CpuSet::MAX_CPU).find(|&cpu| set.is_set(cpu)).ok_or_else(|| "no CPU".into())
}

/// Runs a function in a forked copy of the benchmark. The function must make system calls only. The copy is
/// killed if the benchmark is.
pub fn fork(run: impl FnOnce() -> i32) -> Result<Process> {
    match fork_here() {
        0 => {
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            let _ = setpgid(None, None);
            exit(run())
        }
        pid => {
            let pid = Pid::from_raw(pid.max(0))
                .ok_or_else(|| format!("fork: {}", io::Error::last_os_error()))?;
            Ok(Process { pid, faults_before: 0, is_reaped: false })
        }
    }
}

/// Starts a process that keeps a CPU busy.
pub fn busy_neighbour(cpu: usize) -> Result<Process> {
    fork(|| {
        let _ = pin(cpu);
        loop {
            std::hint::spin_loop();
        }
    })
}

/// Has another process make orphans in the PID namespace of `init`: children whose parent ends without
/// waiting for them, in batches of `at_once`. The returned process ends when the parents of all orphans have
/// ended.
///
/// Each orphan writes a byte to `report`. If `is_traced`, it first waits until PID 1 has become its parent,
/// and makes PID 1 its tracer.
pub fn make_orphans(
    init: &Process,
    count: usize,
    at_once: usize,
    is_traced: bool,
    report: OwnedFd,
) -> Result<Process> {
    let namespace = init.pidfd()?;
    let orphan = || {
        if is_traced {
            while getppid() != Some(Pid::INIT) {
                std::thread::yield_now();
            }
            if !trace_me() {
                return 1;
            }
        }
        i32::from(rustix::io::write(&report, b"x") != Ok(1))
    };
    fork(|| {
        let pid_namespace = ThreadNameSpaceType::PROCESS_ID;
        if rustix::thread::move_into_thread_name_spaces(namespace.as_fd(), pid_namespace).is_err() {
            return 1;
        }
        for _ in 0..count / at_once {
            // After setns(2), the children of this process are in the namespace, but the process itself is
            // not.
            let parent = fork_here();
            if parent == 0 {
                for _ in 0..at_once {
                    if fork_here() == 0 {
                        exit(orphan())
                    }
                }
                exit(0)
            }
            let Some(parent) = Pid::from_raw(parent.max(0)) else { return 1 };
            if waitpid(Some(parent), WaitOptions::empty()).is_err() {
                return 1;
            }
        }
        0
    })
}

/// Makes the parent of this process its tracer, and returns whether it is.
fn trace_me() -> bool {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the kernel looks at no argument of this request. ptrace(2)
    unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) == 0 }
}

/// Reads a pipe until EOF, and returns the number of bytes.
pub fn bytes_until_end(pipe: OwnedFd) -> Result<usize> {
    let mut bytes = 0;
    let start = Instant::now();
    loop {
        let left = DEADLINE.saturating_sub(start.elapsed());
        if !is_readable(pipe.as_fd(), left) {
            return Err("no EOF on the pipe: an orphan is still running".into());
        }
        match rustix::io::read(&pipe, &mut [0; 4_096]) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes += count,
            Err(error) => return Err(format!("read: {error}")),
        }
    }
}

/// Forks, and returns 0 in the child, which must then make system calls only.
fn fork_here() -> libc::pid_t {
    // SAFETY: only this thread exists in the child, which makes nothing but system calls, as the comment
    // above requires.
    unsafe { libc::fork() }
}

/// Ends a child without running destructors: its copies of the guards would kill processes of the benchmark.
fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes a number, and does not return.
    unsafe { libc::_exit(status) }
}

impl Process {
    fn pidfd(&self) -> Result<OwnedFd> {
        pidfd_open(self.pid, PidfdFlags::empty()).map_err(|error| format!("pidfd_open: {error}"))
    }

    pub fn proc(&self) -> Result<procfs::process::Process> {
        procfs::process::Process::new(self.pid.as_raw_pid()).map_err(|error| error.to_string())
    }

    /// The kernel's letter for the state of the process: `S` sleeping, `T` stopped, `Z` zombie.
    pub fn state(&self) -> char {
        state(self.pid.as_raw_pid())
    }

    pub fn send(&self, signal: Signal) {
        // The PID cannot belong to another process: it is free for reuse only after this one is reaped.
        let _ = kill_process(self.pid, signal);
    }

    /// The PIDs of its children.
    pub fn children(&self) -> Vec<i32> {
        let pid = self.pid.as_raw_pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
    }

    /// How many children are zombies. Each is looked at twice, so that one that is just being reaped is less
    /// likely to count.
    pub fn zombies(&self) -> usize {
        self.children().iter().filter(|&&pid| state(pid) == 'Z' && state(pid) == 'Z').count()
    }

    /// Waits until the process, and all the children that the program starts, are asleep.
    pub fn wait_until_asleep(&mut self, program: &Program) -> Result<()> {
        let start = Instant::now();
        loop {
            let state = self.state();
            if state == 'Z' {
                let end = self.wait();
                check_interrupt()?;
                let end = match (end.exit_status(), end.terminating_signal()) {
                    (Some(status), _) => format!("exit status {status}"),
                    (_, signal) => format!("signal {}", signal.unwrap_or(0)),
                };
                return Err(format!(
                    "{} ended at once ({end}): it must sleep until it is ended",
                    program.name
                ));
            }
            if state == 'S' {
                if program.children == 0 {
                    return Ok(());
                }
                let children = self.children();
                if children.len() == program.children
                    && children.iter().all(|&child| self::state(child) == 'S')
                {
                    return Ok(());
                }
            }
            check_interrupt()?;
            if start.elapsed() > DEADLINE {
                return Err(format!(
                    "{} is not asleep after {} s",
                    program.name,
                    DEADLINE.as_secs()
                ));
            }
            std::thread::yield_now();
        }
    }

    /// Waits until it is stopped by a signal.
    pub fn wait_until_stopped(&self) -> Result<()> {
        let start = Instant::now();
        while self.state() != 'T' {
            check_interrupt()?;
            if start.elapsed() > DEADLINE {
                return Err("a process does not stop".into());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Returns whether the process ends within this time.
    pub fn ends_within(&self, duration: Duration) -> Result<bool> {
        let pidfd = self.pidfd()?;
        let start = Instant::now();
        loop {
            check_interrupt()?;
            let left = duration.saturating_sub(start.elapsed()).min(Duration::from_millis(100));
            let left = Timespec::try_from(left).map_err(|error| error.to_string())?;
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
                Ok(1) => return Ok(true),
                Ok(_) if start.elapsed() >= duration => return Ok(false),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(format!("poll: {error}")),
            }
        }
    }

    /// Waits for its end, and reaps it.
    pub fn wait(&mut self) -> WaitStatus {
        loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) if status.exited() || status.signaled() => {
                    self.is_reaped = true;
                    return status;
                }
                Ok(_) | Err(Errno::INTR) => {}
                // Nothing else reaps children of the benchmark.
                Err(error) => unreachable!("waitpid: {error}"),
            }
        }
    }

    /// The page faults since its execve.
    pub fn faults(&self) -> Result<u64> {
        let stat = self.proc()?.stat().map_err(|error| error.to_string())?;
        Ok((stat.minflt + stat.majflt).saturating_sub(self.faults_before))
    }

    /// The PIDs of the process and its children.
    pub fn family(&self) -> Vec<i32> {
        std::iter::once(self.pid.as_raw_pid()).chain(self.children()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.send(Signal::KILL);
            self.wait();
        }
    }
}

/// Kills all processes before it reaps them, which is faster than one after the other.
pub fn end_all(processes: Vec<Process>) {
    for process in &processes {
        process.send(Signal::KILL);
    }
    drop(processes);
}

/// The state of a process, `X` if there is none.
fn state(pid: i32) -> char {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The process name, in parentheses, may itself contain parentheses and spaces.
    let end = stat.iter().rposition(|&byte| byte == b')');
    let state = end.and_then(|end| stat.get(end + 2)).copied();
    state.map_or('X', char::from)
}

/// The number of system calls that a program makes from its execve until it sleeps, including the one that it
/// sleeps in. Those of its children do not count.
pub fn count_system_calls(program: &Program) -> Result<usize> {
    let setting = Setting { is_pid1: true, is_traced: true, ..Setting::default() };
    let mut process = start(program, &program.hold, setting)?;
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    let mut is_first = true;
    let mut is_entry = true;
    let mut count = 0;
    let mut last_stop = Instant::now();
    loop {
        check_interrupt()?;
        let stop = waitpid(Some(process.pid), WaitOptions::NOHANG | WaitOptions::UNTRACED);
        let Ok(Some((_, status))) = stop else {
            // The process is not stopped for the tracer, but sleeps in the last call that it entered.
            if process.state() == 'S' && last_stop.elapsed() > Duration::from_millis(50) {
                return Ok(count);
            }
            std::thread::yield_now();
            continue;
        };
        let Some(signal) = status.stopping_signal() else {
            process.is_reaped = true;
            return Err(format!("{} ended while it was traced", program.name));
        };
        last_stop = Instant::now();
        let mut deliver = 0;
        if is_first {
            trace(libc::PTRACE_SETOPTIONS, process.pid, options as usize)?;
            is_first = false;
        } else if signal == libc::SIGTRAP | 0x80 {
            count += usize::from(is_entry);
            is_entry = !is_entry;
        } else {
            deliver = signal;
        }
        trace(libc::PTRACE_SYSCALL, process.pid, deliver as usize)?;
    }
}

fn trace(request: libc::c_uint, pid: Pid, number: usize) -> Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    let number = std::ptr::without_provenance_mut::<libc::c_void>(number);
    // SAFETY: both requests take a number as data, and ignore the address. ptrace(2)
    match unsafe { libc::ptrace(request, pid.as_raw_pid(), none, number) } {
        -1 => Err(format!("ptrace: {}", io::Error::last_os_error())),
        _ => Ok(()),
    }
}
