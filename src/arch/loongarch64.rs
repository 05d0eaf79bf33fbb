//! loongarch64: Linux on 64-bit LoongArch.
//!
//! System call (syscall(2), "Architecture calling conventions"; `handle_syscall` in Linux
//! `arch/loongarch/kernel/entry.S`): the number in $a7, the arguments in $a0 to $a4, the result in
//! $a0. $t0 to $t8 are clobbered.
//!
//! Entry point (LoongArch Procedure Call Standard, "Register Convention"; `start_thread` in Linux
//! `arch/loongarch/kernel/process.c`): $sp points at argc, and is always a multiple of 16. The
//! chain of frames ends with a zero in $fp. The arguments of a call are in $a0 to $a3, the return
//! address is in $ra.

use super::{define_exit, define_syscall, nth};

/// `e_machine` in the ELF header: EM_LOONGARCH.
pub const E_MACHINE: u16 = 258;
/// `e_flags` in the ELF header: EF_LOONGARCH_OBJABI_V1 and EF_LOONGARCH_ABI_DOUBLE_FLOAT.
pub const E_FLAGS: u32 = 0x43;

/// The end of the memory that pause unmaps, if it is the same on every kernel. On this architecture it is not.
pub const MEMORY_END: Option<usize> = None;

pub use super::asm_generic as nr;

macro_rules! entry_point {
    ($answer:path, $main:path, $constants:path) => {
        $crate::arch::define_start! { $answer, $main, $constants,
            "move $fp, $zero",                      // no frame is above this one
            "move $a0, $sp",                        // first argument: the start stack
            "lu12i.w $a1, %abs_hi20({constants})",  // second: the constants
            "ori $a1, $a1, %abs_lo12({constants})",
            "bl {answer}",                          // the result is the first argument
            "move $a1, $sp",                        // second: the start stack
            "lu12i.w $a2, %abs_hi20({constants})",  // third: the constants
            "ori $a2, $a2, %abs_lo12({constants})",
            "lu12i.w $a3, %abs_hi20(page)",         // fourth: the private page, whose lower 12 bits
                                                    // are zero
            "lu12i.w $sp, %abs_hi20(stack_top)",    // the stack from now on, at the end of that page
            "bl {main}",
            "break 0",                              // it does not return
        }
    };
}
pub(crate) use entry_point;

define_syscall! { |number, arguments, result|
    "syscall 0",
    in("$a7") number,
    inlateout("$a0") nth(arguments, 0) => result,
    in("$a1") nth(arguments, 1),
    in("$a2") nth(arguments, 2),
    in("$a3") nth(arguments, 3),
    in("$a4") nth(arguments, 4),
    lateout("$t0") _,
    lateout("$t1") _,
    lateout("$t2") _,
    lateout("$t3") _,
    lateout("$t4") _,
    lateout("$t5") _,
    lateout("$t6") _,
    lateout("$t7") _,
    lateout("$t8") _,
    options(nostack, preserves_flags),
}

define_exit! { "ori $a7, $zero, {number}", "syscall 0", "break 0", }
