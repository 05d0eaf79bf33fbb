//! Compiles the program for this crate's target, with fixed compiler flags instead of cargo's. Compiles it
//! again for each other platform whose feature is on.
//!
//! `podpause::ELF` and the `pause` that cargo links (`src/embedded.rs`) are made here. The image tool compiles
//! with the same function, so its programs have the same bytes. The bytes depend on the source, the
//! compiler and the target. They do not depend on the profile, RUSTFLAGS, the directory, or the crate that
//! depends on this one.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "link/compile.rs"]
mod compile;

use compile::{PLATFORMS, compile};

fn main() {
    for input in ["src", "link"] {
        println!("cargo:rerun-if-changed={input}");
    }
    println!("cargo:rustc-check-cfg=cfg(program)");

    let root = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(var("OUT_DIR"));
    compile_programs(&root, &out);

    // The linker may be a C compiler or a linker proper. Both understand these arguments.
    for argument in ["-nostdlib", "-static", "-T"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins={}", root.join("link/embedded.ld").display());
}

/// Compiles the program for this crate's target, and for the platforms whose features are on. Leaves
/// a table of them for `src/platforms.rs`.
fn compile_programs(root: &Path, out: &Path) {
    if let Some(reason) = unsupported(root) {
        println!("cargo::error={}: {reason}", var("TARGET"));
        return;
    }
    let arch = var("CARGO_CFG_TARGET_ARCH");
    let rustc = var("RUSTC");
    let compile = |what: &str, target: &str, file: &str| {
        if let Err(error) = compile(rustc.as_ref(), root, target, &out.join(file)) {
            // Cargo takes a line at a time.
            error.lines().for_each(|line| println!("cargo::error={what}: {line}"));
        }
    };
    let target = var("TARGET");
    compile(&target, &target, "pause");

    let mut table = String::from("[\n");
    for platform in &PLATFORMS {
        let feature = platform.plain_name();
        let variable = format!("CARGO_FEATURE_{}", feature.to_uppercase().replace('-', "_"));
        let program = if platform.arch == arch {
            "Some(ELF)".into()
        } else if env::var_os(variable).is_some() {
            let file = format!("pause-{feature}");
            compile(platform.name, platform.target, &file);
            format!("Some(include_bytes!({:?}))", out.join(file))
        } else {
            "None".into()
        };
        table += &format!("({:?}, {feature:?}, {program}),\n", platform.name);
    }
    let file = out.join("platforms.rs");
    fs::write(&file, table + "]\n").unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// Why there is no program for this crate's target, if there is none.
fn unsupported(root: &Path) -> Option<String> {
    let system = var("CARGO_CFG_TARGET_OS");
    if system != "linux" {
        return Some(format!(
            "pause makes the system calls of Linux, and this target is for {system}"
        ));
    }
    let arch = var("CARGO_CFG_TARGET_ARCH");
    let source = format!("src/arch/{arch}.rs");
    if !root.join(&source).exists() {
        return Some(format!("pause does not support {arch} yet; add {source}"));
    }
    // Each file in src/arch supports only one byte order and one pointer width.
    let abi = match arch.as_str() {
        "s390x" => ("big", "64"),
        "arm" | "x86" => ("little", "32"),
        _ => ("little", "64"),
    };
    let (endian, width) = (var("CARGO_CFG_TARGET_ENDIAN"), var("CARGO_CFG_TARGET_POINTER_WIDTH"));
    if (endian.as_str(), width.as_str()) != abi {
        return Some(format!(
            "pause supports {arch} only with {}-endian data and {}-bit pointers, and this target has \
             {endian}-endian data and {width}-bit pointers",
            abi.0, abi.1
        ));
    }
    let features = var("CARGO_CFG_TARGET_FEATURE");
    if arch == "riscv64" && !features.split(',').any(|feature| feature == "d") {
        return Some("pause supports riscv64 only with the D extension (rv64gc, ABI lp64d)".into());
    }
    None
}

/// An environment variable that cargo sets for a build script.
fn var(name: &str) -> String {
    env::var(name)
        .unwrap_or_else(|error| panic!("{name}: {error}; run this build script through cargo"))
}
