//! The kinds of namespaces, and files that refer to one.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A kind of namespace. See namespaces(7).
///
/// ```
/// use podpause::Namespace;
///
/// let mount = std::fs::read_link(format!("/proc/self/ns/{}", Namespace::Mount.name()))?;
/// assert!(mount.to_string_lossy().starts_with("mnt:["));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Namespace {
    /// user_namespaces(7)
    User,
    /// mount_namespaces(7)
    Mount,
    /// pid_namespaces(7)
    Pid,
    /// network_namespaces(7)
    Net,
    /// ipc_namespaces(7)
    Ipc,
    /// uts_namespaces(7)
    Uts,
    /// cgroup_namespaces(7)
    Cgroup,
    /// time_namespaces(7), since Linux 5.6
    Time,
}

impl Namespace {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::User,
        Self::Mount,
        Self::Pid,
        Self::Net,
        Self::Ipc,
        Self::Uts,
        Self::Cgroup,
        Self::Time,
    ];

    /// The name of this kind in `/proc/PID/ns`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mnt",
            Self::Pid => "pid",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }

    /// The flag of this kind for clone3(2), unshare(2) and setns(2), such as CLONE_NEWUSER.
    pub const fn flag(self) -> u32 {
        (match self {
            Self::User => libc::CLONE_NEWUSER,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Net => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Time => 0x80, // CLONE_NEWTIME; the libc crate defines it only for glibc
        }) as u32
    }

    /// Whether the running kernel lacks this kind, according to /proc. Without /proc, every kind counts as
    /// present.
    pub(super) fn is_missing(self) -> bool {
        Path::new("/proc/self/ns").exists()
            && !Path::new("/proc/self/ns").join(self.name()).exists()
    }

    /// The kind of namespace that this file refers to, if any.
    fn of(file: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        // SAFETY: the request takes no argument.
        match unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) } {
            -1 => Err(io::Error::last_os_error()),
            flag => Ok(Self::ALL.into_iter().find(|kind| kind.flag() == flag as u32)),
        }
    }

    /// Rejects a file that does not refer to a namespace of this kind.
    pub(super) fn check(self, file: BorrowedFd<'_>) -> Result<(), String> {
        match Self::of(file) {
            Ok(Some(kind)) if kind == self => Ok(()),
            Ok(Some(kind)) => Err(format!("it is a namespace of the kind {}", kind.name())),
            Ok(None) => Err("it is a namespace of an unknown kind".into()),
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Err(format!(
                "it is not a namespace: give /proc/PID/ns/{}, or a file on which one is mounted",
                self.name()
            )),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// An existing namespace to join.
#[derive(Debug)]
pub(super) enum Existing {
    Descriptor(OwnedFd),
    Path(std::path::PathBuf),
}

impl Existing {
    pub(super) fn open(self) -> io::Result<OwnedFd> {
        match self {
            Self::Descriptor(file) => Ok(file),
            Self::Path(path) => Ok(File::open(path)?.into()),
        }
    }
}
