//! The program from memory: no file, no image.

use std::ffi::c_char;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, write};

/// Puts the program into a memfd, for [`exec`].
///
/// One memfd serves all pods of a runtime, which then share its page. It is sealed: nobody can change
/// it, not even who holds it. It is closed on exec, and can be executed also where the sysctl
/// `vm.memfd_noexec` is 1. memfd_create(2)
///
/// # Errors
///
/// [`ErrorKind::PermissionDenied`] where `vm.memfd_noexec` is 2, so that no memfd can be executed:
/// then a file has to carry the program. Otherwise the errors of memfd_create(2), write(2) and
/// `F_ADD_SEALS` in fcntl(2): above all, no memory and no descriptor left.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let program = podpause::memfd()?;
/// # Ok(())
/// # }
/// ```
pub fn memfd() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = match memfd_create("pause", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there is no such flag, and every memfd can be executed.
        Err(Errno::INVAL) => memfd_create("pause", flags),
        Err(Errno::ACCESS) => {
            let text = "no memfd can be executed here, since the sysctl vm.memfd_noexec is 2: set \
                        it to 1 or 0, or run pause from a file";
            return Err(io::Error::new(ErrorKind::PermissionDenied, text));
        }
        result => result,
    }?;
    let mut rest = crate::ELF;
    while !rest.is_empty() {
        rest = &rest[write(&memfd, rest)?..];
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    // Before Linux 6.3, there is no seal for the mode.
    match fcntl_add_seals(&memfd, seals | SealFlags::EXEC) {
        Err(Errno::INVAL) => fcntl_add_seals(&memfd, seals),
        result => result,
    }?;
    Ok(memfd)
}

/// Executes the program from a memfd, or from any file that has it, with the name `/pause` and an
/// empty environment. Returns only if that fails, and then why. fexecve(3)
///
/// It allocates nothing, takes no lock, and so can be called behind fork(2) of a process with
/// threads. The signals that the caller has blocked are not lost: pause takes those that it ends on.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::os::fd::AsFd;
/// use std::os::unix::process::CommandExt;
///
/// let program = podpause::memfd()?;
/// // A runtime would make namespaces here. This one asks for an error, and gets it.
/// let not_a_program = std::fs::File::open("/dev/null")?;
/// let error = podpause::exec(not_a_program.as_fd());
/// assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
/// # Ok(())
/// # }
/// ```
pub fn exec(program: BorrowedFd<'_>) -> io::Error {
    let argv: [*const c_char; 2] = [c"/pause".as_ptr(), ptr::null()];
    let envp: [*const c_char; 1] = [ptr::null()];
    // SAFETY: both arrays end with a null, and their strings with a zero byte. They outlive the call.
    unsafe { libc::fexecve(program.as_raw_fd(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}
