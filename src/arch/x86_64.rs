//! x86_64: Linux on AMD64 and Intel 64.
//!
//! System call (syscall(2), "Architecture calling conventions"; System V ABI for AMD64, A.2.1): the
//! number in rax, the arguments in rdi, rsi, rdx, r10 and r8, the result in rax. rcx and r11 change.
//!
//! Entry point (System V ABI for AMD64, 3.4.1): rsp points at argc, and is a multiple of 16. The
//! frame pointer is undefined and has to be zeroed. At a call, rsp is a multiple of 16, and the
//! arguments are in rdi, rsi, rdx and rcx.

use super::{define_exit, define_syscall, nth};

/// `e_machine` in the ELF header: EM_X86_64.
pub const E_MACHINE: u16 = 62;
/// `e_flags` in the ELF header: the architecture has none.
pub const E_FLAGS: u32 = 0;

/// The end of the memory that pause unmaps: one page below DEFAULT_MAP_WINDOW, which is one page below 2^47
/// (Linux `arch/x86/include/asm/page_64_types.h`). The kernel prefers the page above this address for
/// `[uprobes]`, which has to stay mapped (`xol_add_vma` in Linux `kernel/events/uprobes.c`). With five levels of
/// page tables, there is more address space above, but the kernel maps memory there only on request.
pub const MEMORY_END: Option<usize> = Some((1 << 47) - 2 * 4_096);

/// Numbers of the system calls (Linux `arch/x86/entry/syscalls/syscall_64.tbl`).
pub mod nr {
    pub const WRITE: usize = 1;
    pub const MUNMAP: usize = 11;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const GETPID: usize = 39;
    pub const EXIT: usize = 60;
    pub const WAIT4: usize = 61;
    pub const CHDIR: usize = 80;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
    pub const PPOLL: usize = 271;
    pub const CLOSE_RANGE: usize = 436;
}

macro_rules! entry_point {
    ($answer:path, $main:path, $constants:path) => {
        $crate::arch::define_start! { $answer, $main, $constants,
            "xor ebp, ebp",                  // no frame is above this one
            "mov rdi, rsp",                  // first argument: the start stack
            "mov esi, offset {constants}",   // second: the constants; the upper half is zeroed
            "call {answer}",
            "mov edi, eax",                  // first argument: the result, whose upper half is zero
            "mov rsi, rsp",                  // second: the start stack
            "mov edx, offset {constants}",   // third: the constants
            "mov ecx, offset page",          // fourth: the private page
            "mov esp, offset stack_top",     // the stack from now on, at the end of that page
            "call {main}",
            "ud2",                           // it does not return
        }
    };
}
pub(crate) use entry_point;

define_syscall! { |number, arguments, result|
    "syscall",
    inlateout("rax") number => result,
    in("rdi") nth(arguments, 0),
    in("rsi") nth(arguments, 1),
    in("rdx") nth(arguments, 2),
    in("r10") nth(arguments, 3),
    in("r8") nth(arguments, 4),
    lateout("rcx") _,
    lateout("r11") _,
    options(nostack, preserves_flags),
}

define_exit! { "push {number}", "pop rax", "syscall", "ud2", }
