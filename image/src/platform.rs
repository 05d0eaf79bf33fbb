//! What the image needs to know of a platform, beside what it takes to compile for it.

use std::env::consts::ARCH;

use anyhow::{Result, bail};

pub use crate::compile::{PLATFORMS as ALL, Platform};

impl Platform {
    /// The variant of the architecture.
    pub fn variant(&self) -> Option<&'static str> {
        self.name.split('/').nth(2)
    }

    /// What a C compiler defines for it.
    pub fn c_condition(&self) -> &'static str {
        match self.arch {
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
        format!("pause-{}", self.plain_name())
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
            chosen.extend(Self::own());
        }
        if chosen.is_empty() {
            bail!("pause is not made for this machine ({ARCH}): choose with --platform");
        }
        Ok(ALL.iter().filter(|platform| chosen.contains(platform)).collect())
    }
}
