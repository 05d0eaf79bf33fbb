//! `pause`: the infra container of a pod, and PID 1 of a pod that shares its PID namespace.
//!
//! Read [`main`] for the story, and the functions below it in their order; `arm`, `reap` and `hold`
//! are in `pause.rs`, since the library has them too. Nothing runs before `main` but the few
//! instructions of `arch::entry_point!`.
//!
//! `build.rs` compiles this file once, with flags of its own; the bytes that come out are
//! `podpause::ELF`, and, by way of [`carried`], also the `pause` that cargo makes.
#![no_std]
#![no_main]
#![no_builtins] // A loop stays a loop: there is no memset, memcpy or strlen to call.

mod arch;
#[cfg(not(program))]
mod carried;
mod elf;
mod pause;
mod start;
mod sys;

use pause::{CANNOT_ANSWER, Page, arm, hold, reap, say};
use start::{StartStack, Text};

/// What `-h` answers. Its first line is what `-v` answers.
const ABOUT: &str = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n[-v|-h|-P]\n");
/// The length of that line, in bytes.
const VERSION_LENGTH: usize = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n").len();

arch::entry_point!(crate::main);

/// The program.
///
/// # Safety
///
/// `stack` is the start stack. `page` is the private page, which is zero, and nobody else's.
unsafe extern "C" fn main(stack: *const usize, page: &mut Page) -> ! {
    // SAFETY: `stack` is the start stack, and only `shed` takes it away, which is its last user.
    let mut start = unsafe { StartStack::new(stack) };
    keep_name(start, page);
    let mut silent = false;
    while let Some(argument) = start.string() {
        silent |= answer_or_is_silence(argument);
    }

    arm(page);
    if sys::process_id() != 1 {
        if !silent {
            say(&mut page.buffers, b"pause: not PID #1\n");
        }
        sys::become_child_subreaper();
        sys::chdir_root();
    }
    reap();
    sys::set_thread_name(c"pause");
    shed(start, page);
    // This comes last: whoever handed over the write end of a pipe sees it closed once all is done.
    sys::close_all_but_stdio();
    hold(page)
}

/// Answers a question, and ends. Says of any other argument whether it asks for silence.
///
/// The name of the program is looked at like the other arguments.
#[inline(never)]
fn answer_or_is_silence(argument: Text) -> bool {
    // SAFETY: an empty string has its zero byte, and six more: this ends behind the first of them.
    let has_dash = unsafe { argument.has(0, b"-") };
    // SAFETY: for the same reason, with the third.
    let has_letter = |letter| unsafe { argument.has(1, &[letter, 0]) };
    // SAFETY: for the same reason, with the fifth.
    let has_word = |start| unsafe { argument.has::<4>(1, start) };
    if !has_dash {
        return false;
    }
    // SAFETY: behind five bytes that are not zero, the zero byte may follow, and then six more.
    let has_p = || unsafe { argument.has(5, b"p\0") };
    // SAFETY: for the same reason, with the fourth.
    let has_sion = || unsafe { argument.has(5, b"sion") };
    // SAFETY: behind nine bytes that are not zero, the zero byte follows at the earliest.
    let has_end = || unsafe { argument.has(9, b"\0") };
    let length = if has_letter(b'h') || has_word(b"-hel") && has_p() {
        ABOUT.len()
    } else if has_letter(b'v') || has_letter(b'V') || has_word(b"-ver") && has_sion() && has_end() {
        VERSION_LENGTH
    } else {
        return has_letter(b'P');
    };
    let is_written = sys::write(sys::STDOUT, &ABOUT.as_bytes()[..length]) == length as i32;
    sys::exit(if is_written { 0 } else { CANNOT_ANSWER })
}

/// Copies the name of the program to the private page, and notes where it is: the kernel shows it
/// in /proc/PID/cmdline, but only from anonymous memory.
#[inline(always)]
fn keep_name(mut start: StartStack, page: &mut Page) {
    page.map.place((&raw const elf::HEADER).addr(), (&raw const *page).addr());
    let Some(name) = start.string() else { return };
    let mut length = 0;
    // The last byte stays zero.
    while length < page.name.len() - 1 {
        // SAFETY: no byte before this one was zero.
        let byte = unsafe { name.byte(length) };
        if byte == 0 {
            break;
        }
        page.name[length] = byte;
        length += 1;
    }
    // No name leaves no command line at all, and ps shows `[pause]`.
    if length == 0 {
        return;
    }
    let copy = (&raw const page.name).addr();
    page.map.arg_start = copy as u64;
    page.map.arg_end = (copy + length + 1) as u64;
}

/// Gives back the start stack, what the kernel mapped around it, and the page tables of all that.
///
/// It ends with the path of the program, which is the last string on the stack, in its last page:
/// munmap rounds up. Where the kernel cannot be told that the name has moved, all stays mapped.
#[inline(always)]
fn shed(start: StartStack, page: &mut Page) {
    let Some(path) = start.path() else { return };
    if sys::set_memory_map(&mut page.map) == 0 {
        // SAFETY: this starts behind the private page, the last memory that is in use. The start
        // stack is not used again: `main` goes on without it.
        unsafe { sys::unmap((&raw const *page).addr() + elf::PAGE_MAX, path.address()) }
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
