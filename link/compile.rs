//! The table of platforms, and the command that compiles and links the program for one of them.
//!
//! `build.rs` uses this file, and so does the library, which gives it to everything else: the image
//! tool, the tests and the benchmark.
//!
//! The bytes depend on the source, the compiler and the target only: not on the folder, the profile
//! or RUSTFLAGS.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// A platform that pause runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    /// The operating system, the architecture and, where there are several, its variant, as OCI has
    /// them.
    pub name: &'static str,
    /// The compiler's target.
    pub target: &'static str,
    /// The compiler's name of the architecture.
    pub arch: &'static str,
}

/// All platforms, in the order in which they are in the image's index.
///
/// The names are as containerd and BuildKit normalise them: 64-bit Arm has one variant, v8, which
/// they drop, and 32-bit Arm is v7 where nothing is said. Upstream's pause has no v8 either.
pub static PLATFORMS: [Platform; 8] = [
    Platform::new("linux/amd64", "x86_64-unknown-linux-gnu", "x86_64"),
    Platform::new("linux/arm64", "aarch64-unknown-linux-gnu", "aarch64"),
    Platform::new("linux/arm/v7", "armv7-unknown-linux-gnueabihf", "arm"),
    Platform::new("linux/ppc64le", "powerpc64le-unknown-linux-gnu", "powerpc64"),
    Platform::new("linux/s390x", "s390x-unknown-linux-gnu", "s390x"),
    Platform::new("linux/riscv64", "riscv64gc-unknown-linux-gnu", "riscv64"),
    Platform::new("linux/loong64", "loongarch64-unknown-linux-gnu", "loongarch64"),
    Platform::new("linux/386", "i686-unknown-linux-gnu", "x86"),
];

impl Platform {
    const fn new(name: &'static str, target: &'static str, arch: &'static str) -> Self {
        Self { name, target, arch }
    }

    /// The name with a dash for each slash, for files and for cargo features.
    pub fn plain_name(&self) -> String {
        self.name.replace('/', "-")
    }
}

/// The most bytes that the program may have on this target.
pub fn budget_bytes(target: &str) -> usize {
    if target.starts_with("x86_64-") { 1_024 } else { 1_536 }
}

/// Compiles and links the program for a target. `root` is the folder that has `src` and `link`. The
/// program is written to the file `pause`, and the linker's map of it beside that file, with the
/// extension `map`.
///
/// # Errors
///
/// The compiler cannot be started, has no library for the target, or rejects the program. The text
/// says what to do.
pub fn compile(rustc: &OsStr, root: &Path, target: &str, pause: &Path) -> Result<(), String> {
    let mut command = Command::new(rustc);
    command
        .arg(root.join("src/main.rs"))
        .args(["--crate-name=pause", "--crate-type=bin", "--edition=2024"])
        .args(["--cfg=program", "--check-cfg=cfg(program)", "--target", target])
        // Small; no unwinding; and addresses as they are in pause.ld, without a table of offsets.
        .args(["-Copt-level=z", "-Cpanic=abort", "-Ccodegen-units=1"])
        .args(["-Crelocation-model=static", "-Cforce-unwind-tables=no"])
        // A constant that moves out of a loop takes a register and two instructions instead of one.
        .arg("-Cllvm-args=-disable-machine-licm")
        // Room below the stack pointer cannot be had together with push and pop, which are small.
        .arg("-Cno-redzone=yes")
        .args(["-Clinker=rust-lld", "-Clinker-flavor=ld.lld"])
        .arg(format!("-Clink-arg=-T{}", root.join("link/pause.ld").display()))
        .arg(format!("-Clink-arg=--defsym=budget={}", budget_bytes(target)))
        .arg(format!("-Clink-arg=-Map={}", pause.with_extension("map").display()))
        .arg("-o")
        .arg(pause)
        // The version that the program answers.
        .env("CARGO_PKG_VERSION", env!("CARGO_PKG_VERSION"));
    if target.contains("-musl") {
        command.arg("-Clink-self-contained=no"); // no start files
    }
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    // https://doc.rust-lang.org/error_codes/E0463.html
    if messages.contains("error[E0463]") {
        return Err(format!(
            "the compiler ({}) has no library for {target}; install it: rustup target add {target}",
            rustc.display()
        ));
    }
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("the program could not be compiled: {command:?}\n{messages}")),
    }
}
