//! pause keeps every kind of namespace alive until it ends, even as the only process in it.
//!
//! A container here is a process that has joined the namespaces of pause by setns(2).

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::answers::output;
use crate::harness::{
    self, Body, DEADLINE, End, Form, Process, Start, become_user, fork, is_readable, is_root,
    set_namespaces, test_each_form, unshare, wait_for_child,
};
use crate::memory::excess;
use crate::messages::WARNING;
use crate::reaping::{make_orphans, wait_until_childless};

test_each_form! {
    outlive_the_container_that_used_them
    end_with_pause
}

/// A kind of namespace.
struct Kind {
    name: &'static str,
    flag: libc::c_int,
    /// The file of a process's own namespace of this kind.
    own: &'static CStr,
    /// The file with the limit on how many of them a user namespace may have.
    limit: &'static CStr,
    /// Adds what the process must do before it becomes pause. Only a time namespace needs anything.
    start: fn(Start) -> Start,
    /// Leaves some state in the namespace.
    leave: fn() -> io::Result<()>,
    /// Whether that state is there.
    sees: fn() -> io::Result<bool>,
}

macro_rules! kind {
    ($name:literal, $flag:ident, $start:expr, $leave:expr, $sees:expr) => {
        Kind {
            name: $name,
            flag: libc::$flag,
            own: c_str(concat!("/proc/self/ns/", $name, "\0")),
            limit: c_str(concat!("/proc/sys/user/max_", $name, "_namespaces\0")),
            start: $start,
            leave: $leave,
            sees: $sees,
        }
    };
}

const fn c_str(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("the one zero byte is at the end"),
    }
}

const PID: Kind = kind!("pid", CLONE_NEWPID, as_it_is, leave_process, sees_process);
const NET: Kind = kind!("net", CLONE_NEWNET, as_it_is, leave_address, sees_address);
const IPC: Kind = kind!("ipc", CLONE_NEWIPC, as_it_is, leave_messages, sees_messages);
const UTS: Kind = kind!("uts", CLONE_NEWUTS, as_it_is, leave_host_name, sees_host_name);
const MNT: Kind = kind!("mnt", CLONE_NEWNS, as_it_is, leave_volume, sees_volume);
const USER: Kind = kind!("user", CLONE_NEWUSER, as_it_is, leave_limit, sees_limit);
const CGROUP: Kind = kind!("cgroup", CLONE_NEWCGROUP, as_it_is, leave_nothing, sees_root_cgroup);
const TIME: Kind = kind!("time", CLONE_NEWTIME, with_offset, leave_nothing, sees_offset);

/// The kinds that this kernel has.
fn kinds() -> impl Iterator<Item = Kind> {
    let all = [PID, NET, IPC, UTS, MNT, USER, CGROUP, TIME];
    all.into_iter().filter(|kind| Path::new(kind.own.to_str().unwrap()).exists())
}

fn as_it_is(start: Start) -> Start {
    start
}

fn leave_nothing() -> io::Result<()> {
    Ok(())
}

/// In the PID namespace, the container is process 2, and its orphan is process 3.
const ORPHAN: i32 = 3;

fn leave_process() -> io::Result<()> {
    match fork() {
        0 => {
            harness::close_all_but([]);
            loop {
                rustix::event::pause();
            }
        }
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn sees_process() -> io::Result<bool> {
    harness::kill(1, 0)?;
    harness::kill(ORPHAN, 0)?;
    Ok(std::process::id() as i32 > ORPHAN)
}

/// An address reserved for documentation (RFC 5737), so no machine should have it.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 8_080;

fn leave_address() -> io::Result<()> {
    harness::set_up_loopback(ADDRESS)
}

fn sees_address() -> io::Result<bool> {
    // In a network namespace without any address, every address can be bound, but none can be connected to.
    let _socket = listen(ADDRESS)?;
    connect(ADDRESS).map(|_| true)
}

const KEY: libc::key_t = 0x706f64;
const QUEUE: &CStr = c"/pod";

fn leave_messages() -> io::Result<()> {
    harness::make_segment(KEY, b's')?;
    harness::make_queue(QUEUE, b'q')
}

fn sees_messages() -> io::Result<bool> {
    Ok(harness::read_segment(KEY)? == b's' && harness::read_queue(QUEUE)? == b'q')
}

const HOST_NAME: &[u8] = b"podpause-test";

fn leave_host_name() -> io::Result<()> {
    Ok(rustix::system::sethostname(HOST_NAME)?)
}

fn sees_host_name() -> io::Result<bool> {
    Ok(rustix::system::uname().nodename().to_bytes() == HOST_NAME)
}

/// Mounts an empty file system on /tmp, which hides the tests' own files there.
fn mount_volume(flags: MountFlags) -> io::Result<()> {
    // The mount must not propagate to the namespace from which this one was copied.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", private)?;
    Ok(rustix::mount::mount(c"none", c"/tmp", c"tmpfs", flags, None)?)
}

fn leave_volume() -> io::Result<()> {
    mount_volume(MountFlags::empty())?;
    write(c"/tmp/podpause-test", b"a volume")
}

fn sees_volume() -> io::Result<bool> {
    contains(c"/tmp/podpause-test", b"a volume")
}

/// A user namespace has its own limits, which a process in it can set.
const LIMIT: &[u8] = b"4321";
const LIMIT_FILE: &CStr = UTS.limit;

fn leave_limit() -> io::Result<()> {
    write(LIMIT_FILE, LIMIT)
}

fn sees_limit() -> io::Result<bool> {
    contains(LIMIT_FILE, LIMIT)
}

/// Whether the container's own cgroup is outside the root of its cgroup namespace.
fn sees_root_cgroup() -> io::Result<bool> {
    contains(c"/proc/self/cgroup", b"/..\n")
}

/// The offsets of a time namespace can be set only before its first process enters, so the
/// state is left before pause starts.
fn with_offset(start: Start) -> Start {
    start.step(|| {
        unshare(libc::CLONE_NEWTIME)?;
        write(c"/proc/self/timens_offsets", b"boottime 1000000000 0")
    })
}

fn sees_offset() -> io::Result<bool> {
    Ok(rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec > 1_000_000_000)
}

fn write(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR)?;
    rustix::io::write(&file, bytes)?;
    Ok(())
}

fn contains(path: &CStr, bytes: &[u8]) -> io::Result<bool> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [0; 4_096];
    let length = rustix::io::read(&file, &mut buffer)?;
    Ok(buffer[..length].windows(bytes.len()).any(|window| window == bytes))
}

/// The exit status of a container whose function returns this.
fn status(result: io::Result<bool>) -> i32 {
    match result {
        Ok(true) => 0,
        Ok(false) => NOT_SEEN,
        Err(error) => error.raw_os_error().unwrap_or(NOT_SEEN),
    }
}

/// The exit status of a container that has not seen what was left for it. A container that gets an error
/// exits with errno instead.
const NOT_SEEN: i32 = 255;

/// How a container joins: by a pidfd, as new runtimes do, or by the file of a namespace.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Pidfd,
    File,
}

impl Kind {
    /// pause as the first process in a namespace of this kind.
    fn pause(&self) -> Process {
        self.pause_as(Form::File)
    }

    fn pause_as(&self, form: Form) -> Process {
        let start = form.start().arguments(&["-P"]).namespaces(self.flag);
        (self.start)(start).spawn().asleep()
    }

    /// Runs a container that joins the namespace that `pause` holds and calls `run`
    /// there. Returns how it ended.
    fn try_container(
        &self,
        pause: &Process,
        by: Way,
        mut run: impl FnMut() -> io::Result<bool> + 'static,
    ) -> End {
        // Before Linux 6.2, execve(2) does not move pause itself into the new time namespace: only its
        // children would be in it.
        let (name, by) = match self.flag {
            libc::CLONE_NEWTIME => ("time_for_children", Way::File),
            _ => (self.name, by),
        };
        let (own, inode) = (self.own, inode(pause, name));
        let mut inside = move || {
            let is_same = rustix::fs::stat(own).map(|file| file.st_ino == inode);
            status(is_same.map_err(io::Error::from).and_then(|is_same| Ok(is_same && run()?)))
        };
        let is_pid = self.flag == libc::CLONE_NEWPID;
        let container = move || match is_pid.then(fork) {
            None | Some(0) => inside(),
            // Only a child of this process is in the PID namespace.
            Some(child) => wait_for_child(child),
        };
        let start = match by {
            Way::Pidfd => pause.join(self.flag, container),
            Way::File => pause.join_by_file(name, container),
        };
        start.spawn().end()
    }

    fn container(&self, pause: &Process, by: Way, run: fn() -> io::Result<bool>) {
        let end = self.try_container(pause, by, run);
        assert_eq!(end, End::Exit(0), "{}: {NOT_SEEN} if not seen, else errno", self.name);
    }

    /// Runs a container that leaves its state in the namespace.
    fn leave_state(&self, pause: &Process) {
        let leave = self.leave;
        let end = self.try_container(pause, Way::Pidfd, move || leave().map(|()| true));
        assert_eq!(end, End::Exit(0), "{}: {NOT_SEEN} if not joined, else errno", self.name);
    }

    /// Checks that a second and a third container see what a first one has left.
    fn check_held(&self, pause: &Process) {
        self.leave_state(pause);
        assert!(pause.lives());
        self.container(pause, Way::Pidfd, self.sees);
        self.container(pause, Way::File, self.sees);
    }
}

/// The inode number of the namespace that a process is in.
fn inode(process: &Process, name: &str) -> u64 {
    fs::metadata(format!("/proc/{}/ns/{name}", process.pid)).unwrap().ino()
}

/// The inode number of the namespace that the tests are in.
fn own_inode(name: &str) -> u64 {
    fs::metadata(format!("/proc/self/ns/{name}")).unwrap().ino()
}

fn outlive_the_container_that_used_them(form: Form) {
    for kind in kinds().filter(|kind| kind.flag != libc::CLONE_NEWCGROUP) {
        let pause = kind.pause_as(form);
        kind.check_held(&pause);
        pause.terminate();

        // The negative control: in a new namespace, the state is not seen.
        let new = Start::new().arguments(&["-P"]).namespaces(kind.flag).spawn().asleep();
        let end = kind.try_container(&new, Way::Pidfd, kind.sees);
        assert!(matches!(end, End::Exit(1..)), "{} in a new namespace: {end:?}", kind.name);
        new.terminate();
    }
}

/// A new cgroup. Drop removes it, so drop it after the processes in it.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Creates a cgroup in the first hierarchy where that is possible.
    fn new() -> Option<Self> {
        let name = format!("podpause-test-namespaces-{}", std::process::id());
        ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/freezer"]
            .into_iter()
            .filter(|root| Path::new(root).join("cgroup.procs").exists())
            .map(|root| Path::new(root).join(&name))
            .find(|folder| fs::create_dir(folder).is_ok())
            .map(Self)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel takes a process out of its cgroup shortly after it is reaped.
        let start = Instant::now();
        while fs::remove_dir(&self.0).is_err() && start.elapsed() < DEADLINE {
            std::thread::yield_now();
        }
    }
}

/// If the pod can have a cgroup of its own, its containers see that cgroup as the root. Most ordinary users
/// cannot create one. For them, the test only compares the inode numbers of the namespaces.
#[test]
fn outlive_the_container_that_used_them_with_a_cgroup_as_root() {
    let cgroup = Cgroup::new();
    let start = Start::new().arguments(&["-P"]);
    let pause = match &cgroup {
        Some(Cgroup(folder)) => {
            let members = File::options().write(true).open(folder.join("cgroup.procs")).unwrap();
            start.step(move || {
                rustix::io::write(&members, b"0")?;
                unshare(CGROUP.flag)
            })
        }
        None => start.namespaces(CGROUP.flag),
    };
    let pause = pause.spawn().asleep();
    let sees = if cgroup.is_some() { CGROUP.sees } else { || Ok(true) };
    for by in [Way::Pidfd, Way::Pidfd, Way::File] {
        CGROUP.container(&pause, by, sees);
    }
    pause.terminate();

    // The negative control: a namespace whose root is the tests' own cgroup.
    let new = CGROUP.pause();
    assert_eq!(CGROUP.try_container(&new, Way::Pidfd, CGROUP.sees), End::Exit(NOT_SEEN));
    new.terminate();
}

/// A process that learns from the kernel's own count whether a namespace still exists. In the user namespace
/// that owns it, the process sets the limit for this kind to 1, and then tries to create a second one. The
/// numbers in /proc/PID/ns do not suffice, because the next namespace may get the same number at once.
struct Witness {
    kind: &'static str,
    process: Process,
    go: OwnedFd,
}

impl Witness {
    /// A witness of the only namespace of this kind that the user namespace of `owner` owns.
    fn of(kind: &Kind, owner: &Process) -> Self {
        let (limit, flag) = (kind.limit, kind.flag);
        let (told, tell) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (gate, go) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (tell_number, gate_number) = (tell.as_raw_fd(), gate.as_raw_fd());
        let is_full = move || match unshare(flag) {
            Ok(()) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => Ok(true),
            Err(error) => Err(error),
        };
        let watch = move || -> io::Result<bool> {
            write(limit, b"1")?;
            if !is_full()? {
                return Ok(false);
            }
            harness::close(tell_number);
            harness::read_byte(gate_number);
            // A worker of the kernel releases some kinds later. `sees_the_end` has a deadline.
            while is_full()? {
                rustix::thread::sched_yield();
            }
            Ok(true)
        };
        let start = owner.join(libc::CLONE_NEWUSER, move || status(watch()));
        let process = start.keeping(tell).keeping(gate).spawn();
        assert!(is_readable(told.as_fd(), DEADLINE), "the witness has not seen the namespace");
        Self { kind: kind.name, process, go }
    }

    /// Waits until the namespace is released.
    fn sees_the_end(self) {
        drop(self.go);
        let Self { kind, mut process, .. } = self;
        assert_eq!(process.end(), End::Exit(0), "{kind}: {NOT_SEEN} if not seen, else errno");
    }
}

/// Starts this process as the first in a new namespace of this kind, and returns it as the second value. For
/// a user namespace, the first value is a process in the user namespace in which the new one was created.
fn in_owned(kind: &Kind, start: Start) -> (Option<Process>, Process) {
    if kind.flag != libc::CLONE_NEWUSER {
        let start = (kind.start)(start.namespaces(kind.flag | libc::CLONE_NEWUSER));
        return (None, start.spawn());
    }
    let owner = Start::sleeper().namespaces(libc::CLONE_NEWUSER).spawn();
    let pidfd = owner.pidfd.try_clone().unwrap();
    let start = start
        .step(move || set_namespaces(pidfd.as_fd(), libc::CLONE_NEWUSER))
        .step(|| unshare(libc::CLONE_NEWUSER));
    (Some(owner), start.spawn())
}

fn end_with_pause(form: Form) {
    for kind in kinds() {
        let (owner, pause) = in_owned(&kind, form.start().arguments(&["-P"]));
        let mut pause = pause.asleep();
        let witness = Witness::of(&kind, owner.as_ref().unwrap_or(&pause));
        kind.leave_state(&pause);
        pause.send(Signal::TERM);
        assert_eq!(pause.end(), End::Exit(0));
        let error = pause.join(kind.flag, || 0).try_spawn().err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "{}", kind.name);
        // A pidfd keeps a PID namespace from being released.
        drop(pause);
        witness.sees_the_end();
    }
}

/// Without pause, a namespace and its state are gone once the container that created it has ended.
#[test]
fn end_with_the_first_container_where_nobody_holds_them() {
    for kind in kinds() {
        let (gate, go) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (number, leave) = (gate.as_raw_fd(), kind.leave);
        let container = Start::body(Body::Function(Box::new(move || {
            let result = leave();
            harness::read_byte(number);
            status(result.map(|()| true))
        })));
        let (owner, mut container) = in_owned(&kind, container.keeping(gate));
        let witness = Witness::of(&kind, owner.as_ref().unwrap_or(&container));
        drop(go);
        assert_eq!(container.end(), End::Exit(0), "{}", kind.name);
        drop(container);
        witness.sees_the_end();
    }
}

/// A process that a container has left behind in the PID namespace ends with pause.
#[test]
fn end_with_pause_and_so_does_what_is_in_them() {
    let pause = PID.pause();
    assert_eq!(pause.status().nspid.unwrap()[1..], [1]);
    PID.leave_state(&pause);
    let orphan = Process::found(pause.children()[0].pid);
    assert_eq!(orphan.status().nspid.unwrap()[1..], [ORPHAN]);
    assert!(orphan.lives());
    pause.terminate();
    assert!(is_readable(orphan.pidfd.as_fd(), DEADLINE));
}

/// If a container in the PID namespace is a child of the runtime, pause does not end until the
/// runtime has reaped that container.
#[test]
fn end_when_the_runtime_has_reaped_its_containers() {
    let mut pause = PID.pause();
    let (gate, go) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let number = gate.as_raw_fd();
    let runtime = pause.join(libc::CLONE_NEWPID, move || match fork() {
        0 => loop {
            rustix::event::pause();
        },
        container => {
            harness::read_byte(number);
            wait_for_child(container);
            0
        }
    });
    let mut runtime = runtime.keeping(gate).spawn();
    runtime.until("had a container", || runtime.children().len() == 1);
    pause.send(Signal::TERM);
    runtime.until("had a zombie", || runtime.zombies() == 1);
    assert!(!is_readable(pause.pidfd.as_fd(), Duration::from_millis(50)));
    drop(go);
    assert_eq!(runtime.end(), End::Exit(0));
    assert_eq!(pause.end(), End::Exit(0));
}

/// A socket that listens for connections from the containers of the pod.
fn listen(address: Ipv4Addr) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(address, PORT))?;
    rustix::net::listen(&socket, 1)?;
    Ok(socket)
}

fn connect(address: Ipv4Addr) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::connect(&socket, &SocketAddrV4::new(address, PORT))?;
    Ok(socket)
}

/// Starts a container that answers one connection and ends. Returns once the container listens.
fn server(pause: &Process, address: Ipv4Addr, word: &'static [u8]) -> Process {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let number = tell.as_raw_fd();
    let serve = move || -> io::Result<bool> {
        let socket = listen(address)?;
        harness::close(number);
        let connection = rustix::net::accept(&socket)?;
        Ok(rustix::net::send(&connection, word, SendFlags::NOSIGNAL)? == word.len())
    };
    let server = pause.join(NET.flag, move || status(serve())).keeping(tell).spawn();
    assert!(is_readable(told.as_fd(), DEADLINE), "the server does not listen");
    server
}

/// Checks that a container gets this word from a server.
fn check_client(pause: &Process, address: Ipv4Addr, word: &'static [u8]) {
    let ask = move || -> io::Result<bool> {
        let socket = connect(address)?;
        let mut buffer = [0; 64];
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::WAITALL)?;
        Ok(&buffer[..length] == word)
    };
    assert_eq!(NET.try_container(pause, Way::Pidfd, ask), End::Exit(0), "{address}");
}

#[test]
fn let_containers_talk_also_after_a_restart() {
    let pause = NET.pause();
    NET.leave_state(&pause);
    for address in [Ipv4Addr::LOCALHOST, ADDRESS] {
        let mut first = server(&pause, address, b"first");
        check_client(&pause, address, b"first");
        assert_eq!(first.end(), End::Exit(0));
        // The second server is killed before it has answered, as in a crash. The third one replaces it.
        drop(server(&pause, address, b"second"));
        let mut third = server(&pause, address, b"third");
        check_client(&pause, address, b"third");
        assert_eq!(third.end(), End::Exit(0));
    }
    pause.terminate();
}

/// The PID, network and IPC namespaces of a pod can each be its own or the host's (`NamespaceMode` POD or
/// NODE in the CRI).
#[test]
fn are_held_in_each_combination_of_modes() {
    for row in 0..8 {
        let is_pod = |kind: &Kind| match kind.flag {
            libc::CLONE_NEWPID => row & 1 != 0,
            libc::CLONE_NEWNET => row & 2 != 0,
            libc::CLONE_NEWIPC => row & 4 != 0,
            _ => true,
        };
        let all = [PID, NET, IPC, UTS, MNT];
        let held = all.iter().filter(|kind| is_pod(kind)).fold(0, |held, kind| held | kind.flag);
        let mut pause = Start::new().namespaces(held).spawn().asleep();

        let is_pid_1 = is_pod(&PID);
        assert_eq!(pause.status().nspid.unwrap().last() == Some(&1), is_pid_1);
        assert_eq!(pause.messages(), if is_pid_1 { "" } else { WARNING });
        for kind in all {
            let is_own = inode(&pause, kind.name) == own_inode(kind.name);
            assert_eq!(is_own, !is_pod(&kind), "{} of row {row:03b}", kind.name);
            if is_pod(&kind) {
                kind.check_held(&pause);
            }
        }
        assert_eq!(pause.messages(), if is_pid_1 { "" } else { WARNING });
        pause.terminate();
    }
}

/// Makes an empty, read-only file system the root, and the only mount.
fn enter_empty_root() -> io::Result<()> {
    mount_volume(MountFlags::RDONLY)?;
    rustix::process::chdir(c"/tmp")?;
    // This mounts the old root on top of the new one. The next call unmounts it (pivot_root(2), NOTES).
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir(c"/")?)
}

/// Gives up all capabilities, including those that an execve could grant, and becomes this user. The user
/// namespace of an ordinary user maps only one user, so `user` is `None` there.
fn drop_rights(user: Option<u32>) -> io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // There are no more capabilities.
            Err(rustix::io::Errno::INVAL) => break,
            result => result?,
        }
    }
    if let Some(user) = user {
        return become_user(user);
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none)?;
    harness::refuse_new_privileges()
}

/// Starts the program without rights or files. It comes from a memfd.
fn hardened(namespaces: libc::c_int) -> Start {
    let user = is_root().then_some(65_535);
    let memfd = rustix::fs::memfd_create("pause", MemfdFlags::CLOEXEC).unwrap();
    File::from(memfd.try_clone().unwrap()).write_all(podpause::ELF).unwrap();
    Start::body(Body::Descriptor(memfd))
        .namespaces(namespaces | libc::CLONE_NEWNS)
        .step(enter_empty_root)
        .step(move || drop_rights(user))
}

#[test]
fn are_held_without_rights_or_files() {
    let pod = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    for namespaces in [pod | libc::CLONE_NEWPID, pod] {
        let is_pid_1 = namespaces != pod;
        let mut pause = hardened(namespaces).spawn().asleep();
        let status = pause.status();
        let rights = [status.capinh, status.capprm, status.capeff];
        assert_eq!((rights, status.capbnd, status.capamb), ([0; 3], Some(0), Some(0)));
        assert_eq!(status.nonewprivs, Some(1));
        if is_root() {
            assert_eq!((status.ruid, status.euid, status.rgid, status.egid), NOBODY);
            assert!(status.groups.is_empty());
        }
        let mounts = pause.read_proc("mountinfo");
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(mounts.contains(" / / ro"), "{mounts}");
        assert_eq!(fs::read_dir(format!("/proc/{}/root", pause.pid)).unwrap().count(), 0);

        assert_eq!(excess(&pause), None);
        for kind in [NET, IPC, UTS] {
            kind.check_held(&pause);
        }
        if is_pid_1 {
            make_orphans(&pause, 100, 10);
            wait_until_childless(&pause);
            pause.sleeps();
        }
        assert_eq!(pause.messages(), if is_pid_1 { "" } else { WARNING });
        pause.terminate();

        let version = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
        assert_eq!(output(hardened(namespaces).arguments(&["-v"])), (version, End::Exit(0)));
    }
}

/// The real and effective user and group of a pause image.
const NOBODY: (u32, u32, u32, u32) = (65_535, 65_535, 65_535, 65_535);
