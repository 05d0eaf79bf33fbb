//! Many sandboxes from one program, started and ended by many threads at once.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use podpause::{Namespace, Program, Sandbox};
use rustix::process::DumpableBehavior;

use crate::harness::{
    Fork, again, before_exec, case, descriptors, has_children, is_root, sandbox, status, succeeds,
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
