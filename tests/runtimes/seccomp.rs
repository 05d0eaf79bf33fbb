//! The small seccomp profile, `docs/seccomp.json`: the system calls of pause and of the runtimes.
//!
//! The list for pause comes from its source. The lists for the runtimes contain the calls that they make
//! between loading the filter and exec, which depend on their versions. To rewrite the file, run
//! `PODPAUSE_WRITE=1 cargo test --test runtimes seccomp`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::cage::TERMINATED;
use common::wait::until;
use serde_json::{Value, json};

use crate::oci::{Body, Bundle, Runtime, field, test_each_runtime};

/// What crun calls after it has loaded the filter, if the container has no_new_privs. runc makes these
/// calls, too. (Newer versions of crun also call `close_range`, which is in the list of pause.)
const CRUN: [&str; 2] = ["close", "execve"];

/// What runc calls in addition: first the calls of runc 1.1, then those that 1.3 has added.
const RUNC: [&str; 12] = [
    "epoll_ctl",
    "fstatfs",
    "futex",
    "getdents64",
    "getpid",
    "openat",
    "rt_sigreturn",
    "write",
    "fcntl",
    "fstat",
    "openat2",
    "statx",
];

/// What the Go runtime in runc may call at any time: memory, threads, timers, preemption.
const GO: [&str; 14] = [
    "clone",
    "epoll_pwait",
    "getrandom",
    "gettid",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "nanosleep",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_yield",
    "sigaltstack",
    "tgkill",
];

/// What runc and crun call in addition if the container does not have no_new_privs. Without it, only a
/// privileged process may load a filter (seccomp(2)). So the runtimes load it before they drop their
/// privileges, and change user, folder and capabilities under it.
const WITH_PRIVILEGES: [&str; 17] = [
    "capget",
    "capset",
    "chdir",
    "faccessat",
    "faccessat2",
    "fchown",
    "getcwd",
    "getppid",
    "newfstatat",
    "prctl",
    "read",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setuid",
    "stat",
];

/// The names that some of these calls have on 32-bit architectures.
const ON_32_BITS: [&str; 15] = [
    "fchown32",
    "fcntl64",
    "fstat64",
    "fstatat64",
    "fstatfs64",
    "futex_time64",
    "mmap2",
    "setgid32",
    "ppoll_time64",
    "rt_sigtimedwait_time64",
    "setgroups32",
    "setresgid32",
    "setresuid32",
    "setuid32",
    "sigreturn",
];

/// The system calls of pause, which are the same on all architectures. This list leaves out the variants with
/// 64-bit times, which pause tries first on 32-bit architectures: see [`ON_32_BITS`].
fn pause() -> BTreeSet<String> {
    let lists = common::calls::architectures().into_iter().map(|file| {
        let names: Vec<_> = common::calls::listed(&file).into_iter().map(|call| call.0).collect();
        let names = names.into_iter().filter(|name: &String| !name.ends_with("_time64"));
        let names: BTreeSet<_> = names.collect();
        (names, file)
    });
    let lists: Vec<_> = lists.collect();
    for (names, file) in &lists {
        assert_eq!(*names, lists[0].0, "{file:?}");
    }
    lists[0].0.clone()
}

/// The profile. It names no architecture, so it applies to the native one.
fn profile() -> Value {
    let groups: [(&str, BTreeSet<String>); 5] = [
        ("pause", pause()),
        ("runtimes, after they have loaded the filter: crun", CRUN.map(Into::into).into()),
        ("the same: runc and Go", RUNC.iter().chain(&GO).map(|name| name.to_string()).collect()),
        ("the same: runc and crun without no_new_privs", WITH_PRIVILEGES.map(Into::into).into()),
        ("the same on 32-bit architectures", ON_32_BITS.map(Into::into).into()),
    ];
    let rules = groups.map(
        |(comment, names)| json!({ "comment": comment, "names": names, "action": "SCMP_ACT_ALLOW" }),
    );
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules })
}

/// The shipped profile. It must be equal to the generated one.
pub fn shipped() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/seccomp.json");
    let made = serde_json::to_string_pretty(&profile()).unwrap() + "\n";
    if std::env::var_os("PODPAUSE_WRITE").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(text, made, "to rewrite it: PODPAUSE_WRITE=1 cargo test --test runtimes seccomp");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn profile_comes_from_the_source() {
    shipped();
}

/// A profile that kills a process that makes any other call.
fn strict(names: BTreeSet<&str>) -> Value {
    let rule = json!({ "names": names, "action": "SCMP_ACT_ALLOW" });
    json!({ "defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [rule] })
}

test_each_runtime! {
    profile_allows_everything_that_pause_does
    profile_works_without_no_new_privs
}

fn bundle(seccomp: Value) -> Bundle {
    let mut bundle = Bundle::new(Body::Pause);
    bundle.config["linux"]["seccomp"] = seccomp;
    bundle
}

/// pause in the PID namespace of the cage, where it is not PID 1.
fn without_pid_namespace(mut bundle: Bundle) -> Bundle {
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    bundle.config["process"]["cwd"] = "/proc".into();
    bundle
}

const NOT_PID_1: &str = "pause: not PID #1\n";

fn profile_allows_everything_that_pause_does(runtime: &Runtime) {
    let mut start = bundle(shipped());
    start.with_descriptor = true;
    let pause = start.start(runtime, "pause");
    let status = pause.proc("status");
    assert_eq!(field(&status, "Seccomp"), "2");
    assert_eq!(field(&status, "RssAnon"), "4 kB");
    assert_eq!(pause.proc("cmdline"), "/pause\0");
    assert_eq!(pause.descriptors(), ["0", "1", "2"]);
    pause.make_orphans();
    until("the orphans were reaped", || pause.children() == (0, 0));
    pause.terminate();

    let mut version = bundle(shipped());
    version.config["process"]["args"] = json!(["/pause", "--version"]);
    let answer = format!("pause {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(version.run(runtime, "version"), (Some(0), answer));

    let pause = without_pid_namespace(bundle(shipped())).start(runtime, "host");
    assert_eq!(fs::read_link(pause.path("cwd")).unwrap(), Path::new("/"));
    pause.kill("TERM");
    assert_eq!(pause.end(), (Some(0), [NOT_PID_1, TERMINATED].concat()));

    // Two controls. Without a profile, a peer starts, and keeps the descriptor that pause closes. And the
    // runtime enforces profiles: under one that allows only the calls of the runtimes, the peer is killed.
    if common::cage::find("busybox").is_some() {
        let mut peer = Bundle::new(Body::Sleep);
        peer.with_descriptor = true;
        assert_eq!(peer.start(runtime, "free").descriptors(), ["0", "1", "2", "3"]);
        let mut peer = Bundle::new(Body::Sleep);
        peer.config["linux"]["seccomp"] = strict(CRUN.into_iter().chain(RUNC).chain(GO).collect());
        assert_eq!(peer.run(runtime, "peer").0, Some(SIGSYS));
    }
}

/// docker and podman start containers without no_new_privs, and with capabilities.
fn profile_works_without_no_new_privs(runtime: &Runtime) {
    let mut bundle = bundle(shipped());
    bundle.config["process"]["noNewPrivileges"] = false.into();
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_BIND_SERVICE"]);
    let sets = json!({ "bounding": capabilities, "permitted": capabilities });
    bundle.config["process"]["capabilities"] = sets;
    let pause = bundle.start(runtime, "pause");
    assert_eq!(field(&pause.proc("status"), "NoNewPrivs"), "0");
    assert_eq!(field(&pause.proc("status"), "RssAnon"), "4 kB");
    pause.terminate();
}

/// How a runtime reports that SIGSYS has killed the container.
const SIGSYS: i32 = 128 + 31;

/// This shows two things. pause makes no call that is not listed: such a call would kill it. And pause makes
/// every listed call: if one of them is missing from the profile, pause is killed. This uses crun, because
/// crun makes few calls of its own.
#[test]
fn profile_has_no_unnecessary_call() {
    let Some(crun) = Runtime::new("crun") else { return };
    let names = pause();
    let all: BTreeSet<&str> = names.iter().map(String::as_str).chain(CRUN).collect();
    let end_of = |bundle: Bundle| match bundle.try_start(&crun, "strict") {
        Ok(pause) => {
            pause.kill("TERM");
            pause.end().0
        }
        Err((status, _)) => status,
    };
    let strict = |names: &BTreeSet<&str>| bundle(strict(names.clone()));
    assert_eq!(end_of(strict(&all)), Some(0), "as PID 1");
    assert_eq!(end_of(without_pid_namespace(strict(&all))), Some(0), "not as PID 1");
    for name in &all {
        let mut fewer = all.clone();
        fewer.remove(name);
        let bundle = match *name {
            "chdir" => without_pid_namespace(strict(&fewer)),
            _ => strict(&fewer),
        };
        let end = end_of(bundle);
        // Without its own calls, the runtime does not get far enough to start pause.
        let is_expected = if CRUN.contains(name) { end != Some(0) } else { end == Some(SIGSYS) };
        assert!(is_expected, "without {name}: {end:?}");
        println!("without {name}: {end:?}");
    }
}
