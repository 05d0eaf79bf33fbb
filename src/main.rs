//! `pause`: the infra container of a pod, and PID 1 of a pod that shares its PID namespace.
//!
//! Start with [`answer`] and [`main`], then read the functions below them in order. `arm` and `hold` are in
//! `pause.rs`, because the library uses them, too. The only other code is the entry point,
//! `arch::entry_point!`, which calls the two functions.
//!
//! `build.rs` compiles this file once, with flags of its own. The result is `podpause::ELF` and, through
//! [`embedded`], the `pause` that cargo links.
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

/// Answers the first argument that asks for an answer, and exits. If there is none, returns 1 if `-P` is an
/// argument, otherwise 0.
///
/// It runs on the start stack, before anything is written to the private page, so an answer does not pay
/// for that page. The program's name counts as an argument.
///
/// The result fills a register, because the entry point passes it on. For a `bool`, some ABIs define only
/// eight bits of the register.
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

/// Holds the namespaces. Runs if there was nothing to answer.
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
    // SAFETY: `hold` requires that nothing uses a descriptor above 2. The program uses only 1 and 2.
    unsafe { hold(constants, page) }
}

/// Copies the program's name to the private page and records its address. The kernel shows the name in
/// /proc/PID/cmdline, but only if it is in anonymous memory.
#[inline(always)]
fn copy_name(stack: StartStack, constants: &Constants, page: &mut Page) {
    page.map.place((&raw const *constants).addr(), (&raw const *page).addr());
    let Some(name) = stack.arguments().next() else { return };
    let mut length = 0;
    loop {
        // SAFETY: no byte before this one is zero, so the index is at most that of the zero byte.
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

/// Unmaps the start stack and everything that the kernel mapped around it, which also frees their page
/// tables.
///
/// If the kernel refuses to be told that the name has moved, everything stays mapped.
#[inline(always)]
fn give_back_memory(stack: StartStack, page: &mut Page) {
    // Without a fixed end, unmap up to the end of the stack; what lies above stays. The program's path is
    // the last string on the stack, so it is in the last page. munmap rounds up to a whole page.
    let Some(end) = arch::MEMORY_END.or_else(|| stack.path()) else { return };
    if sys::set_memory_map(&mut page.map) {
        // SAFETY: nothing may use this memory any more. It starts behind the private page, which is the last
        // memory in use, and `main` has read all that it needs from the start stack.
        unsafe { sys::unmap((&raw const *page).addr() + elf::PAGE_MAX, end) }
    }
}

/// Makes a panic a link error: the linker does not find this function, and prints its name.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: this is a name for the linker to miss.
    unsafe extern "C" {
        fn this_code_can_panic_but_pause_must_not() -> !;
    }
    // SAFETY: no program with this call can be linked.
    unsafe { this_code_can_panic_but_pause_must_not() }
}
