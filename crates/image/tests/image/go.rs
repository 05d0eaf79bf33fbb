//! The Go module, as a runtime uses it.

use std::fs;
use std::path::Path;
use std::process::Command;

use common::docs::snippet;
use common::report::skip;
use podpause::compile::PLATFORMS;

use crate::harness::{Dist, run};

/// Makes a runtime in `folder`, which vendors the Go module in the folder `module`.
fn runtime(folder: &Path, module: &Path, main: &str) {
    let go_mod = format!(
        "module runtime.example\n\ngo 1.17\n\n\
         require github.com/podpause/podpause/go v0.0.0\n\n\
         replace github.com/podpause/podpause/go => {}\n",
        module.display()
    );
    fs::write(folder.join("go.mod"), go_mod).unwrap();
    fs::write(folder.join("main.go"), main).unwrap();
    run(go(folder).args(["mod", "vendor"]));
}

/// The go command, which fetches nothing.
fn go(folder: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(folder).envs([
        ("GOTOOLCHAIN", "local"),
        ("GOPROXY", "off"),
        ("GOFLAGS", "-mod=mod"),
        ("CGO_ENABLED", "0"),
    ]);
    go
}

/// The example runtime in the documentation, which is a complete program.
fn example() -> String {
    snippet("embedding.md", "go", "podpause.Memfd()")
}

macro_rules! need_go {
    () => {
        if let Err(error) = Command::new("go").arg("version").output() {
            skip!("go", "there is no Go toolchain: {error}");
        }
    };
}

#[test]
fn runs_in_a_runtime_that_vendors_it() {
    need_go!();
    let dist = Dist::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    runtime(folder.path(), &dist.path("go"), &example());
    run(go(folder.path()).args(["build", "-mod=vendor", "-o", "runtime", "."]));
    let text = run(&mut Command::new(folder.path().join("runtime")));
    assert!(text.ends_with(" is /pause\nit ended with status 0\n"), "{text}");
}

/// Failures are returned as errors, and leave no process.
#[test]
fn errors_are_reported() {
    need_go!();
    let dist = Dist::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let main = r#"
package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	podpause "github.com/podpause/podpause/go"
)

func children() int {
	pid, _ := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
	return pid
}

func main() {
	fmt.Println("version", podpause.Version, len(podpause.Bytes()))
	other, _ := os.Open("/bin/true")
	fmt.Println(podpause.Start(podpause.Command(other)), children())
	none, _ := os.Open("/etc/passwd")
	fmt.Println(podpause.Start(podpause.Command(none)), children())
	program, _ := podpause.Memfd()
	_, err := program.Write([]byte("x"))
	fmt.Println(err)
	seals, _, _ := syscall.Syscall(syscall.SYS_FCNTL, program.Fd(), 1034, 0) // F_GET_SEALS
	fmt.Println("seals", seals)
	syscall.Setrlimit(1, &syscall.Rlimit{Cur: 1, Max: 1})
	_, err = podpause.Memfd()
	fmt.Println(err)
	// A filter that makes close_range fail with EPERM, for this thread.
	runtime.LockOSThread()
	deny := []syscall.SockFilter{{0x20, 0, 0, 0}, {0x15, 0, 1, 436}, {0x06, 0, 0, 0x50001}, {0x06, 0, 0, 0x7fff0000}}
	filter := syscall.SockFprog{Len: 4, Filter: &deny[0]}
	syscall.Syscall6(syscall.SYS_PRCTL, 38, 1, 0, 0, 0, 0)                               // PR_SET_NO_NEW_PRIVS
	syscall.Syscall(syscall.SYS_PRCTL, 22, 2, uintptr(unsafe.Pointer(&filter))) // PR_SET_SECCOMP
	fmt.Println(podpause.Start(podpause.Command(program)), children())
}
"#;
    runtime(folder.path(), &dist.path("go"), main);
    run(go(folder.path()).args(["build", "-mod=vendor", "-o", "runtime", "."]));
    let text = run(&mut Command::new(folder.path().join("runtime")));
    let version = env!("CARGO_PKG_VERSION");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], format!("version {version} {}", podpause::ELF.len()));
    assert_eq!(lines[1], "pause ended at once: exit status 0 -1");
    assert_eq!(lines[2], "fork/exec /proc/self/fd/3: permission denied -1");
    assert_eq!(lines[3], "write pause: operation not permitted");
    let seals = rustix::fs::fcntl_get_seals(podpause::memfd().unwrap()).unwrap().bits();
    assert_eq!(lines[4], format!("seals {seals}"), "those of the Rust library");
    assert_eq!(lines[5], "RLIMIT_FSIZE: file too large");
    assert_eq!(lines[6], "close_range: operation not permitted -1");
}

/// Builds for all platforms. This machine's program stands in for those of the other platforms.
#[test]
fn builds_for_each_platform_and_passes_vet() {
    need_go!();
    let dist = Dist::stand_in(&["--platform", "all"]);
    let folder = tempfile::tempdir().unwrap();
    runtime(folder.path(), &dist.path("go"), &example());
    let module = folder.path().join("vendor/github.com/podpause/podpause/go");
    assert_eq!(run(Command::new("gofmt").arg("-l").arg(&module)), "");
    run(go(folder.path()).args(["vet", "-mod=vendor", ".", "github.com/podpause/podpause/go"]));
    for platform in &PLATFORMS {
        let architecture = platform.name.split('/').nth(1).unwrap();
        let mut command = go(folder.path());
        command.env("GOARCH", architecture);
        run(command.args(["build", "-mod=vendor", "-o", architecture, "."]));
        // The runtime has the bytes of its own platform, and of no other.
        let binary = fs::read(folder.path().join(architecture)).unwrap();
        let count =
            binary.windows(podpause::ELF.len()).filter(|part| *part == podpause::ELF).count();
        assert_eq!(count, 1, "{architecture}");
    }
    let size_bytes: u64 =
        fs::read_dir(&module).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(size_bytes < 40_000, "{size_bytes} bytes, with the licence and the documentation");
}

/// For a platform whose program is not in the module, the build fails, rather than the finished runtime.
#[test]
fn does_not_build_for_a_platform_that_was_not_asked_for() {
    need_go!();
    let dist = Dist::stand_in(&["--platform", "linux/arm64"]);
    let folder = tempfile::tempdir().unwrap();
    runtime(folder.path(), &dist.path("go"), &example());
    let mut command = go(folder.path());
    command.env("GOARCH", "amd64").args(["build", "-mod=vendor", "-o", "runtime", "."]);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("undefined: program"), "{errors}");
}
