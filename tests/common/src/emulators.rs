//! The user-mode emulators of QEMU.

use std::path::PathBuf;

use podpause::compile::Platform;

/// The emulator of a platform's architecture: the static one if it is installed, or else the dynamic one.
///
/// # Errors
///
/// If there is no emulator. The error says which package contains it.
pub fn find(platform: &Platform) -> Result<PathBuf, String> {
    let name = match platform.arch {
        "powerpc64" => "ppc64le",
        "x86" => "i386",
        name => name,
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).collect::<Vec<_>>();
    let names = [format!("qemu-{name}-static"), format!("qemu-{name}")];
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.exists())
        .ok_or_else(|| {
            format!("there is no qemu-{name} here; it is in the package qemu-user-static")
        })
}
