//! System call numbers of Linux `include/uapi/asm-generic/unistd.h`.

pub const CHDIR: usize = 49;
pub const WRITE: usize = 64;
pub const PPOLL: usize = 73;
pub const EXIT: usize = 93;
pub const RT_SIGACTION: usize = 134;
pub const RT_SIGPROCMASK: usize = 135;
pub const RT_SIGTIMEDWAIT: usize = 137;
pub const PRCTL: usize = 167;
pub const GETPID: usize = 172;
pub const MUNMAP: usize = 215;
pub const WAIT4: usize = 260;
pub const CLOSE_RANGE: usize = 436;
