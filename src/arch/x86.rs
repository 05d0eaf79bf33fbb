//! x86: Linux on 32-bit x86, i686 or later.
//!
//! System call (syscall(2), "Architecture calling conventions"; `entry_INT80_32` in Linux
//! `arch/x86/entry/entry_32.S`): the number in eax, the arguments in ebx, ecx, edx, esi and edi, the
//! result in eax. Nothing else changes. `int 0x80` is slower than the way through the vDSO, which
//! `shed` gives back; a program that sleeps does not mind.
//!
//! Entry point (System V ABI for Intel386, 2.3.1): esp points at argc, and is a multiple of 16. The
//! frame pointer is undefined, and to be zeroed. At a call, esp is a multiple of 16, and points at
//! the arguments.

use super::{define_exit, nth};

/// `e_machine` in the ELF header: EM_386.
pub const E_MACHINE: u16 = 3;
/// `e_flags` in the ELF header: the architecture has none.
pub const E_FLAGS: u32 = 0;

/// Where the memory ends that pause gives back, if that is the same on every kernel. Here it is not.
pub const MEMORY_END: Option<usize> = None;

/// Numbers of the system calls (Linux `arch/x86/entry/syscalls/syscall_32.tbl`).
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
    pub const PPOLL: usize = 309;
    pub const PPOLL_TIME64: usize = 414;
    pub const RT_SIGTIMEDWAIT_TIME64: usize = 421;
    pub const CLOSE_RANGE: usize = 436;
}

macro_rules! entry_point {
    ($answer:path, $main:path, $constants:path) => {
        $crate::arch::define_start! { $answer, $main, $constants,
            "xor ebp, ebp",                 // no frame is above this one
            "mov esi, esp",                 // the start stack
            "mov edi, offset {constants}",
            "sub esp, 8",                   // with two arguments, a multiple of 16
            "push edi",                     // second argument: the constants
            "push esi",                     // first: the start stack
            "call {answer}",
            "mov esp, offset stack_top",    // the stack from now on, at the end of the private page
            "mov edx, offset page",
            "push edx",                     // fourth argument: the private page
            "push edi",                     // third: the constants
            "push esi",                     // second: the start stack
            "push eax",                     // first: the result
            "call {main}",
            "ud2",                          // it does not return
        }
    };
}
pub(crate) use entry_point;

/// Makes a system call with up to five arguments. Returns the result, or the negated errno.
///
/// LLVM keeps esi to itself. Where a call needs it, the fourth argument takes its place meanwhile.
///
/// # Safety
///
/// That of the system call.
#[inline(always)]
pub unsafe fn syscall<const N: usize>(number: usize, arguments: [usize; N]) -> i32 {
    let result: isize;
    match N {
        // SAFETY: the registers are those of the ABI above, and all that the kernel changes is
        // named. The caller answers for what the call does. It may read and write memory: neither
        // `nomem` nor `readonly` is given. The kernel leaves the stack alone, there being no signal
        // handler.
        0..=3 => unsafe {
            core::arch::asm!(
                "int 0x80",
                inlateout("eax") number => result,
                in("ebx") nth(arguments, 0),
                in("ecx") nth(arguments, 1),
                in("edx") nth(arguments, 2),
                options(nostack, preserves_flags),
            );
        },
        // SAFETY: for the same reason; and esi and edi are in the end what they were.
        4 => unsafe {
            core::arch::asm!(
                "xchg esi, edi",
                "int 0x80",
                "xchg esi, edi",
                inlateout("eax") number => result,
                in("ebx") nth(arguments, 0),
                in("ecx") nth(arguments, 1),
                in("edx") nth(arguments, 2),
                in("edi") nth(arguments, 3),
                options(nostack, preserves_flags),
            );
        },
        _ => {
            // There are six values for the five registers that are left.
            let last_two = [nth(arguments, 3), nth(arguments, 4)];
            // SAFETY: for the same reason; esi is in the end what it was, and so is the stack, which
            // may be written to, as `nostack` is not given. edi points at two words.
            unsafe {
                core::arch::asm!(
                    "push esi",
                    "mov esi, [edi]",
                    "mov edi, [edi + 4]",
                    "int 0x80",
                    "pop esi",
                    inlateout("eax") number => result,
                    in("ebx") nth(arguments, 0),
                    in("ecx") nth(arguments, 1),
                    in("edx") nth(arguments, 2),
                    inout("edi") &raw const last_two => _,
                    options(preserves_flags),
                );
            }
        }
    }
    result as i32
}

define_exit! { "mov ebx, [esp + 4]", "push {number}", "pop eax", "int 0x80", "ud2", }
