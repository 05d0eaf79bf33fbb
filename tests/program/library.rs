//! What the library gives a runtime: a memfd, exec, and pause without exec.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;

use common::docs::snippet;
use rustix::fs::{FileType, SealFlags, fcntl_get_seals, fstat};
use rustix::io::{FdFlags, fcntl_getfd};

use crate::harness::{Body, Process, Start, skip};
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

/// All pods of a runtime have one page of text between them.
#[test]
fn shares_the_page_of_its_memfd() {
    let start = |memfd: &OwnedFd| {
        let body = Body::Descriptor(memfd.try_clone().unwrap());
        Start::body(body).namespaces(libc::CLONE_NEWPID).spawn().asleep()
    };
    // Its part of the page that the memfd has.
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
        assert!(share_bytes <= procfs::page_size() / 4, "{share_bytes} bytes: ten have it");
        assert_eq!(excess(pod), None);
    }
    // With a memfd of its own, a pod has a page more.
    let memfd = podpause::memfd().unwrap();
    assert_eq!(share_bytes(&start(&memfd), &memfd), procfs::page_size());
}

/// With `vm.memfd_noexec` at 1 a memfd is not executable unless it is asked for; at 2 none can be.
/// The sysctl belongs to a PID namespace: this test runs itself again in one for each value.
#[test]
fn heeds_the_sysctl_that_forbids_memfds() {
    const INSIDE: &str = "PODPAUSE_TEST_INSIDE";
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
        ("2", "PermissionDenied: no memfd can be executed here, since the sysctl vm.memfd_noexec"),
    ] {
        let output = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script, value])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "1")
            .output();
        let output = match output {
            Ok(output) if !matches!(output.status.code(), Some(1 | 77)) => output,
            other => skip!("memfd_noexec", "it cannot be set here (root, Linux 6.3): {other:?}"),
        };
        assert!(output.status.success(), "with {value}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(expected), "with {value}: {text}");
    }
}

#[test]
fn says_why_something_cannot_be_executed() {
    let error = podpause::exec(File::open("/dev/null").unwrap().as_fd());
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

/// The program in docs/embedding.md is a runtime in Go that has pause inside.
#[test]
fn is_embedded_by_go() {
    if let Err(error) = Command::new("go").arg("version").output() {
        skip!("go", "there is no Go toolchain: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("main.go", snippet("embedding.md", "go", "//go:embed pause").into_bytes()),
        ("go.mod", b"module runtime.example\n\ngo 1.16\n".to_vec()),
        ("pause", podpause::ELF.to_vec()),
    ];
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let go = |arguments: &[&str]| {
        let mut go = Command::new("go");
        go.args(arguments).current_dir(folder.path()).env("GOTOOLCHAIN", "local");
        go.env("GOCACHE", folder.path().join("cache")).output().unwrap()
    };
    let output = go(&["vet"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = go(&["run", "."]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with(" is /pause\nit ended with status 0\n"), "{text}");
}
