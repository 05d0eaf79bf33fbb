//! The program from memory: no file, no image.

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
/// One memfd serves all pods of a runtime, which then share its page. It is sealed against changes and has
/// FD_CLOEXEC. It can be executed even if the sysctl `vm.memfd_noexec` is 1. memfd_create(2)
///
/// It takes one page of memory. If `/sys/kernel/mm/transparent_hugepage/shmem_enabled` is `always` or
/// `force` and the kernel is older than Linux 5.14, it takes a huge page instead, which is 2 MiB on most
/// machines.
///
/// If RLIMIT_FSIZE is too low, the kernel sends SIGXFSZ. This function removes that signal and returns an
/// error.
///
/// # Errors
///
/// - [`ErrorKind::PermissionDenied`]: `vm.memfd_noexec` is 2, so no memfd can be executed. Write the program
///   to a file instead.
/// - [`ErrorKind::FileTooLarge`]: the program is larger than RLIMIT_FSIZE. getrlimit(2)
/// - Otherwise the errors of memfd_create(2), write(2) and `F_ADD_SEALS` in fcntl(2), such as a lack of memory
///   or descriptors.
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
    // The kernel counts in units of 512 bytes. stat(2)
    let is_huge = fstat(&memfd)?.st_blocks as u64 * 512 > page_size() as u64;
    // If there is no small page, the huge one does as well: it costs memory, and nothing else.
    if is_huge && let Ok(small) = in_small_page() {
        return Ok(small);
    }
    seal(&memfd)?;
    Ok(memfd)
}

/// A new memfd, which is empty.
fn create() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("pause", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there is no such flag, and every memfd can be executed.
        Err(Errno::INVAL) => Ok(memfd_create("pause", flags)?),
        Err(Errno::ACCESS) => {
            let text = "no memfd can be executed here, since the sysctl vm.memfd_noexec is 2: set \
                        it to 1 or 0, or run pause from a file";
            Err(io::Error::new(ErrorKind::PermissionDenied, text))
        }
        result => Ok(result?),
    }
}

/// A sealed memfd that has the program in a page of ordinary size.
///
/// The kernel chooses the size of a page as it first has to make one (`shmem_allowable_huge_orders`
/// in Linux `mm/shmem.c`): for write(2) as the machine is set, but for a mapping also as
/// MADV_NOHUGEPAGE asks. MADV_POPULATE_WRITE makes the page, and is an error where touching it would
/// be a SIGBUS. Should another thread fork just then, its child has a copy of the mapping, and the
/// seal fails with EBUSY.
fn in_small_page() -> io::Result<OwnedFd> {
    let memfd = create()?;
    let length = crate::ELF.len();
    within_file_size_limit(|| ftruncate(&memfd, length as u64))?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: with a null hint, the kernel takes addresses where nothing is.
    let start = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, &memfd, 0) }?;
    let made = [Advice::LinuxDontFork, Advice::LinuxNoHugepage, Advice::LinuxPopulateWrite]
        .into_iter()
        // SAFETY: the mapping is ours and so long, and no advice here takes away what is in it.
        .try_for_each(|advice| unsafe { madvise(start, length, advice) });
    // SAFETY: the mapping is ours, and no reference to it was ever made.
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
    // Before Linux 6.3, there is no seal for the mode.
    match fcntl_add_seals(memfd, seals | SealFlags::EXEC) {
        Err(Errno::INVAL) => fcntl_add_seals(memfd, seals),
        result => result,
    }
}

/// Makes a file grow without the SIGXFSZ that the kernel sends beside EFBIG, and which by default
/// kills the process.
///
/// The kernel sends it to the thread that makes the call (`generic_write_check_limits` in Linux
/// `fs/read_write.c`, `inode_newsize_ok` in `fs/attr.c`), and a pending signal of the thread is taken
/// before one of the process (`dequeue_signal` in `kernel/signal.c`). So what is taken back is the one
/// that was caused here, unless the caller has blocked SIGXFSZ and one was pending before: then it
/// stays, and is one with ours.
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
    // SAFETY: the struct is made of integers, and zero is the empty set.
    unsafe { std::mem::zeroed() }
}

/// Executes the program from a memfd or another file that contains it, with the name `/pause` and an empty
/// environment. Returns only if that fails, with the error. fexecve(3)
///
/// It allocates nothing and takes no lock, so a child may call it after fork(2) of a process with threads.
/// If the caller has blocked SIGTERM or SIGINT, a pending one is not lost: pause takes it.
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
