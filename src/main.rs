//! `pause`: the infra container of a pod, and PID 1 of a pod that shares its PID namespace.
//!
//! Start with [`answer`] and [`main`], then read the functions below them in order. `arm` and `hold` are in
//! `pause.rs`, because the library uses them too. The entry point, `arch::entry_point!`, calls `answer` and
//! then `main`.
//!
//! `build.rs` compiles this file with its own flags. The library has the resulting ELF file as
//! `podpause::ELF`. When cargo links the binary `pause`, [`embedded`] puts the same bytes in it.
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

/// If an argument asks for the version or the usage, prints it and exits. The first such argument counts.
/// Otherwise returns 1 if `-P` is an argument, and 0 if not. `argv[0]` is treated like the others.
///
/// This function runs on the start stack, which the kernel has prepared. It does not write to the private
/// page, which holds pause's data and stack later, so the kernel need not allocate that page for an answer.
///
/// The result is a `usize` because the entry point passes the whole register on to `main`. For a `bool`,
/// some ABIs define only its low eight bits.
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

/// Holds the namespaces until a signal ends the process. Runs if no argument asked for an answer.
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

/// Copies the program's name to the private page, and records the address of the copy in `page.map`, for
/// [`give_back_memory`]. For /proc/PID/cmdline, the kernel reads the name from that address, but only if the
/// memory there is anonymous, as the private page is.
#[inline(always)]
fn copy_name(stack: StartStack, constants: &Constants, page: &mut Page) {
    page.map.place((&raw const *constants).addr(), (&raw const *page).addr());
    let Some(name) = stack.arguments().next() else { return };
    let mut length = 0;
    loop {
        // SAFETY: no byte at a lower index is zero, so this index is not beyond the zero byte.
        let byte = unsafe { name.byte(length) };
        // The last byte of the copy stays zero.
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

/// Unmaps everything from the next address after the private page that is a multiple of 64 KiB, to
/// `arch::MEMORY_END` or, without that, to the end of the start stack. That also frees the page tables of
/// this memory.
///
/// If the kernel refuses the new memory map, everything stays mapped.
#[inline(always)]
fn give_back_memory(stack: StartStack, page: &mut Page) {
    // The program's path is the last string on the start stack. Unless the path is almost a page long, it
    // starts in the last page of the stack. munmap rounds up to a whole page.
    let Some(end) = arch::MEMORY_END.or_else(|| stack.path()) else { return };
    if sys::set_memory_map(&mut page.map) {
        // SAFETY: nothing uses this memory any more. The private page is the highest memory in use, and the
        // range starts after it. `main` reads nothing from the start stack after this call.
        unsafe { sys::unmap((&raw const *page).addr() + elf::PAGE_MAX, end) }
    }
}

/// Turns code that can panic into a link error, in which the linker prints the name of a missing function.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: the declaration exists only for the linker's message. No function has this name.
    unsafe extern "C" {
        fn this_code_can_panic_but_pause_must_not() -> !;
    }
    // SAFETY: a program that contains this call does not link, so the call does not run.
    unsafe { this_code_can_panic_but_pause_must_not() }
}
