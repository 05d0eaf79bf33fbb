//! What the program and the library's `run` have in common. [`arm`] blocks signals and makes the kernel
//! reap; [`hold`] sleeps until a signal ends the process.

use crate::sys;

/// Exit status: the answer to `-v` or `-h` could not be written.
pub const CANNOT_ANSWER: usize = 1;
/// Exit status: signals could not be blocked, or SIGCHLD could not be ignored.
pub const CANNOT_ARM: usize = 2;
/// Exit status: the wait for a signal failed.
pub const CANNOT_WAIT: usize = 3;

/// The output of `-h`. Its first line is the output of `-v`.
const ABOUT: &str = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n[-v | -h | -P]\n");
/// The length of the output of `-v`, in bytes.
pub const VERSION_LENGTH: usize = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n").len();

/// A message. All messages have the same length, so the callers of [`say`] pass no length.
type Message = [u8; 18];

/// All constant data, in one struct so that one register reaches all of it. Separate statics would each need
/// instructions to load their address.
#[repr(C)]
pub struct Constants {
    /// The signals that pause blocks and waits for. SIGTERM and SIGINT end it. SIGCHLD announces that a
    /// traced child has exited. Writing a message can raise the others. Unblocked, they would kill pause
    /// (SIGPIPE, SIGXFSZ) or stop it (SIGTTOU).
    pub signals: sys::SignalSet,
    pub not_pid_1: Message,
    pub cannot_hold: Message,
    pub sigterm: Message,
    pub sigint: Message,
    pub about: [u8; ABOUT.len()],
    pub thread_name: sys::Terminated<6>,
    pub root: sys::Terminated<2>,
}

/// Use this only through the reference that the entry point passes. For a direct use of a field, the
/// compiler would load a separate address.
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

/// The data at the start of the private page, the only page that pause writes to after it has read its
/// arguments. All bytes are zero at first. The stack begins at the end of the page and grows down towards
/// this struct.
///
/// The most used fields come first, because on x86_64 an offset below 128 makes instructions shorter.
#[repr(C)]
pub struct Page {
    pub map: sys::MemoryMap,
    pub buffers: sys::Buffers,
    /// The program's name, as much of it as fits, and a zero byte.
    pub name: [u8; 128],
}

/// Writes a message to stderr, unless that would block.
///
/// poll(2) reports only the state at the moment of the call. If another process fills the same pipe
/// between poll(2) and write(2), the write waits for a reader. O_NONBLOCK would avoid that, but it would
/// affect every process that shares this stderr.
#[inline(never)]
pub fn say(page: &mut Page, message: &Message) {
    if sys::is_writable(&mut page.buffers, sys::STDERR) {
        sys::write_and_forget(sys::STDERR, message);
    }
}

/// Writes a last message and exits.
#[inline(always)]
fn end(page: &mut Page, message: &Message, status: usize) -> ! {
    say(page, message);
    sys::exit(status)
}

/// Blocks the signals that pause waits for, and makes the kernel reap.
///
/// The kernel keeps a blocked signal pending even if it is ignored, and even if it has no handler in PID 1
/// (`sig_ignored` in Linux `kernel/signal.c`).
///
/// While SIGCHLD is ignored, the kernel reaps an untraced child as soon as the child exits, and a dead orphan
/// as soon as pause becomes its parent. It sends no signal in these cases. For a traced child it sends
/// SIGCHLD, and the tracer has to reap the child (`do_notify_parent` in the same file). A child that calls
/// PTRACE_TRACEME makes pause its tracer, so [`hold`] waits for SIGCHLD and reaps.
#[inline(always)]
pub fn arm(constants: &Constants, page: &mut Page) {
    if !(sys::set_signal_mask(&constants.signals) && sys::ignore_sigchld(&mut page.buffers)) {
        end(page, &constants.cannot_hold, CANNOT_ARM)
    }
}

/// Sleeps until SIGTERM or SIGINT, then exits. Before each sleep, reaps the dead children that the kernel
/// has not reaped.
///
/// # Safety
///
/// Nothing in the process uses a descriptor above 2 from here on.
#[inline(always)]
pub unsafe fn hold(constants: &Constants, page: &mut Page) -> ! {
    let (message, status) = loop {
        while sys::reap_one() > 0 {}
        // This is the last step before the first sleep, so EOF on an inherited pipe signals readiness.
        // SAFETY: the caller guarantees that nothing uses a descriptor above 2.
        unsafe { sys::close_all_but_stdio() };
        match sys::wait_for_signal(&constants.signals) {
            sys::SIGTERM => break (&constants.sigterm, 0),
            sys::SIGINT => break (&constants.sigint, 0),
            // SIGCHLD, or a signal that writing a message has raised.
            1.. => {}
            _ => break (&constants.cannot_hold, CANNOT_WAIT),
        }
    };
    end(page, message, status)
}
