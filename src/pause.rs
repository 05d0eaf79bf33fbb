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
    /// The signals that are blocked, so that they act only when pause takes them, one by one. SIGTERM
    /// and SIGINT end it. SIGCHLD says that a traced child has ended. The others are those that a
    /// message can raise, which would kill pause (SIGPIPE, SIGXFSZ) or stop it (SIGTTOU); they are taken
    /// and forgotten.
    pub signals: sys::SignalSet,
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
    signals: sys::signals([
        sys::SIGTERM,
        sys::SIGINT,
        sys::SIGCHLD,
        sys::SIGPIPE,
        sys::SIGTTOU,
        sys::SIGXFSZ,
    ]),
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

/// Blocks the signals that pause takes, and has the kernel reap.
///
/// A blocked signal stays pending even if it is ignored, and even if PID 1 has no handler for it
/// (`sig_ignored` in Linux `kernel/signal.c`). While SIGCHLD is ignored, the kernel releases an ordinary
/// child as it dies, and an orphan that is already dead as it is reparented. It sends no signal then. For
/// a traced child it sends SIGCHLD and leaves the rest to the tracer (`do_notify_parent` there). A child
/// that calls PTRACE_TRACEME makes its parent the tracer, so pause may be one.
#[inline(always)]
pub fn arm(constants: &Constants, page: &mut Page) {
    if !(sys::set_signal_mask(&constants.signals) && sys::ignore_sigchld(&mut page.buffers)) {
        end(page, &constants.cannot_hold, CANNOT_ARM)
    }
}

/// Sleeps until SIGTERM or SIGINT, and ends. Reaps the children that the kernel has not released.
///
/// # Safety
///
/// Nothing in the process uses a descriptor above 2 any more.
#[inline(always)]
pub unsafe fn hold(constants: &Constants, page: &mut Page) -> ! {
    let (message, status) = loop {
        while sys::reap_one() > 0 {}
        // This comes last before the first sleep, so EOF on an inherited pipe signals readiness.
        // SAFETY: the caller guarantees it.
        unsafe { sys::close_all_but_stdio() };
        match sys::wait_for_signal(&constants.signals) {
            sys::SIGTERM => break (&constants.sigterm, 0),
            sys::SIGINT => break (&constants.sigint, 0),
            // SIGCHLD, or a signal that means nothing here.
            1.. => {}
            _ => break (&constants.cannot_hold, CANNOT_WAIT),
        }
    };
    end(page, message, status)
}
