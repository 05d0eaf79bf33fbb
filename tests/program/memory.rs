//! The memory that pause keeps, and what /proc shows of it.

use std::ffi::CString;
use std::fs::File;
use std::process::Command;

use procfs::process::{MMPermissions, MMapPath, MemoryMap};
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::harness::{Body, Process, Start, copy_program, do_not_randomise_addresses, skip};

/// How many bytes of its name pause keeps at most.
const NAME_MAX: usize = 127;

fn mappings(process: &Process) -> Vec<MemoryMap> {
    process.proc().maps().unwrap().into_iter().collect()
}

/// The end of the start stack, which is the end of the page with the path of the program. The kernel keeps
/// the address of that path in its copy of the auxiliary vector.
fn start_stack_end(process: &Process) -> u64 {
    const AT_EXECFN: u64 = 31;
    let path = process.proc().auxv().unwrap()[&AT_EXECFN];
    (path / page_size() + 1) * page_size()
}

fn page_size() -> u64 {
    procfs::page_size()
}

/// The mappings, as text, if pause has other memory than its two pages. Otherwise `None`.
pub fn excess(process: &Process) -> Option<String> {
    let below_stack = start_stack_end(process);
    let mappings = mappings(process);
    let [text, page, rest @ ..] = &mappings[..] else { return Some(format!("{mappings:?}")) };
    let (read_execute, read_write) = (
        MMPermissions::READ | MMPermissions::EXECUTE | MMPermissions::PRIVATE,
        MMPermissions::READ | MMPermissions::WRITE | MMPermissions::PRIVATE,
    );
    let size = |mapping: &MemoryMap| mapping.address.1 - mapping.address.0;
    // On x86_64, pause knows where the address space ends, so it unmaps what is above the stack, too.
    let is_left = rest.iter().any(|mapping| match cfg!(target_arch = "x86_64") {
        true => mapping.pathname != MMapPath::Vsyscall,
        false => mapping.address.0 < below_stack,
    });
    let is_right = (text.perms, page.perms) == (read_execute, read_write)
        && (size(text), size(page)) == (page_size(), page_size())
        && page.pathname == MMapPath::Stack
        && !is_left;
    (!is_right).then(|| format!("{mappings:#?}"))
}

/// A value of /proc/PID/smaps_rollup. Those of /proc/PID/status are estimates on some kernels.
fn memory_bytes(process: &Process, name: &str) -> u64 {
    let rollup = process.proc().smaps_rollup().unwrap().memory_map_rollup;
    rollup.iter().next().unwrap().extension.map[name]
}

#[test]
fn is_one_shared_and_one_private_page() {
    let process = Start::pid1().spawn().asleep();
    assert_eq!(excess(&process), None);
    if page_size() != 4_096 {
        skip!("4 KiB pages", "this kernel has pages of {} bytes", page_size());
    }
    assert_eq!(memory_bytes(&process, "Anonymous"), 4_096, "private memory");
    assert_eq!(memory_bytes(&process, "Rss"), 8_192, "memory");
    assert_eq!(process.status().vmpte, Some(12), "kB of page tables");
}

/// The start stack then extends into the last page of the address space, which pause does not unmap.
#[test]
#[cfg(target_arch = "x86_64")]
fn is_a_page_more_without_address_space_randomisation() {
    let process = Start::pid1().step(do_not_randomise_addresses).spawn().asleep();
    let mappings = mappings(&process);
    let last = mappings.iter().rfind(|mapping| mapping.pathname != MMapPath::Vsyscall).unwrap();
    assert_eq!((mappings.len(), last.address.0), (4, 0x7fff_ffff_e000), "{mappings:#?}");
    assert_eq!(memory_bytes(&process, "Anonymous"), 2 * page_size(), "private memory");
    assert_eq!(memory_bytes(&process, "Rss"), 3 * page_size(), "memory");
    assert_eq!(process.status().vmpte, Some(24), "kB of page tables");
}

/// The negative control: without `munmap`, pause has more memory.
#[test]
fn is_more_where_it_cannot_be_given_back() {
    let process = Start::pid1().denying(libc::SYS_munmap, libc::EPERM).spawn().asleep();
    assert!(excess(&process).is_some());
    assert!(process.status().vmpte > Some(12));
}

#[test]
fn is_as_little_for_an_ordinary_process() {
    let process = Start::new().arguments(&["-P"]).spawn().asleep();
    assert_eq!(excess(&process), None);
}

/// What ps(1) shows in this column, or `None` if there is no ps(1).
fn ps(process: &Process, column: &str) -> Option<String> {
    let pid = process.pid.to_string();
    let output = Command::new("ps").args(["-o", &format!("{column}="), "-p", &pid]).output();
    Some(String::from_utf8(output.ok()?.stdout).unwrap().trim_end().to_owned())
}

#[test]
fn shows_the_name_it_was_started_with() {
    for name in ["/pause", "pause", "/usr/bin/pod", "a name with spaces"] {
        let argv = vec![CString::new(name).unwrap()];
        let process = Start::pid1().argv(argv).spawn().asleep();
        assert_eq!(process.read_proc("cmdline"), format!("{name}\0"));
        assert_eq!(process.read_proc("comm"), "pause\n");
        assert_eq!(excess(&process), None);
        match ps(&process, "args") {
            Some(args) => assert_eq!(args, name),
            None => skip!("ps", "there is no ps on this machine"),
        }
    }
    // pause does not keep the arguments after the name.
    let process = Start::pid1().arguments(&["one", "two"]).spawn().asleep();
    assert_eq!(process.read_proc("cmdline"), "/pause\0");
}

/// A runtime that embeds pause has no file for it. If pause did not set its thread name, the kernel would
/// name the thread after the descriptor.
#[test]
fn shows_its_name_when_it_comes_from_a_memfd() {
    let memfd = rustix::fs::memfd_create("runtime", MemfdFlags::CLOEXEC).unwrap();
    std::io::Write::write_all(&mut File::from(memfd.try_clone().unwrap()), podpause::ELF).unwrap();
    let start = Start::body(Body::Descriptor(memfd)).namespaces(libc::CLONE_NEWPID);
    let process = start.spawn().asleep();
    assert_eq!(process.read_proc("comm"), "pause\n");
    assert_eq!(process.read_proc("cmdline"), "/pause\0");
    assert_eq!(excess(&process), None);
    assert_eq!(memory_bytes(&process, "Anonymous"), page_size());
}

#[test]
fn shows_something_sensible_whatever_the_arguments_are() {
    // Lengths around the maximum, and far above it.
    for length in [NAME_MAX - 1, NAME_MAX, NAME_MAX + 1, 100 * 1_024] {
        let argv = vec![CString::new("n".repeat(length)).unwrap()];
        let process = Start::pid1().argv(argv).spawn().asleep();
        assert_eq!(process.read_proc("cmdline"), "n".repeat(length.min(NAME_MAX)) + "\0");
        assert_eq!(excess(&process), None);
        process.terminate();
    }
    // No arguments at all: since Linux 5.18, the kernel substitutes one empty argument, and shows that.
    for argv in [vec![], vec![CString::default()]] {
        let process = Start::pid1().argv(argv).spawn().asleep();
        assert_eq!(process.read_proc("cmdline").trim_end_matches('\0'), "");
        if let Some(name) = ps(&process, "comm") {
            assert_eq!(name, "pause");
        }
        process.terminate();
    }
}

/// pause does not use its environment: it neither keeps nor shows it.
#[test]
fn is_as_little_with_a_huge_environment() {
    let environment = vec![CString::new(format!("BIG={}", "x".repeat(64 * 1_024))).unwrap(); 2];
    let process = Start::pid1().environment(environment).spawn().asleep();
    assert_eq!(excess(&process), None);
    assert_eq!(process.read_proc("environ"), "");
    assert_eq!(process.read_proc("cmdline"), "/pause\0");
    process.terminate();
}

/// The smallest limit is three pages. With less, the kernel does not execute the program.
#[test]
fn is_as_little_with_the_smallest_stack() {
    for limit_bytes in [3 * page_size(), 64 * 1_024] {
        let limit = Rlimit { current: Some(limit_bytes), maximum: Some(limit_bytes) };
        let limit = move || Ok(setrlimit(Resource::Stack, limit)?);
        let process = Start::pid1().step(limit).spawn().asleep();
        assert_eq!(excess(&process), None, "with a limit of {limit_bytes} bytes");
        process.terminate();
    }
}

/// The path is at the end of the start stack. The longest one here almost fills a page of 4 KiB.
#[test]
fn is_as_little_wherever_the_program_is() {
    for length in [200, 3_000, 4_000] {
        let folder = tempfile::tempdir().unwrap();
        let mut path = folder.path().to_owned();
        while path.as_os_str().len() + 202 < length {
            path.push("d".repeat(200));
        }
        std::fs::create_dir_all(&path).unwrap();
        path.push("p".repeat(length - path.as_os_str().len() - 1));
        copy_program(&path);
        let start = Start::body(Body::File(path)).namespaces(libc::CLONE_NEWPID);
        let process = start.spawn().asleep();
        assert_eq!(excess(&process), None, "with a path of {length} bytes");
        assert_eq!(process.read_proc("comm"), "pause\n");
        process.terminate();
    }
}
