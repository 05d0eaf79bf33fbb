//! A C header with the programs.

use std::fmt::Write;

use crate::image::PlatformImage;
use crate::platform::{Platform, file_name};

/// The name of the file.
pub const FILE_NAME: &str = "pause.h";

/// The header: for each platform, an array with its program. The macro `pause_elf` names the array for the
/// platform that the C compiler targets.
pub fn text(platforms: &[PlatformImage]) -> String {
    let mut text =
        String::from("/* The program pause, for each platform: a static ELF executable. */\n");
    let mut line = |line: String| writeln!(text, "{line}").expect("a string can always grow");
    line("#ifndef PODPAUSE_PAUSE_H\n#define PODPAUSE_PAUSE_H\n".into());
    line(format!("#define PAUSE_VERSION \"{}\"", env!("CARGO_PKG_VERSION")));
    for part in platforms {
        let (name, program) = (array(part), &part.program);
        line(format!(
            "\n/* {} */\nstatic const unsigned char {name}[{}] = {{",
            part.platform.name,
            program.len()
        ));
        for bytes in program.chunks(16) {
            let bytes: Vec<_> = bytes.iter().map(|byte| format!("0x{byte:02x},")).collect();
            line(format!("    {}", bytes.join(" ")));
        }
        line(format!("}};\n#if {}\n#define pause_elf {name}\n#endif", condition(part.platform)));
    }
    line("\n#endif".into());
    text
}

/// The name of the array for a platform.
fn array(part: &PlatformImage) -> String {
    file_name(part.platform).replace('-', "_")
}

/// The preprocessor condition for a platform, made of macros that C compilers predefine.
fn condition(platform: &Platform) -> &'static str {
    match platform.arch {
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
