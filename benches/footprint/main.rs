//! Measures the footprint of pause and of its peers, in one run on this machine.
//!
//! ```text
//! cargo bench --bench footprint                            what is installed here
//! cargo bench --bench footprint -- PROGRAM…                and other pause binaries
//! cargo bench --bench footprint -- --from FILE --markdown  a table of a saved run
//! ```

mod cgroup;
mod layout;
mod measure;
mod process;
mod programs;

use std::fmt;
use std::fs;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use common::footprint::record::{Condition, Kind, Machine, Record, definitions, goals};
use common::footprint::{picture, tables};
use common::output::{Output, print};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use cgroup::{Hierarchy, Version};
use layout::Layout;
use measure::Subject;

/// Errors are messages for the user.
type Result<T> = std::result::Result<T, String>;

/// Measures the footprint of pause, of two programs in assembly, and of its installed peers among catatonit,
/// s6-pause, tini, dumb-init, busybox and sleep.
#[derive(Parser)]
#[command(name = "footprint", bin_name = "cargo bench --bench footprint --")]
struct Options {
    /// Other pause binaries, such as `/pause` from an image, each with a name to show in the tables, as in
    /// registry.k8s.io/pause:3.9=./pause. Without a name, the path is shown.
    #[arg(value_name = "[NAME=]PROGRAM")]
    programs: Vec<Given>,
    /// The OCI image layout of a program, such as pause=dist/oci. The size of the image is then shown.
    #[arg(long, value_name = "PROGRAM=FOLDER")]
    layout: Vec<Layout>,
    /// Measure 10, 100, 1,000… up to this many instances of each program at once.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..))]
    instances: u32,
    /// Save the run as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the figures as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the README's table instead of all figures.
    #[arg(long)]
    markdown: bool,
    /// Show a saved run instead of measuring.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["programs", "json", "instances", "layout"])]
    from: Option<PathBuf>,
    /// `cargo bench` passes this flag.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A program, and its name in the tables.
#[derive(Clone)]
struct Given {
    name: String,
    path: PathBuf,
}

impl std::str::FromStr for Given {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let (name, path) = text.split_once('=').unwrap_or((text, text));
        Ok(Self { name: name.into(), path: path.into() })
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.path.as_os_str() == self.name.as_str() {
            true => write!(f, "{path}"),
            false => write!(f, "{}={path}", self.name),
        }
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("footprint: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    if options.from.is_none() {
        if !is_root {
            process::enter_user_namespace()?;
        }
        // Before the temporary files below exist, so that a signal does not leave them behind.
        process::catch_interrupts()?;
    }
    // Opened now, so that a path that cannot be written is reported before the run, not after it.
    let open = |path: &Option<PathBuf>| path.as_deref().map(Output::new).transpose();
    let (json, svg) = (open(&options.json)?, open(&options.svg)?);
    let record = match &options.from {
        Some(file) => {
            let text = fs::read_to_string(file);
            let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?
        }
        None => measure(options, is_root)?,
    };
    let mut written = Vec::new();
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&record).map_err(|error| error.to_string())?;
        written.push(file.write(&(text + "\n")));
    }
    if let Some(file) = svg {
        written.push(file.write(&picture::svg(&record)));
    }
    // Printed even if a file could not be written, so that the figures of a long run are not lost.
    written.push(print(&match options.markdown {
        true => tables::markdown(&record),
        false => tables::all(&record),
    }));
    written.into_iter().collect()
}

/// Makes all measurements.
fn measure(options: &Options, is_root: bool) -> Result<Record> {
    let begin = Instant::now();
    let load_at_start = load();
    let mut notes = Vec::new();

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut subjects = Vec::new();
    for mut program in programs::all(folder, &options.programs)? {
        match measure::check(&mut program) {
            Ok(note) => {
                notes.extend(note);
                subjects.push(Subject::new(program));
            }
            Err(error) if program.kind == Kind::Installed => notes.push(error),
            Err(error) => return Err(error),
        }
    }
    for layout in &options.layout {
        let subject = subjects.iter_mut().find(|subject| subject.program.name == layout.program);
        let subject =
            subject.ok_or_else(|| format!("--layout: there is no `{}`", layout.program))?;
        subject.figures.image_bytes = Some(layout.image_bytes()?);
    }
    let mut controllers = |controller: &str, what: &str| match Hierarchy::find(controller) {
        Ok(hierarchy) => Some(hierarchy),
        Err(error) => {
            notes.push(format!("{what}: not measured: {error}"));
            None
        }
    };
    let memory = controllers("memory", "charged memory");
    let cpu = controllers("cpu", "orphans at the lowest CPU share");

    let instances = options.instances as usize;
    let mut counts: Vec<_> =
        (1..).map(|power| 10_usize.pow(power)).take_while(|&count| count < instances).collect();
    counts.push(instances);
    let bar = progress_bar((subjects.len() * (4 + 1 + 4 + counts.len()) + 21) as u64);
    let step = || bar.inc(1);

    bar.set_message("memory");
    measure::memory(&mut subjects, memory.as_ref(), &step)?;
    bar.set_message("start and end");
    measure::starts(&mut subjects, &step)?;
    bar.set_message("sandboxes");
    match podpause::memfd() {
        Ok(memfd) => {
            measure::sandboxes(&mut subjects, memfd.as_fd(), &step)?;
            let library = podpause::Program::new().map_err(|error| error.to_string())?;
            measure::library_sandboxes(&mut subjects, &library)?;
        }
        Err(error) => notes.push(format!("sandboxes: not measured: {error}")),
    }
    bar.set_message("orphans");
    measure::orphans(&mut subjects, Condition::Running, None, &step)?;
    measure::orphans(&mut subjects, Condition::Stopped, None, &step)?;
    measure::orphans(&mut subjects, Condition::Traced, None, &step)?;
    if cpu.is_some() {
        measure::orphans(&mut subjects, Condition::LowestCpuShare, cpu.as_ref(), &step)?;
    }
    bar.set_message("idle");
    measure::idle(&mut subjects, Duration::from_secs(10))?;
    for count in counts {
        bar.set_message(format!("{count} instances"));
        if let Err(error) = measure::scale(&mut subjects, memory.as_ref(), count, &step) {
            process::check_interrupt()?;
            // This machine may have no room for so many. The figures so far are still worth reporting.
            notes.push(format!("{count} instances: not measured: {error}"));
            break;
        }
    }
    bar.finish_and_clear();

    let programs: Vec<_> = subjects.into_iter().map(|subject| subject.figures).collect();
    let memory_cgroup = match memory.map(|memory| memory.version) {
        Some(Version::V1) => "version 1",
        Some(Version::V2) => "version 2",
        None => "none",
    };
    let seconds = begin.elapsed().as_secs();
    notes.push(format!("The run took {} min {} s.", seconds / 60, seconds % 60));
    Ok(Record {
        machine: machine(options, is_root, memory_cgroup, load_at_start),
        goals: goals(&programs),
        programs,
        notes,
        definitions: definitions(),
    })
}

fn progress_bar(length: u64) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template("{bar:40} {elapsed} {msg}");
    let bar = ProgressBar::with_draw_target(Some(length), target);
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

/// Describes the machine, without its host name.
fn machine(options: &Options, is_root: bool, memory_cgroup: &str, load: f64) -> Machine {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib = memory.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let is_of_number = |letter: char| letter.is_ascii_digit() || letter == '.';
    let number = release.split(|letter| !is_of_number(letter)).next().unwrap_or_default();
    let programs = options.programs.iter().map(Given::to_string);
    let layouts = options.layout.iter();
    let layouts = layouts
        .map(|Layout { program, folder }| format!("--layout {program}={}", folder.display()));
    let arguments = [format!("--instances {}", options.instances)];
    let arguments = arguments.into_iter().chain(layouts).chain(programs);
    Machine {
        architecture: std::env::consts::ARCH.into(),
        cpu: model.map_or("unknown", |(_, model)| model).into(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory_kib.unwrap_or_default() * 1_024,
        kernel: format!("Linux {number}"),
        page_bytes: procfs::page_size(),
        memory_cgroup: memory_cgroup.into(),
        user: if is_root { "root" } else { "ordinary" }.into(),
        command: format!(
            "cargo bench --bench footprint -- {}",
            arguments.collect::<Vec<_>>().join(" ")
        ),
        instances: options.instances as usize,
        load,
    }
}

/// The load average of the last minute: processes that are runnable or in uninterruptible sleep.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}
