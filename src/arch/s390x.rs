//! s390x: Linux on 64-bit z/Architecture, big endian.
//!
//! System call (syscall(2), "Architecture calling conventions"; `system_call` in Linux
//! `arch/s390/kernel/entry.S`): the number in r1 (the kernel reads r1 if the instruction is `svc 0`), the
//! arguments in r2 to r6, the result in r2. All other registers are preserved.
//!
//! Entry point (ELF Application Binary Interface Supplement for s390x, 1.2 and 2.3; `start_thread`
//! in Linux `arch/s390/include/asm/processor.h`): r15 points at argc, and is always a
//! multiple of 8. At a call, r15 points at a frame of at least 160 bytes. The frame begins with the address of the
//! frame above, or zero, and the callee saves registers in it. The arguments are in r2 to r5, the return
//! address is in r14.

use super::{define_exit, define_syscall, nth};

/// `e_machine` in the ELF header: EM_S390.
pub const E_MACHINE: u16 = 22;
/// `e_flags` in the ELF header: none are defined for 64-bit programs.
pub const E_FLAGS: u32 = 0;

/// The end of the memory that pause unmaps, if it is the same on every kernel. On this architecture it is not.
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

macro_rules! entry_point {
    ($answer:path, $main:path, $constants:path) => {
        $crate::arch::define_start! { $answer, $main, $constants,
            "lghi %r11, 0",                 // no frame is above this one
            "lgr %r2, %r15",                // first argument: the start stack
            "larl %r3, {constants}",        // second: the constants
            "aghi %r15, -160",              // a frame below the start stack
            "brasl %r14, {answer}",         // the result is the first argument
            "la %r3, 160(%r15)",            // second: the start stack
            "larl %r4, {constants}",        // third: the constants
            "larl %r5, page",               // fourth: the private page
            "larl %r15, stack_top - 160",   // the stack from now on: the topmost frame of that page.
                                            // Its first word is zero, so the frame chain ends here
            "brasl %r14, {main}",
            ".short 0",                     // it does not return
        }
    };
}
pub(crate) use entry_point;

define_syscall! { |number, arguments, result|
    "svc 0",
    in("r1") number,
    inlateout("r2") nth(arguments, 0) => result,
    in("r3") nth(arguments, 1),
    in("r4") nth(arguments, 2),
    in("r5") nth(arguments, 3),
    in("r6") nth(arguments, 4),
    options(nostack, preserves_flags),
}

define_exit! { "lghi %r1, {number}", "svc 0", ".short 0", }
