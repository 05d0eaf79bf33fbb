//! aarch64: Linux on 64-bit Arm, little endian.
//!
//! System call (syscall(2), "Architecture calling conventions"): the number in x8, the arguments in
//! x0 to x4, the result in x0. The other general registers are preserved. With SVE, the predicates, FFR and
//! the upper bits of the vector registers are clobbered (Linux `Documentation/arch/arm64/sve.rst`, "System call
//! behaviour").
//!
//! Entry point (Procedure Call Standard for the Arm 64-bit Architecture, "The Stack" and "The Frame
//! Pointer"; `start_thread` in Linux `arch/arm64/include/asm/processor.h`): sp points at argc, and
//! is always a multiple of 16. The chain of frame records ends with a zero in x29. The arguments of a call
//! are in x0 to x3, the return address is in x30.

use super::{define_exit, define_syscall, nth};

/// `e_machine` in the ELF header: EM_AARCH64.
pub const E_MACHINE: u16 = 183;
/// `e_flags` in the ELF header: none are defined.
pub const E_FLAGS: u32 = 0;

/// The end of the memory that pause unmaps, if it is the same on every kernel. On this architecture it is not.
pub const MEMORY_END: Option<usize> = None;

pub use super::asm_generic as nr;

macro_rules! entry_point {
    ($answer:path, $main:path, $constants:path) => {
        $crate::arch::define_start! { $answer, $main, $constants,
            "mov x29, xzr",                      // no frame is above this one
            "mov x0, sp",                        // first argument: the start stack
            "adrp x1, {constants}",              // second: the constants
            "add x1, x1, :lo12:{constants}",
            "bl {answer}",                       // the result is the first argument
            "mov x1, sp",                        // second: the start stack
            "adrp x2, {constants}",              // third: the constants
            "add x2, x2, :lo12:{constants}",
            "adrp x3, page",                     // fourth: the private page, which is page-aligned
            "add x4, x3, #4096",                 // the stack from now on, at the end of that page
            "mov sp, x4",
            "bl {main}",
            "udf #0",                            // it does not return
        }
    };
}
pub(crate) use entry_point;

/// Defines `syscall`, with these clobbers in addition to the common ones.
macro_rules! define_with_clobbers {
    ($($clobber:tt)*) => {
        define_syscall! { |number, arguments, result|
            "svc #0",
            in("x8") number,
            inlateout("x0") nth(arguments, 0) => result,
            in("x1") nth(arguments, 1),
            in("x2") nth(arguments, 2),
            in("x3") nth(arguments, 3),
            in("x4") nth(arguments, 4),
            $($clobber)*
            options(nostack, preserves_flags),
        }
    };
}

#[cfg(not(target_feature = "sve"))]
define_with_clobbers! {}
// The library's `run` may be part of a program that is compiled for SVE.
#[cfg(target_feature = "sve")]
define_with_clobbers! {
    lateout("v0") _, lateout("v1") _, lateout("v2") _, lateout("v3") _,
    lateout("v4") _, lateout("v5") _, lateout("v6") _, lateout("v7") _,
    lateout("v8") _, lateout("v9") _, lateout("v10") _, lateout("v11") _,
    lateout("v12") _, lateout("v13") _, lateout("v14") _, lateout("v15") _,
    lateout("v16") _, lateout("v17") _, lateout("v18") _, lateout("v19") _,
    lateout("v20") _, lateout("v21") _, lateout("v22") _, lateout("v23") _,
    lateout("v24") _, lateout("v25") _, lateout("v26") _, lateout("v27") _,
    lateout("v28") _, lateout("v29") _, lateout("v30") _, lateout("v31") _,
    lateout("p0") _, lateout("p1") _, lateout("p2") _, lateout("p3") _,
    lateout("p4") _, lateout("p5") _, lateout("p6") _, lateout("p7") _,
    lateout("p8") _, lateout("p9") _, lateout("p10") _, lateout("p11") _,
    lateout("p12") _, lateout("p13") _, lateout("p14") _, lateout("p15") _,
    lateout("ffr") _,
}

define_exit! { "mov x8, {number}", "svc #0", "udf #0", }
