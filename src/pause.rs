//! What it is to be pause, once the arguments are read: arm, reap, hold.

use crate::sys;

/// Exit status: the answer to `-v` or `-h` could not be written.
pub const CANNOT_ANSWER: usize = 1;
/// Exit status: signals could not be blocked, or SIGCHLD not be ignored.
pub const CANNOT_ARM: usize = 2;
/// Exit status: the wait for a signal failed.
pub const CANNOT_WAIT: usize = 3;

/// What `-h` answers. Its first line is what `-v` answers.
const ABOUT: &str = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n[-v | -h | -P]\n");
/// The length of that line, in bytes.
pub const VERSION_LENGTH: usize = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n").len();

/// A message. All have one length, so that it need not be said with each.
type Message = [u8; 18];

/// What the kernel is given to read. One register reaches all of it, where each would need instructions
/// for an address of its own.
#[repr(C)]
pub struct Constants {
    /// The signals that end pause, which it takes one by one.
    pub end: sys::SignalSet,
    /// The signals that are blocked: those, and the two that a message could raise. Neither may kill
    /// pause (SIGPIPE) or stop it (SIGTTOU).
    pub blocked: sys::SignalSet,
    pub not_pid_1: Message,
    pub cannot_hold: Message,
    pub sigterm: Message,
    pub sigint: Message,
    pub about: [u8; ABOUT.len()],
    pub thread_name: sys::Terminated<6>,
    pub root: sys::Terminated<2>,
}

/// Whoever uses these takes a reference to all of them, as an argument: to a field of a static, the
/// compiler makes an address.
pub static CONSTANTS: Constants = Constants {
    end: sys::signals([sys::SIGTERM, sys::SIGINT]),
    blocked: sys::signals([sys::SIGTERM, sys::SIGINT, sys::SIGPIPE, sys::SIGTTOU]),
    not_pid_1: *b"pause: not PID #1\n",
    cannot_hold: *b"pause: can't hold\n",
    sigterm: *b"pause: SIGTERM 15\n",
    sigint: *b"pause: SIGINT   2\n",
    about: *ABOUT.as_bytes().first_chunk().unwrap(),
    thread_name: sys::Terminated::new(b"pause\0"),
    root: sys::Terminated::new(b"/\0"),
};

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

/// Writes a message to stderr, unless that would block.
///
/// What poll(2) says is true of the moment: should another writer fill the same pipe right behind it,
/// the write would wait for a reader. To make stderr non-blocking instead would do that to everybody
/// who shares it.
#[inline(never)]
pub fn say(page: &mut Page, message: &Message) {
    if sys::is_writable(&mut page.buffers, sys::STDERR) {
        sys::write_and_forget(sys::STDERR, message);
    }
}

/// Says why pause ends, and ends it.
#[inline(always)]
fn end(page: &mut Page, message: &Message, status: usize) -> ! {
    say(page, message);
    sys::exit(status)
}

/// Blocks the signals that must not be lost, and leaves the reaping to the kernel.
///
/// A blocked signal stays pending even where it is ignored, and even for a PID 1 without a handler
/// for it (`sig_ignored` in Linux `kernel/signal.c`). With SIGCHLD ignored, the kernel releases a
/// child as it dies, and an orphan that is dead already as it is reparented, and wakes nobody
/// (`do_notify_parent` there).
#[inline(always)]
pub fn arm(constants: &Constants, page: &mut Page) {
    if !(sys::set_signal_mask(&constants.blocked) && sys::ignore_sigchld(&mut page.buffers)) {
        end(page, &constants.cannot_hold, CANNOT_ARM)
    }
}

/// Reaps the children that had died before `arm`: the kernel reaps the rest.
#[inline(always)]
pub fn reap() {
    while sys::reap_one() > 0 {}
}

/// Sleeps until SIGTERM or SIGINT, and ends.
#[inline(always)]
pub fn hold(constants: &Constants, page: &mut Page) -> ! {
    let mut result;
    loop {
        result = sys::wait_for_signal(&constants.end);
        // A stop, a freezer or a tracer interrupts the wait. After any other error, to try again
        // could mean to try for ever.
        if result != -sys::EINTR {
            break;
        }
    }
    let (message, status) = match result as u32 {
        sys::SIGTERM => (&constants.sigterm, 0),
        sys::SIGINT => (&constants.sigint, 0),
        _ => (&constants.cannot_hold, CANNOT_WAIT),
    };
    end(page, message, status)
}
