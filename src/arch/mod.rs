//! Everything that differs between architectures. Each architecture has its own file. The files have the
//! same items in the same order; this file has what they share.
//!
//! The rest of the program depends only on the width of an address and on the byte order.

/// System call numbers of the architectures that were added to Linux after 2008.
#[cfg(any(target_arch = "aarch64", target_arch = "loongarch64", target_arch = "riscv64"))]
pub mod asm_generic;

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "arm", path = "arm.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64.rs")]
#[cfg_attr(target_arch = "powerpc64", path = "powerpc64.rs")]
#[cfg_attr(target_arch = "riscv64", path = "riscv64.rs")]
#[cfg_attr(target_arch = "s390x", path = "s390x.rs")]
#[cfg_attr(target_arch = "x86", path = "x86.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
mod current;

pub use current::*;

/// Defines the entry point from the instructions of one architecture.
///
/// The instructions call `$answer` on the start stack, with the start stack and `$constants` as arguments.
/// Then they move the stack to the private page, and call `$main` with the result of `$answer`, the start
/// stack, `$constants` and the private page. `$main` does not return; a trap follows the call.
///
/// This is a macro because only the program has an entry point; the library does not.
macro_rules! define_start {
    ($answer:path, $main:path, $constants:path, $($instruction:literal,)*) => {
        /// The first instructions of the program.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn _start() -> ! {
            core::arch::naked_asm!(
                $($instruction,)*
                answer = sym $answer,
                main = sym $main,
                constants = sym $constants,
            )
        }
    };
}
#[allow(unused_imports, reason = "the library has no entry point")]
pub(crate) use define_start;

/// Defines `syscall` from the operands of the `asm!` block of one architecture.
///
/// The caller names the three variables, so that its operands can use them.
macro_rules! define_syscall {
    (|$number:ident, $arguments:ident, $result:ident| $($assembly:tt)*) => {
        /// Makes a system call with up to five arguments. Returns the result, or the negated errno.
        ///
        /// # Safety
        ///
        /// The caller meets the requirements of this system call.
        #[inline(always)]
        pub unsafe fn syscall<const N: usize>($number: usize, $arguments: [usize; N]) -> i32 {
            let $result: core::mem::MaybeUninit<usize>;
            // SAFETY: the registers are those of the ABI in the module's doc, and every register that
            // the kernel changes is an output. The caller guarantees the preconditions of the call.
            // The call may read and write memory: neither `nomem` nor `readonly` is given. `nostack` holds,
            // since the kernel writes to the user's stack only for a signal handler, and there is none.
            unsafe { core::arch::asm!($($assembly)*) }
            // SAFETY: the kernel has written the result to this register.
            unsafe { $result.assume_init() as i32 }
        }
    };
}
#[allow(unused_imports, reason = "powerpc64 and x86 define `syscall` themselves")]
pub(crate) use define_syscall;

/// Defines `exit` from the instructions of one architecture: the system call, then a trap.
macro_rules! define_exit {
    ($($instruction:literal,)*) => {
        /// Ends the thread with this status. If the call is denied, a trap ends the process. _exit(2)
        ///
        /// The function is naked, so it is not inlined (all callers share one copy), and nothing comes
        /// between the system call and the trap.
        #[unsafe(naked)]
        pub extern "C" fn exit(status: usize) -> ! {
            core::arch::naked_asm!($($instruction,)* number = const nr::EXIT)
        }
    };
}
pub(crate) use define_exit;

/// Makes a system call with up to five arguments. Returns whether its result is zero. For most system calls
/// this means success.
///
/// # Safety
///
/// The caller meets the requirements of this system call.
#[cfg(not(target_arch = "powerpc64"))] // powerpc64 has a shorter version
#[inline(always)]
pub unsafe fn succeeds<const N: usize>(number: usize, arguments: [usize; N]) -> bool {
    // SAFETY: the caller guarantees the preconditions of the call.
    unsafe { syscall(number, arguments) == 0 }
}

/// The argument with this index, or an uninitialised value if there are fewer arguments. For an
/// uninitialised value, the compiler leaves the register as it is, which costs no instruction.
#[inline(always)]
fn nth<const N: usize>(arguments: [usize; N], index: usize) -> core::mem::MaybeUninit<usize> {
    match arguments.get(index) {
        Some(argument) => core::mem::MaybeUninit::new(*argument),
        None => core::mem::MaybeUninit::uninit(),
    }
}
