//! x86: Linux on 32-bit x86, i686 or later.
//!
//! System call (syscall(2), "Architecture calling conventions"; `entry_INT80_32` in Linux
//! `arch/x86/entry/entry_32.S`): the number in eax, the arguments in ebx, ecx, edx, esi and edi, the
//! result in eax. All other registers are preserved. `int 0x80` is slower than the vDSO, but
//! `give_back_memory` unmaps the vDSO, and speed does not matter here.
//!
//! Entry point (System V ABI for Intel386, 2.3.1): esp points at argc, and is a multiple of 16. The
//! frame pointer is undefined and has to be zeroed. At a call, esp is a multiple of 16, and points at
//! the arguments.

use super::{define_exit, nth};

/// `e_machine` in the ELF header: EM_386.
pub const E_MACHINE: u16 = 3;
/// `e_flags` in the ELF header: none are defined.
pub const E_FLAGS: u32 = 0;

/// The end of the memory that pause unmaps, if it is the same on every kernel. On this architecture it is not.
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
            "sub esp, 8",                   // after two pushes, esp is a multiple of 16 again
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
/// LLVM reserves esi, so esi cannot be an operand. For a call with four or five arguments, the assembly itself
/// moves the fourth argument into esi, and restores esi afterwards.
///
/// # Safety
///
/// The caller meets the requirements of this system call.
#[inline(always)]
pub unsafe fn syscall<const N: usize>(number: usize, arguments: [usize; N]) -> i32 {
    let result: isize;
    match N {
        // SAFETY: the registers are those of the ABI in the module's doc, and every register that the
        // kernel changes is an output. The caller guarantees the preconditions of the call. The call may read and
        // write memory: neither `nomem` nor `readonly` is given. `nostack` holds, since the kernel writes to
        // the user's stack only for a signal handler, and there is none.
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
        // SAFETY: as above. The assembly also restores esi and edi.
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
            // There are six values but only five free registers, so an array passes the last two arguments.
            let last_two = [nth(arguments, 3), nth(arguments, 4)];
            // SAFETY: as above. The assembly also restores esi and the stack pointer. It may write to the
            // stack, because `nostack` is not given. edi points to the two words of `last_two`.
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
