//! Filters that deny system calls.
//!
//! They are written by hand, because the crate `seccompiler` supports only three architectures, and the tests
//! run on eight.

use std::io;

use super::child::{check, refuse_new_privileges};

/// A seccomp filter that makes one system call fail with this error, and allows all others.
pub fn deny(number: u32, errno: i32) -> Vec<libc::sock_filter> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    vec![
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0), // the call's number
        libc::sock_filter { code: equal, jt: 0, jf: 1, k: number },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ]
}

pub fn set_filter(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    refuse_new_privileges()?;
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the kernel reads `len` instructions, and the filter has that many.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }.into()).map(drop)
}
