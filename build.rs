//! Compiles the program once, with flags of its own.
//!
//! Everything that has the program has the bytes that are made here: `podpause::ELF`, the `pause`
//! that cargo links (`src/carried.rs`), the tests, the image. They depend on the source and the
//! compiler, not on the profile, RUSTFLAGS, the folder, or the crate that depends on this one.

use std::env;
use std::path::{Path, PathBuf};

mod compile;

fn main() {
    for input in ["src", "compile.rs", "pause.ld", "carried.ld"] {
        println!("cargo:rerun-if-changed={input}");
    }
    println!("cargo:rustc-check-cfg=cfg(program)");

    let root = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let pause = PathBuf::from(var("OUT_DIR")).join("pause");
    compile_program(&root, &pause);

    // These are understood by a C compiler that links, and by a linker alike.
    for argument in ["-nostdlib", "-static", "-T"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins={}", root.join("carried.ld").display());
}

/// Compiles and links the program to this file.
fn compile_program(root: &Path, pause: &Path) {
    let arch = var("CARGO_CFG_TARGET_ARCH");
    let source = format!("src/arch/{arch}.rs");
    if !root.join(&source).exists() {
        println!(
            "cargo::error=pause does not know {arch} yet: write {source} after its neighbours"
        );
        return;
    }
    let mut rustc = compile::command(var("RUSTC").as_ref(), root, &var("TARGET"), pause);
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
