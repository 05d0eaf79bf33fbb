//! Provokes the errors of a start, and checks the advice in their messages.

use std::fs::{self, File};
use std::io::ErrorKind;

use podpause::{Namespace, Program, SandboxBuilder};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::{
    KINDS, again, again_in, as_ordinary_user, case, children, deny, descriptors, error,
    has_children, is_root, programs, sandbox, skip, succeeds,
};
use crate::process::Cgroup;

/// Asserts that this sandbox fails to start with an error of this kind, that the message contains these
/// words, and that no child is left.
fn fails(builder: SandboxBuilder, kind: ErrorKind, words: &[&str]) {
    let error = error(builder.spawn());
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
    assert!(!has_children(), "{text}");
}

/// Runs the rest of a test in a process of its own, so that it sees no children of other tests.
macro_rules! alone {
    ($test:literal) => {
        if case().is_none() {
            succeeds(&mut again(concat!("errors::", $test), "alone"));
            return;
        }
    };
}

#[test]
fn for_contradictory_options() {
    alone!("for_contradictory_options");
    let program = Program::new().unwrap();
    let invalid = ErrorKind::InvalidInput;
    fails(program.sandbox().host_name("pod"), invalid, &["a host name", "Namespace::Uts"]);
    fails(program.sandbox().root("/"), invalid, &["a root", "Namespace::Mount"]);
    fails(program.sandbox().map_uids(0, 0, 1), invalid, &["maps", "Namespace::User"]);
    let twice = [Namespace::Net, Namespace::Net];
    fails(program.sandbox().new_namespaces(twice), invalid, &["the net namespace", "once only"]);
    let net = || File::open("/proc/self/ns/net").unwrap();
    let both = program.sandbox().new_namespaces([Namespace::Net]).join(Namespace::Net, net());
    fails(both, invalid, &["the net namespace", "new or joined"]);
}

#[test]
fn for_a_joined_file_of_the_wrong_kind() {
    alone!("for_a_joined_file_of_the_wrong_kind");
    let program = Program::new().unwrap();
    let join = |path: &str| program.sandbox().join(Namespace::Net, File::open(path).unwrap());
    let invalid = ErrorKind::InvalidInput;
    let before = descriptors();
    fails(join("/proc/self/ns/uts"), invalid, &["net", "it is a namespace of the kind uts"]);
    fails(join("/dev/null"), invalid, &["net", "not a namespace", "/proc/PID/ns/net"]);
    let by_path = program.sandbox().join_path(Namespace::Net, "/proc/self/ns/ipc");
    fails(by_path, invalid, &["/proc/self/ns/ipc", "of the kind ipc"]);
    let missing = program.sandbox().join_path(Namespace::Net, "/run/netns/no-such");
    fails(missing, ErrorKind::NotFound, &["join the net namespace /run/netns/no-such"]);
    assert_eq!(descriptors(), before);
}

#[test]
fn for_a_namespace_that_may_not_be_joined() {
    let test = "errors::for_a_namespace_that_may_not_be_joined";
    if case().is_none() {
        succeeds(as_ordinary_user(&mut again(test, "ordinary")));
        return;
    }
    let program = Program::new().unwrap();
    let join = program.sandbox().join_path(Namespace::Net, "/proc/self/ns/net");
    fails(join, ErrorKind::PermissionDenied, &["join the net namespace", "CAP_SYS_ADMIN"]);
    let own = program.sandbox().join_path(Namespace::User, "/proc/self/ns/user");
    fails(own, ErrorKind::InvalidInput, &["the user namespace that it is in"]);
}

#[test]
fn for_an_unprivileged_user_without_a_user_namespace() {
    let test = "errors::for_an_unprivileged_user_without_a_user_namespace";
    if case().is_none() {
        succeeds(as_ordinary_user(&mut again(test, "ordinary")));
        return;
    }
    let program = Program::new().unwrap();
    let builder = program.sandbox().new_namespaces([Namespace::Pid]);
    fails(builder, ErrorKind::PermissionDenied, &["(pid)", "run as root, or add Namespace::User"]);
    // An ordinary user cannot become another user either.
    let other = program.sandbox().user(0, 0);
    fails(other, ErrorKind::PermissionDenied, &["change the user and group", "CAP_SETUID"]);
}

/// In a chroot, the kernel allows no new user namespaces (`create_user_ns` in Linux
/// `kernel/user_namespace.c`). This provokes the error even if no sysctl of the machine forbids them.
#[test]
fn for_user_namespaces_that_are_not_allowed() {
    let test = "errors::for_user_namespaces_that_are_not_allowed";
    if case().is_none() {
        if !is_root() {
            skip!("root", "only root can call chroot");
        }
        let folder = tempfile::tempdir().unwrap();
        let script = "mount --rbind / $0 && exec chroot --userspec=54321:54321 $0 \"$@\"";
        let path = folder.path().to_str().unwrap();
        let shell = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, path];
        succeeds(&mut again_in(&shell, test, "chroot"));
        return;
    }
    let program = Program::new().unwrap();
    let builder = program.sandbox().new_namespaces(KINDS);
    fails(builder, ErrorKind::PermissionDenied, &["user namespaces", "LSM", "chroot"]);
}

/// Each user namespace has its own limits, so the test creates one and sets them there.
#[test]
fn for_too_many_namespaces() {
    let test = "errors::for_too_many_namespaces";
    if case().is_none() {
        for kind in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"] {
            let script = "echo 0 > /proc/sys/user/max_$0_namespaces && exec \"$@\"";
            let shell = ["unshare", "--user", "--map-root-user", "sh", "-c", script, kind];
            succeeds(&mut again_in(&shell, test, kind));
        }
        return;
    }
    let kind = case().unwrap();
    let program = Program::new().unwrap();
    let found = Namespace::ALL.into_iter().find(|other| other.name() == kind).unwrap();
    let name = format!("user.max_{kind}_namespaces is 0");
    fails(program.sandbox().new_namespaces([found]), ErrorKind::StorageFull, &[&name, "sysctl"]);
    // The negative control: another kind has another limit.
    let other = if kind == "uts" { Namespace::Ipc } else { Namespace::Uts };
    program.sandbox().new_namespaces([other]).spawn().unwrap().terminate().unwrap();
}

/// 1 for the error that the limit of descriptors is reached. There must be no other error.
fn count_failure<T>(result: Result<T, String>) -> u32 {
    match result {
        Ok(_) => 0,
        Err(text) if text.contains("Too many open files") => 1,
        Err(text) => panic!("{text}"),
    }
}

/// Wherever the limit of descriptors is reached, no process is left, neither pause nor a container.
#[test]
fn for_too_many_descriptors() {
    alone!("for_too_many_descriptors");
    // On one CPU, the messages of the helper and of pause arrive in either order.
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &cpus).unwrap();
    let program = Program::new().unwrap();
    let holder = sandbox(&program, &KINDS).spawn().unwrap();
    let own = [holder.pid() as i32];
    let (old, count) = (getrlimit(Resource::Nofile), descriptors().len() as u64);
    let mut failures = [0; 2];
    for more in (0..16).cycle().take(64) {
        // The helper joins a user namespace and clones pause, which sends its own messages.
        let limit = Rlimit { current: Some(count + more), ..old };
        let user = holder.namespace(Namespace::User).unwrap();
        let builder = program.sandbox().join(Namespace::User, user);
        setrlimit(Resource::Nofile, limit).unwrap();
        let result = builder.new_namespaces([Namespace::Uts]).spawn();
        setrlimit(Resource::Nofile, old).unwrap();
        failures[0] += count_failure(result.map_err(|error| error.to_string()));
        assert_eq!(children(), own, "{more} more, after spawn");

        setrlimit(Resource::Nofile, limit).unwrap();
        let result = holder.start(std::process::Command::new("true"));
        setrlimit(Resource::Nofile, old).unwrap();
        failures[1] += count_failure(result.map_err(|error| error.to_string()));
        assert_eq!(children(), own, "{more} more, after start");
    }
    assert!(failures.iter().all(|count| (1..64).contains(count)), "{failures:?}");
}

/// Before Linux 5.9, and under some filters, pause cannot close the pipe that `spawn` waits for.
#[test]
fn for_a_pause_that_cannot_signal_that_it_is_ready() {
    let test = "errors::for_a_pause_that_cannot_signal_that_it_is_ready";
    let Some(case) = case() else {
        succeeds(&mut again(test, "ENOSYS"));
        succeeds(&mut again(test, "EPERM"));
        return;
    };
    let (errno, kind) = match case.as_str() {
        "ENOSYS" => (libc::ENOSYS, ErrorKind::Unsupported),
        _ => (libc::EPERM, ErrorKind::PermissionDenied),
    };
    let programs = programs();
    deny(libc::SYS_close_range, errno);
    for program in &programs {
        fails(sandbox(program, &KINDS), kind, &["ready", "close_range needs Linux 5.9"]);
    }
}

/// A seccomp filter makes clone3 fail as it does on kernels that lack a kind of namespace, or clone3 itself.
#[test]
fn for_flags_and_calls_that_the_kernel_lacks() {
    let test = "errors::for_flags_and_calls_that_the_kernel_lacks";
    let Some(case) = case() else {
        succeeds(&mut again(test, "EINVAL"));
        succeeds(&mut again(test, "ENOSYS"));
        return;
    };
    let program = Program::new().unwrap();
    deny(libc::SYS_clone3, if case == "EINVAL" { libc::EINVAL } else { libc::ENOSYS });
    let builder = sandbox(&program, &[Namespace::Time]);
    match case.as_str() {
        "EINVAL" => fails(builder, ErrorKind::InvalidInput, &["time", "built without a kind"]),
        _ => fails(builder, ErrorKind::Unsupported, &["Linux 5.3", "seccomp"]),
    }
}

#[test]
fn for_maps_that_an_unprivileged_user_may_not_write() {
    let test = "errors::for_maps_that_an_unprivileged_user_may_not_write";
    let Some(case) = case() else {
        let mut with_helper = again(test, "newuidmap");
        succeeds(as_ordinary_user(&mut with_helper));
        let mut without = again(test, "none");
        succeeds(as_ordinary_user(&mut without).env("PATH", "/nowhere"));
        return;
    };
    let program = Program::new().unwrap();
    let builder = program.sandbox().new_namespaces(KINDS).map_uids(0, 100_000, 65_536);
    let denied = ErrorKind::PermissionDenied;
    if case == "none" {
        fails(builder, denied, &["0 100000 65536", "uid_map", "install newuidmap"]);
    } else if std::process::Command::new("newuidmap").output().is_err() {
        skip!("newuidmap", "it is not installed (package uidmap)");
    } else {
        fails(builder, denied, &["0 100000 65536", "uid_map", "/etc/subuid", "--add-subuids"]);
    }
}

/// newuidmap writes maps that /etc/subuid allows. The test mounts its own /etc/subuid, in its own mount
/// namespace.
#[test]
fn not_for_maps_that_subuid_allows() {
    let test = "errors::not_for_maps_that_subuid_allows";
    if case().is_none() {
        if !is_root() || std::process::Command::new("newuidmap").output().is_err() {
            skip!("newuidmap", "this needs root, and newuidmap (package uidmap)");
        }
        let script = "t=$(mktemp) && echo 54321:100000:65536 >$t && chmod 644 $t &&
            for f in /etc/subuid /etc/subgid; do mount --bind $t $f; done && rm $t &&
            u=$(mktemp) && cat /etc/passwd >$u && echo t:x:54321:54321::/:/bin/sh >>$u &&
            chmod 644 $u && mount --bind $u /etc/passwd && rm $u &&
            exec setpriv --reuid 54321 --regid 54321 --clear-groups \"$@\"";
        let shell = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"];
        succeeds(&mut again_in(&shell, test, "inside"));
        return;
    }
    let program = Program::new().unwrap();
    let builder = program.sandbox().new_namespaces(KINDS);
    let builder = builder.map_uids(0, 54_321, 1).map_uids(1, 100_000, 65_535);
    let sandbox = builder.map_gids(0, 54_321, 1).map_gids(1, 100_000, 65_535).spawn().unwrap();
    let map = fs::read_to_string(format!("/proc/{}/uid_map", sandbox.pid())).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>().join(" "), "0 54321 1 1 100000 65535");
    assert_eq!(crate::harness::status(sandbox.pid(), "Uid").split(' ').next(), Some("165534"));
}

/// The process is root of a user namespace that has only one ID. The advice in its error must
/// differ from that for an ordinary user.
#[test]
fn for_maps_of_ids_that_root_does_not_have() {
    let test = "errors::for_maps_of_ids_that_root_does_not_have";
    if case().is_none() {
        succeeds(&mut again_in(&["unshare", "--user", "--map-root-user"], test, "inside"));
        return;
    }
    let program = Program::new().unwrap();
    let builder = program.sandbox().new_namespaces([Namespace::User]).map_uids(0, 100_000, 10);
    let parts = ["0 100000 10", "uid_map", "root can map only ids that exist"];
    fails(builder, ErrorKind::PermissionDenied, &parts);
}

#[test]
fn for_maps_that_overlap() {
    alone!("for_maps_that_overlap");
    let program = Program::new().unwrap();
    let builder = program.sandbox().new_namespaces([Namespace::User]);
    let builder = builder.map_uids(0, 0, 10).map_uids(5, 100, 10);
    fails(builder, ErrorKind::InvalidInput, &["uid_map", "overlap"]);
}

#[test]
fn for_a_cgroup_that_takes_no_process() {
    if !is_root() {
        skip!("root", "this test needs root to create a cgroup");
    }
    alone!("for_a_cgroup_that_takes_no_process");
    let program = Program::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let other = program.sandbox().cgroup(folder.path());
    fails(other, ErrorKind::InvalidInput, &["use the cgroup", "not a cgroup v2 directory"]);
    fails(program.sandbox().cgroup("/no/such"), ErrorKind::NotFound, &["open /no/such"]);

    let Some(cgroup) = Cgroup::new("errors") else {
        skip!("cgroup", "no cgroup v2 can be created here");
    };
    let read = |name: &str| fs::read_to_string(cgroup.0.join(name)).unwrap();
    let controllers = read("cgroup.controllers");
    if let Some(controller) = controllers.split_whitespace().find(|name| *name != "cpu") {
        fs::write(cgroup.0.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
        let builder = program.sandbox().cgroup(&cgroup.0);
        fails(builder, ErrorKind::ResourceBusy, &["cgroup.subtree_control", "a child of it"]);
        fs::write(cgroup.0.join("cgroup.subtree_control"), format!("-{controller}")).unwrap();
    }
    if fs::write(cgroup.0.join("pids.max"), "0").is_ok() {
        let builder = program.sandbox().cgroup(&cgroup.0);
        fails(builder, ErrorKind::WouldBlock, &["may be full", "its pids.max is 0"]);
    }
}

/// This process joins a cgroup that has the controller pids (v1 or v2), and sets the cgroup's limit to the
/// number of its own threads.
#[test]
fn for_a_limit_on_processes() {
    let test = "errors::for_a_limit_on_processes";
    let Some(path) = case() else {
        let folders = [Some("/sys/fs/cgroup/pids".into()), Cgroup::root()];
        let groups = folders.into_iter().flatten();
        let mut groups = groups.filter_map(|folder| Cgroup::below(&folder, "full"));
        let Some(group) = groups.find(|group| group.0.join("pids.max").exists()) else {
            skip!("pids", "no cgroup with the controller pids can be created here");
        };
        succeeds(&mut again(test, group.0.to_str().unwrap()));
        return;
    };
    let program = Program::new().unwrap();
    let group = std::path::Path::new(&path);
    let threads = fs::read_dir("/proc/self/task").unwrap().count();
    fs::write(group.join("cgroup.procs"), "0").unwrap();
    fs::write(group.join("pids.max"), threads.to_string()).unwrap();
    let builder = sandbox(&program, &[Namespace::Pid]);
    fails(builder, ErrorKind::WouldBlock, &["a limit on processes", "pids.max"]);
    // The negative control: without the limit, the sandbox starts.
    fs::write(group.join("pids.max"), "max").unwrap();
    sandbox(&program, &[Namespace::Pid]).spawn().unwrap().terminate().unwrap();
}

#[test]
fn for_a_program_that_cannot_be_executed_or_is_not_pause() {
    alone!("for_a_program_that_cannot_be_executed_or_is_not_pause");
    let before = descriptors();
    let start = |path: &str| Program::from_file(path).unwrap();
    let other = start("/bin/true");
    fails(
        sandbox(&other, &KINDS),
        ErrorKind::Other,
        &["start pause", "it ended at once", "status: 0"],
    );
    // EOF on the pipe comes before the process can be seen to have ended. The error must not depend on this
    // timing, so the test repeats the start.
    for _ in 0..200 {
        let error = error(sandbox(&other, &[Namespace::Pid]).spawn());
        assert!(error.to_string().contains("it ended at once"), "{error}");
    }
    let no_program = start("/etc/passwd");
    fails(
        sandbox(&no_program, &KINDS),
        ErrorKind::PermissionDenied,
        &["execute pause", "executable"],
    );
    drop((other, no_program));
    assert_eq!(descriptors(), before);
}

#[test]
fn for_an_invalid_root_or_host_name() {
    alone!("for_an_invalid_root_or_host_name");
    let program = Program::new().unwrap();
    let root = |path: &str| sandbox(&program, &[Namespace::Mount]).root(path);
    fails(root("/no/such"), ErrorKind::NotFound, &["make /no/such the root of the sandbox"]);
    fails(root("/dev/null"), ErrorKind::NotADirectory, &["make /dev/null the root"]);
    fails(root("a\0b"), ErrorKind::InvalidInput, &["root of the sandbox"]);
    let long = sandbox(&program, &[Namespace::Uts]).host_name("x".repeat(65));
    fails(long, ErrorKind::InvalidInput, &["set the host name", "64 bytes"]);
}

/// The PID namespace still exists, but its PID 1 has ended.
#[test]
fn for_a_pid_namespace_that_has_ended() {
    if !is_root() {
        skip!("root", "an ordinary user cannot join a PID namespace without its user namespace");
    }
    alone!("for_a_pid_namespace_that_has_ended");
    let program = Program::new().unwrap();
    let mut first = program.sandbox().new_namespaces([Namespace::Pid]).spawn().unwrap();
    let namespace = first.namespace(Namespace::Pid).unwrap();
    first.terminate().unwrap();
    let join = program.sandbox().join(Namespace::Pid, namespace);
    fails(join, ErrorKind::OutOfMemory, &["PID 1 of the joined PID namespace"]);
}
