//! powerpc64: Linux on 64-bit Power with the ELFv2 ABI, little endian. Needs Rust 1.95, the first stable
//! version with inline assembly for this architecture.
//!
//! System call (Linux `Documentation/arch/powerpc/syscall64-abi.rst`): the number in r0, the
//! arguments in r3 to r7. If cr0.SO is set, r3 is an errno, which is not negated; otherwise it is the result.
//! r0, r3 to r12, ctr, xer and cr0 are clobbered. `sc` preserves what a function call preserves, and also lr,
//! cr1, cr5 to cr7, and all floating-point and vector registers.
//!
//! Entry point (Power Architecture 64-Bit ELF V2 ABI, 2.2 and 4.1.2; `start_thread` in Linux
//! `arch/powerpc/kernel/process.c`): r1 points at argc, and is always a multiple of 16. At a
//! call, r1 points at a frame of at least 32 bytes. The frame begins with the address of the frame above, or
//! zero, and the callee saves lr in it. The arguments are in r3 to r6. r2 is the TOC pointer: the compiler
//! addresses constants relative to it, although this program has no TOC.

use super::{define_exit, nth};

#[cfg(target_endian = "big")]
compile_error!("src/arch/powerpc64.rs supports only little endian with the ELFv2 ABI");

/// `e_machine` in the ELF header: EM_PPC64.
pub const E_MACHINE: u16 = 21;
/// `e_flags` in the ELF header: the ABI is ELFv2.
pub const E_FLAGS: u32 = 2;

/// The end of the memory that pause unmaps, if it is the same on every kernel. On this architecture it is not.
pub const MEMORY_END: Option<usize> = None;

/// Numbers of the system calls (Linux `arch/powerpc/kernel/syscalls/syscall.tbl`).
pub mod nr {
    pub const EXIT: usize = 1;
    pub const WRITE: usize = 4;
    pub const CHDIR: usize = 12;
    pub const GETPID: usize = 20;
    pub const MUNMAP: usize = 91;
    pub const WAIT4: usize = 114;
    pub const PRCTL: usize = 171;
    pub const RT_SIGACTION: usize = 173;
    pub const RT_SIGPROCMASK: usize = 174;
    pub const RT_SIGTIMEDWAIT: usize = 176;
    pub const PPOLL: usize = 281;
    pub const CLOSE_RANGE: usize = 436;
}

macro_rules! entry_point {
    ($answer:path, $main:path, $constants:path) => {
        $crate::arch::define_start! { $answer, $main, $constants,
            "li 31, 0",                     // no frame is above this one
            "lis 2, text@h",                // the TOC pointer: pause.ld makes it the same address
                                            // as the text, whose lower half is zero
            "mr 3, 1",                      // first argument: the start stack
            "addi 4, 2, {constants}@l",     // second: the constants
            "addi 1, 1, -32",               // a frame below the start stack
            "bl {answer}",                  // the result is the first argument
            "addi 4, 1, 32",                // second: the start stack
            "addi 5, 2, {constants}@l",     // third: the constants
            "lis 6, page@h",                // fourth: the private page, whose lower half is zero
            "addi 1, 6, 4096 - 32",         // the stack from now on: the topmost frame of that page.
                                            // Its first word is zero, so the frame chain ends here
            "bl {main}",
            "trap",                         // it does not return
        }
    };
}
pub(crate) use entry_point;

/// Enters the kernel, then runs these instructions. The value of the macro is r3 after them.
macro_rules! enter {
    ($number:expr, $arguments:expr $(, $instruction:literal)*) => {{
        let result: core::mem::MaybeUninit<usize>;
        // SAFETY: the registers are those of the ABI in the module's doc, and every register that the kernel
        // changes is an output. The caller guarantees the preconditions of the call. The call may read and write
        // memory: neither `nomem` nor `readonly` is given. `nostack` holds, since the kernel writes to the
        // user's stack only for a signal handler, and there is none.
        unsafe {
            core::arch::asm!(
                "sc",
                $($instruction,)*
                inlateout("r0") $number => _,
                inlateout("r3") nth($arguments, 0) => result,
                inlateout("r4") nth($arguments, 1) => _,
                inlateout("r5") nth($arguments, 2) => _,
                inlateout("r6") nth($arguments, 3) => _,
                inlateout("r7") nth($arguments, 4) => _,
                lateout("r8") _,
                lateout("r9") _,
                lateout("r10") _,
                lateout("r11") _,
                lateout("r12") _,
                lateout("ctr") _,
                lateout("xer") _,
                lateout("cr0") _,
                options(nostack),
            );
        }
        // SAFETY: the kernel has written the result to this register.
        unsafe { result.assume_init() as i32 }
    }};
}

/// Makes a system call with up to five arguments. Returns the result, or the negated errno.
///
/// # Safety
///
/// The caller meets the requirements of this system call.
#[inline(always)]
pub unsafe fn syscall<const N: usize>(number: usize, arguments: [usize; N]) -> i32 {
    // If cr0.SO is set, r3 is an errno, and is negated here.
    enter!(number, arguments, "bns+ 2f", "neg 3, 3", "2:")
}

/// Makes a system call with up to five arguments. Returns whether r3 is zero. For most system calls this
/// means success. An errno is never zero, so cr0.SO does not matter.
///
/// # Safety
///
/// The caller meets the requirements of this system call.
#[inline(always)]
pub unsafe fn succeeds<const N: usize>(number: usize, arguments: [usize; N]) -> bool {
    enter!(number, arguments) == 0
}

define_exit! { "li 0, {number}", "sc", "trap", }
