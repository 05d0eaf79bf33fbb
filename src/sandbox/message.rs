//! The messages that a child sends to its parent before the exec, over a socket.
//!
//! A process that another thread forks may hold copies of both ends of the socket. So when the child exits,
//! the parent does not always read EOF. It watches the child's pidfd instead.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Two connected sockets that preserve message boundaries. Both are closed on exec.
pub(super) fn channel() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// A message of a child.
#[derive(Debug)]
pub(super) enum Message {
    /// The sender has cloned the process with this id and pidfd, as a child of the receiver. The pidfd is
    /// missing if the receiver has reached its limit of descriptors.
    Cloned(i32, Option<OwnedFd>),
    /// From here on, the child reports a failure through this pipe. EOF means that pause is ready or that the
    /// child has ended. Only the child has the write end.
    Pipe(OwnedFd),
    /// A step failed, and the child ends.
    Failed(Failure),
}

/// A failed step of a child, by its number, and the error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) step: i32,
    pub(super) errno: Errno,
}

/// The length of a message: two integers.
pub(super) const LENGTH: usize = 8;

impl Failure {
    pub(super) fn to_bytes(self) -> [u8; LENGTH] {
        to_bytes([self.step, self.errno.raw_os_error()])
    }

    pub(super) fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        let [step, errno] = from_bytes(bytes);
        Self { step, errno: Errno::from_raw_os_error(errno) }
    }
}

fn to_bytes(numbers: [i32; 2]) -> [u8; LENGTH] {
    let [[a, b, c, d], [e, f, g, h]] = numbers.map(i32::to_ne_bytes);
    [a, b, c, d, e, f, g, h]
}

fn from_bytes([a, b, c, d, e, f, g, h]: [u8; LENGTH]) -> [i32; 2] {
    [[a, b, c, d], [e, f, g, h]].map(i32::from_ne_bytes)
}

/// Stands in place of a process id, and marks a [`Message::Pipe`].
const PIPE: i32 = 0;

/// Sends a pipe. This function allocates nothing.
pub(super) fn send_pipe(channel: BorrowedFd<'_>, pipe: &OwnedFd) -> Result<(), Errno> {
    send(channel, [PIPE, 0], Some(pipe))
}

/// Sends the id and the pidfd of a cloned process. This function allocates nothing.
pub(super) fn send_cloned(channel: BorrowedFd<'_>, pid: i32, pidfd: &OwnedFd) {
    // The id alone is enough for the parent to kill and reap the process. If that fails too, the parent has
    // ended.
    if send(channel, [pid, 0], Some(pidfd)).is_err() {
        let _ = send(channel, [pid, 0], None);
    }
}

/// Sends the failure of a step. This function allocates nothing.
pub(super) fn send_failure(channel: BorrowedFd<'_>, failure: Failure) {
    // If this fails, the parent has ended, or notices that the child ends.
    let _ = send(channel, [failure.step, failure.errno.raw_os_error()], None);
}

fn send(channel: BorrowedFd<'_>, numbers: [i32; 2], file: Option<&OwnedFd>) -> Result<(), Errno> {
    let file = file.map(|file| [file.as_fd()]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(files) = &file {
        ancillary.push(SendAncillaryMessage::ScmRights(files));
    }
    let bytes = to_bytes(numbers);
    sendmsg(channel, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// Waits for a message from the process with this pidfd. Returns `None` if the process ended without one.
pub(super) fn receive(
    channel: BorrowedFd<'_>,
    pidfd: BorrowedFd<'_>,
) -> rustix::io::Result<Option<Message>> {
    let mut files = [
        PollFd::from_borrowed_fd(channel, PollFlags::IN),
        PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
    ];
    rustix::io::retry_on_intr(|| poll(&mut files, None))?;
    receive_now(channel)
}

/// Returns a message that is already in the socket, if there is one.
pub(super) fn receive_now(channel: BorrowedFd<'_>) -> rustix::io::Result<Option<Message>> {
    let mut bytes = [0; LENGTH];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(channel, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags);
    match received {
        Ok(received) if received.bytes == LENGTH => {}
        Ok(_) | Err(Errno::AGAIN) => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    Ok(Some(match (from_bytes(bytes), files.next()) {
        ([PIPE, _], Some(file)) => Message::Pipe(file),
        // The kernel drops the descriptor if this process has reached its limit of descriptors.
        ([PIPE, 0], None) => return Err(Errno::MFILE),
        ([pid, 0], pidfd) => Message::Cloned(pid, pidfd),
        (_, _) => Message::Failed(Failure::from_bytes(bytes)),
    }))
}
