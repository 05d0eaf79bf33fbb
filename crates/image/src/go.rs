//! A Go module with the programs.

use crate::image::PlatformImage;
use crate::output::Files;
use crate::platform::{Platform, file_name};

/// The directory of the module.
pub const FOLDER: &str = "go";

/// The module path. The repository has the directory `go` only at the tags `go/vVERSION`, which the release
/// workflow pushes.
const MODULE: &str = "github.com/podpause/podpause/go";

/// The files of the module, by their paths in its directory.
pub fn files(platforms: &[PlatformImage]) -> Files {
    let mut files = Files::new();
    for part in platforms {
        files.insert(file_name(part.platform), part.program.clone());
    }
    let mut file = |name: &str, text: String| files.insert(name.to_owned(), text.into_bytes());
    // The first Go version with `//go:build` lines.
    file("go.mod", format!("module {MODULE}\n\ngo 1.17\n"));
    file("podpause.go", include_str!("../go/podpause.go").into());
    file("LICENSE-APACHE", include_str!("../LICENSE-APACHE").into());
    file("LICENSE-MIT", include_str!("../LICENSE-MIT").into());
    let version = env!("CARGO_PKG_VERSION");
    file(
        "version.go",
        format!(
            "package podpause\n\n// Version is what the program answers to -v.\n\
             const Version = \"{version}\"\n"
        ),
    );
    for part in platforms {
        let (name, architecture) = (file_name(part.platform), goarch(part.platform));
        let number = memfd_create(architecture);
        // The file's name acts as a build constraint.
        file(
            &format!("program_linux_{architecture}.go"),
            format!(
                "package podpause\n\nimport _ \"embed\"\n\n\
                 //go:embed {name}\nvar program []byte\n\n\
                 // The number of memfd_create(2). Package syscall lacks it on some architectures.\n\
                 const memfdCreate = {number}\n"
            ),
        );
    }
    files
}

/// Go's name for the architecture: the OCI name without the variant.
fn goarch(platform: &Platform) -> &'static str {
    platform.name.split('/').nth(1).expect("a platform has an architecture")
}

/// The number of memfd_create(2), from Linux `arch/**/syscall*.tbl` and
/// `include/uapi/asm-generic/unistd.h`.
fn memfd_create(goarch: &str) -> u16 {
    match goarch {
        "386" => 356,
        "amd64" => 319,
        "arm" => 385,
        "ppc64le" => 360,
        "s390x" => 350,
        _ => 279,
    }
}
