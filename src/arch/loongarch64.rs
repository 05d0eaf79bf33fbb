//! loongarch64: Linux on 64-bit LoongArch.
//!
//! System call (syscall(2), "Architecture calling conventions"; `handle_syscall` in Linux
//! `arch/loongarch/kernel/entry.S`): the number in $a7, the arguments in $a0 to $a4, the result in
//! $a0. $t0 to $t8 change.
//!
//! Entry point (LoongArch Procedure Call Standard, "Register Convention"; `start_thread` in Linux
//! `arch/loongarch/kernel/process.c`): $sp points at argc, and is a multiple of 16, as always. The
//! chain of frames ends with a zero in $fp. The arguments of a call are in $a0 to $a3, the return
//! address is in $ra.

use super::nth;

/// `e_machine` in the ELF header: EM_LOONGARCH.
pub const E_MACHINE: u16 = 258;
/// `e_flags` in the ELF header: EF_LOONGARCH_OBJABI_V1 and EF_LOONGARCH_ABI_DOUBLE_FLOAT.
pub const E_FLAGS: u32 = 0x43;

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
        );
    }
    // SAFETY: the kernel has put the result there.
    unsafe { result.assume_init() as i32 }
}

/// Ends the process by an instruction that is none.
#[inline(always)]
pub fn trap() -> ! {
    // SAFETY: the instruction raises SIGTRAP, and control never comes behind it.
    unsafe { core::arch::asm!("break 0", options(noreturn, nomem, nostack)) }
}
