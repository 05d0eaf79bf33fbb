//! The program for other platforms than this one, from the library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use podpause::compile::{PLATFORMS, Platform, compile};
use podpause::{PlatformError, elf};
use tempfile::TempDir;

use crate::file::copy_of_sources;
use crate::harness::skip;

#[test]
fn there_is_a_feature_for_each() {
    let manifest = include_str!("../../Cargo.toml");
    let readme = include_str!("../../README.md");
    let unknown = PlatformError::Unknown.to_string();
    for platform in &PLATFORMS {
        let Platform { name, target, .. } = platform;
        let feature = platform.plain_name();
        assert!(manifest.contains(&format!("\n{feature} = []\n")), "Cargo.toml: {feature}");
        assert!(readme.contains(&format!("\n| {name} | {target} |")), "README.md: {name}");
        assert!(unknown.contains(&format!(" {name}")), "{unknown}");
        match elf(name) {
            Ok(program) => assert!(program.starts_with(b"\x7fELF"), "{name}"),
            Err(error) => assert_eq!(
                error.to_string(),
                format!("podpause has no program for {name}: turn on its feature `{feature}`")
            ),
        }
    }
    let own = Platform::own().unwrap();
    assert_eq!(elf(own.name), Ok(podpause::ELF));
    for name in ["", "linux", "linux/arm64/v8", "windows/amd64"] {
        assert_eq!(elf(name), Err(PlatformError::Unknown), "{name}");
    }
}

/// The compiler. PODPAUSE_RUSTC names another one if the usual one lacks the libraries of other targets.
fn rustc() -> PathBuf {
    std::env::var_os("PODPAUSE_RUSTC").unwrap_or_else(|| "rustc".into()).into()
}

/// A crate that depends on podpause with the features of these platforms, and writes their programs.
struct User {
    folder: TempDir,
}

impl User {
    fn new(platforms: &[&Platform]) -> Self {
        let folder = copy_of_sources();
        let user = folder.path().join("user");
        fs::create_dir_all(user.join("src")).unwrap();
        let features: Vec<_> = platforms.iter().map(|platform| platform.plain_name()).collect();
        let manifest = format!(
            "[package]\nname = \"user\"\nedition = \"2024\"\n[workspace]\n\
             [dependencies]\npodpause = {{ path = \"..\", features = {features:?} }}\n"
        );
        fs::write(user.join("Cargo.toml"), manifest).unwrap();
        let main = "fn main() {
            for platform in std::env::args().skip(1) {
                let program = podpause::elf(&platform).unwrap();
                std::fs::write(platform.replace('/', \"-\"), program).unwrap();
            }
        }";
        fs::write(user.join("src/main.rs"), main).unwrap();
        Self { folder }
    }

    fn run(&self, rustc: &Path, platforms: &[&Platform]) -> Output {
        let mut command = Command::new(env!("CARGO"));
        command
            .args(["run", "--quiet", "--offline", "--"])
            .args(platforms.iter().map(|platform| platform.name))
            .current_dir(self.folder.path().join("user"))
            .env("RUSTC", rustc)
            .env("CARGO_TARGET_DIR", self.folder.path().join("target"))
            .env_remove("CARGO_BUILD_TARGET");
        command.output().unwrap()
    }
}

/// If PODPAUSE_PROGRAMS names a folder, the programs equal those that podpause-image wrote there. Otherwise
/// they equal what the compiler makes.
#[test]
fn gives_the_programs_whose_features_are_on() {
    let rustc = rustc();
    let has_library = |platform: &&Platform| {
        let print = ["--print", "target-libdir", "--target", platform.target];
        let folder = Command::new(&rustc).args(print).output().map(|output| output.stdout);
        folder.is_ok_and(|folder| Path::new(String::from_utf8_lossy(&folder).trim()).is_dir())
    };
    let platforms: Vec<_> = PLATFORMS.iter().filter(has_library).collect();
    if platforms.len() < 2 {
        skip!(
            "targets",
            "{} has no library for another target; install one (rustup target add \
             aarch64-unknown-linux-gnu), or name another compiler in PODPAUSE_RUSTC",
            rustc.display()
        );
    }
    let user = User::new(&platforms);
    let output = user.run(&rustc, &platforms);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for Platform { name, target, .. } in &platforms {
        let file = name.replace('/', "-");
        let program = fs::read(user.folder.path().join("user").join(&file)).unwrap();
        let expected = match std::env::var_os("PODPAUSE_PROGRAMS") {
            Some(folder) => Path::new(&folder).join(format!("pause-{file}")),
            None => {
                let pause = user.folder.path().join("pause");
                compile(rustc.as_ref(), user.folder.path(), target, &pause).unwrap();
                pause
            }
        };
        assert!(program == fs::read(&expected).unwrap(), "{name} is not {}", expected.display());
    }
}

/// If the compiler lacks the library of a target, the build fails with a message that says how to install it.
#[test]
fn says_which_library_is_missing() {
    let rustc = rustc();
    if let Err(error) = Command::new(&rustc).arg("--version").output() {
        skip!("rustc", "this user cannot run {}: {error}", rustc.display());
    }
    let platform = PLATFORMS.iter().find(|platform| platform.name == "linux/s390x").unwrap();
    let user = User::new(&[platform]);
    let without = user.folder.path().join("rustc");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' {} '*) set -- \"$@\" --sysroot /nowhere ;; esac\n\
         exec '{}' \"$@\"\n",
        platform.target,
        rustc.display()
    );
    // Another process writes the file, for the same reason as in `harness::copy_program`.
    let write = "printf %s \"$1\" >\"$0\" && chmod +x \"$0\"";
    let status = Command::new("sh").args(["-c", write]).arg(&without).arg(script).status();
    assert!(status.unwrap().success());
    let output = user.run(&without, &[]);
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{messages}");
    for words in [
        "error: podpause@",
        "linux/s390x: the compiler",
        "install it: rustup target add s390x-unknown-linux-gnu\n",
    ] {
        assert!(messages.contains(words), "{words}: {messages}");
    }
}

/// The build script names the target and the reason before the compiler reports other errors.
#[test]
fn are_refused_where_the_abi_is_another() {
    let folder = copy_of_sources();
    let check = |target: &str, rustflags: &str| {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(folder.path()).env("CARGO_TARGET_DIR", folder.path().join("target"));
        command.env("RUSTFLAGS", rustflags).args(["check", "--lib", "--no-default-features"]);
        command.args(["--offline", "--target", target]).output()
    };
    for (target, rustflags, reason) in [
        ("x86_64-unknown-freebsd", "", "this target is for freebsd"),
        ("x86_64-apple-darwin", "", "this target is for macos"),
        (
            "mips64el-unknown-linux-gnuabi64",
            "",
            "does not support mips64 yet; add src/arch/mips64.rs",
        ),
        (
            "x86_64-unknown-linux-gnux32",
            "",
            "this target has little-endian data and 32-bit pointers",
        ),
        ("aarch64-unknown-linux-gnu_ilp32", "", "little-endian data and 32-bit pointers"),
        ("aarch64_be-unknown-linux-gnu", "", "this target has big-endian data and 64-bit pointers"),
        ("armeb-unknown-linux-gnueabi", "", "this target has big-endian data and 32-bit pointers"),
        ("powerpc64-unknown-linux-gnu", "", "this target has big-endian data and 64-bit pointers"),
        ("riscv64gc-unknown-linux-gnu", "-Ctarget-feature=-d", "only with the D extension"),
    ] {
        let output = match check(target, rustflags) {
            Ok(output) => output,
            Err(error) => skip!("targets", "this user cannot run {}: {error}", env!("CARGO")),
        };
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{target}: {messages}");
        let error = format!("error: podpause@{}: {target}: ", env!("CARGO_PKG_VERSION"));
        let line = messages.lines().find(|line| line.starts_with(&error));
        assert!(line.is_some_and(|line| line.contains(reason)), "{target}: {messages}");
    }
}
