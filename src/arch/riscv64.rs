//! riscv64: Linux on 64-bit RISC-V.
//!
//! System call (syscall(2), "Architecture calling conventions"; Linux
//! `Documentation/arch/riscv/vector.rst`, "Vector Register State Across System Calls"): the number in
//! a7, the arguments in a0 to a4, the result in a0. The vector registers and their control registers are
//! clobbered. All others are preserved.
//!
//! Entry point (RISC-V Calling Conventions, "Integer Calling Convention" and "Frame Pointer
//! Convention"; `start_thread` in Linux `arch/riscv/kernel/process.c`): sp points at argc, and is always a
//! multiple of 16. The chain of frames ends with a zero in s0. The arguments of a call are
//! in a0 to a3, the return address is in ra. gp is not set, because nothing is addressed relative to it.

use super::{define_exit, define_syscall, nth};

/// `e_machine` in the ELF header: EM_RISCV.
pub const E_MACHINE: u16 = 243;
/// `e_flags` in the ELF header: EF_RISCV_RVC and EF_RISCV_FLOAT_ABI_DOUBLE.
pub const E_FLAGS: u32 = 5;

/// The end of the memory that pause unmaps, if it is the same on every kernel. On this architecture it is not.
pub const MEMORY_END: Option<usize> = None;

pub use super::asm_generic as nr;

macro_rules! entry_point {
    ($answer:path, $main:path, $constants:path) => {
        $crate::arch::define_start! { $answer, $main, $constants,
            "li s0, 0",                         // no frame is above this one
            "mv a0, sp",                        // first argument: the start stack
            "lui a1, %hi({constants})",         // second: the constants
            "addi a1, a1, %lo({constants})",
            "jal {answer}",                     // the result is the first argument
            "mv a1, sp",                        // second: the start stack
            "lui a2, %hi({constants})",         // third: the constants
            "addi a2, a2, %lo({constants})",
            "lui a3, %hi(page)",                // fourth: the private page, whose lower 12 bits are
                                                // zero
            "lui sp, %hi(stack_top)",           // the stack from now on, at the end of that page
            "jal {main}",
            "unimp",                            // it does not return
        }
    };
}
pub(crate) use entry_point;

define_syscall! { |number, arguments, result|
    "ecall",
    in("a7") number,
    inlateout("a0") nth(arguments, 0) => result,
    in("a1") nth(arguments, 1),
    in("a2") nth(arguments, 2),
    in("a3") nth(arguments, 3),
    in("a4") nth(arguments, 4),
    lateout("v0") _, lateout("v1") _, lateout("v2") _, lateout("v3") _,
    lateout("v4") _, lateout("v5") _, lateout("v6") _, lateout("v7") _,
    lateout("v8") _, lateout("v9") _, lateout("v10") _, lateout("v11") _,
    lateout("v12") _, lateout("v13") _, lateout("v14") _, lateout("v15") _,
    lateout("v16") _, lateout("v17") _, lateout("v18") _, lateout("v19") _,
    lateout("v20") _, lateout("v21") _, lateout("v22") _, lateout("v23") _,
    lateout("v24") _, lateout("v25") _, lateout("v26") _, lateout("v27") _,
    lateout("v28") _, lateout("v29") _, lateout("v30") _, lateout("v31") _,
    options(nostack),
}

define_exit! { "li a7, {number}", "ecall", "unimp", }
