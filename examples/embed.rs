//! A runtime that carries pause inside itself: sandboxes without any image or file.
//!
//! ```text
//! cargo run --example embed
//! ```
//!
//! Two sandboxes start from one memfd, whose page they share. A container joins the first, as in a pod
//! with PID namespaces of its own, which is what Kubernetes makes by default. `examples/pod.rs` shows
//! a pod that shares its PID namespace, a volume and an address.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

/// What the containers of a sandbox share.
const SHARED: libc::c_int =
    libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

fn main() -> io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("container") {
        print!("{}", fs::read_link("/proc/self/ns/net")?.display());
        return Ok(());
    }

    let program = podpause::memfd()?;
    let sandboxes = [Sandbox::start(&program)?, Sandbox::start(&program)?];
    for sandbox in &sandboxes {
        println!("sandbox {}: {}", sandbox.pid, sandbox.network()?);
        for line in fs::read_to_string(format!("/proc/{}/status", sandbox.pid))?.lines() {
            if line.starts_with("RssAnon") || line.starts_with("RssShmem") {
                println!("  {line}");
            }
        }
    }

    let mut container = Command::new("/proc/self/exe");
    let output = sandboxes[0].container(container.arg("container")).output()?;
    let network = String::from_utf8_lossy(&output.stdout);
    println!("a container joined {network}");
    assert_eq!(network, sandboxes[0].network()?);

    for sandbox in sandboxes {
        let pid = sandbox.pid;
        println!("sandbox {pid} ended with status {:?}", sandbox.stop()?);
    }
    Ok(())
}

/// A process that is pause, and the namespaces that it holds. It is killed when this is dropped.
struct Sandbox {
    pid: i32,
    pidfd: OwnedFd,
}

impl Sandbox {
    /// Starts pause in new namespaces, and returns when it is armed.
    fn start(program: &OwnedFd) -> io::Result<Self> {
        // The write end survives the exec, and pause closes it when it is armed.
        let (mut ready, writer) = io::pipe()?;
        let keep = |file: BorrowedFd| rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty());
        let Some((pid, pidfd)) = clone3(SHARED | libc::CLONE_NEWPID)? else {
            let error = match keep(writer.as_fd()) {
                Ok(()) => podpause::exec(program.as_fd()),
                Err(error) => error.into(),
            };
            // The parent learns of it by a byte: pause never writes one.
            let _ = rustix::io::write(&writer, &[error.raw_os_error().unwrap_or(1) as u8]);
            // SAFETY: the call ends the child at once; nothing of the parent's is run or flushed.
            unsafe { libc::_exit(1) }
        };
        drop(writer);
        let sandbox = Self { pid, pidfd };
        let mut error = [0];
        match ready.read(&mut error)? {
            0 => Ok(sandbox),
            _ => Err(io::Error::from_raw_os_error(error[0].into())),
        }
    }

    /// Has a command run in the sandbox.
    fn container<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let pidfd: RawFd = self.pidfd.as_raw_fd();
        // SAFETY: the call takes numbers; the child has a copy of the descriptor.
        let join = move || match unsafe { libc::setns(pidfd, SHARED) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        // SAFETY: behind fork, it makes one system call, and allocates nothing.
        unsafe { command.pre_exec(join) }
    }

    fn network(&self) -> io::Result<String> {
        let link = fs::read_link(format!("/proc/{}/ns/net", self.pid))?;
        Ok(link.display().to_string())
    }

    /// Ends pause as a runtime does, and returns its exit status.
    fn stop(self) -> io::Result<Option<i32>> {
        pidfd_send_signal(&self.pidfd, Signal::TERM)?;
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        Ok(status.and_then(|status| status.exit_status()))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Both fail where `stop` has been there before.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// Forks into new namespaces. Returns the child's id and pidfd; in the child, nothing.
fn clone3(namespaces: libc::c_int) -> io::Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: the struct is made of integers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (libc::CLONE_PIDFD | namespaces) as u64;
    arguments.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    let size = size_of::<libc::clone_args>();
    // SAFETY: without CLONE_VM, the child has a copy of the memory, and returns here as from fork(2).
    // It then only makes system calls.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        // SAFETY: the kernel made the descriptor for us, and nobody else knows it.
        pid => Ok(Some((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))),
    }
}
