//! Commands that are started in a sandbox.

use std::io::{self, ErrorKind, Write};
use std::process::{Command, Stdio};

use podpause::{Namespace, Program};

use crate::harness::{
    KINDS, again, as_ordinary_user, case, descriptors, has_children, sandbox, status, succeeds,
};

#[test]
fn are_children_of_the_caller_with_streams_and_status() {
    if case().is_none() {
        let test = "containers::are_children_of_the_caller_with_streams_and_status";
        succeeds(&mut again(test, "own"));
        succeeds(as_ordinary_user(&mut again(test, "ordinary")));
        return;
    }
    let before = descriptors();
    let program = Program::new().unwrap();
    let mut sandbox = sandbox(&program, &KINDS).spawn().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "read line; echo $line $WORD $$ $(id -u); exit 7"]).env("WORD", "world");
    let mut container = sandbox
        .start({
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command
        })
        .unwrap();
    let pid = container.pid();
    assert_eq!(status(pid, "PPid"), std::process::id().to_string());
    let inside = status(pid, "NSpid");
    let inside = inside.split(' ').nth(1).unwrap().to_owned();
    container.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let said = io::read_to_string(container.stdout.take().unwrap()).unwrap();
    assert_eq!(said, format!("hello world {inside} 0\n"));
    assert_eq!(container.wait().unwrap().code(), Some(7));
    assert_eq!(container.wait().unwrap().code(), Some(7), "a second time");
    sandbox.terminate().unwrap();
    drop((container, sandbox, program));
    assert!(!has_children());
    assert_eq!(descriptors(), before);
}

#[test]
fn failed_exec_is_an_error_and_leaves_nothing() {
    if case().is_none() {
        let test = "containers::failed_exec_is_an_error_and_leaves_nothing";
        succeeds(&mut again(test, "own"));
        return;
    }
    let program = Program::new().unwrap();
    let mut sandbox = sandbox(&program, &KINDS).spawn().unwrap();
    let before = descriptors();
    for (path, kind) in
        [("/no/such/program", ErrorKind::NotFound), ("/etc/passwd", ErrorKind::PermissionDenied)]
    {
        assert_eq!(sandbox.start(Command::new(path)).unwrap_err().kind(), kind);
    }
    // Errors of std, before it reaches the sandbox.
    let mut elsewhere = Command::new("true");
    elsewhere.current_dir("/no/such/folder");
    assert_eq!(sandbox.start(elsewhere).unwrap_err().kind(), ErrorKind::NotFound);
    let zero = Command::new("a\0b");
    assert_eq!(sandbox.start(zero).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(descriptors(), before);
    sandbox.terminate().unwrap();
    assert!(!has_children(), "no child, not even a zombie");
    // A sandbox that has ended cannot be entered.
    let error = sandbox.start(Command::new("true")).unwrap_err();
    assert!(error.to_string().starts_with("enter the sandbox of process "), "{error}");
    assert!(!has_children());
}

#[test]
fn start_in_a_sandbox_without_namespaces_of_its_own() {
    let program = Program::new().unwrap();
    let mut sandbox = program.sandbox().spawn().unwrap();
    assert!(sandbox.start(Command::new("true")).unwrap().wait().unwrap().success());
    sandbox.terminate().unwrap();
}

#[test]
fn are_killed_and_reaped_on_drop_and_with_their_sandbox() {
    if case().is_none() {
        let test = "containers::are_killed_and_reaped_on_drop_and_with_their_sandbox";
        succeeds(&mut again(test, "own"));
        return;
    }
    let program = Program::new().unwrap();
    let mut sandbox = sandbox(&program, &[Namespace::Pid]).spawn().unwrap();
    let sleep = || {
        let mut command = Command::new("sleep");
        command.arg("infinity");
        command
    };
    drop(sandbox.start(sleep()).unwrap());
    let mut last = sandbox.start(sleep()).unwrap();
    sandbox.kill().unwrap();
    let end = last.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&end), Some(libc::SIGKILL));
    sandbox.wait().unwrap();
    assert!(!has_children());
}
