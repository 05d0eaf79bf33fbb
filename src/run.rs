//! pause without an exec: the calling process becomes pause.

use crate::arch::{nr, syscall};
use crate::pause::{CONSTANTS, Page, arm, hold};
use crate::sys;

/// Turns the calling process into pause, without exec. Meant for the child of a runtime that cannot execute
/// a file or a memfd.
///
/// It behaves like the program, with these differences:
///
/// - It keeps the memory, the command line and the environment of the process.
/// - It prints no warning if it is not PID 1.
/// - If the process already has a child whose exit signal is not SIGCHLD (clone(2)), the end of that child
///   does not wake pause, so the child can stay a zombie.
///
/// It resets all signal actions before it unblocks signals. So no handler of the caller runs, not even for a
/// pending signal.
///
/// # Safety
///
/// The process has one thread, as a child has after fork(2), or after clone3(2) without CLONE_VM. Nothing in
/// the process uses a descriptor above 2 from here on, since this function closes them.
///
/// ```no_run
/// # fn fork() -> i32 { 1 }
/// match fork() {
///     // SAFETY: after fork(2), the child has one thread, and it runs nothing else.
///     0 => unsafe { podpause::run() },
///     pid => println!("pause is process {pid}"),
/// }
/// ```
pub unsafe fn run() -> ! {
    // SAFETY: the struct consists of integers, for which zero is a value.
    let mut page: Page = unsafe { core::mem::zeroed() };
    // `arm` unblocks most signals. Without the reset before it, a pending signal would run a handler of
    // the caller.
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
    // The kernel's `struct sigaction` is all zero for SIG_DFL, and has at most five words.
    const DEFAULT: [usize; 5] = [0; 5];
    for signal in 1..=64 {
        let action = DEFAULT.as_ptr().expose_provenance();
        // SAFETY: the kernel reads the struct and writes nothing. For SIGKILL and SIGSTOP, the call fails.
        unsafe { syscall(nr::RT_SIGACTION, [signal, action, 0, size_of::<sys::SignalSet>()]) };
    }
}
