//! Platforms on the command line, and the names of their files.

use std::env::consts::ARCH;

use anyhow::{Result, bail};
pub use podpause::compile::{PLATFORMS, Platform};

/// The name of the file with the program for this platform.
pub fn file_name(platform: &Platform) -> String {
    format!("pause-{}", platform.plain_name())
}

/// The platform with this OCI name.
pub fn named(name: &str) -> Result<&'static Platform> {
    let normal = match name {
        "linux/arm64/v8" => "linux/arm64",
        "linux/arm" => "linux/arm/v7",
        _ => name,
    };
    if let Some(platform) = PLATFORMS.iter().find(|platform| platform.name == normal) {
        return Ok(platform);
    }
    let names: Vec<_> = PLATFORMS.iter().map(|platform| platform.name).collect();
    bail!("unknown platform `{name}`: expected `all` or one of {}", names.join(", "))
}

/// The platforms with these names, without duplicates and in the order of [`PLATFORMS`]. If `names` is empty,
/// this machine's platform.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Platform>> {
    let mut chosen = Vec::new();
    for name in names {
        match name.as_str() {
            "all" => chosen.extend(&PLATFORMS),
            name => chosen.push(named(name)?),
        }
    }
    if names.is_empty() {
        chosen.extend(Platform::own());
    }
    if chosen.is_empty() {
        bail!("pause does not support this architecture ({ARCH}): give a platform with --platform");
    }
    Ok(PLATFORMS.iter().filter(|platform| chosen.contains(platform)).collect())
}
