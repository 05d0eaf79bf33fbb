//! What differs between the architectures: one file each, with the same items in the same order.
//!
//! Nothing outside this folder knows which architecture it is on, but for the width of an address
//! and the order of bytes. A new architecture is a file here, a line below, and a row in the tests:
//! `build.rs` says so to whoever compiles for one that has none.

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

/// Makes a system call with up to five arguments. Returns whether it succeeds, for a call whose result
/// is then zero.
///
/// # Safety
///
/// That of the system call.
#[cfg(not(target_arch = "powerpc64"))] // which has a shorter one
#[inline(always)]
pub unsafe fn succeeds<const N: usize>(number: usize, arguments: [usize; N]) -> bool {
    // SAFETY: the caller answers for what the call does.
    unsafe { syscall(number, arguments) == 0 }
}

/// The argument with this index for a system call that has `N` of them, or no value in particular
/// where it has fewer: a register that the call does not look at is left as it is, which costs
/// nothing.
#[inline(always)]
fn nth<const N: usize>(arguments: [usize; N], index: usize) -> core::mem::MaybeUninit<usize> {
    match arguments.get(index) {
        Some(argument) => core::mem::MaybeUninit::new(*argument),
        None => core::mem::MaybeUninit::uninit(),
    }
}
