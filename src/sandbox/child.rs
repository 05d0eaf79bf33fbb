//! What a child does between the clone and pause, or between the clone and the exec of a container. The child
//! only makes system calls.
//!
//! The child shares or copies the memory of a process that may have other threads. So the code here does not
//! allocate, take a lock, or drop or change anything that the parent owns.

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd, retry_on_intr};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Gid, Signal, Uid, chdir, pivot_root, set_parent_process_death_signal, setsid,
};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::clone::{Cloned, clone3, exit};
use super::message::{Failure, send_cloned, send_failure, send_pipe};
use super::namespace::Namespace;

/// The default user and group of pause.
pub(super) const NOBODY: u32 = 65_535;

/// Everything that the child needs. The parent prepares it before the clone.
pub(super) struct Plan<'a> {
    /// The file to execute, or none to call `run`.
    pub(super) program: Option<BorrowedFd<'a>>,
    /// The child's end of the socket.
    pub(super) channel: BorrowedFd<'a>,
    /// The parent's end of the socket, which the child closes.
    pub(super) parents_end: RawFd,
    pub(super) null: BorrowedFd<'a>,
    pub(super) stderr: BorrowedFd<'a>,
    pub(super) joined: &'a [(Namespace, OwnedFd)],
    /// The clone flags of the new namespaces.
    pub(super) new: u32,
    pub(super) cgroup: Option<BorrowedFd<'a>>,
    /// Whether a helper has to join namespaces first and clone pause into them.
    pub(super) needs_helper: bool,
    /// Whether the child waits for the parent's message before it continues.
    pub(super) waits: bool,
    pub(super) host_name: Option<&'a [u8]>,
    pub(super) root: Option<&'a CStr>,
    pub(super) user: Option<(u32, u32)>,
    /// The pidfd of the parent, if the child waits for it or pause should end with it.
    pub(super) parent: Option<BorrowedFd<'a>>,
    /// Whether pause should end with its parent.
    pub(super) dies_with_parent: bool,
}

impl Plan<'_> {
    /// Whether the child can share the memory of its parent, which then waits for the child's exec.
    ///
    /// Memory cannot be shared if the child executes no file, or if the parent has to act before the exec.
    /// Neither can it be shared if a cgroup or a new time namespace makes clone3(2) necessary: libc has no
    /// function that gives a child of clone3 a stack. Joining a time namespace requires unshared memory, too
    /// (setns(2)).
    pub(super) fn shares_memory(&self) -> bool {
        let has_time = self.new & Namespace::Time.flag() != 0
            || self.joined.iter().any(|(kind, _)| *kind == Namespace::Time);
        self.program.is_some() && self.cgroup.is_none() && !self.waits && !has_time
    }
}

/// The steps of the child, so that the parent can say which one failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Start,
    Join(Namespace),
    Clone,
    Stdio,
    Mounts,
    Root,
    HostName,
    User,
    ParentDeath,
    Ready,
    Execute,
}

impl Step {
    const PLAIN: [Self; 10] = [
        Self::Start,
        Self::Clone,
        Self::Stdio,
        Self::Mounts,
        Self::Root,
        Self::HostName,
        Self::User,
        Self::ParentDeath,
        Self::Ready,
        Self::Execute,
    ];

    /// The number of the step in a message.
    fn number(self) -> i32 {
        let index = match self {
            Self::Join(kind) => Namespace::ALL.iter().position(|other| *other == kind),
            _ => Self::PLAIN.iter().position(|other| *other == self),
        };
        let index = index.unwrap_or_default() as i32;
        if matches!(self, Self::Join(_)) { -1 - index } else { index }
    }

    pub(super) fn from_number(number: i32) -> Self {
        if number < 0 {
            Self::Join(Namespace::ALL[(-1 - number) as usize % Namespace::ALL.len()])
        } else {
            Self::PLAIN[number as usize % Self::PLAIN.len()]
        }
    }
}

type Result<T> = std::result::Result<T, Failure>;

trait At<T> {
    /// Attaches the step to an error.
    fn at(self, step: Step) -> Result<T>;
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, step: Step) -> Result<T> {
        self.map_err(|errno| Failure { step: step.number(), errno })
    }
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: Step) -> Result<T> {
        self.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)).at(step)
    }
}

/// The helper: joins existing namespaces and clones pause into them. pause becomes a child of the helper's
/// parent, which is the process that called `spawn`.
///
/// A helper is needed in these cases:
///
/// - A PID namespace is joined: setns(2) affects only future children.
/// - A user namespace is joined: the new namespaces have to be created inside it.
/// - A user namespace is created and other namespaces are joined: a process in the new user namespace may not
///   join them.
pub(super) fn help(plan: &Plan<'_>) -> ! {
    let result = join(plan.joined).and_then(|()| {
        let flags = plan.new | libc::CLONE_PARENT as u32;
        // SAFETY: `clone3` requires that the child only makes system calls, and `become_pause` does.
        match unsafe { clone3(flags, plan.cgroup) }.at(Step::Clone)? {
            Cloned::Child => become_pause(plan),
            Cloned::Parent(pid, pidfd) => {
                send_cloned(plan.channel, pid, &pidfd);
                Ok(())
            }
        }
    });
    if let Err(failure) = result {
        send_failure(plan.channel, failure);
    }
    exit(0)
}

/// Joins these namespaces.
///
/// Joining some namespaces needs the caller's rights outside the user namespace. Joining others needs the
/// rights inside it. So this function first tries to join all namespaces except the user namespace. Then it
/// joins the user namespace, and then those that failed.
fn join(namespaces: &[(Namespace, OwnedFd)]) -> Result<()> {
    let setns = |kind: Namespace, file: &OwnedFd| {
        rustix::thread::move_into_link_name_space(file.as_fd(), None).at(Step::Join(kind))
    };
    // A bit is set for each namespace that is left for later.
    let mut later = 0_u32;
    for (index, (kind, file)) in namespaces.iter().enumerate() {
        let is_later = *kind == Namespace::User || setns(*kind, file).is_err();
        later |= u32::from(is_later) << index;
    }
    let left = || namespaces.iter().enumerate().filter(|(index, _)| later & (1 << index) != 0);
    for user in [true, false] {
        for (_, (kind, file)) in left().filter(|(_, (kind, _))| (*kind == Namespace::User) == user)
        {
            setns(*kind, file)?;
        }
    }
    Ok(())
}

/// Like [`become_pause`], for a child that shares the parent's memory.
pub(super) extern "C" fn become_pause_at(plan: *mut c_void) -> c_int {
    // SAFETY: `vfork` passes a pointer to a plan, and the parent keeps the plan until the child has executed
    // or ended.
    become_pause(unsafe { &*plan.cast::<Plan<'_>>() })
}

/// Prepares the sandbox from inside, as its first process, and becomes pause.
pub(super) fn become_pause(plan: &Plan<'_>) -> ! {
    // SAFETY: this process has its own copy of the descriptor, and does not use it.
    unsafe { libc::close(plan.parents_end) };
    let pipe = match open_pipe(plan) {
        Ok(pipe) => pipe,
        Err(failure) => {
            send_failure(plan.channel, failure);
            exit(1)
        }
    };
    let result: Result<()> = prepare(plan, &pipe).and_then(|()| match plan.program {
        Some(program) => Err(crate::exec(program)).at(Step::Execute),
        // SAFETY: `run` requires that the process has one thread, and that nothing uses a descriptor above 2.
        // This process is a child of clone3 without CLONE_VM, so it has one thread, and that thread runs only
        // this code.
        None => unsafe { crate::run() },
    });
    if let Err(failure) = result {
        // pause itself writes nothing to the pipe, so any bytes in it report a failure.
        let _ = rustix::io::write(&pipe, &failure.to_bytes());
    }
    exit(1)
}

/// Creates a pipe whose write end no other process has, because this process has no other thread that could
/// fork. So EOF means that pause has closed the write end or has ended.
fn open_pipe(plan: &Plan<'_>) -> Result<OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).at(Step::Start)?;
    send_pipe(plan.channel, &reader).at(Step::Start)?;
    // Above 2, because the child replaces 0, 1 and 2 later.
    let writer = fcntl_dupfd_cloexec(&writer, 3).at(Step::Start)?;
    if plan.waits {
        wait_for_parent(plan);
    }
    Ok(writer)
}

/// Waits for a byte from the parent. Exits if the parent gives up or dies.
fn wait_for_parent(plan: &Plan<'_>) {
    // Another child of the parent may hold a copy of the parent's end of the socket. Then the death of the
    // parent does not cause EOF, but its pidfd becomes readable.
    let parent = plan.parent.unwrap_or(plan.channel);
    let mut files = [plan.channel, parent].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let polled = retry_on_intr(|| poll(&mut files, None));
    let mut byte = [0_u8; 1];
    let is_there = polled.is_ok() && !files[0].revents().is_empty();
    if !is_there || !matches!(rustix::io::read(plan.channel, &mut byte), Ok(1..)) {
        exit(1)
    }
}

fn prepare(plan: &Plan<'_>, pipe: &OwnedFd) -> Result<()> {
    if !plan.needs_helper {
        join(plan.joined)?;
    }
    // Ctrl-C on the caller's terminal must not reach the sandbox.
    setsid().at(Step::Start)?;
    rustix::stdio::dup2_stdin(plan.null).at(Step::Stdio)?;
    rustix::stdio::dup2_stdout(plan.null).at(Step::Stdio)?;
    rustix::stdio::dup2_stderr(plan.stderr).at(Step::Stdio)?;
    if plan.new & Namespace::Mount.flag() != 0 {
        // Mounts in the sandbox must not propagate out of it.
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change(c"/", slave).at(Step::Mounts)?;
    }
    if let Some(root) = plan.root {
        enter_root(root).at(Step::Root)?;
    }
    chdir(c"/").at(Step::Root)?;
    if let Some(name) = plan.host_name {
        rustix::system::sethostname(name).at(Step::HostName)?;
    }
    set_no_new_privs(true).at(Step::User)?;
    become_user(plan.user).at(Step::User)?;
    if plan.dies_with_parent
        && let Some(parent) = plan.parent
    {
        // Changing the user clears the signal, so this comes afterwards.
        set_parent_process_death_signal(Some(Signal::KILL)).at(Step::ParentDeath)?;
        let mut files = [PollFd::from_borrowed_fd(parent, PollFlags::IN)];
        let now = Timespec::default();
        if retry_on_intr(|| poll(&mut files, Some(&now))).at(Step::ParentDeath)? > 0 {
            exit(1)
        }
    }
    // Closes nothing, because no process can have this descriptor. But where this call fails, pause could not close the
    // pipe, and the parent would wait for EOF until pause ends.
    // SAFETY: the call takes numbers and closes no descriptor that exists.
    match unsafe { libc::syscall(libc::SYS_close_range, i32::MAX, i32::MAX, 0) } {
        0 => {}
        _ => return Err(io::Error::last_os_error()).at(Step::Ready),
    }
    // The pipe stays open across the exec, and pause closes it.
    fcntl_setfd(pipe, FdFlags::empty()).at(Step::Start)
}

/// Makes this directory the root and unmounts everything outside it. See pivot_root(2), the section
/// `pivot_root(".", ".")`.
fn enter_root(root: &CStr) -> rustix::io::Result<()> {
    rustix::mount::mount_bind_recursive(root, root)?;
    chdir(root)?;
    pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)
}

/// Changes to this user and group, and drops supplementary groups if the process may do that.
///
/// If no user is given, this function changes to the default, [`NOBODY`]. If the user namespace does not map
/// the default, this function changes to root in that namespace. If the process may not change its ids to the
/// default, this function keeps them.
fn become_user(user: Option<(u32, u32)>) -> rustix::io::Result<()> {
    // This fails for an unprivileged user, and wherever /proc/PID/setgroups is `deny`.
    match set_thread_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let become_one = |(uid, gid): (u32, u32)| {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)
    };
    match user {
        Some(user) => become_one(user),
        None => match become_one((NOBODY, NOBODY)) {
            // The user namespace does not map the default.
            Err(Errno::INVAL) => become_one((0, 0)),
            Err(Errno::PERM) => Ok(()),
            result => result,
        },
    }
}

/// Joins a sandbox and clones the container. Call this function in a child of fork(2), the helper. In the
/// container, it returns `Ok`, and the caller then calls exec. In the helper, it returns an error or exits.
pub(super) fn enter(channel: &OwnedFd, sandbox: &OwnedFd, flags: u32) -> io::Result<()> {
    let fail = |errno: Errno| {
        send_failure(channel.as_fd(), Failure { step: Step::Start.number(), errno });
        io::Error::from(errno)
    };
    if flags != 0 {
        let kinds = rustix::thread::ThreadNameSpaceType::from_bits_retain(flags);
        rustix::thread::move_into_thread_name_spaces(sandbox.as_fd(), kinds).map_err(fail)?;
    }
    if flags & Namespace::User.flag() != 0 {
        // It is not an error if the user namespace does not map the ids or the caller may not change them.
        match become_user(Some((0, 0))) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(error) => return Err(fail(error)),
        }
    }
    // SAFETY: `clone3` requires that the child only makes system calls. The child returns to std's code
    // between fork(2) and exec, which only makes system calls.
    match unsafe { clone3(libc::CLONE_PARENT as u32, None) } {
        Err(error) => Err(fail(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
        Ok(Cloned::Child) => Ok(()),
        Ok(Cloned::Parent(pid, pidfd)) => {
            send_cloned(channel.as_fd(), pid, &pidfd);
            let _ = pidfd.into_raw_fd();
            exit(0)
        }
    }
}
