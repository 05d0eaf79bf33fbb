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

use pause::{CANNOT_ANSWER, Constants, Page, VERSION_LENGTH, arm, hold, say};
use start::{Request, StartStack};

arch::entry_point!(crate::answer, crate::main, crate::pause::CONSTANTS);

/// Answers the first question among the arguments, and exits. If there is none, returns 1 if `-P` is
/// among the arguments, else 0.
///
/// It runs on the start stack, before anything is written to the private page: an answer does not pay
/// for that page. The name of the program counts as an argument.
///
/// The result is a whole register, since the entry point passes it on. Of a `bool`, the ABIs define
/// eight bits in one place and 32 in another.
extern "C" fn answer(stack: StartStack, constants: &Constants) -> usize {
    let mut silent = 0;
    for argument in stack.arguments() {
        let length = match argument.request() {
            Some(Request::Help) => constants.about.len(),
            Some(Request::Version) => VERSION_LENGTH,
            Some(Request::Silence) => {
                silent = 1;
                continue;
            }
            None => continue,
        };
        let is_written = sys::write(sys::STDOUT, &constants.about[..length]) == length as i32;
        sys::exit(if is_written { 0 } else { CANNOT_ANSWER })
    }
    silent
}

/// Holds the namespaces, if there was nothing to answer.
extern "C" fn main(silent: usize, stack: StartStack, constants: &Constants, page: &mut Page) -> ! {
    copy_name(stack, constants, page);
    arm(constants, page);
    if sys::process_id() != 1 {
        if silent == 0 {
            say(page, &constants.not_pid_1);
        }
        sys::become_child_subreaper();
        sys::chdir(&constants.root);
    }
    sys::set_thread_name(&constants.thread_name);
    give_back_memory(stack, page);
    // SAFETY: the program uses no other descriptors than 1 and 2.
    unsafe { hold(constants, page) }
}

/// Copies the name of the program to the private page, and notes its address: the kernel shows the
/// name in /proc/PID/cmdline, but only from anonymous memory.
#[inline(always)]
fn copy_name(stack: StartStack, constants: &Constants, page: &mut Page) {
    page.map.place((&raw const *constants).addr(), (&raw const *page).addr());
    let Some(name) = stack.arguments().next() else { return };
    let mut length = 0;
    loop {
        // SAFETY: all bytes before this one are not zero.
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

/// Gives back the start stack, what the kernel mapped around it, and the page tables of both.
///
/// Everything stays mapped if the kernel cannot be told that the name has moved.
#[inline(always)]
fn give_back_memory(stack: StartStack, page: &mut Page) {
    // Where no end is fixed, the end of the stack serves, and what lies above it stays. The path of the
    // program is the last string on the stack, so it is in the last page. munmap rounds up.
    let Some(end) = arch::MEMORY_END.or_else(|| stack.path()) else { return };
    if sys::set_memory_map(&mut page.map) {
        // SAFETY: this starts behind the private page, the last memory that is in use. `main` uses the
        // start stack no more.
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
