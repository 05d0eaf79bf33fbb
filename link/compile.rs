//! The table of platforms, and the command that compiles and links the program for one of them.
//!
//! `build.rs` and the library use this file. Through the library, the image tool, the tests and the benchmark
//! use it, too.
//!
//! The bytes depend only on the source, the compiler and the target. They do not depend on the directory, the
//! profile or RUSTFLAGS.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// A platform that pause runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    /// The OCI name: the operating system, the architecture and, for some architectures, the variant.
    pub name: &'static str,
    /// The compiler's target triple.
    pub target: &'static str,
    /// The compiler's name for the architecture.
    pub arch: &'static str,
}

/// All platforms, in the order of the image's index.
///
/// The names are normalised as in containerd and BuildKit: linux/arm64/v8 becomes linux/arm64, and linux/arm
/// becomes linux/arm/v7.
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

    /// The name with dashes instead of slashes, for files and cargo features.
    pub fn plain_name(&self) -> String {
        self.name.replace('/', "-")
    }
}

/// The largest size of the program for this target, in bytes.
pub fn budget_bytes(target: &str) -> usize {
    if target.starts_with("x86_64-") { 1_024 } else { 1_536 }
}

/// Compiles and links the program for a target. `root` is the directory that contains `src` and `link`. Writes
/// the program to the file `pause`, and the linker's map to the same path with the extension `map`.
///
/// # Errors
///
/// The compiler cannot be started, has no core library for the target, or rejects the program. The message has,
/// respectively, the system's error, the command that installs the library, or the compiler's own output.
pub fn compile(rustc: &OsStr, root: &Path, target: &str, pause: &Path) -> Result<(), String> {
    compile_source(rustc, root, "src/main.rs", budget_bytes(target), target, pause)
}

/// Compiles and links another program with pause's entry point and linker script, for the tests on foreign
/// kernels. `source` is its path relative to `root`.
#[doc(hidden)]
pub fn compile_source(
    rustc: &OsStr,
    root: &Path,
    source: &str,
    budget_bytes: usize,
    target: &str,
    pause: &Path,
) -> Result<(), String> {
    let mut command = Command::new(rustc);
    command
        .arg(root.join(source))
        .args(["--crate-name=pause", "--crate-type=bin", "--edition=2024"])
        .args(["--cfg=program", "--check-cfg=cfg(program)", "--target", target])
        // Optimise for size, without unwinding, and with the fixed addresses of pause.ld.
        .args(["-Copt-level=z", "-Cpanic=abort", "-Ccodegen-units=1"])
        .args(["-Crelocation-model=static", "-Cforce-unwind-tables=no"])
        // Keeps constants inside loops. A constant that is loaded before a loop occupies a register, and needs a
        // second instruction that copies it to where it is used.
        .arg("-Cllvm-args=-disable-machine-licm")
        // Without a red zone the compiler can use push and pop, which are short.
        .arg("-Cno-redzone=yes")
        .args(["-Clinker=rust-lld", "-Clinker-flavor=ld.lld"])
        .arg(format!("-Clink-arg=-T{}", root.join("link/pause.ld").display()))
        .arg(format!("-Clink-arg=--defsym=budget={budget_bytes}"))
        .arg(format!("-Clink-arg=-Map={}", pause.with_extension("map").display()))
        .arg("-o")
        .arg(pause)
        // The version that the program prints for `-v`.
        .env("CARGO_PKG_VERSION", env!("CARGO_PKG_VERSION"));
    if target.contains("-musl") {
        command.arg("-Clink-self-contained=no"); // no start files
    }
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    // https://doc.rust-lang.org/error_codes/E0463.html
    if messages.contains("error[E0463]") {
        return Err(format!(
            "the compiler ({}) has no core library for {target}; install it: rustup target add {target}",
            rustc.display()
        ));
    }
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("the program could not be compiled: {command:?}\n{messages}")),
    }
}
