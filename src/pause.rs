//! What it is to be pause, once the arguments are read: arm, reap, hold.

use crate::sys;

/// Exit status: the answer to `-v` or `-h` could not be written.
pub const CANNOT_ANSWER: usize = 1;
/// Exit status: signals could not be blocked, or SIGCHLD not be ignored.
pub const CANNOT_ARM: usize = 2;
/// Exit status: the wait for a signal failed.
pub const CANNOT_WAIT: usize = 3;

/// The signals that end pause, which it takes one by one.
static END: sys::SignalSet = sys::signals([sys::SIGTERM, sys::SIGINT]);

/// The signals that are blocked: those, and the two that a message could raise. Neither may kill
/// pause (SIGPIPE) or stop it (SIGTTOU).
static BLOCKED: sys::SignalSet =
    sys::signals([sys::SIGTERM, sys::SIGINT, sys::SIGPIPE, sys::SIGTTOU]);

/// The private page, from its start to the stack that grows down towards it. Zero at first.
///
/// What is used most comes first: an offset below 128 makes short instructions on x86_64.
#[repr(C)]
pub struct Page {
    pub map: sys::MemoryMap,
    pub buffers: sys::Buffers,
    /// The name of the program, as far as it fits, and a zero byte.
    pub name: [u8; 128],
}

/// A message. All have one length, so that it need not be said with each.
type Message = [u8; 18];

/// Writes a message to stderr, unless that would block.
///
/// What poll(2) says is true of the moment: should another writer fill the same pipe right behind it,
/// the write would wait for a reader. To make stderr non-blocking instead would do that to everybody
/// who shares it.
#[inline(never)]
pub fn say(buffers: &mut sys::Buffers, message: &Message) {
    if sys::is_writable(buffers, sys::STDERR) {
        sys::write(sys::STDERR, message);
    }
}

/// Says why pause ends, and ends it.
#[inline(always)]
fn end(page: &mut Page, message: &Message, status: usize) -> ! {
    say(&mut page.buffers, message);
    sys::exit(status)
}

/// Blocks the signals that must not be lost, and leaves the reaping to the kernel.
///
/// A blocked signal stays pending even where it is ignored, and even for a PID 1 without a handler
/// for it (`sig_ignored` in Linux `kernel/signal.c`). With SIGCHLD ignored, the kernel releases a
/// child as it dies, and an orphan that is dead already as it is reparented, and wakes nobody
/// (`do_notify_parent` there).
#[inline(always)]
pub fn arm(page: &mut Page) {
    if sys::set_signal_mask(&BLOCKED) | sys::ignore_sigchld(&mut page.buffers) != 0 {
        end(page, b"pause: can't hold\n", CANNOT_ARM)
    }
}

/// Reaps the children that had died before `arm`: the kernel reaps the rest.
#[inline(always)]
pub fn reap() {
    while sys::reap_one() > 0 {}
}

/// Sleeps until SIGTERM or SIGINT, and ends.
#[inline(always)]
pub fn hold(page: &mut Page) -> ! {
    let mut result;
    loop {
        result = sys::wait_for_signal(&END);
        // A stop, a freezer or a tracer interrupts the wait. After any other error, to try again
        // could mean to try for ever.
        if result != -sys::EINTR {
            break;
        }
    }
    let (message, status) = match result as u32 {
        sys::SIGTERM => (b"pause: SIGTERM 15\n", 0),
        sys::SIGINT => (b"pause: SIGINT   2\n", 0),
        _ => (b"pause: can't hold\n", CANNOT_WAIT),
    };
    end(page, message, status)
}
