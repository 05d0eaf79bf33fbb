//! Start stacks in memory that ends at an unreadable page.

use std::io;

use super::child::check;
use crate::start::{StackString, StartStack};

/// Memory followed by an unreadable page. A read beyond the end raises SIGSEGV.
pub struct GuardedMemory {
    start: *mut libc::c_void,
    /// In bytes, without the unreadable page.
    length: usize,
}

impl GuardedMemory {
    /// Memory with these bytes at its end.
    pub fn new(bytes: &[u8]) -> Self {
        let length = bytes.len().next_multiple_of(rustix::param::page_size());
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let (null, readable) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        let whole = length + rustix::param::page_size();
        // SAFETY: without MAP_FIXED, the kernel chooses addresses that are not in use.
        let start = unsafe { libc::mmap(null, whole, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        // SAFETY: these are pages of the new mapping, to which nothing else points.
        check(unsafe { libc::mprotect(start, length, readable) }.into()).unwrap();
        // SAFETY: the mapping is at least as long as the bytes.
        let to = unsafe { start.cast::<u8>().add(length - bytes.len()) };
        // SAFETY: from `to` to the end of the writable pages, there are exactly `bytes.len()` bytes.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Self { start, length }
    }

    /// The address after the last readable byte.
    pub fn end(&self) -> usize {
        self.start.expose_provenance() + self.length
    }
}

impl Drop for GuardedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and has this length. Nothing that points into it outlives `self`.
        unsafe { libc::munmap(self.start, self.length + rustix::param::page_size()) };
    }
}

/// The bytes of a string on a start stack, without the zero that ends it.
pub fn bytes_of(text: StackString) -> Vec<u8> {
    // SAFETY: `take_while` stops at the zero byte, so no greater index is used.
    (0..).map(|index| unsafe { text.byte(index) }).take_while(|byte| *byte != 0).collect()
}

/// The start stack at this address.
pub fn start_stack(address: usize) -> StartStack {
    let stack = std::ptr::with_exposed_provenance(address);
    // SAFETY: the caller has laid out a start stack there, and keeps it for as long as it uses the result.
    unsafe { StartStack::new(stack) }
}
