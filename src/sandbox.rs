//! Sandboxes: one call starts pause in new or existing namespaces.

mod child;
mod clone;
mod error;
mod ids;
mod message;
mod namespace;
mod process;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};

use rustix::io::{Errno, fcntl_dupfd_cloexec, retry_on_intr};
use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open};

use child::{Plan, Step};
use clone::{AllSignalsBlocked, Cloned, clone3, vfork};
pub use error::Error;
use error::Request;
use message::{Failure, Message, channel, receive, receive_now};
use namespace::Existing;
pub use namespace::Namespace;
use process::Child;

/// The program, which starts sandboxes. All sandboxes that one `Program` starts share its text page.
///
/// ```
/// use podpause::{Namespace, Program};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let program = Program::new()?;
/// let mut sandbox = program
///     .sandbox()
///     .new_namespaces([Namespace::User, Namespace::Pid, Namespace::Ipc, Namespace::Uts])
///     .host_name("pod-1")
///     .spawn()?;
/// println!("pause is process {}", sandbox.pid());
/// assert_eq!(sandbox.terminate()?.code(), Some(0));
/// # Ok(())
/// # }
/// # // Some machines do not allow new namespaces.
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// #     match example() {
/// #         Err(error) if error.is::<podpause::Error>() => Ok(eprintln!("{error}")),
/// #         result => result,
/// #     }
/// # }
/// ```
#[derive(Debug)]
pub struct Program(Option<OwnedFd>);

impl Program {
    /// Writes the program to a sealed memfd.
    ///
    /// # Errors
    ///
    /// Those of [`memfd`](crate::memfd). Where no executable memfd can be created, there are two
    /// alternatives:
    ///
    /// ```no_run
    /// # use podpause::Program;
    /// # fn main() -> std::io::Result<()> {
    /// let program = Program::new().or_else(|_| Program::from_file("/usr/libexec/pause"))?;
    /// let program = Program::new().unwrap_or_else(|_| Program::without_exec());
    /// # Ok(())
    /// # }
    /// ```
    pub fn new() -> io::Result<Self> {
        Ok(Self(Some(above_stdio(crate::memfd()?)?)))
    }

    /// Uses a file that contains the program, for example one to which [`ELF`](crate::ELF) was written. The
    /// user that pause runs as must be allowed to execute it.
    ///
    /// # Errors
    ///
    /// Those of open(2).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let error = podpause::Program::from_file("/no/such/file").unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_file(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self(Some(above_stdio(File::open(path)?.into())?)))
    }

    /// Makes the child call [`run`](crate::run) instead of executing a file. pause then keeps a copy of the
    /// caller's memory, command line and environment.
    ///
    /// ```
    /// let program = podpause::Program::without_exec();
    /// ```
    pub fn without_exec() -> Self {
        Self(None)
    }

    /// A builder for a sandbox. Without further options, the sandbox has no namespace of its own.
    ///
    /// [`Program`] has an example.
    pub fn sandbox(&self) -> SandboxBuilder<'_> {
        SandboxBuilder {
            program: self,
            new: Vec::new(),
            joined: Vec::new(),
            uids: Vec::new(),
            gids: Vec::new(),
            user: None,
            host_name: None,
            cgroup: None,
            root: None,
            stderr: None,
            dies_with_parent: false,
        }
    }
}

/// A builder for a sandbox, from [`Program::sandbox`].
///
/// pause gets a new session, the working directory `/`, /dev/null as standard input and output, and no
/// descriptor above 2. It cannot gain privileges (PR_SET_NO_NEW_PRIVS).
///
/// ```
/// use podpause::{Namespace, Program};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let program = Program::new()?;
/// // A network namespace that already exists, as if CNI had created it, and the user namespace that owns it.
/// let first = program.sandbox().new_namespaces([Namespace::User, Namespace::Net]).spawn()?;
/// let sandbox = program
///     .sandbox()
///     .join(Namespace::User, first.namespace(Namespace::User)?)
///     .join_path(Namespace::Net, format!("/proc/{}/ns/net", first.pid()))
///     .new_namespaces([Namespace::Pid, Namespace::Ipc, Namespace::Uts, Namespace::Mount])
///     .host_name("pod-1")
///     .stderr(std::io::stderr().as_fd().try_clone_to_owned()?)
///     .kill_with_parent()
///     .spawn()?;
/// # use std::os::fd::AsFd;
/// # drop(sandbox);
/// # Ok(())
/// # }
/// # // Some machines do not allow new namespaces.
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// #     match example() {
/// #         Err(error) if error.is::<podpause::Error>() => Ok(eprintln!("{error}")),
/// #         result => result,
/// #     }
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing starts before `spawn`"]
pub struct SandboxBuilder<'a> {
    program: &'a Program,
    new: Vec<Namespace>,
    joined: Vec<(Namespace, Existing)>,
    uids: Vec<ids::Line>,
    gids: Vec<ids::Line>,
    user: Option<(u32, u32)>,
    host_name: Option<Vec<u8>>,
    cgroup: Option<PathBuf>,
    root: Option<PathBuf>,
    stderr: Option<OwnedFd>,
    dies_with_parent: bool,
}

impl SandboxBuilder<'_> {
    /// Creates new namespaces of these kinds.
    ///
    /// An unprivileged user has to include [`Namespace::User`], or to [`join`](Self::join) a user namespace
    /// that they own. With [`Namespace::Pid`], pause is PID 1. With [`Namespace::Mount`], mounts in the
    /// sandbox do not propagate out of it.
    pub fn new_namespaces(mut self, kinds: impl IntoIterator<Item = Namespace>) -> Self {
        self.new.extend(kinds);
        self
    }

    /// Joins an existing namespace of this kind. `namespace` is an open file: `/proc/PID/ns/KIND`, or a file
    /// on which a namespace is mounted.
    ///
    /// In an existing PID namespace, pause is not PID 1. It is a child subreaper there.
    pub fn join(mut self, kind: Namespace, namespace: impl Into<OwnedFd>) -> Self {
        self.joined.push((kind, Existing::Descriptor(namespace.into())));
        self
    }

    /// Joins an existing namespace of this kind by its path, such as `/run/netns/NAME`.
    /// [`spawn`](Self::spawn) opens the path.
    pub fn join_path(mut self, kind: Namespace, path: impl Into<PathBuf>) -> Self {
        self.joined.push((kind, Existing::Path(path.into())));
        self
    }

    /// Maps `count` user ids of the new user namespace, starting at `inside`, to ids of the caller's user
    /// namespace, starting at `outside`. May be called several times. Without a map, user id 0 inside is the
    /// caller's effective user id outside.
    ///
    /// An unprivileged user can map only their own id, or the ranges that newuidmap(1) allows. For these
    /// ranges, `spawn` runs newuidmap.
    pub fn map_uids(mut self, inside: u32, outside: u32, count: u32) -> Self {
        self.uids.push([inside, outside, count]);
        self
    }

    /// Like [`map_uids`](Self::map_uids), for group ids and with newgidmap(1).
    pub fn map_gids(mut self, inside: u32, outside: u32, count: u32) -> Self {
        self.gids.push([inside, outside, count]);
        self
    }

    /// The user and the group of pause, as ids in its user namespace.
    ///
    /// By default, both are 65535. If the user namespace does not map 65535, both are 0. If the caller may
    /// not change its ids, pause keeps those of the caller. These fallbacks apply only to the default: if ids
    /// are given but cannot be set, [`spawn`](Self::spawn) fails.
    ///
    /// In each case, if the caller may drop its supplementary groups, pause has none.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// The host name, at most 64 bytes, for a new UTS namespace.
    pub fn host_name(mut self, name: impl AsRef<[u8]>) -> Self {
        self.host_name = Some(name.as_ref().into());
        self
    }

    /// Starts pause directly in this cgroup v2 directory, so the memory that pause allocates is charged to
    /// this cgroup. The shared page of the program stays charged to the cgroup that wrote it or first read
    /// it. See CLONE_INTO_CGROUP in clone3(2), since Linux 5.7.
    pub fn cgroup(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(folder.into());
        self
    }

    /// Makes this directory the root of the new mount namespace. Only the mounts below it remain. The
    /// directory may be empty. See pivot_root(2).
    pub fn root(mut self, folder: impl Into<PathBuf>) -> Self {
        self.root = Some(folder.into());
        self
    }

    /// Where pause writes its messages, of 18 bytes each. It writes one when SIGTERM or SIGINT ends it, and one
    /// when it cannot hold the namespaces. If it is not PID 1, it also writes a warning at the start, except
    /// with [`Program::without_exec`]. The default is /dev/null.
    pub fn stderr(mut self, file: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(file.into());
        self
    }

    /// Makes the kernel kill pause when the thread that called [`spawn`](Self::spawn) ends. The end of that
    /// thread counts, not the end of the process. See PR_SET_PDEATHSIG(2const).
    pub fn kill_with_parent(mut self) -> Self {
        self.dies_with_parent = true;
        self
    }

    /// Starts pause. Returns when pause is ready: it holds the namespaces, reaps orphans and takes signals,
    /// and it has closed the descriptors above 2 that it inherited.
    ///
    /// This needs Linux 5.9 and close_range(2), with which pause closes the pipe that `spawn` waits for.
    ///
    /// Several threads can call `spawn` at once. `spawn` has no timeout: if the cgroup is frozen, it waits
    /// for the thaw.
    ///
    /// # Errors
    ///
    /// The [`Error`] says which step failed and, for known causes, what to do. After an error, no process is
    /// left. The known causes include these: user namespaces are not allowed, `user.max_*_namespaces` is
    /// reached, the kernel lacks a kind of namespace, a map is not allowed, the cgroup does not accept a
    /// process, or a joined namespace is of the wrong kind.
    pub fn spawn(self) -> Result<Sandbox, Error> {
        self.check()?;
        let Self {
            program, new, joined, uids, gids, user, host_name, cgroup, root, stderr, ..
        } = self;
        let joins = |kind| joined.iter().any(|(other, _)| *other == kind);
        let joins_user = joins(Namespace::User);
        let request = Request {
            new: &new,
            joins_pid: joins(Namespace::Pid),
            cgroup: cgroup.as_deref(),
            root: root.as_deref(),
        };
        let flags = |kinds: &[Namespace]| kinds.iter().fold(0, |flags, kind| flags | kind.flag());
        let joined = open_all(joined)?;
        let null = open(Path::new("/dev/null"), true)?;
        let stderr = stderr.map(above_stdio).transpose();
        let stderr =
            stderr.map_err(|error| Error::new("duplicate a descriptor for stderr", error))?;
        let cgroup = request.cgroup.map(open_cgroup).transpose()?;
        let root_path = request.root.map(|path| CString::new(path.as_os_str().as_bytes()));
        let root_path = root_path.transpose().map_err(|error| {
            Error::new("make a folder the root of the sandbox", io::Error::from(error))
        })?;
        let prepare = |error: io::Error| Error::new("prepare the child", error);
        let (ours, theirs) = channel_above_stdio().map_err(prepare)?;

        let makes_user = new.contains(&Namespace::User);
        let needs_helper = request.joins_pid || joins_user || makes_user && !joined.is_empty();
        let waits = makes_user || needs_helper;
        let parent = (waits || self.dies_with_parent).then(|| {
            let pidfd = pidfd_open(getpid(), PidfdFlags::empty())?;
            above_stdio(pidfd)
        });
        let parent = parent.transpose().map_err(prepare)?;
        let plan = Plan {
            program: program.0.as_ref().map(AsFd::as_fd),
            channel: theirs.as_fd(),
            parents_end: ours.as_raw_fd(),
            null: null.as_fd(),
            stderr: stderr.as_ref().unwrap_or(&null).as_fd(),
            joined: &joined,
            new: flags(&new),
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
            needs_helper,
            waits,
            host_name: host_name.as_deref(),
            root: root_path.as_deref(),
            user,
            parent: parent.as_ref().map(AsFd::as_fd),
            dies_with_parent: self.dies_with_parent,
        };
        let first = start(&plan).map_err(|error| request.cannot_clone(error))?;
        drop(theirs);

        let (mut child, pipe) = listen(&request, ours.as_fd(), first, needs_helper)?;
        if makes_user {
            ids::write_maps(child.pid, &uids, &gids)?;
        }
        // The failure that the child has sent through the socket, or otherwise how it ended.
        let reported = |child: &mut Child| match receive_now(ours.as_fd()) {
            Ok(Some(Message::Failed(failure))) => failed(&request, failure),
            _ => ended(child),
        };
        if waits && rustix::io::write(&ours, b"!").is_err() {
            return Err(reported(&mut child));
        }
        let mut failure = [0; message::LENGTH];
        let length = retry_on_intr(|| rustix::io::read(&pipe, &mut failure));
        match length.map_err(|error| Error::new("wait for pause", error))? {
            0 if child.is_ending() => Err(reported(&mut child)),
            0 => {
                let kinds: Vec<_> = joined.iter().map(|(kind, _)| *kind).collect();
                Ok(Sandbox { child, namespaces: flags(&new) | flags(&kinds) })
            }
            _ => Err(failed(&request, Failure::from_bytes(failure))),
        }
    }

    /// Rejects contradictory options before anything is started.
    fn check(&self) -> Result<(), Error> {
        let joined = self.joined.iter().map(|(kind, _)| *kind);
        let mut seen = Vec::new();
        for kind in self.new.iter().copied().chain(joined) {
            if seen.contains(&kind) {
                let what = format!("the {} namespace", kind.name());
                return Err(Error::invalid(what, "give it once only, as new or joined"));
            }
            seen.push(kind);
        }
        let needs = |is_given: bool, what: &str, kind: Namespace| match is_given
            && !self.new.contains(&kind)
        {
            true => {
                Err(Error::invalid(what, format!("it needs a new namespace, Namespace::{kind:?}")))
            }
            false => Ok(()),
        };
        let maps = !self.uids.is_empty() || !self.gids.is_empty();
        needs(maps, "maps of user or group ids", Namespace::User)?;
        needs(self.host_name.is_some(), "a host name", Namespace::Uts)?;
        needs(self.root.is_some(), "a root", Namespace::Mount)
    }
}

/// Clones the first child.
fn start(plan: &Plan<'_>) -> io::Result<Child> {
    let _blocked = AllSignalsBlocked::new();
    if plan.shares_memory() {
        // SAFETY: `vfork` requires that the function only makes system calls. It does, and never returns.
        let (pid, pidfd) = unsafe { vfork(plan.new, child::become_pause_at, plan) }?;
        return Ok(Child::new(pid, pidfd));
    }
    let (flags, cgroup) = if plan.needs_helper { (0, None) } else { (plan.new, plan.cgroup) };
    // SAFETY: `clone3` requires that the child only makes system calls. Both functions do, and never return.
    match unsafe { clone3(flags, cgroup) }? {
        Cloned::Child if plan.needs_helper => child::help(plan),
        Cloned::Child => child::become_pause(plan),
        Cloned::Parent(pid, pidfd) => Ok(Child::new(pid, pidfd)),
    }
}

/// Waits until pause is cloned and has sent its pipe.
fn listen(
    request: &Request<'_>,
    channel: BorrowedFd<'_>,
    first: Child,
    is_helper: bool,
) -> Result<(Child, OwnedFd), Error> {
    let (mut child, mut is_pause, mut pipe) = (first, !is_helper, None);
    let error = loop {
        if is_pause && let Some(pipe) = pipe.take() {
            return Ok((child, pipe));
        }
        match receive(channel, child.pidfd.as_fd()) {
            // The helper exits after this message. The assignment drops the helper, which reaps it.
            Ok(Some(Message::Cloned(pid, pidfd))) => match cloned(pid, pidfd) {
                Ok(pause) => (child, is_pause) = (pause, true),
                Err(error) => break Error::new("receive a message from the child", error),
            },
            Ok(Some(Message::Pipe(file))) => pipe = Some(file),
            Ok(Some(Message::Failed(failure))) => break failed(request, failure),
            Ok(None) => break ended(&mut child),
            Err(error) => break Error::new("receive a message from the child", error),
        }
    };
    // The helper may have cloned pause without having said so yet. pause is a child of this process.
    if !is_pause {
        let _ = child.wait();
        while let Ok(Some(message)) = receive_now(channel) {
            if let Message::Cloned(pid, pidfd) = message {
                drop(cloned(pid, pidfd));
            }
        }
    }
    Err(error)
}

/// The child with this id and pidfd. Without a pidfd, kills and reaps the child.
fn cloned(pid: i32, pidfd: Option<OwnedFd>) -> io::Result<Child> {
    pidfd.map(|pidfd| Child::new(pid, pidfd)).ok_or_else(|| {
        process::kill_and_reap(pid);
        Errno::MFILE.into()
    })
}

fn failed(request: &Request<'_>, failure: Failure) -> Error {
    request.failed(Step::from_number(failure.step), failure.errno.into())
}

/// The error for a child that ended without a message.
fn ended(child: &mut Child) -> Error {
    let end = match child.wait() {
        Ok(status) => io::Error::other(format!("it ended at once: {status}")),
        Err(error) => error,
    };
    Error::new("start pause", end)
}

fn open(path: &Path, is_writable: bool) -> Result<OwnedFd, Error> {
    let file = File::options().read(true).write(is_writable).open(path);
    let file = file.and_then(|file| above_stdio(file.into()));
    file.map_err(|error| Error::new(format!("open {}", path.display()), error))
}

fn open_cgroup(path: &Path) -> Result<OwnedFd, Error> {
    let folder = open(path, false)?;
    match rustix::fs::fstatfs(&folder) {
        // CGROUP2_SUPER_MAGIC in Linux include/uapi/linux/magic.h. The field's type differs between targets.
        Ok(system) if system.f_type == 0x6367_7270 => Ok(folder),
        _ => {
            let what = format!("use the cgroup {}", path.display());
            Err(Error::invalid(what, "it is not a cgroup v2 directory"))
        }
    }
}

fn open_all(joined: Vec<(Namespace, Existing)>) -> Result<Vec<(Namespace, OwnedFd)>, Error> {
    let opened = joined.into_iter().map(|(kind, existing)| {
        let what = match &existing {
            Existing::Path(path) => {
                format!("join the {} namespace {}", kind.name(), path.display())
            }
            Existing::Descriptor(_) => format!("join the {} namespace", kind.name()),
        };
        let file = existing.open().and_then(above_stdio);
        let file = file.map_err(|error| Error::new(what.clone(), error))?;
        kind.check(file.as_fd()).map_err(|why| Error::invalid(what, why))?;
        Ok((kind, file))
    });
    opened.collect()
}

/// Two connected sockets above 2.
fn channel_above_stdio() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = channel()?;
    Ok((above_stdio(ours)?, above_stdio(theirs)?))
}

/// Moves a file to a descriptor above 2, because the child replaces 0, 1 and 2. If the caller has closed its
/// standard streams, a new file can get such a low descriptor.
fn above_stdio(file: OwnedFd) -> io::Result<OwnedFd> {
    match file.as_raw_fd() {
        0..=2 => Ok(fcntl_dupfd_cloexec(&file, 3)?),
        _ => Ok(file),
    }
}

/// A running pause and the namespaces that it holds.
///
/// **Drop kills and reaps pause.** If pause is PID 1, the kernel also kills everything else in its PID
/// namespace. Use [`into_pidfd`](Self::into_pidfd) for a sandbox that should outlive this object or this
/// process. PID 1 can be reaped only after all other processes in its namespace. So if this process has
/// children there, such as a [`Container`], reap them first. Otherwise, drop gives up after one second, and
/// leaves pause killed but not reaped.
#[derive(Debug)]
pub struct Sandbox {
    child: Child,
    /// The clone flags of the namespaces that differ from the caller's.
    namespaces: u32,
}

impl Sandbox {
    /// Takes over a sandbox that [`into_pidfd`](Self::into_pidfd) gave up. This also works in another
    /// process, for example after the runtime has executed itself again or was restarted.
    ///
    /// Every namespace of pause that differs from the caller's is treated as a namespace of the sandbox. If
    /// the caller is not the parent of pause, [`wait`](Self::wait) waits but cannot return the status.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if `pidfd` is not a pidfd, [`ErrorKind::NotFound`] if pause has ended, and
    /// errors from reading /proc, which has to be mounted.
    pub fn from_pidfd(pidfd: OwnedFd) -> io::Result<Self> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        let pid: i32 = pid.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "not a pidfd"))?;
        let ended = || io::Error::new(ErrorKind::NotFound, "pause has ended");
        if pid <= 0 {
            return Err(ended());
        }
        let mut namespaces = 0;
        for kind in Namespace::ALL.into_iter().filter(|kind| !kind.is_missing()) {
            let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{}", kind.name()));
            if link(&pid.to_string())? != link("self")? {
                namespaces |= kind.flag();
            }
        }
        // From here on, dropping `sandbox` kills pause. An error above this line does not.
        let sandbox = Self { child: Child::new(pid, pidfd), namespaces };
        match sandbox.child.has_ended() {
            true => Err(ended()),
            false => Ok(sandbox),
        }
    }

    /// The process id of pause in the caller's PID namespace.
    pub fn pid(&self) -> u32 {
        self.child.pid as u32
    }

    /// The pidfd of pause, for setns(2), for signals, and for poll(2), which reports that pause has ended.
    /// The pidfd has FD_CLOEXEC.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// Opens pause's namespace of this kind. The descriptor is closed on exec.
    ///
    /// # Errors
    ///
    /// Those of open(2) on `/proc/PID/ns/KIND`, and [`ErrorKind::NotFound`] if pause has ended.
    pub fn namespace(&self, kind: Namespace) -> io::Result<OwnedFd> {
        let file = File::open(format!("/proc/{}/ns/{}", self.child.pid, kind.name()))?;
        // If pause has ended, its id may belong to another process.
        match self.child.has_ended() {
            true => Err(io::Error::new(ErrorKind::NotFound, "pause has ended")),
            false => Ok(file.into()),
        }
    }

    /// Bind-mounts the namespace of this kind on a new file. The namespace then outlives pause, and others
    /// can join it by the file's path. A PID namespace is an exception: after its PID 1 has ended, no process
    /// can start in it. To undo the pin, unmount and remove the file. See MS_BIND in mount(2).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] if the file exists. Otherwise those of [`namespace`](Self::namespace),
    /// open(2) and mount(2). mount(2) needs CAP_SYS_ADMIN. If mount(2) fails, the new file is removed. For a
    /// mount namespace, the file must be on a mount with private propagation.
    pub fn pin(&self, kind: Namespace, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let explain = |error: io::Error| {
            let text = format!("pin the {} namespace at {}: {error}", kind.name(), path.display());
            io::Error::new(error.kind(), text)
        };
        let namespace = self.namespace(kind)?;
        File::options().write(true).create_new(true).open(path).map_err(explain)?;
        let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        rustix::mount::mount_bind(source, path).map_err(|error| {
            let _ = fs::remove_file(path);
            explain(error.into())
        })
    }

    /// Starts a command in the namespaces of the sandbox, as a child of the caller.
    ///
    /// `command` determines the standard streams, the arguments, the environment and the working directory.
    /// If the sandbox has a mount namespace, the program is looked up there, and the working directory is
    /// `/`. If the sandbox has a user namespace that maps root, the command runs as root there. The command
    /// inherits the caller's other credentials, cgroups and limits. That is enough for helpers and tests, but
    /// it is less than a container.
    ///
    /// # Errors
    ///
    /// The error of exec, as from `Command::spawn`. If the sandbox cannot be entered, an error that names the
    /// sandbox. After an error, no process is left.
    ///
    /// ```
    /// # use podpause::{Namespace, Program};
    /// use std::process::{Command, Stdio};
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # let program = Program::new()?;
    /// let kinds = [Namespace::User, Namespace::Uts, Namespace::Pid];
    /// let mut sandbox = program.sandbox().new_namespaces(kinds).host_name("pod-1").spawn()?;
    /// let mut command = Command::new("uname");
    /// command.arg("-n").stdout(Stdio::piped());
    /// let mut container = sandbox.start(command)?;
    /// let said = std::io::read_to_string(container.stdout.take().unwrap())?;
    /// assert_eq!(said, "pod-1\n");
    /// assert!(container.wait()?.success());
    /// sandbox.terminate()?;
    /// # Ok(())
    /// # }
    /// # // Some machines do not allow new namespaces.
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// #     match example() {
    /// #         Err(error) if error.is::<podpause::Error>() => Ok(eprintln!("{error}")),
    /// #         result => result,
    /// #     }
    /// # }
    /// ```
    pub fn start(&self, mut command: Command) -> io::Result<Container> {
        let (ours, theirs) = channel_above_stdio()?;
        let pidfd = self.child.pidfd.try_clone()?;
        let flags = self.namespaces;
        // SAFETY: `pre_exec` requires that the function is async-signal-safe. It only makes system calls. It
        // returns in the container, which then executes the command. Without `enter`, the child that
        // std forks would execute the command, outside the sandbox.
        unsafe { command.pre_exec(move || child::enter(&theirs, &pidfd, flags)) };
        // The child that std forked ends as soon as it has cloned the container.
        let spawned = command.spawn().and_then(|mut helper| {
            let streams = (helper.stdin.take(), helper.stdout.take(), helper.stderr.take());
            match helper.wait() {
                // The kernel or another thread has reaped the helper.
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(streams),
                waited => waited.map(|_| streams),
            }
        });
        let failed = |error: io::Error| {
            let text = format!("enter the sandbox of process {}: {error}", self.child.pid);
            Err(io::Error::new(error.kind(), text))
        };
        match (spawned, receive_now(ours.as_fd())?) {
            (spawned, Some(Message::Cloned(pid, pidfd))) => {
                let child = cloned(pid, pidfd)?;
                // After an error, exec has failed, so the container has ended or is about to end.
                spawned.map(|(stdin, stdout, stderr)| Container { stdin, stdout, stderr, child })
            }
            (_, Some(Message::Failed(failure))) => failed(failure.errno.into()),
            (Err(error), _) => Err(error),
            (Ok(_), _) => failed(io::Error::other(String::from("the helper ended too early"))),
        }
    }

    /// Sends SIGTERM to pause and reaps it. The exit status of pause is 0.
    ///
    /// If pause is PID 1, the kernel kills all other processes in its PID namespace. pause can be reaped only
    /// after all of them. So if containers are children of this process, reap them first, or in another
    /// thread.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    pub fn terminate(&mut self) -> io::Result<ExitStatus> {
        self.child.send(Signal::TERM)?;
        self.child.wait()
    }

    /// Kills pause. If pause is PID 1, the kernel also kills everything else in its PID namespace. Call
    /// [`wait`](Self::wait) afterwards. It is not an error if pause has ended.
    ///
    /// # Errors
    ///
    /// Those of pidfd_send_signal(2).
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.send(Signal::KILL)
    }

    /// Waits until pause ends and reaps it. Later calls return the same status.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if pause has ended and something else reaped it: another thread that waits for
    /// any child, the kernel if this process ignores SIGCHLD, or the parent of pause if that is another
    /// process.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Gives up the sandbox and returns the pidfd of pause. pause keeps running, and this library no longer
    /// kills or reaps it.
    ///
    /// The process that started pause still has to reap it, unless that process ends first.
    ///
    /// ```
    /// # use podpause::{Namespace, Program};
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # let program = Program::new()?;
    /// let sandbox = program.sandbox().new_namespaces([Namespace::User, Namespace::Net]).spawn()?;
    /// let pidfd = sandbox.into_pidfd();
    /// // The pidfd is enough to take the sandbox over again.
    /// let mut sandbox = podpause::Sandbox::from_pidfd(pidfd)?;
    /// sandbox.terminate()?;
    /// # Ok(())
    /// # }
    /// # // Some machines do not allow new namespaces.
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// #     match example() {
    /// #         Err(error) if error.is::<podpause::Error>() => Ok(eprintln!("{error}")),
    /// #         result => result,
    /// #     }
    /// # }
    /// ```
    pub fn into_pidfd(self) -> OwnedFd {
        self.child.into_pidfd()
    }
}

/// A command that runs in a sandbox, from [`Sandbox::start`], as a child of the caller.
///
/// Drop kills and reaps the command.
#[derive(Debug)]
pub struct Container {
    /// The write end of the command's standard input, if that is a pipe.
    pub stdin: Option<ChildStdin>,
    /// The read end of the command's standard output, if that is a pipe.
    pub stdout: Option<ChildStdout>,
    /// The read end of the command's standard error, if that is a pipe.
    pub stderr: Option<ChildStderr>,
    child: Child,
}

impl Container {
    /// The process id of the command in the caller's PID namespace.
    pub fn pid(&self) -> u32 {
        self.child.pid as u32
    }

    /// The pidfd of the command. It has FD_CLOEXEC.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// Kills the command. Call [`wait`](Self::wait) afterwards. It is not an error if the command has ended.
    ///
    /// # Errors
    ///
    /// Those of pidfd_send_signal(2).
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.send(Signal::KILL)
    }

    /// Closes the command's standard input, waits until the command ends, and reaps it. Later calls return
    /// the same status.
    ///
    /// # Errors
    ///
    /// Those of [`Sandbox::wait`].
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        drop(self.stdin.take());
        self.child.wait()
    }
}
