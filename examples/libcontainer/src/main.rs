//! pause in a runtime that others have written: this example starts a container with youki's `libcontainer`,
//! whose executor runs pause from memory. The root file system is empty, and there is no image.
//!
//! ```text
//! cargo run --manifest-path examples/libcontainer/Cargo.toml
//! ```
//!
//! It needs root. The package is not in the workspace, because `libcontainer` takes minutes to build.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{
    LinuxBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, MountBuilder, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use libcontainer::signal::Signal;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Runs pause, whatever the specification says.
#[derive(Clone)]
struct Pause {
    program: Arc<OwnedFd>,
}

impl Executor for Pause {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        Err(ExecutorError::Execution(Box::new(podpause::exec(self.program.as_fd()))))
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle");
    fs::create_dir_all(bundle.join("rootfs"))?;
    specification()?.save(bundle.join("config.json"))?;

    let program = Arc::new(podpause::memfd()?);
    let mut container = ContainerBuilder::new("sandbox".into(), SyscallType::default())
        .with_executor(Pause { program })
        .with_root_path(folder.path().join("state"))?
        .as_init(&bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .context("make the container")?;
    container.start().context("start the container")?;
    let pid = container.pid().context("the container has a process")?.as_raw();
    let pidfd = pidfd_open(Pid::from_raw(pid).context("its number")?, PidfdFlags::empty())?;

    let proc = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    // libcontainer returns before the exec. The last thing that pause does is to sleep in this call.
    let sleep = format!("{} ", libc::SYS_rt_sigtimedwait);
    for _ in 0..10_000 {
        if proc("syscall")?.starts_with(&sleep) || ends(&pidfd, 1)? {
            break;
        }
    }
    println!("process {pid}: {} {}", proc("comm")?.trim(), proc("cmdline")?);
    ensure!(proc("comm")? == "pause\n" && proc("cmdline")? == "/pause\0");
    container.kill(Signal::try_from("SIGTERM")?, false)?;
    ensure!(ends(&pidfd, 10_000)?, "pause does not end on SIGTERM");
    container.delete(true)?;
    println!("it ended on SIGTERM");
    Ok(())
}

/// Whether the process ends within this time.
fn ends(pidfd: &OwnedFd, within_ms: i64) -> Result<bool> {
    let (seconds, rest_ms) = (within_ms / 1_000, within_ms % 1_000);
    let within = Timespec { tv_sec: seconds, tv_nsec: rest_ms * 1_000_000 };
    Ok(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&within))? == 1)
}

fn specification() -> Result<Spec> {
    let namespaces = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
    ];
    let namespaces = namespaces.map(|typ| LinuxNamespaceBuilder::default().typ(typ).build());
    let user = UserBuilder::default().uid(65_535_u32).gid(65_535_u32).build()?;
    let process = ProcessBuilder::default()
        .args(vec!["/pause".into()])
        .cwd("/")
        .user(user)
        .no_new_privileges(true)
        .rlimits(vec![])
        .build()?;
    let linux = LinuxBuilder::default()
        .namespaces(namespaces.into_iter().collect::<Result<Vec<_>, _>>()?)
        .masked_paths(vec![])
        .readonly_paths(vec![])
        .build()?;
    Ok(SpecBuilder::default()
        .root(RootBuilder::default().path("rootfs").readonly(true).build()?)
        .process(process)
        .linux(linux)
        // The runtime puts devices there, whether or not somebody wants them.
        .mounts(vec![
            MountBuilder::default().destination("/dev").typ("tmpfs").source("tmpfs").build()?,
        ])
        .build()?)
}
