//! Runs the examples as a user does.

use std::process::Command;

use crate::harness::output;

/// Runs the example `pod` with these arguments. Returns its exit status and its output.
fn pod(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--offline", "--example", "pod", "--"]).args(arguments);
    let output = output(command.current_dir(env!("CARGO_MANIFEST_DIR")));
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn pod_prints_its_usage() {
    for option in ["--help", "-h"] {
        let (status, said) = pod(&[option]);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains("Usage: cargo run --example pod -- [COMMAND]..."), "{said}");
    }
}

#[test]
fn pod_runs_a_command_and_returns_its_status() {
    // The example leaves options after the command to the command.
    let (status, said) = pod(&["sh", "-c", "echo $$ $1; exit 3", "sh", "--help"]);
    assert_eq!((status, said.ends_with(" --help\n")), (Some(3), true), "{said}");
    assert_eq!(pod(&["/no/such/program"]).0, Some(127));
    assert_eq!(pod(&["/etc/passwd"]).0, Some(126));
    assert_eq!(pod(&["sh", "-c", "kill -9 $$"]).0, Some(128 + 9));
}
