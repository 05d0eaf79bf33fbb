//! A uprobe on pause does not kill it, whether pause hits the probe before or after it gives back memory. The
//! exception is a process without randomised addresses.
//!
//! The kernel maps a page, `[uprobes]`, into the process, and executes a copy of the probed instruction
//! there. It prefers the last page below TASK_SIZE (`xol_add_vma` in Linux `kernel/events/uprobes.c`). On
//! x86_64, where pause knows the end of the address space, pause leaves that page mapped. On other
//! architectures, it unmaps up to the end of the start stack.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::harness::{Body, End, Probe, Process, Start, do_not_randomise_addresses, skip};

/// Where execution continues after each system call, in bytes from the start of the program.
fn offsets_after_system_calls(program: &[u8]) -> Vec<u64> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let starts = program.windows(2).enumerate().filter(|(_, bytes)| *bytes == SYSCALL);
    // The name and the messages have no such bytes.
    starts.map(|(start, _)| start as u64 + 2).collect()
}

/// A program in a memfd, with a probe after each of its system calls.
struct Probed {
    program: OwnedFd,
    /// The CPU on which the program runs.
    cpu: usize,
    probes: Vec<Probe>,
}

impl Probed {
    fn new(program: &[u8]) -> Result<Self, String> {
        let file = rustix::fs::memfd_create("pause", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(rustix::io::write(&file, program), Ok(program.len()));
        let cpu = rustix::thread::sched_getcpu();
        let offsets = offsets_after_system_calls(program).into_iter();
        let probes = offsets.map(|offset| Probe::new(file.as_fd(), offset, cpu));
        Ok(Self { probes: probes.collect::<Result<_, _>>()?, program: file, cpu })
    }

    fn start(&self) -> Start {
        let cpu = self.cpu;
        let program = Body::Descriptor(self.program.try_clone().unwrap());
        Start::body(program).arguments(&["-P"]).step(move || {
            let mut cpus = CpuSet::new();
            cpus.set(cpu);
            Ok(sched_setaffinity(None, &cpus)?)
        })
    }

    fn hits(&self) -> u64 {
        self.probes.iter().map(Probe::hits).sum()
    }
}

/// This program with probes. Skips the test if none can be set.
macro_rules! probed {
    ($program:expr) => {
        match Probed::new($program) {
            Ok(probed) => probed,
            Err(error) => skip!("uprobes", "{error}"),
        }
    };
}

/// Stops and resumes pause. That interrupts the system call in which pause sleeps, and execution continues at
/// the instruction after it.
fn wake(pause: &Process) {
    pause.send(Signal::STOP);
    pause.until("stopped", || pause.stat().state == 'T');
    pause.send(Signal::CONT);
    pause.sleeps();
}

#[test]
fn do_not_kill_it() {
    for namespaces in [0, libc::CLONE_NEWPID] {
        let probed = probed!(podpause::ELF);
        let pause = probed.start().namespaces(namespaces).spawn().asleep();
        assert!(pause.read_proc("maps").contains("[uprobes]"), "{}", pause.read_proc("maps"));
        let before = probed.hits();
        assert!(before > 5, "{before} hits until it sleeps");
        wake(&pause);
        let after = probed.hits();
        assert!(after > before, "no hit as it wakes");
        pause.terminate();
        assert!(probed.hits() > after, "no hit as it ends");
    }
}

/// The program, changed so that the length it passes to munmap is one page longer.
fn unmapping_one_page_more() -> Vec<u8> {
    let mut program = podpause::ELF.to_vec();
    let length = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let is_length = |bytes: &[u8]| length(bytes) >> 32 == 0x7fff;
    let places: Vec<_> =
        (0..program.len() - 8).filter(|at| is_length(&program[*at..][..8])).collect();
    let [place] = places[..] else { panic!("the length is at {places:x?}") };
    let bytes = &mut program[place..][..8];
    bytes.copy_from_slice(&(length(bytes) + 4_096).to_le_bytes());
    program
}

/// The negative control for the test above.
#[test]
fn kill_a_program_that_unmaps_their_page() {
    let probed = probed!(&unmapping_one_page_more());
    assert_eq!(probed.start().spawn().end(), End::Killed(libc::SIGSEGV));
}

/// Without randomised addresses (`setarch -R`), the start stack occupies the last page. The kernel then
/// maps `[uprobes]` below, where pause gives its memory back. docs/design.md says so.
#[test]
fn kill_it_where_the_start_stack_occupies_their_page() {
    let probed = probed!(podpause::ELF);
    let mut pause = probed.start().step(do_not_randomise_addresses).spawn();
    assert_eq!(pause.end(), End::Killed(libc::SIGSEGV));
}
