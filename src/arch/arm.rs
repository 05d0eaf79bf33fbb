//! arm: Linux on 32-bit Arm with the EABI, little endian, in Arm mode.
//!
//! System call (syscall(2), "Architecture calling conventions"; `vector_swi` in Linux
//! `arch/arm/kernel/entry-common.S`): the number in r7, the arguments in r0 to r4, the result in r0.
//! All other registers are preserved.
//!
//! Entry point (Procedure Call Standard for the Arm Architecture, "The Stack" and "The Frame
//! Pointer"; `start_thread` in Linux `arch/arm/include/asm/processor.h`): sp points at argc. At a
//! call, sp is a multiple of 8, the arguments are in r0 to r3, the return address is in lr. The
//! chain of frames ends with a zero in r11.

use super::{define_exit, define_syscall, nth};

/// `e_machine` in the ELF header: EM_ARM.
pub const E_MACHINE: u16 = 40;
/// `e_flags` in the ELF header: EF_ARM_EABI_VER5, which the kernel requires (`elf_check_arch` in
/// Linux `arch/arm/kernel/elf.c`), and EF_ARM_ABI_FLOAT_HARD or EF_ARM_ABI_FLOAT_SOFT.
pub const E_FLAGS: u32 = 0x0500_0000 | if cfg!(target_abi = "eabihf") { 0x400 } else { 0x200 };

/// The end of the memory that pause unmaps, if it is the same on every kernel. On this architecture it is not.
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
    pub const PPOLL_TIME64: usize = 414;
    pub const RT_SIGTIMEDWAIT_TIME64: usize = 421;
    pub const CLOSE_RANGE: usize = 436;
}

macro_rules! entry_point {
    ($answer:path, $main:path, $constants:path) => {
        $crate::arch::define_start! { $answer, $main, $constants,
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
            ".ltorg",                   // the literal pool with the two addresses
        }
    };
}
pub(crate) use entry_point;

define_syscall! { |number, arguments, result|
    "svc #0",
    in("r7") number,
    inlateout("r0") nth(arguments, 0) => result,
    in("r1") nth(arguments, 1),
    in("r2") nth(arguments, 2),
    in("r3") nth(arguments, 3),
    in("r4") nth(arguments, 4),
    options(nostack, preserves_flags),
}

define_exit! { "mov r7, {number}", "svc #0", "udf #0", }
