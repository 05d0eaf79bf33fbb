//! Probes on a program's instructions (uprobes), set with perf_event_open(2).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use perf_event_open_sys::{bindings, perf_event_open};

use super::child::check;

/// A probe that counts how often an instruction is executed on one CPU.
pub struct Probe(OwnedFd);

impl Probe {
    /// Sets a probe on the instruction at this offset in the file, in bytes.
    ///
    /// The error says what is missing: a kernel with uprobes, or the permission to set one.
    pub fn new(file: BorrowedFd, offset: u64, cpu: usize) -> Result<Self, String> {
        let file_of_type = "/sys/bus/event_source/devices/uprobe/type";
        let kind = std::fs::read_to_string(file_of_type)
            .map_err(|error| format!("no uprobes in this kernel: {file_of_type}: {error}"))?;
        // A memfd has no other path.
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        let mut attributes = bindings::perf_event_attr {
            type_: kind.trim().parse().unwrap(),
            size: size_of::<bindings::perf_event_attr>() as u32,
            ..Default::default()
        };
        attributes.uprobe_path = path.as_ptr().expose_provenance() as u64;
        attributes.probe_offset = offset;
        let (each_process, no_group) = (-1, -1);
        let flags = bindings::PERF_FLAG_FD_CLOEXEC.into();
        // SAFETY: the kernel reads the struct and the string, which outlive the call. The event only counts,
        // and writes to no memory.
        let event = unsafe {
            perf_event_open(&raw mut attributes, each_process, cpu as i32, no_group, flags)
        };
        let event = check(event.into()).map_err(|error| format!("perf_event_open: {error}"))?;
        // SAFETY: the kernel has created this descriptor for us, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(event as i32) }))
    }

    /// How often the probe was hit.
    pub fn hits(&self) -> u64 {
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&self.0, &mut count), Ok(8));
        u64::from_ne_bytes(count)
    }
}

/// Makes the kernel map the program's start stack at the same address each time.
pub fn do_not_randomise_addresses() -> io::Result<()> {
    // SAFETY: personality(2) takes a number.
    check(unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) }.into()).map(drop)
}
