//! What pause does on real kernels: one virtual machine after another boots Linux for another
//! architecture, under qemu's emulation of the processor.
//!
//! `init.sh` is the first process there, starts pause, and looks at it; what it writes to the console
//! is read here. Two more boots have pause itself as the first process.
//!
//! `PODPAUSE_KERNELS` is the folder that `ci/kernels.sh` has filled; the names of the architectures
//! are Debian's. `PODPAUSE_PROGRAMS` is a folder with the programs, as `podpause-image` writes them:
//! `pause-linux-arm64` and so on. The program for the architecture that the tests are compiled for is
//! the one that cargo made with them. A test without its kernel, its program or its qemu is skipped.
//!
//!     apt-get install --no-install-recommends $(ci/kernels.sh --packages)
//!     ci/kernels.sh KERNELS
//!     PODPAUSE_KERNELS=KERNELS PODPAUSE_PROGRAMS=PROGRAMS cargo test --test kernels
//!
//! takes two to four minutes on 2 cores. There are as many machines at a time as the harness has
//! threads, with 512 MiB each: `-- --test-threads=1` for one.

mod vm;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::report::{skip, tell};

use vm::Vm;

/// Debian's name of the architecture that the tests are compiled for.
const OWN_ARCH: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    ""
};

/// What OCI calls a platform that Debian calls so.
fn platform(arch: &str) -> &str {
    match arch {
        "armhf" => "arm-v7",
        "i386" => "386",
        "ppc64el" => "ppc64le",
        arch => arch,
    }
}

/// What Linux says as init ends, with the status that it ended with.
const INIT_ENDED: &str = "Attempted to kill init! exitcode=0x00000000";

/// A machine to boot, and what is to be found there.
struct Machine {
    /// Debian's name of the architecture.
    arch: &'static str,
    /// The program that emulates it, with the options that it needs beside those of all.
    qemu: &'static [&'static str],
    /// What Linux calls the console.
    console: &'static str,
    page_kb: u64,
    /// The page tables, as Linux counts them: without the topmost, which every process has. What is
    /// above the start stack has tables of its own; how many of these it shared with the stack, and
    /// so keeps, depends on the random place of both.
    page_tables_kb: RangeInclusive<u64>,
    /// What is mapped above the start stack, and so stays.
    mappings_above: &'static str,
}

impl Machine {
    /// Boots it three times.
    fn test(&self) {
        let arch = self.arch;
        let Some(kernels) = std::env::var_os("PODPAUSE_KERNELS").map(PathBuf::from) else {
            skip!("kernels", "{arch}: PODPAUSE_KERNELS is not set, see ci/kernels.sh");
        };
        let kernel = kernels.join(arch).join("vmlinuz");
        if !kernel.exists() {
            skip!("kernels", "{arch}: there is no {}, see ci/kernels.sh", kernel.display());
        }
        let program = match std::env::var_os("PODPAUSE_PROGRAMS").map(PathBuf::from) {
            _ if arch == OWN_ARCH => PathBuf::from(env!("CARGO_BIN_EXE_pause")),
            Some(programs) => programs.join(format!("pause-linux-{}", platform(arch))),
            None => skip!("kernels", "{arch}: PODPAUSE_PROGRAMS is not set"),
        };
        if !program.exists() {
            skip!("kernels", "{arch}: there is no {}", program.display());
        }
        if !vm::has_command(self.qemu[0]) {
            skip!("kernels", "{arch}: there is no {}", self.qemu[0]);
        }

        let start = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let initramfs = folder.path().join("initramfs");
        vm::write_initramfs(&initramfs, &program, &kernels.join(arch).join("busybox"));
        let boot = |arguments: &str| {
            // A panic ends the machine, so that the test need not wait for its deadline.
            let arguments = format!("console={} panic=-1 {arguments}", self.console);
            Vm::boot(self.qemu, &kernel, &initramfs, &arguments)
        };
        let report = self
            .check_namespaces(boot(concat!("quiet podpause_version=", env!("CARGO_PKG_VERSION"))));
        let after = check_answer(boot("rdinit=/pause -- -v"));
        // Again so long, and more, since the machine may be busy.
        check_hold(boot("rdinit=/pause"), after * 3 + Duration::from_secs(1));
        tell(&format!("{arch}: {report}, {:.1} s", start.elapsed().as_secs_f64()));
    }

    /// Reads what `init.sh` found, and says what it was.
    fn check_namespaces(&self, mut vm: Vm) -> String {
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
        vm.until("the end of pause", |line| line.contains("pause: SIGTERM 15"));
        vm.until("the end of init", |line| line.contains(INIT_ENDED));
        vm.end();

        // Measured twice: in namespaces, and as init.
        for (name, expected) in
            [("page_kb", self.page_kb), ("Rss", 2 * self.page_kb), ("Anonymous", self.page_kb)]
        {
            assert_eq!(values[name], [expected.to_string(), expected.to_string()], "{name}: {vm}");
        }
        for found in &values["VmPTE"] {
            let is_expected = self.page_tables_kb.contains(&found.parse().unwrap());
            assert!(is_expected, "{found} kB of page tables: {vm}");
        }
        assert_eq!(values["mappings_above"], [self.mappings_above; 2], "{vm}");
        let values: Vec<_> =
            values.iter().map(|(name, values)| format!("{name} {}", values.join(" / "))).collect();
        format!("{passed} checks, {}", values.join(", "))
    }
}

/// The kernel starts `/pause -v`, which answers and ends. Says how long that took.
fn check_answer(mut vm: Vm) -> Duration {
    vm.until("the start of pause", |line| line.contains("Run /pause as init process"));
    let start = Instant::now();
    let answer = concat!("pause ", env!("CARGO_PKG_VERSION"));
    vm.until("the answer", |line| line == answer);
    vm.until("the end of init", |line| line.contains(INIT_ENDED));
    let after = start.elapsed();
    vm.end();
    after
}

/// The kernel starts `/pause`, which holds: nothing is heard of it for so long.
fn check_hold(mut vm: Vm, patience: Duration) {
    vm.until("the start of pause", |line| line.contains("Run /pause as init process"));
    vm.stays(patience, |line| {
        !["panic", "Oops", "BUG", "segfault", "pause:"].iter().any(|bad| line.contains(bad))
    });
}

#[test]
fn amd64() {
    Machine {
        arch: "amd64",
        qemu: &["qemu-system-x86_64", "-machine", "q35"],
        console: "ttyS0",
        page_kb: 4,
        page_tables_kb: 12..=12,
        mappings_above: "none",
    }
    .test();
}

#[test]
fn arm64() {
    Machine {
        arch: "arm64",
        qemu: &["qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a57"],
        console: "ttyAMA0",
        page_kb: 4,
        page_tables_kb: 12..=12,
        mappings_above: "none",
    }
    .test();
}

#[test]
fn armhf() {
    Machine {
        arch: "armhf",
        qemu: &["qemu-system-arm", "-machine", "virt", "-cpu", "cortex-a15"],
        console: "ttyAMA0",
        page_kb: 4,
        // One level: a table for 2 MiB takes a page, of which Linux counts the half that is its own.
        // There may be a second one, for what is above the start stack.
        page_tables_kb: 2..=4,
        mappings_above: "[sigpage][vvar][vdso][vectors]",
    }
    .test();
}

#[test]
fn i386() {
    Machine {
        arch: "i386",
        qemu: &["qemu-system-i386", "-machine", "q35"],
        console: "ttyS0",
        page_kb: 4,
        // With PAE, every process has the four tables of the second level from the start.
        page_tables_kb: 20..=20,
        mappings_above: "none",
    }
    .test();
}

#[test]
fn ppc64el() {
    Machine {
        arch: "ppc64el",
        // Without the emulated firmware, which takes longer to start than Linux; and without those
        // features that the emulation does not have and would warn of.
        qemu: &[
            "qemu-system-ppc64",
            "-cpu",
            "power9",
            "-machine",
            "pseries,x-vof=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off",
        ],
        console: "hvc0",
        page_kb: 64,
        // Two tables of 4 KiB, and one of 256 bytes for the 32 pages of 2 MiB.
        page_tables_kb: 8..=8,
        mappings_above: "none",
    }
    .test();
}

#[test]
fn riscv64() {
    Machine {
        arch: "riscv64",
        qemu: &["qemu-system-riscv64", "-machine", "virt"],
        console: "ttyS0",
        page_kb: 4,
        page_tables_kb: 12..=12,
        mappings_above: "none",
    }
    .test();
}

#[test]
fn s390x() {
    Machine {
        arch: "s390x",
        qemu: &["qemu-system-s390x", "-machine", "s390-ccw-virtio"],
        console: "ttysclp0",
        page_kb: 4,
        // A segment table of 16 KiB and a page table of 2 KiB for the two pages; and up to as much
        // for the vDSO, which is above the start stack.
        page_tables_kb: 18..=36,
        mappings_above: "[vvar][vdso]",
    }
    .test();
}
