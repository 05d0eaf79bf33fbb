//! The table of machines, `machines.toml`. The comments there explain the fields.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Deserialize;

const TEXT: &str = include_str!("machines.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub arch: Vec<Arch>,
    pub kernel: Vec<Kernel>,
    pub machine: Vec<Machine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arch {
    pub id: String,
    pub platform: String,
    pub qemu: Vec<String>,
    pub console: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    pub id: String,
    pub arch: String,
    #[allow(dead_code, reason = "ci/kernels.sh reads it")]
    release: String,
    #[allow(dead_code, reason = "ci/kernels.sh reads it")]
    package: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub id: String,
    pub kernel: String,
    #[serde(default)]
    pub weekly: bool,
    #[serde(default)]
    pub bare: bool,
    pub linux: String,
    #[serde(default)]
    pub qemu: Vec<String>,
    #[serde(default = "default_memory_mb")]
    pub memory_mb: u32,
    #[serde(default)]
    pub parameters: String,
    #[serde(default)]
    pub note: String,
    pub page_kb: u64,
    page_tables_kb: [u64; 2],
    pub above: String,
    pub probes: String,
}

fn default_memory_mb() -> u32 {
    512
}

impl Machine {
    pub fn page_tables_kb(&self) -> RangeInclusive<u64> {
        self.page_tables_kb[0]..=self.page_tables_kb[1]
    }

    /// Whether a kernel's release matches the field `linux`.
    pub fn is_linux(&self, release: &str) -> bool {
        let version = |text: &str| -> Vec<u32> {
            text.split(['.', '-', '+']).map_while(|part| part.parse().ok()).take(2).collect()
        };
        match self.linux.strip_suffix('+') {
            Some(oldest) => version(release) >= version(oldest),
            None => version(release) == version(&self.linux),
        }
    }

    /// The name of its kernel in README.md.
    pub fn title(&self) -> String {
        let mut title = self.linux.trim_end_matches('+').to_owned();
        if self.page_kb != 4 {
            title += &format!(" ({} KiB pages)", self.page_kb);
        }
        if !self.note.is_empty() {
            title += &format!(" ({})", self.note);
        }
        title
    }
}

impl Table {
    /// # Panics
    ///
    /// If the table is wrong: a field is missing or unknown, two machines have the same id, a machine's
    /// kernel or its architecture is missing, or a listed kernel is used by no machine.
    pub fn read() -> Self {
        let table: Self =
            toml::from_str(TEXT).unwrap_or_else(|error| panic!("machines.toml: {error}"));
        let mut ids = BTreeMap::new();
        for machine in &table.machine {
            table.kernel(machine);
            assert!(ids.insert(&machine.id, ()).is_none(), "machines.toml: two {}", machine.id);
        }
        for kernel in &table.kernel {
            let is_used = table.machine.iter().any(|machine| machine.kernel == kernel.id);
            assert!(is_used, "machines.toml: no machine has the kernel {}", kernel.id);
        }
        table
    }

    /// The kernel of a machine, and its architecture.
    pub fn kernel(&self, machine: &Machine) -> (&Kernel, &Arch) {
        let kernel = self.kernel.iter().find(|kernel| kernel.id == machine.kernel);
        let kernel = kernel.unwrap_or_else(|| {
            panic!("machines.toml: {} has no kernel {}", machine.id, machine.kernel)
        });
        let arch = self.arch.iter().find(|arch| arch.id == kernel.arch);
        let arch = arch.unwrap_or_else(|| {
            panic!("machines.toml: {} has no architecture {}", kernel.id, kernel.arch)
        });
        (kernel, arch)
    }

    /// The text in README.md about a platform: the kernels that are booted by default.
    pub fn verified_on(&self, platform: &str) -> String {
        let machines = self.machine.iter().filter(|machine| !machine.weekly);
        let titles: Vec<_> = machines
            .filter(|machine| self.kernel(machine).1.platform == platform)
            .map(Machine::title)
            .collect();
        format!("Linux {} in a VM", titles.join(", "))
    }
}
