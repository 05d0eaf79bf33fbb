//! The errors when a sandbox starts, and what to do about them.

use std::borrow::Cow;
use std::error;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::child::Step;
use super::namespace::Namespace;

/// Why a sandbox could not be started: the step that failed, the system's error and, for known causes, what
/// to do.
///
/// ```
/// use podpause::{Namespace, Program};
///
/// # fn main() -> std::io::Result<()> {
/// let program = Program::new()?;
/// let netns = std::fs::File::open("/proc/self/ns/uts")?; // the wrong file
/// let error = program.sandbox().join(Namespace::Net, netns).spawn().unwrap_err();
/// assert!(error.to_string().contains("it is a namespace of the kind uts"), "{error}");
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Error {
    doing: String,
    error: io::Error,
    advice: Option<Cow<'static, str>>,
}

impl Error {
    pub(super) fn new(doing: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self { doing: doing.into(), error: error.into(), advice: None }
    }

    /// An error because an option is invalid, or because options contradict each other.
    pub(super) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(what, io::Error::new(ErrorKind::InvalidInput, why.into()))
    }

    pub(super) fn advise(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The kind of the system's error.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// The system's error number, if there is one. See errno(3).
    pub fn raw_os_error(&self) -> Option<i32> {
        self.error.raw_os_error()
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "no sandbox: {}: {}", self.doing, self.error)?;
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<Error> for io::Error {
    /// Keeps the kind and the text.
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error)
    }
}

/// The options of a sandbox that can explain an error.
pub(super) struct Request<'a> {
    pub(super) new: &'a [Namespace],
    pub(super) joins_pid: bool,
    pub(super) cgroup: Option<&'a Path>,
    pub(super) root: Option<&'a Path>,
}

impl Request<'_> {
    /// The error of a step in the child.
    pub(super) fn failed(&self, step: Step, error: io::Error) -> Error {
        let errno = error.raw_os_error();
        match step {
            Step::Start => Error::new("prepare the child", error),
            Step::Clone => self.cannot_clone(error),
            Step::Join(kind) => {
                let doing = format!("join the {} namespace", kind.name());
                match errno {
                    Some(libc::EPERM) => Error::new(doing, error).advise(
                        "this needs CAP_SYS_ADMIN in the user namespace that owns the namespace: \
                         run as root, or join that user namespace as well",
                    ),
                    Some(libc::EINVAL) if kind == Namespace::User => Error::new(doing, error)
                        .advise("a process cannot join the user namespace that it is in"),
                    _ => Error::new(doing, error),
                }
            }
            Step::Stdio => Error::new("set up standard input, output and error", error),
            Step::Mounts => Error::new("keep mounts from propagating out of the sandbox", error)
                .advise(self.denied_in_user_namespace()),
            Step::Root => {
                let root = self.root.unwrap_or(Path::new("/")).display();
                Error::new(format!("make {root} the root of the sandbox"), error)
            }
            Step::HostName => {
                let error = Error::new("set the host name", error);
                match errno {
                    Some(libc::EINVAL) => error.advise("it can have at most 64 bytes"),
                    _ => error.advise(self.denied_in_user_namespace()),
                }
            }
            Step::User => Error::new("change the user and group of pause", error).advise(
                "this needs CAP_SETUID and CAP_SETGID, and the user namespace of pause has to map both ids",
            ),
            Step::ParentDeath => Error::new("make pause end with its parent", error),
            Step::Ready => Error::new("make pause signal that it is ready", error)
                .advise("close_range needs Linux 5.9, and a seccomp filter must allow it"),
            Step::Execute => {
                let error = Error::new("execute pause", error);
                match errno {
                    Some(libc::EACCES | libc::EPERM) => error.advise(
                        "the file must be executable for the user that pause runs as, and an LSM \
                         such as SELinux must let it be executed",
                    ),
                    _ => error,
                }
            }
        }
    }

    /// The error of clone3(2).
    pub(super) fn cannot_clone(&self, error: io::Error) -> Error {
        let kinds: Vec<_> = self.new.iter().map(|kind| kind.name()).collect();
        let doing = match kinds.is_empty() {
            true => "clone a process".to_owned(),
            false => format!("clone a process into new namespaces ({})", kinds.join(", ")),
        };
        let advice: Cow<'static, str> = match error.raw_os_error() {
            Some(libc::EPERM) => self.not_permitted(),
            Some(libc::ENOSPC) => self.too_many_namespaces(),
            Some(libc::EINVAL) => self.not_known(),
            Some(libc::EAGAIN) => self.too_many_processes(),
            Some(libc::ENOMEM) if self.joins_pid => {
                "PID 1 of the joined PID namespace may have ended, so no process can start there"
                    .into()
            }
            Some(libc::ENOSYS) => {
                "clone3 needs Linux 5.3, and a seccomp filter must allow it".into()
            }
            Some(libc::EBUSY) if self.cgroup.is_some() => {
                "a cgroup that has controllers in cgroup.subtree_control cannot contain processes: \
                 use a child of it"
                    .into()
            }
            Some(libc::EACCES) if self.cgroup.is_some() => {
                "the caller must be able to write to cgroup.procs of this cgroup, and of the \
                 nearest common ancestor of this cgroup and the caller's"
                    .into()
            }
            Some(libc::EOPNOTSUPP) if self.cgroup.is_some() => {
                "cgroup.type of this cgroup does not allow processes in it".into()
            }
            Some(libc::E2BIG) => "starting in a cgroup needs Linux 5.7".into(),
            _ => return Error::new(doing, error),
        };
        Error::new(doing, error).advise(advice)
    }

    fn not_permitted(&self) -> Cow<'static, str> {
        if !self.new.contains(&Namespace::User) {
            return "this needs CAP_SYS_ADMIN: run as root, or add Namespace::User".into();
        }
        self.denied_in_user_namespace()
    }

    /// Why an unprivileged user may be unable to use user namespaces.
    fn denied_in_user_namespace(&self) -> Cow<'static, str> {
        for (name, forbids, allows) in [
            ("kernel.unprivileged_userns_clone", "0", "1"),
            ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ] {
            if sysctl(name).as_deref() == Some(forbids) {
                return format!(
                    "{name} is {forbids}, so ordinary users cannot use user namespaces: root can \
                     allow it with `sysctl -w {name}={allows}`"
                )
                .into();
            }
        }
        "the known sysctls do not forbid user namespaces: a seccomp filter, an LSM such as SELinux \
         or AppArmor, or a chroot around the caller may forbid them; root needs no user namespace"
            .into()
    }

    /// ENOSPC: a limit of the caller's user namespace or of one of its ancestors.
    fn too_many_namespaces(&self) -> Cow<'static, str> {
        let limits = self.new.iter().filter_map(|kind| {
            let name = format!("user.max_{}_namespaces", kind.name());
            sysctl(&name).map(|value| format!("{name} is {value}"))
        });
        let limits: Vec<_> = limits.collect();
        format!(
            "a limit on namespaces is reached, here or in a user namespace around this one ({}): \
             end sandboxes, or raise the limit by sysctl; or user or PID namespaces are nested \
             deeper than the kernel allows (32 levels)",
            limits.join(", ")
        )
        .into()
    }

    /// EINVAL: a kind of namespace that the kernel lacks.
    fn not_known(&self) -> Cow<'static, str> {
        let missing = self.new.iter().filter(|kind| kind.is_missing()).map(|kind| kind.name());
        let missing: Vec<_> = missing.collect();
        match missing.is_empty() {
            true => {
                "the kernel is too old for a flag, or was built without a kind of namespace".into()
            }
            false => format!("this kernel has no {} namespaces", missing.join(" or ")).into(),
        }
    }

    /// EAGAIN: a limit on processes.
    fn too_many_processes(&self) -> Cow<'static, str> {
        if let Some(cgroup) = self.cgroup
            && let Ok(max) = fs::read_to_string(cgroup.join("pids.max"))
            && max.trim() != "max"
        {
            let cgroup = cgroup.display();
            return format!(
                "the cgroup {cgroup} may be full: its pids.max is {}; end processes, or \
                 raise pids.max",
                max.trim()
            )
            .into();
        }
        "a limit on processes is reached: pids.max of a cgroup that the caller is in, \
         RLIMIT_NPROC, kernel.threads-max or kernel.pid_max"
            .into()
    }
}

fn sysctl(name: &str) -> Option<String> {
    let value = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    Some(value.trim().to_string())
}
