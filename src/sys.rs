//! The system calls that pause makes, and their constants.
//!
//! Each constant has the same value on all our architectures (Linux `include/uapi/asm-generic/`). A
//! negative result of a system call is a negated errno. Constants and fields are public so that
//! `crates/abi-check` can compare them with the libc crate.

use crate::arch::{nr, succeeds, syscall};

pub use crate::arch::exit;

pub const STDOUT: usize = 1;
pub const STDERR: usize = 2;

pub const EINTR: i32 = 4;

pub const SIGINT: i32 = 2;
pub const SIGPIPE: i32 = 13;
pub const SIGTERM: i32 = 15;
pub const SIGCHLD: i32 = 17;
pub const SIGTTOU: i32 = 22;
pub const SIGXFSZ: i32 = 25;

pub const SIG_SETMASK: usize = 2;
pub const SIG_IGN: usize = 1;
pub const WNOHANG: usize = 1;
pub const __WALL: usize = 0x4000_0000;
pub const POLLOUT: i16 = 4;
pub const PR_SET_NAME: usize = 15;
pub const PR_SET_MM: usize = 35;
pub const PR_SET_MM_MAP: usize = 14;
pub const PR_SET_CHILD_SUBREAPER: usize = 36;

/// The kernel's signal set: a 64-bit number in which signal N is bit N - 1.
pub type SignalSet = [u8; 8];

/// The set that contains these signals.
pub const fn signals<const N: usize>(of: [i32; N]) -> SignalSet {
    let (mut set, mut index) = (0_u64, 0);
    while index < N {
        set |= 1 << (of[index] - 1);
        index += 1;
    }
    set.to_ne_bytes()
}

/// `struct pollfd`
#[repr(C)]
pub struct PollFd {
    pub fd: i32,
    pub events: i16,
    pub revents: i16,
}

/// `struct sigaction` of the kernel. It starts with the handler. The flags, the restorer (on some
/// architectures) and the mask follow; all of them are zero.
#[repr(C)]
pub struct SignalAction {
    pub handler: usize,
    pub zero: [usize; 4],
}

/// Memory that [`is_writable`] and [`ignore_sigchld`] pass to the kernel. Zero at first.
#[repr(C)]
pub struct Buffers {
    pub poll: PollFd,
    pub action: SignalAction,
}

/// `struct prctl_mm_map` of a 64-bit kernel (Linux `include/uapi/linux/prctl.h`): the addresses of what the
/// kernel shows about a process in /proc. Zero at first.
///
/// A 32-bit kernel has a shorter address in `auxv`: see [`set_memory_map`].
#[repr(C)]
pub struct MemoryMap {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    pub auxv: u64,
    pub auxv_size: u32,
    pub exe_fd: u32,
}

/// A value for `exe_fd` that leaves /proc/PID/exe as it is.
const NO_FILE: u32 = u32::MAX;

impl MemoryMap {
    /// Sets `end_code` and `start_stack` to `page`, and all other addresses except `auxv` to `text`. `auxv` stays
    /// zero.
    ///
    /// The kernel requires each address to be valid (`validate_prctl_map_addr` in `kernel/sys.c`). Since
    /// `brk` is outside the private page, /proc/PID/maps labels that page `[stack]`, not `[heap]`.
    #[inline(always)]
    pub fn place(&mut self, text: usize, page: usize) {
        let addresses = (&raw mut *self).cast::<[u64; 11]>();
        // SAFETY: the struct starts with eleven u64.
        for address in unsafe { &mut *addresses } {
            *address = text as u64;
        }
        self.end_code = page as u64;
        self.start_stack = page as u64;
    }
}

/// A string that ends with a zero byte, for the kernel.
#[repr(transparent)]
pub struct Terminated<const N: usize>([u8; N]);

impl<const N: usize> Terminated<N> {
    /// Makes a string of these bytes. The last one has to be zero.
    pub const fn new(bytes: &[u8; N]) -> Self {
        assert!(bytes[N - 1] == 0);
        Self(*bytes)
    }
}

/// The address of something that the kernel reads or writes.
#[inline(always)]
fn address<T: ?Sized>(of: *const T) -> usize {
    of.expose_provenance()
}

/// Writes to a descriptor, and returns the number of bytes written. write(2)
#[inline(always)]
pub fn write(descriptor: usize, bytes: &[u8]) -> i32 {
    // SAFETY: the kernel reads `bytes.len()` bytes, which are those of `bytes`.
    unsafe { syscall(nr::WRITE, [descriptor, address(bytes.as_ptr()), bytes.len()]) }
}

/// Writes to a descriptor, and ignores the result. write(2)
#[inline(always)]
pub fn write_and_forget(descriptor: usize, bytes: &[u8]) {
    // SAFETY: the kernel reads `bytes.len()` bytes, which are those of `bytes`.
    unsafe { succeeds(nr::WRITE, [descriptor, address(bytes.as_ptr()), bytes.len()]) };
}

/// Returns whether poll(2) reports that a write to this descriptor would not block. This is also the
/// case if the write would fail at once, as on a closed descriptor or a pipe without a reader. Returns
/// false if poll fails.
#[inline(always)]
pub fn is_writable(buffers: &mut Buffers, descriptor: usize) -> bool {
    buffers.poll.fd = descriptor as i32;
    buffers.poll.events = POLLOUT;
    let poll = address(&raw mut buffers.poll);
    // The timeout is a `struct timespec` of at most 16 bytes. It is zero, so the call returns at once.
    let timeout = address(&raw mut buffers.action.zero);
    let ppoll = |number| {
        // SAFETY: the kernel reads and writes one `struct pollfd`. It reads the timeout, and may overwrite
        // it with the remaining time, which is zero too.
        unsafe { syscall(number, [poll, 1, timeout, 0]) }
    };
    #[cfg(target_pointer_width = "64")]
    let ready = ppoll(nr::PPOLL);
    #[cfg(target_pointer_width = "32")]
    let ready = newer_or_older(nr::PPOLL_TIME64, nr::PPOLL, ppoll);
    ready > 0
}

/// Makes the newer one of two system calls. If it fails, makes the older one: Linux before 5.1 and some
/// seccomp filters do not know the newer one. EINTR does not count as a failure.
#[cfg(target_pointer_width = "32")]
#[inline(always)]
fn newer_or_older(newer: usize, older: usize, call: impl Fn(usize) -> i32) -> i32 {
    match call(newer) {
        error if error < 0 && error != -EINTR => call(older),
        result => result,
    }
}

/// Blocks exactly these signals. Returns whether that succeeds. sigprocmask(2)
#[inline(always)]
pub fn set_signal_mask(set: &SignalSet) -> bool {
    let arguments = [SIG_SETMASK, address(set), 0, size_of::<SignalSet>()];
    // SAFETY: the kernel reads one signal set of the given size. The address for the old set is null, so the
    // kernel writes nothing.
    unsafe { succeeds(nr::RT_SIGPROCMASK, arguments) }
}

/// Ignores SIGCHLD, so the kernel releases children when they exit. Returns whether that succeeds.
/// sigaction(2), "NOTES"
#[inline(always)]
pub fn ignore_sigchld(buffers: &mut Buffers) -> bool {
    buffers.action.handler = SIG_IGN;
    let action = &raw const buffers.action;
    // SAFETY: the kernel reads one `struct sigaction`, which is at most five words long, like ours. The
    // address for the old one is null, so the kernel writes nothing. SIG_IGN installs no handler.
    unsafe {
        succeeds(nr::RT_SIGACTION, [SIGCHLD as usize, address(action), 0, size_of::<SignalSet>()])
    }
}

/// Sleeps until one of these signals is pending, removes it from the pending signals and returns its
/// number. sigwaitinfo(2)
///
/// It retries only on EINTR, which a stop, a freeze or a tracer can cause. If it retried after other
/// errors, it could loop for ever.
#[inline(always)]
pub fn wait_for_signal(set: &SignalSet) -> i32 {
    let wait = |number| {
        // SAFETY: the kernel reads one signal set of the given size. It writes nothing, because the other
        // addresses are null.
        unsafe { syscall(number, [address(set), 0, 0, size_of::<SignalSet>()]) }
    };
    loop {
        #[cfg(target_pointer_width = "64")]
        let result = wait(nr::RT_SIGTIMEDWAIT);
        #[cfg(target_pointer_width = "32")]
        let result = newer_or_older(nr::RT_SIGTIMEDWAIT_TIME64, nr::RT_SIGTIMEDWAIT, wait);
        if result != -EINTR {
            return result;
        }
    }
}

/// Reaps one dead child, if there is one, whatever its exit signal is. Returns the child's process id.
/// wait4(2)
#[inline(always)]
pub fn reap_one() -> i32 {
    // SAFETY: the kernel writes nothing, because both addresses are null.
    unsafe { syscall(nr::WAIT4, [usize::MAX, 0, WNOHANG | __WALL, 0]) }
}

/// This process's id in its PID namespace. getpid(2)
#[inline(always)]
pub fn process_id() -> i32 {
    // SAFETY: the call has no arguments and changes nothing.
    unsafe { syscall(nr::GETPID, []) }
}

/// Closes all descriptors except standard input, output and error. close_range(2), since Linux 5.9
///
/// The last descriptor of the range is `i32::MAX`, because gVisor refuses a greater one.
///
/// # Safety
///
/// Nothing in the process uses a descriptor above 2 from here on.
#[inline(always)]
pub unsafe fn close_all_but_stdio() {
    // SAFETY: the caller guarantees that nothing uses what this closes.
    unsafe { succeeds(nr::CLOSE_RANGE, [3, i32::MAX as usize, 0]) };
}

/// Changes the working directory. chdir(2)
#[inline(always)]
pub fn chdir<const N: usize>(folder: &Terminated<N>) {
    // SAFETY: the kernel reads a string, which ends with a zero byte.
    unsafe { succeeds(nr::CHDIR, [address(folder)]) };
}

/// Names the thread. PR_SET_NAME(2const)
#[inline(always)]
pub fn set_thread_name<const N: usize>(name: &Terminated<N>) {
    // SAFETY: the kernel reads a string, which ends with a zero byte.
    unsafe { succeeds(nr::PRCTL, [PR_SET_NAME, address(name)]) };
}

/// Makes this process adopt the orphans among its descendants. PR_SET_CHILD_SUBREAPER(2const)
#[inline(always)]
pub fn become_child_subreaper() {
    // SAFETY: the argument is a number, and the kernel accesses no memory of the process.
    unsafe { succeeds(nr::PRCTL, [PR_SET_CHILD_SUBREAPER, 1]) };
}

/// Gives the kernel the addresses that are in `map`. Returns whether that succeeds. PR_SET_MM_MAP(2const)
///
/// This needs a kernel with CONFIG_CHECKPOINT_RESTORE, but no capability. A 32-bit program may run on a
/// 32-bit or on a 64-bit kernel, which have different structs, and each refuses the struct of the other.
/// So a 32-bit program tries both.
#[inline(always)]
pub fn set_memory_map(map: &mut MemoryMap) -> bool {
    if cfg!(target_pointer_width = "32") {
        // In the struct of a 32-bit kernel, `auxv` has four bytes. So that struct has `exe_fd` where
        // `MemoryMap` has `auxv_size`, and it ends where `MemoryMap` has `exe_fd` (on Arm, after padding).
        const SIZE: usize =
            core::mem::offset_of!(MemoryMap, exe_fd).next_multiple_of(align_of::<u64>());
        map.auxv_size = NO_FILE;
        if prctl_set_mm_map(map, SIZE) {
            return true;
        }
        map.auxv_size = 0;
    }
    map.exe_fd = NO_FILE;
    prctl_set_mm_map(map, size_of::<MemoryMap>())
}

fn prctl_set_mm_map(map: &MemoryMap, size: usize) -> bool {
    // SAFETY: the kernel reads `size` bytes, which are within `map`. The call changes what /proc shows about
    // the process, but it changes no mapping.
    unsafe { succeeds(nr::PRCTL, [PR_SET_MM, PR_SET_MM_MAP, address(map), size, 0]) }
}

/// Unmaps memory. munmap(2)
///
/// # Safety
///
/// From this call on, nothing uses the memory from `from` to `to`, rounded up to a whole page.
#[inline(always)]
pub unsafe fn unmap(from: usize, to: usize) {
    // SAFETY: the caller guarantees that nothing uses this memory.
    unsafe { succeeds(nr::MUNMAP, [from, to - from]) };
}
