//! How the program is compiled: by `build.rs` for the library, and by `image/` for each platform.
//!
//! The bytes depend on the source, the compiler and the target only: not on the folder, the profile
//! or RUSTFLAGS.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// The most bytes that the program may have on this target.
pub fn budget_bytes(target: &str) -> usize {
    if target.starts_with("x86_64-") { 1_024 } else { 1_536 }
}

/// What makes the program small on this target.
fn opt_level(target: &str) -> char {
    // Each function costs much there: this is 28 bytes less than `z`.
    if target.starts_with("powerpc64le-") { 's' } else { 'z' }
}

/// The command that compiles and links the program in `root` for a target, to the file `pause`.
///
/// CARGO_PKG_VERSION has to be in its environment: it is the version that the program answers.
pub fn command(rustc: &OsStr, root: &Path, target: &str, pause: &Path) -> Command {
    let mut command = Command::new(rustc);
    command
        .current_dir(root)
        .args(["src/main.rs", "--crate-name=pause", "--crate-type=bin", "--edition=2024"])
        .args(["--cfg=program", "--check-cfg=cfg(program)", "--target", target])
        // Small; no unwinding; and addresses as they are in pause.ld, without a table of offsets.
        .args(["-Cpanic=abort", "-Ccodegen-units=1"])
        .arg(format!("-Copt-level={}", opt_level(target)))
        .args(["-Crelocation-model=static", "-Cforce-unwind-tables=no"])
        // Room below the stack pointer cannot be had together with push and pop, which are small.
        .arg("-Cno-redzone=yes")
        .args(["-Clinker=rust-lld", "-Clinker-flavor=ld.lld", "-Clink-arg=-Tpause.ld"])
        .arg(format!("-Clink-arg=--defsym=budget={}", budget_bytes(target)))
        .arg("-o")
        .arg(pause);
    if target.contains("-musl") {
        command.arg("-Clink-self-contained=no"); // no start files
    }
    command
}
