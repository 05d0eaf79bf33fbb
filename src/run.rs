//! pause without a program: the caller itself becomes it.

use crate::arch::{nr, syscall};
use crate::pause::{CONSTANTS, Page, arm, hold};
use crate::sys;

/// Becomes pause in this very process, without exec: for the child of a runtime that has nothing to
/// execute.
///
/// It behaves as the program does, with these differences. It keeps what memory the process has, its
/// command line and its environment. It never warns. Children that the process has already, and whose
/// end has another signal than SIGCHLD (clone(2)), are not reaped. No handler of the caller runs any
/// more, also not for a signal that is pending: the actions of all signals become the default, as
/// after an exec, before the mask is opened.
///
/// # Safety
///
/// The process has this one thread, as a child has behind fork(2) or clone3(2) without CLONE_VM.
/// Descriptors above 2 are closed, so nothing may run in the process any more that uses one.
///
/// ```no_run
/// # fn fork() -> i32 { 1 }
/// match fork() {
///     // SAFETY: a child behind fork(2) has one thread, and runs nothing else.
///     0 => unsafe { podpause::run() },
///     pid => println!("pause is process {pid}"),
/// }
/// ```
pub unsafe fn run() -> ! {
    // SAFETY: the struct is made of integers, for which zero is a value.
    let mut page: Page = unsafe { core::mem::zeroed() };
    // `arm` opens the mask for most signals. Until the actions are reset, a signal that is pending
    // then would run a handler of the caller.
    sys::set_signal_mask(&[0xff; size_of::<sys::SignalSet>()]);
    reset_signal_actions();
    arm(&CONSTANTS, &mut page);
    if sys::process_id() != 1 {
        sys::become_child_subreaper();
        sys::chdir(&CONSTANTS.root);
    }
    sys::set_thread_name(&CONSTANTS.thread_name);
    // SAFETY: the caller guarantees that nothing uses a descriptor above 2.
    unsafe { hold(&CONSTANTS, &mut page) }
}

/// Gives all signals their default action.
fn reset_signal_actions() {
    // `struct sigaction` of the kernel is all zero for SIG_DFL, and has at most five words.
    const DEFAULT: [usize; 5] = [0; 5];
    for signal in 1..=64 {
        let action = DEFAULT.as_ptr().expose_provenance();
        // SAFETY: the kernel reads the struct, and writes none. For SIGKILL and SIGSTOP it fails.
        unsafe { syscall(nr::RT_SIGACTION, [signal, action, 0, size_of::<sys::SignalSet>()]) };
    }
}
