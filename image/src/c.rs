//! The programs for C, and for whatever reads C.

use std::fmt::Write;

use crate::image::PlatformImage;

/// The name of the file.
pub const FILE_NAME: &str = "pause.h";

/// A header with an array for each platform, and `pause_elf` for that of the compiler.
pub fn header(platforms: &[PlatformImage]) -> String {
    let mut text =
        String::from("/* The program pause, for each platform: a static ELF executable. */\n");
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes everything");
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
        line(format!("}};\n#if {}\n#define pause_elf {name}\n#endif", part.platform.c_condition()));
    }
    line("\n#endif".into());
    text
}

/// The name of the array for a platform.
fn array(part: &PlatformImage) -> String {
    part.platform.file_name().replace('-', "_")
}
