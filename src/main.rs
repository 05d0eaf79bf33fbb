//! `pause`: the infra container of a pod, and PID 1 of a pod that shares its PID namespace.
//!
//! Read [`answer`] and [`main`] for the story, and the functions below them in their order; `arm`,
//! `reap` and `hold` are in `pause.rs`, since the library has them too. Nothing else runs but the few
//! instructions of `arch::entry_point!`, which calls the two.
//!
//! `build.rs` compiles this file once, with flags of its own; the bytes that come out are
//! `podpause::ELF`, and, by way of [`embedded`], also the `pause` that cargo makes.
#![no_std]
#![no_main]
#![no_builtins] // A loop stays a loop: there is no memset, memcpy or strlen to call.

mod arch;
mod elf;
#[cfg(not(program))]
mod embedded;
mod pause;
mod start;
mod sys;

use pause::{CANNOT_ANSWER, Constants, Page, VERSION_LENGTH, arm, hold, reap, say};
use start::{Meaning, StartStack};

arch::entry_point!(crate::answer, crate::main, crate::pause::CONSTANTS);

/// Answers a question among the arguments, and ends. If there is none, returns whether they ask for
/// silence.
///
/// It runs on the start stack, before anything is written to the private page: whoever only asks does
/// not pay for one. The name of the program is looked at like the other arguments.
///
/// # Safety
///
/// `stack` is the start stack.
unsafe extern "C" fn answer(stack: *const usize, constants: &Constants) -> bool {
    // SAFETY: the caller answers for the stack, which stays as it is.
    let mut arguments = unsafe { StartStack::new(stack) };
    let mut silent = false;
    while let Some(argument) = arguments.string() {
        let length = match argument.meaning() {
            Meaning::Help => constants.about.len(),
            Meaning::Version => VERSION_LENGTH,
            Meaning::Silence => {
                silent = true;
                continue;
            }
            Meaning::Nothing => continue,
        };
        let is_written = sys::write(sys::STDOUT, &constants.about[..length]) == length as i32;
        sys::exit(if is_written { 0 } else { CANNOT_ANSWER })
    }
    silent
}

/// Holds, if there was nothing to answer.
///
/// # Safety
///
/// `stack` is the start stack. `page` is the private page, which is zero, and nobody else's.
unsafe extern "C" fn main(
    silent: bool,
    stack: *const usize,
    constants: &Constants,
    page: &mut Page,
) -> ! {
    // SAFETY: `stack` is the start stack, and only `shed` takes it away, which is its last user.
    let arguments = unsafe { StartStack::new(stack) };
    keep_name(arguments, constants, page);
    arm(constants, page);
    if sys::process_id() != 1 {
        if !silent {
            say(page, &constants.not_pid_1);
        }
        sys::become_child_subreaper();
        sys::chdir(&constants.root);
    }
    reap();
    sys::set_thread_name(&constants.thread_name);
    // SAFETY: for the same reason.
    let environment = unsafe { StartStack::behind_arguments(stack) };
    shed(environment, page);
    // This comes last: whoever handed over the write end of a pipe sees it closed once all is done.
    sys::close_all_but_stdio();
    hold(constants, page)
}

/// Copies the name of the program to the private page, and notes where it is: the kernel shows it
/// in /proc/PID/cmdline, but only from anonymous memory.
#[inline(always)]
fn keep_name(mut arguments: StartStack, constants: &Constants, page: &mut Page) {
    page.map.place((&raw const *constants).addr(), (&raw const *page).addr());
    let Some(name) = arguments.string() else { return };
    let mut length = 0;
    loop {
        // SAFETY: no byte before this one was zero.
        let byte = unsafe { name.byte(length) };
        // The last byte stays zero.
        if byte == 0 || length == page.name.len() - 1 {
            break;
        }
        page.name[length] = byte;
        length += 1;
    }
    let copy = (&raw const page.name).addr();
    page.map.arg_start = copy as u64;
    page.map.arg_end = (copy + length + 1) as u64;
}

/// Gives back the start stack, what the kernel mapped around it, and the page tables of all that.
///
/// Where the kernel cannot be told that the name has moved, all stays mapped.
#[inline(always)]
fn shed(environment: StartStack, page: &mut Page) {
    // Without an end that is known, that of the stack has to do: what is above stays. The path of the
    // program is the last string on the stack, in its last page, and munmap rounds up.
    let Some(end) = arch::MEMORY_END.or_else(|| environment.path()) else { return };
    if sys::set_memory_map(&mut page.map) {
        // SAFETY: this starts behind the private page, the last memory that is in use. The start
        // stack is not used again: `main` goes on without it.
        unsafe { sys::unmap((&raw const *page).addr() + elf::PAGE_MAX, end) }
    }
}

/// There is no panic: the linker does not find the function, and says its name.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: this is a name for the linker to miss.
    unsafe extern "C" {
        fn this_code_can_panic_but_pause_must_not() -> !;
    }
    // SAFETY: no program with this call can be linked.
    unsafe { this_code_can_panic_but_pause_must_not() }
}
