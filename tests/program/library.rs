//! The library for runtimes: `memfd`, `exec`, and `run` without exec.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{FileType, MemfdFlags, SealFlags, fcntl_get_seals, fstat};
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};

use crate::harness::{
    Body, End, Form, HANDLER_RAN, Process, Start, block, handle, is_blocked_and_pending, kill,
    raise, skip, unblock_all,
};
use crate::memory::excess;

#[test]
fn seals_its_memfd_against_every_change() {
    let memfd = podpause::memfd().unwrap();
    let seals = fcntl_get_seals(&memfd).unwrap();
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    assert!(seals.contains(all), "{seals:?}");
    assert!(fcntl_getfd(&memfd).unwrap().contains(FdFlags::CLOEXEC));
    assert_eq!(FileType::from_raw_mode(fstat(&memfd).unwrap().st_mode), FileType::RegularFile);

    let mut file = File::from(memfd);
    assert_eq!(file.write(b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(file.set_len(0).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(file.set_len(1 << 20).unwrap_err().kind(), ErrorKind::PermissionDenied);
    if seals.contains(SealFlags::EXEC) {
        let mode = rustix::fs::Mode::RUSR;
        assert_eq!(rustix::fs::fchmod(&file, mode).unwrap_err(), rustix::io::Errno::PERM);
    }
}

/// All pods of a runtime share one page of text.
#[test]
fn shares_the_page_of_its_memfd() {
    let start = |memfd: &OwnedFd| {
        let body = Body::Descriptor(memfd.try_clone().unwrap());
        Start::body(body).namespaces(libc::CLONE_NEWPID).spawn().asleep()
    };
    // The pod's proportional share (Pss) of the memfd's page.
    let share_bytes = |pod: &Process, memfd: &OwnedFd| {
        let inode = fstat(memfd).unwrap().st_ino;
        let maps = pod.proc().smaps().unwrap();
        let text = maps.iter().find(|mapping| mapping.inode == inode).expect("its text");
        let bytes = |name| text.extension.map[name];
        assert_eq!((bytes("Rss"), bytes("Anonymous")), (procfs::page_size(), 0));
        bytes("Pss")
    };
    let memfd = podpause::memfd().unwrap();
    let pods: Vec<_> = (0..10).map(|_| start(&memfd)).collect();
    for pod in &pods {
        let share_bytes = share_bytes(pod, &memfd);
        assert!(share_bytes <= procfs::page_size() / 4, "{share_bytes} bytes with ten pods");
        assert_eq!(excess(pod), None);
    }
    // The negative control: a pod with a memfd of its own has a whole page.
    let memfd = podpause::memfd().unwrap();
    assert_eq!(share_bytes(&start(&memfd), &memfd), procfs::page_size());
}

/// With `vm.memfd_noexec` at 1, a memfd is executable only if MFD_EXEC asks for it. At 2, no
/// memfd can be executable. Each PID namespace has its own value, so this test runs itself
/// again in a new one for each value.
#[test]
fn heeds_the_sysctl_that_forbids_memfds() {
    if std::env::var_os(INSIDE).is_some() {
        match podpause::memfd() {
            Ok(memfd) => {
                let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
                assert!(Command::new(path).arg("-v").status().unwrap().success());
            }
            Err(error) => println!("{:?}: {error}", error.kind()),
        }
        return;
    }
    let script = "echo $0 > /proc/sys/vm/memfd_noexec || exit 77; exec \"$@\"";
    let test = "library::heeds_the_sysctl_that_forbids_memfds";
    for (value, expected) in [
        ("0", concat!("pause ", env!("CARGO_PKG_VERSION"), "\n")),
        ("1", concat!("pause ", env!("CARGO_PKG_VERSION"), "\n")),
        ("2", "PermissionDenied: no executable memfd can be created here, since the sysctl vm."),
    ] {
        let output = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script, value])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "1")
            .output();
        let output = match output {
            Ok(output) if !matches!(output.status.code(), Some(1 | 77)) => output,
            other => skip!("memfd_noexec", "this needs root and Linux 6.3: {other:?}"),
        };
        assert!(output.status.success(), "with {value}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(expected), "with {value}: {text}");
    }
}

/// Set for a test that runs itself again in a process of its own, where it may change what all threads of a
/// process share. The value names the case.
const INSIDE: &str = "PODPAUSE_TEST_INSIDE";

/// Runs a test of this program again, in a process of its own.
fn again(test: &str, case: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, case);
    command
}

fn set_limit(resource: Resource, limit: u64) {
    setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
}

/// If the library did not block SIGXFSZ, that signal would kill the runtime.
#[test]
fn memfd_beyond_the_file_size_limit_is_an_error_and_no_signal() {
    let limit = |bytes| set_limit(Resource::Fsize, bytes);
    let size_bytes = podpause::ELF.len() as u64;
    let test = "library::memfd_beyond_the_file_size_limit_is_an_error_and_no_signal";
    let Ok(case) = std::env::var(INSIDE) else {
        for bytes in [0, 1, size_bytes - 1] {
            let output = again(test, &bytes.to_string()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        // The negative control: a write without the library ends the process.
        let status = again(test, "control").output().unwrap().status;
        assert_eq!(status.signal(), Some(libc::SIGXFSZ));
        return;
    };
    if case == "control" {
        limit(0);
        let memfd = rustix::fs::memfd_create("control", MemfdFlags::CLOEXEC).unwrap();
        let _ = File::from(memfd).write(b"x");
        return;
    }
    // If each call leaked a descriptor, they would run out.
    set_limit(Resource::Nofile, 64);
    limit(case.parse().unwrap());
    for _ in 0..100 {
        let error = podpause::memfd().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert!(error.to_string().contains("RLIMIT_FSIZE"), "{error}");
        assert_eq!(is_blocked_and_pending(libc::SIGXFSZ), (false, false));
    }
    // A SIGXFSZ that the caller has blocked stays blocked, and one that was already pending stays pending.
    block(libc::SIGXFSZ);
    podpause::memfd().unwrap_err();
    assert_eq!(is_blocked_and_pending(libc::SIGXFSZ), (true, false));
    raise(libc::SIGXFSZ);
    podpause::memfd().unwrap_err();
    assert_eq!(is_blocked_and_pending(libc::SIGXFSZ), (true, true));
}

/// A limit of exactly the size of the program suffices.
#[test]
fn memfd_fits_in_a_file_size_limit_of_its_own_size() {
    if std::env::var_os(INSIDE).is_none() {
        let test = "library::memfd_fits_in_a_file_size_limit_of_its_own_size";
        let output = again(test, "inside").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    set_limit(Resource::Fsize, podpause::ELF.len() as u64);
    podpause::memfd().unwrap();
}

/// A machine may be set to prefer huge pages for shmem. On most architectures, such a page has 2 MiB.
#[test]
fn memfd_takes_one_small_page_where_huge_ones_are_preferred() {
    /// Restores the setting.
    struct Setting(PathBuf, String);
    impl Drop for Setting {
        fn drop(&mut self) {
            std::fs::write(&self.0, &self.1).unwrap();
        }
    }
    let path = PathBuf::from("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let Ok(values) = std::fs::read_to_string(&path) else {
        skip!("shmem_enabled", "the kernel has no transparent huge pages");
    };
    // The current value is in brackets.
    let before = values.split(['[', ']']).nth(1).expect("one is set").to_owned();
    if std::env::var_os("PODPAUSE_REQUIRE").is_none() {
        skip!("shmem_enabled", "the test changes the whole machine; PODPAUSE_REQUIRE allows that");
    }
    let bytes = |memfd: &OwnedFd| fstat(memfd).unwrap().st_blocks as u64 * 512;
    for value in ["always", "force"] {
        if let Err(error) = std::fs::write(&path, value) {
            skip!("shmem_enabled", "it cannot be set here: {error}");
        }
        let restored = Setting(path.clone(), before.clone());
        let memfd = podpause::memfd().unwrap();
        let control = rustix::fs::memfd_create("control", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&control, podpause::ELF).unwrap();
        drop(restored);
        if bytes(&control) == procfs::page_size() {
            skip!("shmem_enabled", "the kernel gave no huge page, perhaps because memory is short");
        }
        assert_eq!(bytes(&memfd), procfs::page_size(), "with {value}");
        let mut seen = vec![0; podpause::ELF.len()];
        rustix::io::pread(&memfd, &mut seen, 0).unwrap();
        assert_eq!(seen, podpause::ELF);
        let seals = fcntl_get_seals(&memfd).unwrap();
        assert!(seals.contains(SealFlags::WRITE | SealFlags::SEAL), "{seals:?}");
    }
}

/// A child of a runtime may have pending signals whose handlers are code of the
/// runtime. None of them may run.
#[test]
fn run_lets_no_handler_of_the_caller_run() {
    // SIGKILL and SIGSTOP cannot have a handler, SIGTERM and SIGINT end pause. The C
    // library reserves 32 and 33.
    let never = [libc::SIGKILL, libc::SIGSTOP, libc::SIGTERM, libc::SIGINT, 32, 33];
    let all = || (1..=64).filter(move |signal| !never.contains(signal));
    // The default actions of these neither end nor stop a process that is not PID 1.
    let harmless = || [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT].into_iter();
    fn pending(start: Start, signals: impl Iterator<Item = i32> + Clone + 'static) -> Start {
        start.step(move || {
            signals.clone().try_for_each(|signal| {
                handle(signal)?;
                kill(std::process::id() as i32, signal)
            })
        })
    }
    for start in [pending(Form::Run.pid1(), all()), pending(Form::Run.start(), harmless())] {
        let mut pause = start.spawn().asleep();
        pause.send(Signal::TERM);
        assert_eq!(pause.end(), End::Exit(0));
        assert_eq!(pause.messages().replace("pause: SIGTERM 15\n", ""), "");
    }
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let start = pending(Form::Run.pid1(), std::iter::once(signal));
        let mut pause = start.spawn();
        assert_eq!(pause.end(), End::Exit(0));
        assert!(!pause.messages().contains(HANDLER_RAN));
    }
    // The negative control: in a body that unblocks all signals, the handlers run.
    for signal in [libc::SIGTERM, libc::SIGWINCH] {
        let body = Body::Function(Box::new(|| {
            unblock_all();
            0
        }));
        let mut control = pending(Start::body(body), std::iter::once(signal)).spawn();
        assert_eq!(control.end(), End::Exit(0));
        assert_eq!(control.messages(), HANDLER_RAN);
    }
}

#[test]
fn says_why_something_cannot_be_executed() {
    let error = podpause::exec(File::open("/dev/null").unwrap().as_fd());
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}
