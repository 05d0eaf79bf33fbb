//! Many sandboxes from one program, started and ended by many threads at once.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use podpause::{Namespace, Program, Sandbox};
use rustix::process::DumpableBehavior;

use crate::harness::{
    DEADLINE, Fork, Guard, again, as_ordinary_user, before_exec, case, descriptors, has_children,
    is_readable, is_root, sandbox, status, succeeds,
};

const SANDBOXES: usize = 1_000;
const THREADS: usize = 16;
/// No network and mount namespaces, because the kernel creates only a few hundred of them per second.
const KINDS: [Namespace; 3] = [Namespace::Pid, Namespace::Ipc, Namespace::Uts];

/// Calls `run` [`SANDBOXES`] times in all, on [`THREADS`] threads, and returns all results.
fn on_all_threads<T: Send>(run: impl Fn() -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let work = || {
            let mut results = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < SANDBOXES {
                results.push(run());
            }
            results
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn start_and_end_on_many_threads_and_leave_nothing() {
    if case().is_none() {
        succeeds(&mut again("many::start_and_end_on_many_threads_and_leave_nothing", "alone"));
        return;
    }
    let before = descriptors();
    let program = Program::new().unwrap();
    // Each sandbox has a pidfd. Only half of the sandboxes are kept, so that their pidfds fit within the
    // usual limit of 1,024 descriptors.
    let (kept, ended): (Vec<_>, Vec<_>) = {
        let turn = AtomicUsize::new(0);
        let start = || {
            let mut sandbox = sandbox(&program, &KINDS).spawn().unwrap();
            if turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                return Some(sandbox);
            }
            assert_eq!(sandbox.terminate().unwrap().code(), Some(0));
            None
        };
        on_all_threads(start).into_iter().partition(Option::is_some)
    };
    let kept: Vec<Sandbox> = kept.into_iter().flatten().collect();
    assert_eq!((kept.len(), ended.len()), (SANDBOXES / 2, SANDBOXES / 2));

    // Each has one private page, and all share one page of text.
    let page_kib = rustix::param::page_size() / 1_024;
    let mut own = BTreeMap::new();
    for sandbox in &kept {
        *own.entry(status(sandbox.pid(), "RssAnon")).or_insert(0) += 1;
    }
    assert_eq!(own, BTreeMap::from([(format!("{page_kib} kB"), kept.len())]));
    if is_root() {
        let shared = |sandbox: &Sandbox| {
            let text = std::fs::read_to_string(format!("/proc/{}/smaps", sandbox.pid())).unwrap();
            let text = text.split_once("/memfd:pause").expect("its text").1.to_owned();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap().to_owned();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        let most = kept.iter().map(shared).max();
        assert_eq!(most, Some(0), "KiB of text (Pss) in one of {}", kept.len());
    }
    // This process stays dumpable, although pause became another user while it shared this process's memory.
    assert_eq!(rustix::process::dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
    // A sandbox can be ended and reaped by a thread that did not start it.
    let kept = std::sync::Mutex::new(kept);
    on_all_threads(|| {
        let sandbox = kept.lock().unwrap().pop();
        if let Some(mut sandbox) = sandbox {
            assert_eq!(sandbox.terminate().unwrap().code(), Some(0));
        }
    });
    drop(program);
    assert!(!has_children());
    assert_eq!(descriptors(), before, "no pidfd, no memfd, no pipe");
}

/// Other threads fork during a start, and their children have copies of all descriptors, including those that
/// the start uses. The start does not wait for these children.
#[test]
fn start_while_other_threads_fork() {
    if case().is_none() {
        succeeds(&mut again("many::start_while_other_threads_fork", "alone"));
        return;
    }
    let program = Program::new().unwrap();
    let is_over = AtomicBool::new(false);
    let forks = thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut forks = Vec::new();
            while !is_over.load(Ordering::Relaxed) && forks.len() < 2_000 {
                forks.push(Fork::new());
            }
            forks
        });
        let start = || {
            for _ in 0..25 {
                let mut sandbox = sandbox(&program, &KINDS).spawn().unwrap();
                assert_eq!(sandbox.terminate().unwrap().code(), Some(0));
            }
        };
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
        starts.into_iter().for_each(|start| start.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
        storm.join().unwrap()
    });
    assert!(!forks.is_empty());
    drop(forks);
    assert!(!has_children());
}

/// The negative control: a forked child does have a copy of an ordinary pipe, so the pipe has no EOF before
/// the child ends.
#[test]
fn ordinary_pipe_would_wait_for_forks() {
    if case().is_none() {
        succeeds(&mut again("many::ordinary_pipe_would_wait_for_forks", "alone"));
        return;
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let fork = Fork::new();
    drop(writer);
    let is_over = |within| crate::harness::is_readable(reader.as_fd(), within);
    assert!(!is_over(std::time::Duration::from_millis(100)));
    drop(fork);
    assert!(is_over(crate::harness::DEADLINE));
}

/// A program that another thread executes during a start inherits none of the start's descriptors.
#[test]
fn leak_no_descriptor_to_other_children() {
    if case().is_none() {
        succeeds(&mut again("many::leak_no_descriptor_to_other_children", "alone"));
        return;
    }
    let list = || {
        let mut command = Command::new("ls");
        // With a hook, std calls fork instead of posix_spawn.
        before_exec(command.arg("/proc/self/fd"), || Ok(()));
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let before = list();
    let program = Program::new().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let look = scope.spawn(|| {
            let mut looks = 0;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(list(), before);
                looks += 1;
            }
            looks
        });
        for _ in 0..200 {
            sandbox(&program, &KINDS).spawn().unwrap().terminate().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(look.join().unwrap() > 0);
    });
}

/// The children of concurrent starts hold copies of each other's sockets. If the runtime is killed while they wait
/// for their id maps, they end nevertheless. A stand-in for newuidmap(1) keeps them waiting.
#[test]
fn end_with_a_runtime_that_is_killed_while_they_start() {
    let test = "many::end_with_a_runtime_that_is_killed_while_they_start";
    if case().is_some() {
        let barrier = Barrier::new(THREADS);
        let start = || {
            let program = Program::new().unwrap();
            let builder = program.sandbox().new_namespaces([Namespace::User]);
            barrier.wait();
            drop(builder.map_uids(0, 100_000, 65_536).spawn());
        };
        thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(start))));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let fifo = |name: &str| {
        let path = folder.path().join(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    };
    let (mut arrived, leave) = (fifo("arrived"), fifo("leave"));
    let script = "#!/bin/sh\ncd \"${0%/*}\" && printf x >arrived && read line <leave\n";
    let newuidmap = folder.path().join("newuidmap");
    fs::write(&newuidmap, script).unwrap();
    fs::set_permissions(&newuidmap, Permissions::from_mode(0o755)).unwrap();

    let mut runtime = again(test, "runtime");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    // The waiting children still have the standard output of the runtime, and the stand-ins do not.
    as_ordinary_user(&mut runtime).env("PATH", path).stdout(Stdio::piped());
    let mut runtime = Guard(runtime.spawn().unwrap());
    let mut output = runtime.0.stdout.take().unwrap();
    for _ in 0..THREADS {
        assert!(is_readable(&arrived, DEADLINE), "not all threads wait for newuidmap");
        arrived.read_exact(&mut [0]).unwrap();
    }
    runtime.0.kill().unwrap();
    let mut text = [0; 4_096];
    let has_ended = loop {
        match is_readable(&output, DEADLINE) && output.read(&mut text).unwrap() > 0 {
            true => {}
            false => break is_readable(&output, Duration::ZERO),
        }
    };
    (&leave).write_all(&[b'\n'; THREADS]).unwrap();
    assert!(has_ended, "children of the killed runtime are left");
}
