//! x86_64: Linux on AMD64 and Intel 64.
//!
//! System call (syscall(2), "Architecture calling conventions"; System V ABI for AMD64, A.2.1): the
//! number in rax, the arguments in rdi, rsi, rdx, r10 and r8, the result in rax. rcx and r11 change.
//!
//! Entry point (System V ABI for AMD64, 3.4.1): rsp points at argc, and is a multiple of 16. The
//! frame pointer is undefined, and to be zeroed. At a call, rsp is a multiple of 16, and the
//! arguments are in rdi, rsi, rdx and rcx.

use super::nth;

/// `e_machine` in the ELF header: EM_X86_64.
pub const E_MACHINE: u16 = 62;
/// `e_flags` in the ELF header: the architecture has none.
pub const E_FLAGS: u32 = 0;

/// Where the memory of a process ends, if that is the same on all kernels: TASK_SIZE_MAX in Linux
/// `arch/x86/include/asm/page_64_types.h`. With five levels of page tables there is more, but nothing
/// is mapped there unless it is asked for.
pub const MEMORY_END: Option<usize> = Some((1 << 47) - 4_096);

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
                "xor ebp, ebp",                  // no frame is above this one
                "mov rdi, rsp",                  // first argument: the start stack
                "mov esi, offset {constants}",   // second: the constants; the upper half is zeroed
                "call {answer}",
                "mov edi, eax",                  // first argument: the result
                "mov rsi, rsp",                  // second: the start stack
                "mov edx, offset {constants}",   // third: the constants
                "mov ecx, offset page",          // fourth: the private page
                "mov esp, offset stack_top",     // the stack from now on, at the end of that page
                "call {main}",
                "ud2",                           // it does not return
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
    let result: isize;
    // SAFETY: the registers are those of the ABI above, and all that the kernel changes is named.
    // The caller answers for what the call does. It may read and write memory: neither `nomem` nor
    // `readonly` is given. The kernel leaves the stack alone, there being no signal handler.
    unsafe {
        core::arch::asm!(
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
        );
    }
    result as i32
}

/// Ends the process by an instruction that is none.
#[inline(always)]
pub fn trap() -> ! {
    // SAFETY: the instruction raises SIGILL, and control never comes behind it.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}
