//! Objects of an IPC namespace: System V segments and POSIX message queues.

use std::ffi::CStr;
use std::io;

use super::child::{check, close};

/// Makes a System V segment with this byte in it.
pub fn make_segment(key: libc::key_t, byte: u8) -> io::Result<()> {
    let address = attach_segment(key, libc::IPC_CREAT | libc::IPC_EXCL | 0o600)?;
    // SAFETY: a segment is at least a page, which nobody else has mapped yet.
    unsafe { address.write(byte) };
    detach_segment(address)
}

/// The byte that is in a System V segment.
pub fn read_segment(key: libc::key_t) -> io::Result<u8> {
    let address = attach_segment(key, 0)?;
    // SAFETY: a segment is at least a page, which nobody writes to once it is made.
    let byte = unsafe { address.read() };
    detach_segment(address)?;
    Ok(byte)
}

fn attach_segment(key: libc::key_t, flags: libc::c_int) -> io::Result<*mut u8> {
    // SAFETY: shmget(2) takes numbers.
    let id = check(unsafe { libc::shmget(key, 1, flags) }.into())? as libc::c_int;
    // SAFETY: the kernel chooses an address where nothing is mapped.
    let address = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    check(address.addr() as libc::c_long)?;
    Ok(address.cast())
}

fn detach_segment(address: *mut u8) -> io::Result<()> {
    // SAFETY: this is where a segment was attached; the callers do not use it again.
    check(unsafe { libc::shmdt(address.cast()) }.into()).map(drop)
}

/// Makes a POSIX message queue with a message of this one byte in it.
pub fn make_queue(name: &CStr, byte: u8) -> io::Result<()> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    // SAFETY: the struct is made of integers, for which zero is a value.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    (attributes.mq_maxmsg, attributes.mq_msgsize) = (1, 1);
    // SAFETY: the kernel reads a string, which ends with a zero byte, and one struct.
    let queue = unsafe { libc::mq_open(name.as_ptr(), flags, 0o600, &raw const attributes) };
    check(queue.into())?;
    // SAFETY: the kernel reads one byte.
    check(unsafe { libc::mq_send(queue, (&raw const byte).cast(), 1, 0) }.into())?;
    close(queue);
    Ok(())
}

/// The byte that is in the message of a POSIX message queue. The message is put back.
pub fn read_queue(name: &CStr) -> io::Result<u8> {
    // SAFETY: the kernel reads a string, which ends with a zero byte.
    let queue = unsafe { libc::mq_open(name.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK) };
    check(queue.into())?;
    let mut byte = 0_u8;
    let (message, priority) = ((&raw mut byte).cast(), std::ptr::null_mut());
    // SAFETY: the kernel writes one byte, and no priority.
    check(unsafe { libc::mq_receive(queue, message, 1, priority) } as libc::c_long)?;
    // SAFETY: the kernel reads one byte.
    check(unsafe { libc::mq_send(queue, (&raw const byte).cast(), 1, 0) }.into())?;
    close(queue);
    Ok(byte)
}
