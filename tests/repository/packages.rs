//! Checks which files the published packages contain, and that an installed package works.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use cargo_metadata::MetadataCommand;
use common::report::skip;
use common::root;

/// Runs cargo offline, and returns its stdout. The error says why cargo cannot run here (it cannot be
/// executed, or a dependency was not fetched), and the test is then skipped.
fn cargo(arguments: &[&str]) -> Result<String, String> {
    let target = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).env("CARGO_TARGET_DIR", target.path());
    let output = command.args(arguments).arg("--offline").output();
    let output = output.map_err(|error| format!("this user cannot run {command:?}: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("--offline") {
        return Err(format!("run `cargo fetch --locked`: {errors}"));
    }
    assert!(output.status.success(), "{command:?}: {errors}");
    Ok(String::from_utf8(output.stdout).unwrap())
}

/// The paths in the repository of all files in a folder.
fn files_in(folder: &str) -> BTreeSet<String> {
    let files = common::folder::files(&root().join(folder)).into_iter();
    files.map(|path| format!("{folder}/{}", path.display())).collect()
}

/// The files that every package has: the lock file, the manifest as cargo rewrites it and as it is here
/// (`Cargo.toml.orig`), the README and the licences.
fn common() -> BTreeSet<String> {
    let files = ["Cargo.lock", "Cargo.toml", "Cargo.toml.orig", "README.md"];
    let licences = ["LICENSE-APACHE", "LICENSE-MIT"];
    files.into_iter().chain(licences).map(str::to_owned).collect()
}

/// Asserts that the package has exactly these files, and possibly `.cargo_vcs_info.json`, which cargo adds.
fn assert_has(package: &str, expected: BTreeSet<String>) {
    // Files that are not committed yet count, too: they will be published once they are.
    let list = match cargo(&["package", "--list", "--allow-dirty", "--package", package]) {
        Ok(list) => list,
        Err(error) => skip!("packages", "{package}: {error}"),
    };
    let mut found: BTreeSet<_> = list.lines().map(str::to_owned).collect();
    found.remove(".cargo_vcs_info.json");
    let missing: Vec<_> = expected.difference(&found).collect();
    let needless: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && needless.is_empty(),
        "missing {missing:?}, needless {needless:?}"
    );
}

/// It has what builds and describes it, but not the tests and the benchmark, which use a crate that is not
/// published.
#[test]
fn podpause_has_the_right_files() {
    let mut expected = common();
    expected.extend(["build.rs", "CHANGELOG.md"].map(str::to_owned));
    for folder in ["src", "link", "examples", "docs"] {
        expected.extend(files_in(folder));
    }
    // This example is a package of its own, which cargo leaves out.
    expected.retain(|path| !path.starts_with("examples/libcontainer/"));
    assert_has("podpause", expected);
}

/// It has its own source and that of the Go module, but no tests. The source of pause is in the package
/// podpause.
#[test]
fn podpause_image_has_the_right_files() {
    let mut expected = common();
    let own = ["crates/image/src", "crates/image/go"].into_iter().flat_map(files_in);
    expected.extend(own.map(|path| path.strip_prefix("crates/image/").unwrap().to_owned()));
    assert_has("podpause-image", expected);
}

/// It has its source, but not the tests, which use a crate that is not published.
#[test]
fn pod_overhead_has_the_right_files() {
    let mut expected = common();
    let own = files_in("crates/pod-overhead/src").into_iter();
    expected.extend(own.map(|path| path.strip_prefix("crates/pod-overhead/").unwrap().to_owned()));
    assert_has("pod-overhead", expected);
}

#[test]
fn all_have_one_version() {
    let mut command = MetadataCommand::new();
    command.cargo_path(env!("CARGO")).manifest_path(root().join("Cargo.toml")).no_deps();
    let metadata = match command.other_options(["--offline".to_owned()]).exec() {
        Ok(metadata) => metadata,
        Err(error) => skip!("packages", "{error}"),
    };
    let published = metadata.packages.iter().filter(|package| package.publish != Some(Vec::new()));
    let words = published.map(|package| {
        let rust = package.rust_version.as_ref().unwrap();
        format!("{} {} for Rust {}.{}", package.name, package.version, rust.major, rust.minor)
    });
    let (version, rust) = (env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_RUST_VERSION"));
    let names = ["podpause", "podpause-image", "pod-overhead"];
    let expected = names.map(|name| format!("{name} {version} for Rust {rust}"));
    assert_eq!(words.collect::<BTreeSet<_>>(), expected.into());
}

/// `cargo install` installs one program. It works, and is identical to the library's `ELF`.
#[test]
fn installed_pause_works() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    // A debug build is quicker, and contains the same bytes of pause.
    let arguments = ["install", "--quiet", "--debug", "--locked", "--path", ".", "--root", root];
    if let Err(error) = cargo(&arguments) {
        skip!("packages", "{error}");
    }
    let bin = folder.path().join("bin");
    let names = fs::read_dir(&bin).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["pause"]);
    assert!(fs::read(bin.join("pause")).unwrap() == podpause::ELF);
    let answer = Command::new(bin.join("pause")).arg("--version").output().unwrap();
    let version = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!((answer.status.code(), answer.stdout), (Some(0), version.into()));
}
