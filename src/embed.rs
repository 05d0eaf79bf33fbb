//! Executes the program from memory, without a file or an image.

use std::ffi::c_char;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::io::{Errno, retry_on_intr, write};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::param::page_size;

/// Puts the program into a memfd, for [`exec`].
///
/// One memfd serves all pods of a runtime, which then share its page. The memfd is sealed against changes and
/// has FD_CLOEXEC. It can be executed even if the sysctl `vm.memfd_noexec` is 1. See memfd_create(2).
///
/// The memfd takes one page of memory. If `/sys/kernel/mm/transparent_hugepage/shmem_enabled` is `always` or
/// `force`, the kernel would use a huge page instead, which is 2 MiB on most machines. This function avoids
/// that on Linux 5.14 and newer, unless a step of this fails, for example because another thread forks at
/// that moment.
///
/// If RLIMIT_FSIZE is too low, the kernel sends SIGXFSZ. This function consumes that signal and returns an
/// error.
///
/// # Errors
///
/// - [`ErrorKind::PermissionDenied`]: `vm.memfd_noexec` is 2, so no executable memfd can be created. Write
///   the program to a file instead.
/// - [`ErrorKind::FileTooLarge`]: the program is larger than RLIMIT_FSIZE. See getrlimit(2).
/// - Otherwise the errors of memfd_create(2), write(2) and `F_ADD_SEALS` in fcntl(2), such as a lack of
///   memory or descriptors.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let program = podpause::memfd()?;
/// # Ok(())
/// # }
/// ```
pub fn memfd() -> io::Result<OwnedFd> {
    let memfd = create()?;
    within_file_size_limit(|| write_program(&memfd))?;
    // The kernel counts in units of 512 bytes. See stat(2).
    let is_huge = fstat(&memfd)?.st_blocks as u64 * 512 > page_size() as u64;
    // If this fails, the memfd with the huge page is used. It only costs more memory.
    if is_huge && let Ok(small) = in_small_page() {
        return Ok(small);
    }
    seal(&memfd)?;
    Ok(memfd)
}

/// Creates an empty memfd.
fn create() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("pause", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3, there is no flag MFD_EXEC, and every memfd can be executed.
        Err(Errno::INVAL) => Ok(memfd_create("pause", flags)?),
        Err(Errno::ACCESS) => {
            let text = "no executable memfd can be created here, since the sysctl vm.memfd_noexec \
                        is 2: set it to 1 or 0, or run pause from a file";
            Err(io::Error::new(ErrorKind::PermissionDenied, text))
        }
        result => Ok(result?),
    }
}

/// A sealed memfd that has the program in a page of ordinary size.
///
/// The kernel chooses the size of a page when it allocates the page (`shmem_allowable_huge_orders` in Linux
/// `mm/shmem.c`). For write(2), only the machine's setting counts. For a mapping, MADV_NOHUGEPAGE counts as
/// well. MADV_POPULATE_WRITE allocates the page, and returns an error where touching the page would raise
/// SIGBUS. If another thread forks before MADV_DONTFORK takes effect, its child has a copy of the mapping,
/// and sealing fails with EBUSY.
fn in_small_page() -> io::Result<OwnedFd> {
    let memfd = create()?;
    let length = crate::ELF.len();
    within_file_size_limit(|| ftruncate(&memfd, length as u64))?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: with a null hint, the kernel chooses addresses where nothing is mapped.
    let start = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, &memfd, 0) }?;
    let made = [Advice::LinuxDontFork, Advice::LinuxNoHugepage, Advice::LinuxPopulateWrite]
        .into_iter()
        // SAFETY: the mapping is ours and has this length, and none of this advice discards its contents.
        .try_for_each(|advice| unsafe { madvise(start, length, advice) });
    // SAFETY: the mapping is ours, and no reference to it exists.
    unsafe { munmap(start, length) }?;
    made?;
    within_file_size_limit(|| write_program(&memfd))?;
    seal(&memfd)?;
    Ok(memfd)
}

fn write_program(memfd: &OwnedFd) -> Result<(), Errno> {
    let mut rest = crate::ELF;
    while !rest.is_empty() {
        rest = &rest[retry_on_intr(|| write(memfd, rest))?..];
    }
    Ok(())
}

fn seal(memfd: &OwnedFd) -> Result<(), Errno> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    // Before Linux 6.3, there is no seal for the mode of the file.
    match fcntl_add_seals(memfd, seals | SealFlags::EXEC) {
        Err(Errno::INVAL) => fcntl_add_seals(memfd, seals),
        result => result,
    }
}

/// Calls `grow`, which makes a file longer, and consumes the SIGXFSZ that the kernel sends along with
/// EFBIG. By default, that signal would kill the process.
///
/// The kernel sends it to the thread that makes the call (`generic_write_check_limits` in Linux
/// `fs/read_write.c`, `inode_newsize_ok` in `fs/attr.c`). A pending signal of the thread is consumed
/// before one of the process (`dequeue_signal` in `kernel/signal.c`). So this function consumes the signal
/// that was caused here. If the caller had blocked SIGXFSZ and one was already pending, it consumes none.
fn within_file_size_limit(grow: impl FnOnce() -> Result<(), Errno>) -> io::Result<()> {
    let mut signal = empty_set();
    // SAFETY: the function writes one set.
    unsafe { libc::sigaddset(&raw mut signal, libc::SIGXFSZ) };
    let (mut before, mut pending) = (empty_set(), empty_set());
    // SAFETY: the function reads one set, and writes one.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signal, &raw mut before) };
    // SAFETY: the function writes one set.
    unsafe { libc::sigpending(&raw mut pending) };
    let result = grow();
    // SAFETY: the function reads one set.
    let was_pending = unsafe { libc::sigismember(&raw const pending, libc::SIGXFSZ) } == 1;
    if result == Err(Errno::FBIG) && !was_pending {
        let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the function reads one set and one time, and writes no siginfo.
        unsafe { libc::sigtimedwait(&raw const signal, ptr::null_mut(), &raw const no_time) };
    }
    // SAFETY: the function reads one set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    match result {
        Err(Errno::FBIG) => {
            let text = format!(
                "the program has {} bytes, and the limit on the size of files (RLIMIT_FSIZE) is \
                 lower: raise it",
                crate::ELF.len()
            );
            Err(io::Error::new(ErrorKind::FileTooLarge, text))
        }
        result => Ok(result?),
    }
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: the struct consists of integers, and zero is the empty set.
    unsafe { std::mem::zeroed() }
}

/// Executes the program from a memfd or another file that contains it, with the name `/pause` and an empty
/// environment. Returns only if that fails, with the error. See fexecve(3).
///
/// This function allocates nothing and takes no lock. So a process with threads may call it in the child of a
/// fork(2). If the caller has blocked SIGTERM or SIGINT, a pending one is not lost: it ends pause.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::os::fd::AsFd;
/// use std::os::unix::process::CommandExt;
///
/// let program = podpause::memfd()?;
/// // A runtime would create namespaces here. This example executes a file that is not a program, to show
/// // the error.
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
