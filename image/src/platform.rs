//! The platforms: what OCI calls them, and what the compiler does.

use std::env::consts::ARCH;

use anyhow::{Result, bail};

/// A platform that pause runs on.
#[derive(Debug, PartialEq, Eq)]
pub struct Platform {
    /// The operating system, the architecture and, where there are several, its variant, as OCI has
    /// them.
    pub name: &'static str,
    /// The compiler's target.
    pub target: &'static str,
    /// The architecture as this program knows that of the machine it runs on.
    machine: &'static str,
}

/// All platforms, in the order in which they are in the index.
///
/// The names are as containerd and BuildKit normalise them: 64-bit Arm has one variant, v8, which
/// they drop, and 32-bit Arm is v7 where nothing is said. Upstream's pause has no v8 either.
pub static ALL: [Platform; 8] = [
    Platform::new("linux/amd64", "x86_64-unknown-linux-gnu", "x86_64"),
    Platform::new("linux/arm64", "aarch64-unknown-linux-gnu", "aarch64"),
    Platform::new("linux/arm/v7", "armv7-unknown-linux-gnueabihf", "arm"),
    Platform::new("linux/ppc64le", "powerpc64le-unknown-linux-gnu", "powerpc64"),
    Platform::new("linux/s390x", "s390x-unknown-linux-gnu", "s390x"),
    Platform::new("linux/riscv64", "riscv64gc-unknown-linux-gnu", "riscv64"),
    Platform::new("linux/loong64", "loongarch64-unknown-linux-gnu", "loongarch64"),
    Platform::new("linux/386", "i686-unknown-linux-gnu", "x86"),
];

impl Platform {
    const fn new(name: &'static str, target: &'static str, machine: &'static str) -> Self {
        Self { name, target, machine }
    }

    /// The architecture.
    pub fn architecture(&self) -> &'static str {
        self.name.split('/').nth(1).expect("a name has two parts or three")
    }

    /// The variant of the architecture.
    pub fn variant(&self) -> Option<&'static str> {
        self.name.split('/').nth(2)
    }

    /// What a C compiler defines for it.
    pub fn c_condition(&self) -> &'static str {
        match self.machine {
            "x86_64" => "defined(__x86_64__)",
            "aarch64" => "defined(__aarch64__)",
            "arm" => "defined(__arm__)",
            "powerpc64" => "defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)",
            "s390x" => "defined(__s390x__)",
            "riscv64" => "defined(__riscv) && __riscv_xlen == 64",
            "loongarch64" => "defined(__loongarch64)",
            _ => "defined(__i386__)",
        }
    }

    /// The name of the file with the program for this platform.
    pub fn file_name(&self) -> String {
        format!("pause-{}", self.name.replace('/', "-"))
    }

    /// The platform with this name of OCI's.
    pub fn named(name: &str) -> Result<&'static Self> {
        let normal = match name {
            "linux/arm64/v8" => "linux/arm64",
            "linux/arm" => "linux/arm/v7",
            _ => name,
        };
        if let Some(platform) = ALL.iter().find(|platform| platform.name == normal) {
            return Ok(platform);
        }
        let names: Vec<_> = ALL.iter().map(|platform| platform.name).collect();
        bail!("unknown platform `{name}`: it has to be `all`, or among {}", names.join(", "))
    }

    /// The platforms with these names, in the order of [`ALL`] and each once; or that of this
    /// machine.
    pub fn chosen(names: &[String]) -> Result<Vec<&'static Self>> {
        let mut chosen = Vec::new();
        for name in names {
            match name.as_str() {
                "all" => chosen.extend(&ALL),
                name => chosen.push(Self::named(name)?),
            }
        }
        if names.is_empty() {
            chosen.extend(ALL.iter().filter(|platform| platform.machine == ARCH));
        }
        if chosen.is_empty() {
            bail!("pause is not made for this machine ({ARCH}): choose with --platform");
        }
        Ok(ALL.iter().filter(|platform| chosen.contains(platform)).collect())
    }
}
