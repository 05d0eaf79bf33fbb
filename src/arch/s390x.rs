//! s390x: Linux on 64-bit z/Architecture, big endian.
//!
//! System call (syscall(2), "Architecture calling conventions"; `system_call` in Linux
//! `arch/s390/kernel/entry.S`): the number in r1, since that of the instruction is zero; the
//! arguments in r2 to r6, the result in r2. Nothing else changes.
//!
//! Entry point (ELF Application Binary Interface Supplement for s390x, 1.2 and 2.3; `start_thread`
//! in Linux `arch/s390/include/asm/processor.h`): r15 points at argc, and is a multiple of 8, as
//! always. At a call, r15 points at a frame of at least 160 bytes, in which the callee saves
//! registers, and which begins with the address of the frame above, or zero; the arguments are in r2
//! to r5, the return address is in r14.

use super::nth;

/// `e_machine` in the ELF header: EM_S390.
pub const E_MACHINE: u16 = 22;
/// `e_flags` in the ELF header: a 64-bit program has none.
pub const E_FLAGS: u32 = 0;

/// Where the memory of a process ends, if that is the same on all kernels: here it is not.
pub const MEMORY_END: Option<usize> = None;

/// Numbers of the system calls (Linux `arch/s390/kernel/syscalls/syscall.tbl`).
pub mod nr {
    pub const EXIT: usize = 1;
    pub const WRITE: usize = 4;
    pub const CHDIR: usize = 12;
    pub const GETPID: usize = 20;
    pub const MUNMAP: usize = 91;
    pub const WAIT4: usize = 114;
    pub const PRCTL: usize = 172;
    pub const RT_SIGACTION: usize = 174;
    pub const RT_SIGPROCMASK: usize = 175;
    pub const RT_SIGTIMEDWAIT: usize = 177;
    pub const PPOLL: usize = 302;
    pub const CLOSE_RANGE: usize = 436;
}

/// Defines the entry point, which calls `$answer` with the start stack and `$constants`, moves the stack
/// to the private page, and calls `$main` with the result, the start stack, `$constants` and the
/// private page. It is a macro, because only the program has an entry point.
macro_rules! entry_point {
    ($answer:path, $main:path, $constants:path) => {
        /// The first instructions of the program.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn _start() -> ! {
            core::arch::naked_asm!(
                "lghi %r11, 0",                 // no frame is above this one
                "lgr %r2, %r15",                // first argument: the start stack
                "larl %r3, {constants}",        // second: the constants
                "aghi %r15, -160",              // a frame below the start stack
                "brasl %r14, {answer}",         // the result is the first argument
                "la %r3, 160(%r15)",            // second: the start stack
                "larl %r4, {constants}",        // third: the constants
                "larl %r5, page",               // fourth: the private page
                "larl %r15, stack_top - 160",   // the stack from now on: the last frame of that page,
                                                // where the zero says that none is above
                "brasl %r14, {main}",
                ".short 0",                     // it does not return
                answer = sym $answer,
                main = sym $main,
                constants = sym $constants,
            )
        }
    };
}
pub(crate) use entry_point;

/// Makes a system call with up to five arguments. Returns the result, or the negated errno.
///
/// # Safety
///
/// That of the system call.
#[inline(always)]
pub unsafe fn syscall<const N: usize>(number: usize, arguments: [usize; N]) -> i32 {
    let result: core::mem::MaybeUninit<usize>;
    // SAFETY: the registers are those of the ABI above, and all that the kernel changes is named.
    // The caller answers for what the call does. It may read and write memory: neither `nomem` nor
    // `readonly` is given. The kernel leaves the stack alone, there being no signal handler.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("r1") number,
            inlateout("r2") nth(arguments, 0) => result,
            in("r3") nth(arguments, 1),
            in("r4") nth(arguments, 2),
            in("r5") nth(arguments, 3),
            in("r6") nth(arguments, 4),
            options(nostack, preserves_flags),
        );
    }
    // SAFETY: the kernel has put the result there.
    unsafe { result.assume_init() as i32 }
}

/// Ends the process by an instruction that is none.
#[inline(always)]
pub fn trap() -> ! {
    // SAFETY: the instruction raises SIGILL, and control never comes behind it.
    unsafe { core::arch::asm!(".short 0", options(noreturn, nomem, nostack)) }
}
