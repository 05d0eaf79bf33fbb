//! Compiles the program once, with flags of its own.
//!
//! Everything that has the program has the bytes that are made here: `podpause::ELF`, the `pause`
//! that cargo links (`src/carried.rs`), the tests, the image. They depend on the source and the
//! compiler, not on the profile, RUSTFLAGS, the folder, or the crate that depends on this one.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    for input in ["src", "pause.ld", "carried.ld"] {
        println!("cargo:rerun-if-changed={input}");
    }
    println!("cargo:rustc-check-cfg=cfg(program)");

    let root = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let pause = PathBuf::from(var("OUT_DIR")).join("pause");
    compile(&root, &pause);

    // These are understood by a C compiler that links, and by a linker alike.
    for argument in ["-nostdlib", "-static", "-T"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins={}", root.join("carried.ld").display());
}

/// Compiles and links the program to this file.
fn compile(root: &Path, pause: &Path) {
    let arch = var("CARGO_CFG_TARGET_ARCH");
    let source = format!("src/arch/{arch}.rs");
    if !root.join(&source).exists() {
        println!(
            "cargo::error=pause does not know {arch} yet: write {source} after its neighbours"
        );
        return;
    }
    // The most bytes that the program may have, and how to make it small.
    let (budget, level) = match arch.as_str() {
        "x86_64" => (1_024, "z"),
        "powerpc64" => (1_536, "s"), // 28 bytes less than "z"
        _ => (1_536, "z"),
    };
    let mut rustc = Command::new(var("RUSTC"));
    rustc
        .current_dir(root)
        .args(["src/main.rs", "--crate-name=pause", "--crate-type=bin", "--edition=2024"])
        .args(["--cfg=program", "--check-cfg=cfg(program)"])
        .arg("--target")
        .arg(var("TARGET"))
        // Small; no unwinding; and addresses as they are in pause.ld, without a table of offsets.
        .args([&format!("-Copt-level={level}"), "-Cpanic=abort", "-Ccodegen-units=1"])
        .args(["-Crelocation-model=static", "-Cforce-unwind-tables=no"])
        // Room below the stack pointer cannot be had together with push and pop, which are small.
        .arg("-Cno-redzone=yes")
        .args(["-Clinker=rust-lld", "-Clinker-flavor=ld.lld"])
        .args([format!("-Clink-arg=--defsym=budget={budget}"), "-Clink-arg=-Tpause.ld".into()])
        .arg("-o")
        .arg(pause);
    if var("CARGO_CFG_TARGET_ENV") == "musl" {
        rustc.arg("-Clink-self-contained=no"); // no start files
    }
    let status = rustc.status().unwrap_or_else(|error| panic!("{rustc:?}: {error}"));
    if !status.success() {
        eprintln!("the program could not be compiled, see above: {rustc:?}");
        std::process::exit(1);
    }
}

/// An environment variable that cargo sets for a build script.
fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}: {error}; cargo sets it"))
}
