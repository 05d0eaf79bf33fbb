//! Writes the OCI image of `pause`, the infra container of a pod. The image is reproducible, and building it
//! needs only Rust.
//!
//! [`compiler`] compiles the program, [`mod@image`] builds the image in memory, and [`output`] writes it.
//! [`mod@verify`] compares an image that was written earlier with a new build.

mod archive;
mod blob;
mod c_header;
mod compiler;
mod go;
mod image;
mod interrupt;
mod output;
mod platform;
mod provenance;
mod sbom;
mod timestamp;
mod verify;

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use oci_spec::distribution::Reference;

use image::{BUDGET_BYTES, Image};
use output::Output;
use platform::{PLATFORMS, Platform};
use timestamp::Time;
use verify::Written;

/// Write the OCI image of pause. The image is reproducible, and building it needs only Rust.
#[derive(Parser)]
#[command(version, after_help = HELP)]
struct Arguments {
    /// The directory to write, which must be empty or not exist yet
    #[arg(long, value_name = "FOLDER", required_unless_present_any = ["verify", "list_platforms"])]
    out: Option<PathBuf>,
    /// Platforms such as linux/arm64, separated by commas, or `all` [default: this machine's]
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    platform: Vec<String>,
    /// The full name of the image, with a tag
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME, value_parser = full_name)]
    tag: Reference,
    /// The git commit of the source, for the provenance
    #[arg(long, value_name = "COMMIT", value_parser = commit)]
    revision: Option<String>,
    /// Write nothing: rebuild the image in this directory or OCI layout, and print any differences
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["out", "platform", "tag", "revision"])]
    verify: Option<PathBuf>,
    /// Write nothing: print each platform and its compiler target
    #[arg(long, exclusive = true)]
    list_platforms: bool,
}

/// The last element is `pause`, because monitoring tools recognise the infra container by this name.
const DEFAULT_NAME: &str = concat!("localhost/podpause/pause:", env!("CARGO_PKG_VERSION"));

const HELP: &str = "\
Files in FOLDER:
  oci/                      the image as an OCI layout, with the SBOM and the provenance as referrers
  pause.tar                 the image as one file, for podman, containerd, docker, skopeo, buildah
  pause-linux-amd64, …      the programs
  pause.h                   the programs as C arrays
  go/                       the programs as a Go module
  pause.cdx.json            the SBOM, in CycloneDX format
  pause.provenance.json     how it was built: an in-toto statement with SLSA provenance v1
  SHA256SUMS                checksums of the files above, except those in oci/ and go/

Platforms:
  --list-platforms prints them. Each platform needs its target installed, for example:
  rustup target add aarch64-unknown-linux-gnu

Environment:
  RUSTC                     the compiler [default: rustc]
  SOURCE_DATE_EPOCH         the creation time in seconds since 1970 [default: 0]

Examples:
  podpause-image --out dist
  podman load --input dist/pause.tar
  ctr --namespace k8s.io images import dist/pause.tar

  podpause-image --out dist --platform all --tag registry.example/infra/pause:0.2.0
  skopeo copy --all oci:dist/oci:0.2.0 docker://registry.example/infra/pause:0.2.0
  tag=$(jq -r '.manifests[0].digest' dist/oci/index.json | tr : -)    # tag of SBOM and provenance
  skopeo copy --all oci:dist/oci:$tag docker://registry.example/infra/pause:$tag

  podpause-image --verify dist         # needs the compiler version that the SBOM names";

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.list_platforms {
        let lines =
            PLATFORMS.iter().map(|Platform { name, target, .. }| format!("{name} {target}\n"));
        return print(&lines.collect::<String>());
    }
    interrupt::catch()?;
    if let Some(folder) = &arguments.verify {
        return verify(folder).with_context(|| format!("--verify {}", folder.display()));
    }
    let platforms = platform::chosen(&arguments.platform)?;
    let created = Time::from_environment()?;
    let output = Output::new(arguments.out.as_ref().expect("clap requires it"))?;
    let image = build(&platforms, created, arguments.revision.as_deref())?;
    for part in &image.platforms {
        let (name, size_bytes) = (part.platform.name, part.size_bytes());
        if size_bytes > BUDGET_BYTES {
            bail!("{name}: the image has {size_bytes} bytes, more than the {BUDGET_BYTES} allowed");
        }
    }
    output.write(&output::files(&image, &arguments.tag, created)?)?;
    print(&format!("{}{}\n", table(&image)?, arguments.tag))
}

/// Rebuilds the image that a directory contains, with the same platforms, time, name and commit, and compares
/// both.
fn verify(folder: &Path) -> Result<()> {
    let written = Written::open(folder)?;
    let revision = written.revision()?;
    let built = build(&written.platforms()?, written.created()?, revision.as_deref())?;
    let differences = written.differences(&built)?;
    if differences.is_empty() {
        let (table, folder) = (table(&built)?, folder.display());
        return print(&format!("{table}{folder} is identical to the new build\n"));
    }
    print(&(differences.join("\n") + "\n"))?;
    let count = differences.len();
    bail!("not identical to the new build with {}: {count} differences", built.compiler);
}

/// Builds the image, with a progress bar on a terminal.
fn build(platforms: &[&'static Platform], created: Time, revision: Option<&str>) -> Result<Image> {
    let bar = ProgressBar::new(platforms.len() as u64).with_style(
        ProgressStyle::with_template("{bar:20} {pos}/{len} {msg}").expect("a valid template"),
    );
    let image = Image::build(platforms, created, revision, |platform| {
        bar.set_message(platform.name);
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    Ok(image)
}

/// A table with a line for each platform, and one for the index.
fn table(image: &Image) -> Result<String> {
    let mut text = format!("{:15}{:>9}{:>9}  digest\n", "platform", "program", "image");
    for part in &image.platforms {
        let (name, program_bytes) = (part.platform.name, part.program.len());
        let digest = part.manifest.digest();
        writeln!(text, "{name:15}{program_bytes:>7} B{:>7} B  {digest}", part.size_bytes())?;
    }
    writeln!(text, "{:33}  {}", "index", image.index.digest())?;
    Ok(text)
}

/// Writes to stdout. `print!` would panic on an error.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // The reader, such as head(1), has closed the pipe.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to stdout"),
    }
}

/// Accepts the full hash of a git commit.
fn commit(text: &str) -> Result<String, &'static str> {
    let is_hexadecimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match is_hexadecimal && matches!(text.len(), 40 | 64) {
        true => Ok(text.to_owned()),
        false => Err("not the full hash of a commit, such as `git rev-parse HEAD` prints"),
    }
}

/// Accepts a name with a registry and a tag, which all tools interpret alike.
fn full_name(text: &str) -> Result<Reference, String> {
    let name: Reference = text.parse().map_err(|error| format!("{error}"))?;
    if name.digest().is_some() {
        return Err("the name must not contain a digest".into());
    }
    if name.whole() != text {
        return Err(format!("not a full name with a tag; did you mean {name}?"));
    }
    Ok(name)
}
