//! Boots pause on real kernels. Each machine of `machines.toml` is a test, for which qemu emulates the
//! processor.
//!
//! `init.sh` is the first process of such a machine. It checks pause and reports to the console, which this
//! program reads. Machines that are `bare` in the table are booted again, with pause itself as the first
//! process: up to three times with `-v`, and once without arguments. `uml.sh` is the first process of
//! user-mode Linux, a kernel without CONFIG_CHECKPOINT_RESTORE.
//!
//! - `PODPAUSE_KERNELS` is the directory that `ci/kernels.sh` fills.
//! - `PODPAUSE_PROGRAMS` is a directory with the programs, as `podpause-image` writes them:
//!   `pause-linux-arm64` and so on. For the architecture of the host, the tests use the program that cargo
//!   built.
//! - `PODPAUSE_RUSTC` is a compiler for all platforms. Without it, only machines of the host's architecture
//!   are tested.
//!
//! A machine's test is skipped if one of these that it needs is not set. Machines of the host's architecture
//! need only `PODPAUSE_KERNELS`.
//!
//!     ci/kernels.sh KERNELS
//!     PODPAUSE_KERNELS=KERNELS PODPAUSE_PROGRAMS=PROGRAMS PODPAUSE_RUSTC=RUSTC cargo test --test kernels
//!
//! Machines that are `weekly` in the table need `-- --include-ignored` and `ci/kernels.sh KERNELS --weekly`.
//! By default, as many machines run at once as there are processors; with `-- --test-threads=1`, only one.

mod table;
mod uml;
mod vm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::report::{skipped, tell};
use libtest_mimic::{Arguments, Trial};
use podpause::compile::{PLATFORMS, compile_source};
use table::{Machine, Table};
use vm::Vm;

/// What Linux prints when init ends with exit status 0.
const INIT_ENDED: &str = "Attempted to kill init! exitcode=0x00000000";

/// How often a machine is booted, at most, until its console shows the answer to `-v`.
const BOOTS_FOR_ANSWER: usize = 3;

fn main() -> std::process::ExitCode {
    let table = Arc::new(Table::read());
    let mut trials: Vec<_> = (0..table.machine.len())
        .map(|index| {
            let shared = table.clone();
            let machine = &table.machine[index];
            let test = move || {
                test(&shared, &shared.machine[index]);
                Ok(())
            };
            Trial::test(&machine.id, test).with_ignored_flag(machine.weekly)
        })
        .collect();
    trials.push(Trial::test("amd64-uml", || {
        uml::test();
        Ok(())
    }));
    trials.push(Trial::test("readme_names_the_kernels", move || {
        check_readme(&table);
        Ok(())
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Checks that README.md lists, for each platform, the kernels on which it is verified.
fn check_readme(table: &Table) {
    let readme = include_str!("../../README.md");
    for arch in &table.arch {
        let row = format!("| {} |", arch.platform);
        let row = readme.lines().find(|line| line.starts_with(&row)).unwrap_or_default();
        let text = table.verified_on(&arch.platform);
        assert!(row.contains(&text), "README.md should say of {}: {text}", arch.platform);
    }
}

/// The files that a test needs.
struct Inputs {
    kernels: PathBuf,
    program: PathBuf,
    load: PathBuf,
    folder: tempfile::TempDir,
}

impl Inputs {
    /// Finds or makes the files. The error says why the test cannot run.
    fn find(table: &Table, machine: &Machine) -> Result<Self, String> {
        let (kernel, arch) = table.kernel(machine);
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let kernels =
            variable("PODPAUSE_KERNELS").ok_or("PODPAUSE_KERNELS is not set, see ci/kernels.sh")?;
        let platform = PLATFORMS.iter().find(|platform| platform.name == arch.platform);
        let platform = platform.unwrap_or_else(|| panic!("no platform is {}", arch.platform));
        let is_own = platform.arch == std::env::consts::ARCH;
        let program = match variable("PODPAUSE_PROGRAMS") {
            _ if is_own => PathBuf::from(env!("CARGO_BIN_EXE_pause")),
            Some(programs) => programs.join(format!("pause-{}", platform.plain_name())),
            None => return Err("PODPAUSE_PROGRAMS is not set".into()),
        };
        let rustc = match variable("PODPAUSE_RUSTC") {
            Some(rustc) => rustc,
            None if is_own => "rustc".into(),
            None => return Err("PODPAUSE_RUSTC is not set".into()),
        };
        for file in [&kernels.join(&kernel.id).join("vmlinuz"), &kernels.join("qemu/run")] {
            if !file.exists() {
                return Err(format!("there is no {}, see ci/kernels.sh", file.display()));
            }
        }
        if !program.exists() {
            return Err(format!("there is no {}", program.display()));
        }
        let folder = tempfile::tempdir().unwrap();
        let load = folder.path().join("load");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let source = "tests/kernels/load.rs";
        compile_source(rustc.as_ref(), root, source, 4_096, platform.target, &load)
            .unwrap_or_else(|error| panic!("{source}: {error}"));
        Ok(Self { kernels, program, load, folder })
    }
}

/// The path of a script in this folder.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels").join(name)
}

/// Boots a machine once, and a `bare` one two to four times more.
fn test(table: &Table, machine: &Machine) {
    let inputs = match Inputs::find(table, machine) {
        Ok(inputs) => inputs,
        Err(reason) => return skipped("kernels", &format!("{}: {reason}", machine.id)),
    };
    let start = Instant::now();
    let (kernel, arch) = table.kernel(machine);
    let initramfs = inputs.folder.path().join("initramfs");
    vm::write_initramfs(
        &initramfs,
        &[
            ("bin/busybox", &inputs.kernels.join(format!("{}.busybox", arch.id))),
            ("pause", &inputs.program),
            ("load", &inputs.load),
            ("functions.sh", &script("functions.sh")),
            ("init", &script("init.sh")),
        ],
    );
    let memory = ["-m".to_owned(), machine.memory_mb.to_string()];
    let options = [&arch.qemu[..], &machine.qemu, &memory].concat();
    let vmlinuz = inputs.kernels.join(&kernel.id).join("vmlinuz");
    let boot = |arguments: &str| {
        // With panic=-1, a panic ends the machine at once, so the test does not wait until the deadline.
        let arguments =
            format!("console={} panic=-1 {} {arguments}", arch.console, machine.parameters);
        Vm::boot(&inputs.kernels.join("qemu"), &options, &vmlinuz, &initramfs, &arguments)
    };
    let report = check_namespaces(
        machine,
        boot(concat!("quiet podpause_version=", env!("CARGO_PKG_VERSION"))),
    );
    if machine.bare {
        let answers = || (0..BOOTS_FOR_ANSWER).find_map(|_| answer(boot("rdinit=/pause -- -v")));
        let after = answers().expect("the answer is on the console after one of the boots");
        // Three times as long as the answer took, and a second more, because the machine may be busy.
        check_hold(boot("rdinit=/pause"), after * 3 + Duration::from_secs(1));
    }
    tell(&format!("{}: {report}, {:.1} s", machine.id, start.elapsed().as_secs_f64()));
}

/// Reads the report of `init.sh`, asserts that it is as expected, and returns a summary.
fn check_namespaces(machine: &Machine, mut vm: Vm) -> String {
    let (mut passed, mut failed) = (0, Vec::new());
    let mut values = BTreeMap::<String, Vec<String>>::new();
    let end = vm.until("the end of the checks", |line| {
        if line.starts_with("ok ") {
            passed += 1;
        } else if line.starts_with("not ok ") {
            failed.push(line.to_owned());
        } else if let Some((name, value)) =
            line.strip_prefix("value ").and_then(|rest| rest.split_once(' '))
        {
            values.entry(name.to_owned()).or_default().push(value.to_owned());
        }
        line.starts_with("done ")
    });
    assert_eq!(failed, [""; 0], "{vm}");
    assert!(passed > 0, "{vm}");
    assert_eq!(end, format!("done {passed}"), "every check was seen: {vm}");
    vm.until("the end of init", |line| line.contains(INIT_ENDED));
    vm.end();

    let page_kb = machine.page_kb;
    // `init.sh` measures these twice: in namespaces, and as init.
    for (name, expected) in [("page_kb", page_kb), ("Rss", 2 * page_kb), ("Anonymous", page_kb)] {
        assert_eq!(values[name], [expected.to_string(), expected.to_string()], "{name}: {vm}");
    }
    for found in &values["VmPTE"] {
        let is_expected = machine.page_tables_kb().contains(&found.parse().unwrap());
        assert!(is_expected, "{found} kB of page tables: {vm}");
    }
    assert_eq!(values["above"], [machine.above.as_str(); 2], "mappings that stay: {vm}");
    assert_eq!(values["probes"], [machine.probes.as_str()], "probes: {vm}");
    let release = &values["kernel"][0];
    assert!(machine.is_linux(release), "Linux {release}, not {}", machine.linux);
    let values: Vec<_> =
        values.iter().map(|(name, values)| format!("{name} {}", values.join(" / "))).collect();
    format!("{passed} checks, {}", values.join(", "))
}

/// The kernel starts `/pause -v`, which answers and ends with status 0. Returns how long that took. Returns
/// `None` if the answer is not on the console: the kernel panics when init ends, maybe before the console has
/// sent the last line.
fn answer(mut vm: Vm) -> Option<Duration> {
    vm.until("the start of pause", |line| line.contains("Run /pause as init process"));
    let start = Instant::now();
    let answer = concat!("pause ", env!("CARGO_PKG_VERSION"));
    let mut is_answered = false;
    vm.until("the end of init", |line| {
        // The panic may be on the same line.
        let is_rest = |rest: &str| rest.is_empty() || rest.starts_with('[');
        is_answered |= line.strip_prefix(answer).is_some_and(is_rest);
        line.contains(INIT_ENDED)
    });
    let after = start.elapsed();
    vm.end();
    is_answered.then_some(after)
}

/// The kernel starts `/pause`, which holds: for the time `patience`, neither pause nor the kernel reports a
/// problem.
fn check_hold(mut vm: Vm, patience: Duration) {
    vm.until("the start of pause", |line| line.contains("Run /pause as init process"));
    vm.stays(patience, |line| {
        !["panic", "Oops", "BUG", "segfault", "pause:"].iter().any(|bad| line.contains(bad))
    });
}
