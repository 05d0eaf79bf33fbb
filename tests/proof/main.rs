//! Proves what the shipped programs can do, for every start stack and every result of every system call.
//! docs/security.md says exactly what is proved, and what the proof assumes.
//!
//! - `proved` is a test for each platform: the program keeps the contract in `spec.py`.
//! - `refuted` is a test for each mutant in `mutants.toml`: the proof rejects it. A proof that accepts a
//!   wrong program is worth nothing. `control` is the opposite test: the unchanged program is proved.
//! - `compared` is a test for each platform: the proof's model of each instruction agrees with a real
//!   processor, or with qemu's emulation of one.
//!
//! This file starts the Python programs beside it, and prepares what they need:
//!
//! - `PODPAUSE_PROOF` is the folder of the Python virtual environment that `ci/proof.sh` creates.
//! - `PODPAUSE_PROGRAMS` is a folder with the programs, as `podpause-image` writes them. For this machine's
//!   architecture, the tests use the program that cargo builds with them instead.
//! - `PODPAUSE_RUSTC` is a compiler that has all targets. The mutants of other architectures need it.
//!
//! A test that lacks something is skipped:
//!
//!     ci/proof.sh PROOF
//!     PODPAUSE_PROOF=PROOF PODPAUSE_PROGRAMS=PROGRAMS PODPAUSE_RUSTC=RUSTC cargo test --test proof

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use common::report::{skipped, tell};
use libtest_mimic::{Arguments, Trial};
use podpause::compile::{PLATFORMS, Platform, compile_source, write_source};
use serde::Deserialize;

/// This page lists what is proved, the digests of the proved programs, and the number of mutants.
const SECURITY: &str = include_str!("../../docs/security.md");

/// A mutant may be larger than what ships.
const MUTANT_BUDGET_BYTES: usize = 4_096;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if let Err(reason) = python("prove.py") {
        // Reports the reason once, instead of for each test.
        return libtest_mimic::run(&arguments, vec![trial("all".into(), || Err(reason))])
            .exit_code();
    }
    let mut trials: Vec<_> = PLATFORMS
        .iter()
        .flat_map(|platform| {
            let name = platform.plain_name();
            let name = name.trim_start_matches("linux-");
            [
                trial(format!("proved::{name}"), || proved(platform)),
                trial(format!("compared::{name}"), || compared(platform)),
            ]
        })
        .collect();
    let mutants = Mutants::read().mutant;
    let broken: BTreeSet<_> = mutants.iter().map(|mutant| mutant.breaks.clone()).collect();
    let counted = format!("And {} mutants of the program", mutants.len());
    trials.push(trial("documented".into(), move || documented(&counted, broken)));
    trials.push(trial("compared::operations".into(), operations_agree));
    for mutant in mutants {
        trials.push(trial(format!("refuted::{}", mutant.name), || mutant.test()));
    }
    trials.push(trial("control::unchanged_program_is_proved".into(), unchanged_is_proved));
    trials.push(trial("bad_input::has_a_clear_error".into(), bad_input));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test. If it returns an error, it is skipped for that reason.
fn trial(name: String, test: impl FnOnce() -> Result<(), String> + Send + 'static) -> Trial {
    let shown = name.clone();
    Trial::test(name, move || {
        test().unwrap_or_else(|reason| skipped("proof", &format!("{shown}: {reason}")));
        Ok(())
    })
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// The command that runs one of the Python programs.
fn python(program: &str) -> Result<Command, String> {
    let environment = variable("PODPAUSE_PROOF").ok_or(
        "PODPAUSE_PROOF is not set: run `ci/proof.sh target/proof`, then set it to that folder",
    )?;
    let python = environment.join("bin/python");
    if !environment.join("requirements.txt").exists() {
        return Err(format!("{} is not complete, see ci/proof.sh", environment.display()));
    }
    let mut command = Command::new(python);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proof");
    // `-B`: Python writes no bytecode to the repository.
    command.arg("-B").arg(folder.join(program));
    Ok(command)
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output, text)
}

/// The program that ships for a platform.
fn shipped(platform: &Platform) -> Result<PathBuf, String> {
    if platform.arch == ARCH {
        return Ok(env!("CARGO_BIN_EXE_pause").into());
    }
    let programs = variable("PODPAUSE_PROGRAMS").ok_or("PODPAUSE_PROGRAMS is not set")?;
    let program = programs.join(format!("pause-{}", platform.plain_name()));
    match program.exists() {
        true => Ok(program),
        false => Err(format!("there is no {}", program.display())),
    }
}

fn proved(platform: &Platform) -> Result<(), String> {
    let (output, text) = run(python("prove.py")?.arg(shipped(platform)?));
    assert!(output.status.success() && text.contains(": PROVED, "), "{text}");
    let digest = text.split("sha256 ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let row = format!("| {} | `{}` |", platform.name, digest.unwrap());
    assert!(SECURITY.lines().any(|line| line == row), "docs/security.md should have: {row}");
    tell(text.trim_end());
    Ok(())
}

fn compared(platform: &Platform) -> Result<(), String> {
    let mut command = python("compare.py")?;
    if platform.arch != ARCH {
        let emulator = common::emulators::find(platform)?;
        command.arg("--emulator").arg(emulator);
    }
    let (output, text) = run(command.arg(shipped(platform)?));
    assert!(output.status.success(), "{text}");
    assert!(text.contains(": THE SAME after ") && !text.contains("not compared"), "{text}");
    tell(text.trim_end());
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutants {
    mutant: Vec<Mutant>,
}

impl Mutants {
    fn read() -> Self {
        toml::from_str(include_str!("mutants.toml")).unwrap_or_else(|error| panic!("{error}"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    breaks: String,
    #[serde(default = "amd64")]
    platform: String,
    file: String,
    old: String,
    new: String,
    also: Option<Change>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    file: String,
    old: String,
    new: String,
}

fn amd64() -> String {
    "linux/amd64".into()
}

impl Mutant {
    fn test(self) -> Result<(), String> {
        let mut changes = vec![Change { file: self.file, old: self.old, new: self.new }];
        changes.extend(self.also);
        let (output, text) = prove_changed(&self.platform, &changes)?;
        assert_eq!(output.status.code(), Some(1), "{text}");
        let expected = format!(": REFUTED: {}\n", self.breaks);
        assert!(text.contains(&expected), "{} should be broken: {text}", self.breaks);
        Ok(())
    }
}

/// Compiles the program with changes, and tries to prove it.
fn prove_changed(platform: &str, changes: &[Change]) -> Result<(Output, String), String> {
    let mut prove = python("prove.py")?;
    let platform = PLATFORMS.iter().find(|known| known.name == platform);
    let platform = platform.unwrap_or_else(|| panic!("mutants.toml has an unknown platform"));
    let rustc = match variable("PODPAUSE_RUSTC") {
        Some(rustc) => rustc,
        None if platform.arch == ARCH => "rustc".into(),
        None => return Err(format!("PODPAUSE_RUSTC is not set: {} needs it", platform.name)),
    };
    let folder = tempfile::tempdir().unwrap();
    write_source(folder.path()).unwrap();
    for Change { file, old, new } in changes {
        let path = folder.path().join(file);
        let source = fs::read_to_string(&path).unwrap();
        assert_eq!(source.matches(old.as_str()).count(), 1, "{file} must contain this once: {old}");
        fs::write(path, source.replace(old.as_str(), new)).unwrap();
    }
    let program = folder.path().join("pause");
    let (root, target) = (folder.path(), platform.target);
    compile_source(rustc.as_ref(), root, "src/main.rs", MUTANT_BUDGET_BYTES, target, &program)
        .unwrap_or_else(|error| panic!("{error}"));
    Ok(run(prove.arg(program)))
}

/// The control for the mutants: the unchanged program, compiled in the same way, is proved.
fn unchanged_is_proved() -> Result<(), String> {
    let (output, text) = prove_changed(&amd64(), &[])?;
    assert!(output.status.success(), "{text}");
    Ok(())
}

/// Each property has a mutant that breaks it. docs/security.md has the text of each property.
fn documented(counted: &str, broken: BTreeSet<String>) -> Result<(), String> {
    let (_, text) = run(python("prove.py")?.arg("--properties"));
    let properties: Vec<_> = text.lines().filter_map(|line| line.split_once(": ")).collect();
    assert_eq!(broken, properties.iter().map(|(name, _)| (*name).to_owned()).collect());
    for (name, text) in properties {
        let line = format!("- **{name}**: {text}");
        assert!(
            SECURITY.lines().any(|found| found == line),
            "docs/security.md should have: {line}"
        );
    }
    assert!(SECURITY.contains(counted), "docs/security.md should have: {counted}");
    Ok(())
}

/// Each operation gives the same result on a z3 bit vector as on a number.
fn operations_agree() -> Result<(), String> {
    let (output, text) = run(&mut python("values.py")?);
    assert!(output.status.success() && text.contains("operations agree"), "{text}");
    tell(text.trim_end());
    Ok(())
}

fn bad_input() -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let pause = fs::read(env!("CARGO_BIN_EXE_pause")).unwrap();
    // With another value of a little-endian field of the ELF header, at this offset.
    let with = |at: usize, field: &[u8]| [&pause[..at], field, &pause[at + field.len()..]].concat();
    let (kind, machine, flags) = (16, 18, if cfg!(target_pointer_width = "64") { 48 } else { 36 });
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("empty", vec![], "not an ELF file"),
        ("text", b"#!/bin/sh\n".into(), "not an ELF file"),
        ("cut", pause[..40].into(), "the ELF header is cut off"),
        ("shell", fs::read("/bin/sh").unwrap(), "not a pause program: its segments"),
        ("longer", [&pause[..], &[0]].concat(), "not a pause program: its segments"),
        ("mips", with(machine, &[8, 0]), "e_machine is 8"),
        ("movable", with(kind, &[3, 0]), "not a pause program: e_type is 3"),
        ("flags", with(flags, &[7, 0, 0, 0]), "not a pause program: e_flags is 0x7"),
    ];
    for (name, content, expected) in cases {
        let file = folder.path().join(name);
        fs::write(&file, content).unwrap();
        for program in ["prove.py", "compare.py"] {
            let (output, text) = run(python(program)?.arg(&file));
            assert_eq!(output.status.code(), Some(2), "{name}: {text}");
            let start = format!("{}: ", file.display());
            assert!(text.starts_with(&start) && text.contains(expected), "{name}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
    let (output, text) = run(python("prove.py")?.arg(folder.path().join("missing")));
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("missing: No such file or directory"), "{text}");
    Ok(())
}
