//! Joins, leaves and prepares namespaces.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::child::check;

/// Joins these namespaces of a process if `file` is its pidfd, or the one namespace to which `file` refers.
pub fn set_namespaces(file: BorrowedFd, namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: setns(2) takes two numbers.
    check(unsafe { libc::setns(file.as_raw_fd(), namespaces) }.into()).map(drop)
}

/// Leaves these namespaces for new ones. CLONE_NEWPID and CLONE_NEWTIME affect only future children.
pub fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare(2) takes a number. The callers do not pass CLONE_FILES, so the threads of the process
    // still share the descriptors that safe code owns.
    check(unsafe { libc::unshare(namespaces) }.into()).map(drop)
}

/// Brings the loopback interface up, and adds this address to it.
pub fn set_up_loopback(address: Ipv4Addr) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = interface(b"lo");
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    set_interface(socket.as_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request)?;

    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    let mut request = interface(b"lo:1");
    // SAFETY: both structs are plain data of 16 bytes: sockaddr is the general form of sockaddr_in.
    request.ifr_ifru.ifru_addr =
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
    set_interface(socket.as_fd(), libc::SIOCSIFADDR as libc::Ioctl, &request)
}

fn interface(name: &[u8]) -> libc::ifreq {
    // SAFETY: the struct is plain data, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request
}

fn set_interface(socket: BorrowedFd, what: libc::Ioctl, request: &libc::ifreq) -> io::Result<()> {
    // SAFETY: for the two requests of `set_up_loopback`, the kernel reads one struct.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw const *request) }.into()).map(drop)
}
