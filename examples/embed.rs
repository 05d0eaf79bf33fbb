//! A runtime that embeds pause and starts sandboxes without an image or a file.
//!
//! ```text
//! cargo run --example embed
//! ```
//!
//! Two sandboxes start from one memfd and share its page. A container joins the first one. This example
//! creates no PID namespaces. `examples/pod.rs` shows a pod whose containers share a PID namespace, a volume
//! and an address.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use podpause::{Namespace, Program};

/// The namespaces that the containers of a pod share, and a user namespace, so that an ordinary user may
/// create them.
const SHARED: [Namespace; 4] = [Namespace::User, Namespace::Net, Namespace::Ipc, Namespace::Uts];

fn main() -> io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("container") {
        print!("{}", fs::read_link("/proc/self/ns/net")?.display());
        return Ok(());
    }

    let program = Program::new()?;
    let start = || program.sandbox().new_namespaces(SHARED).spawn();
    let sandboxes = [start()?, start()?];
    for sandbox in &sandboxes {
        println!("sandbox {}: {}", sandbox.pid(), network(sandbox.pid())?);
        for line in fs::read_to_string(format!("/proc/{}/status", sandbox.pid()))?.lines() {
            if line.starts_with("RssAnon") || line.starts_with("RssShmem") {
                println!("  {line}");
            }
        }
    }

    let mut command = Command::new("/proc/self/exe");
    command.arg("container").stdout(Stdio::piped());
    let mut container = sandboxes[0].start(command)?;
    let joined = io::read_to_string(container.stdout.take().expect("it is a pipe"))?;
    println!("a container joined {joined}");
    assert_eq!(joined, network(sandboxes[0].pid())?);
    container.wait()?;

    for mut sandbox in sandboxes {
        println!("sandbox {} ended with {}", sandbox.pid(), sandbox.terminate()?);
    }
    Ok(())
}

fn network(pid: u32) -> io::Result<String> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/net"))?.display().to_string())
}
