//! Compiles the program once, with flags of its own; and once more for each platform whose feature is
//! on.
//!
//! Everything that has the program has the bytes that are made here: `podpause::ELF`, the `pause`
//! that cargo links (`src/embedded.rs`), the tests, the image. They depend on the source and the
//! compiler, not on the profile, RUSTFLAGS, the folder, or the crate that depends on this one.

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

    // These are understood by a C compiler that links, and by a linker alike.
    for argument in ["-nostdlib", "-static", "-T"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins={}", root.join("link/embedded.ld").display());
}

/// Compiles the program for this crate's target, and for the platforms whose features are on. Leaves
/// a table of them for `src/platforms.rs`.
fn compile_programs(root: &Path, out: &Path) {
    let arch = var("CARGO_CFG_TARGET_ARCH");
    let source = format!("src/arch/{arch}.rs");
    if !root.join(&source).exists() {
        println!(
            "cargo::error=pause does not know {arch} yet: write {source} after its neighbours"
        );
        return;
    }
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

/// An environment variable that cargo sets for a build script.
fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}: {error}; cargo sets it"))
}
