//! aarch64: Linux on 64-bit Arm, little endian.
//!
//! System call (syscall(2), "Architecture calling conventions"): the number in x8, the arguments in
//! x0 to x4, the result in x0. Nothing else changes.
//!
//! Entry point (Procedure Call Standard for the Arm 64-bit Architecture, "The Stack" and "The Frame
//! Pointer"; `start_thread` in Linux `arch/arm64/include/asm/processor.h`): sp points at argc, and
//! is a multiple of 16, as always. The frame record ends with a zero in x29. The arguments of a call
//! are in x0 to x3, the return address is in x30.

use super::nth;

/// `e_machine` in the ELF header: EM_AARCH64.
pub const E_MACHINE: u16 = 183;
/// `e_flags` in the ELF header: the architecture has none.
pub const E_FLAGS: u32 = 0;

/// Where the memory of a process ends, if that is the same on all kernels: here it is not.
pub const MEMORY_END: Option<usize> = None;

/// Numbers of the system calls (Linux `include/uapi/asm-generic/unistd.h`).
pub mod nr {
    pub const CHDIR: usize = 49;
    pub const WRITE: usize = 64;
    pub const PPOLL: usize = 73;
    pub const EXIT: usize = 93;
    pub const RT_SIGACTION: usize = 134;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const PRCTL: usize = 167;
    pub const GETPID: usize = 172;
    pub const MUNMAP: usize = 215;
    pub const WAIT4: usize = 260;
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
                "mov x29, xzr",                      // no frame is above this one
                "mov x0, sp",                        // first argument: the start stack
                "adrp x1, {constants}",              // second: the constants
                "add x1, x1, :lo12:{constants}",
                "bl {answer}",                       // the result is the first argument
                "mov x1, sp",                        // second: the start stack
                "adrp x2, {constants}",              // third: the constants
                "add x2, x2, :lo12:{constants}",
                "adrp x3, page",                     // fourth: the private page, which starts at a page
                "add x4, x3, #4096",                 // the stack from now on, at the end of that page
                "mov sp, x4",
                "bl {main}",
                "udf #0",                            // it does not return
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
            "svc #0",
            in("x8") number,
            inlateout("x0") nth(arguments, 0) => result,
            in("x1") nth(arguments, 1),
            in("x2") nth(arguments, 2),
            in("x3") nth(arguments, 3),
            in("x4") nth(arguments, 4),
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
    unsafe { core::arch::asm!("udf #0", options(noreturn, nomem, nostack)) }
}
