//! arm: Linux on 32-bit Arm with the EABI, little endian, in Arm mode.
//!
//! System call (syscall(2), "Architecture calling conventions"; `vector_swi` in Linux
//! `arch/arm/kernel/entry-common.S`): the number in r7, the arguments in r0 to r4, the result in r0.
//! Nothing else changes.
//!
//! Entry point (Procedure Call Standard for the Arm Architecture, "The Stack" and "The Frame
//! Pointer"; `start_thread` in Linux `arch/arm/include/asm/processor.h`): sp points at argc. At a
//! call, sp is a multiple of 8, the arguments are in r0 to r3, the return address is in lr. The
//! chain of frames ends with a zero in r11.

use super::nth;

/// `e_machine` in the ELF header: EM_ARM.
pub const E_MACHINE: u16 = 40;
/// `e_flags` in the ELF header: EF_ARM_EABI_VER5, which the kernel looks for (`elf_check_arch` in
/// Linux `arch/arm/kernel/elf.c`), and EF_ARM_ABI_FLOAT_HARD or EF_ARM_ABI_FLOAT_SOFT.
pub const E_FLAGS: u32 = 0x0500_0000 | if cfg!(target_abi = "eabihf") { 0x400 } else { 0x200 };

/// Where the memory of a process ends, if that is the same on all kernels: here it is not.
pub const MEMORY_END: Option<usize> = None;

/// Numbers of the system calls (Linux `arch/arm/tools/syscall.tbl`).
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
    pub const PPOLL: usize = 336;
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
                "mov r11, #0",              // no frame is above this one
                "mov r0, sp",               // first argument: the start stack
                "ldr r1, ={constants}",     // second: the constants
                "bl {answer}",              // the result is the first argument
                "mov r1, sp",               // second: the start stack
                "ldr r2, ={constants}",     // third: the constants
                "ldr r3, =page",            // fourth: the private page
                "add sp, r3, #4096",        // the stack from now on, at the end of that page
                "bl {main}",
                "udf #0",                   // it does not return
                ".ltorg",                   // here are the two addresses
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
            in("r7") number,
            inlateout("r0") nth(arguments, 0) => result,
            in("r1") nth(arguments, 1),
            in("r2") nth(arguments, 2),
            in("r3") nth(arguments, 3),
            in("r4") nth(arguments, 4),
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
