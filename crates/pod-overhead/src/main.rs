//! Measures what a pod costs on this node: it has the node's own container runtime run pods, reads what the
//! kernel reports about them, and removes them.
//!
//! [`mod@measure`] is the measurement, [`cri`] talks to the runtime, [`cgroup`], [`processes`] and [`node`]
//! read from the kernel, and [`report`] and [`picture`] show the results.

mod cgroup;
mod cri;
mod interrupt;
mod measure;
mod node;
mod picture;
mod pod;
mod processes;
mod record;
mod report;
mod statistics;

use std::fs;
use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use procfs::process::Process;
use procfs::{Current, LoadAverage, Meminfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use cgroup::Hierarchies;
use cri::Cri;
use measure::{Measurement, Plan, RUN_ON_THE_NODE};
use pod::{Kind, Network, PidMode, Run};
use record::{Machine, Measured, Saved, Subject};

/// Measure what a pod costs on this node: time, memory, processes, mounts and devices.
///
/// It has the node's own container runtime start pods, reads what the kernel reports about them, and removes
/// them. It must run on the node, as root. It removes only pods that pod-overhead itself has made.
#[derive(Parser)]
#[command(version, after_help = HELP)]
struct Arguments {
    /// The socket of the runtime, as unix:///PATH [default: the first of the usual ones that exists]
    #[arg(long, value_name = "ENDPOINT")]
    runtime_endpoint: Option<String>,
    /// The runtime handler; give this option several times to measure handlers in turn and compare them
    /// [default: the runtime's default]
    #[arg(long, value_name = "NAME")]
    runtime_handler: Vec<String>,
    /// How many pods to run together; they are started one after the other
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    pods: u32,
    /// How many pods to start at the same time, to measure pods per second; 0 skips this
    #[arg(long, value_name = "N", default_value_t = 10)]
    at_once: u32,
    /// How many containers to run in each pod
    #[arg(long, value_name = "N", default_value_t = 0)]
    containers: u32,
    /// The image of the containers, which must be on the node [default: the sandbox image]
    #[arg(long, value_name = "IMAGE", requires = "containers")]
    image: Option<String>,
    /// Which network the pods use
    #[arg(long, value_enum, default_value_t = Network::Pod)]
    network: Network,
    /// Which PID namespace the containers of a pod use
    #[arg(long, value_enum, default_value_t = PidMode::Pod)]
    pid: PidMode,
    /// An annotation of the sandboxes; this option can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    annotation: Vec<(String, String)>,
    /// The parent of the pods' cgroups, such as /kubepods; ignored with the systemd cgroup driver
    #[arg(long, value_name = "PATH", default_value = "/")]
    cgroup_parent: String,
    /// Save the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the results as SVG, together with those of --against
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Compare with the first run in a file that --json wrote
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Measure nothing: read the results from a file that --json wrote, and show them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "runtime_endpoint", "runtime_handler"])]
    from: Option<PathBuf>,
    /// Answer yes to all questions: remove the pods of earlier runs, make more pods than there is room for
    #[arg(long)]
    yes: bool,
}

const HELP: &str = "\
The node's kubelet removes pods that it does not know. Stop it while this runs; the node's pods keep running.

Examples:
  pod-overhead
  pod-overhead --runtime-handler runc --runtime-handler kata --pods 30
  pod-overhead --json before.json      # then change the sandbox image, and
  pod-overhead --against before.json --svg both.svg";

/// How long to wait for a pod that the runtime may still complete after its call got no answer.
const LATE: Duration = Duration::from_secs(5);

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
    let against = arguments.against.as_deref().map(load).transpose()?;
    // Opened now, so that a path that cannot be written is reported before the run, not after it.
    let output = |path: &Option<PathBuf>| path.as_deref().map(Output::new).transpose();
    let (json, svg) = (output(&arguments.json)?, output(&arguments.svg)?);
    let (saved, error) = match &arguments.from {
        Some(file) => (load(file)?, None),
        None => {
            interrupt::catch()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure_all(arguments))?
        }
    };
    // What was measured before an error is still shown and saved.
    if saved.runs.is_empty() {
        return error.map_or(Ok(()), Err);
    }
    let mut text = report::text(&saved);
    for (ours, theirs) in report::pairs(&saved, against.as_ref()) {
        text += &report::comparison(ours, theirs);
    }
    let shown = match std::io::stdout().write_all(text.as_bytes()) {
        // The reader, such as head(1), has closed the pipe.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write the report"),
    };
    if let Some(file) = json {
        file.write(&(serde_json::to_string_pretty(&saved)? + "\n"))?;
    }
    if let Some(file) = svg {
        let theirs = against.iter().flat_map(|against| &against.runs);
        file.write(&picture::svg(&saved.runs.iter().chain(theirs).collect::<Vec<_>>())?)?;
    }
    error.map_or(shown, Err)
}

/// Measures with each handler. Then, also after an error, removes all pods of this run. Returns what was
/// measured, and the error that ended the measurement, if any.
async fn measure_all(arguments: &Arguments) -> Result<(Saved, Option<Error>)> {
    let cri = Cri::connect(arguments.runtime_endpoint.as_deref()).await?;
    cri.check_ready(arguments.network).await?;
    let about = cri.about().await?;
    for handler in &arguments.runtime_handler {
        let is_known = about.handlers.is_empty() || about.handlers.contains(handler);
        let known = about.handlers.join(", ");
        ensure!(is_known, "the runtime has no handler {handler}; it has: {known}");
    }
    if let Some(image) = &arguments.image {
        cri.check_image(image).await?;
    }
    // Another process is recognised by its id, which needs the node's own PID namespace.
    ensure!(
        cri.daemon.is_some_and(|pid| Process::new(pid).is_ok()),
        "the runtime's process is not visible here: {RUN_ON_THE_NODE}"
    );
    let own = Run::own()?;
    remove_leftovers(&cri, about.is_systemd, &arguments.cgroup_parent, arguments.yes).await?;
    if let Some(kubelet) = kubelet() {
        eprintln!(
            "warning: a kubelet runs here (PID {kubelet}). It removes pods that it does not know: stop it \
             while this runs (systemctl stop kubelet); the node's pods keep running"
        );
    }
    let machine = machine()?;
    let handlers = match arguments.runtime_handler.as_slice() {
        [] => vec![String::new()],
        handlers => handlers.to_vec(),
    };
    let mut runs = Vec::new();
    let mut error = None;
    for handler in handlers {
        let kind = Kind {
            handler: handler.clone(),
            network: arguments.network,
            pid: arguments.pid,
            cgroup_parent: arguments.cgroup_parent.clone(),
            is_systemd: about.is_systemd,
            annotations: arguments.annotation.clone(),
        };
        let name = if handler.is_empty() { about.default_handler.clone() } else { Some(handler) };
        let subject = Subject {
            runtime: cri.version.clone(),
            handler: name.unwrap_or_default(),
            image: None,
            network: arguments.network,
            pid: arguments.pid,
            containers: arguments.containers as usize,
            container_image: arguments.image.clone(),
            runtime_processes: Vec::new(),
        };
        let (pods, at_once) = (arguments.pods as usize, arguments.at_once as usize);
        let plan = Plan { kind, subject, pods, at_once };
        let what = format!("measure with the handler {}", plan.subject.name());
        match measure_one(&cri, &own, &plan, arguments.yes).await {
            Ok((measured, found)) => {
                runs.push(measured);
                error = found.map(|error| error.context(what));
            }
            Err(found) => error = Some(found.context(what)),
        }
        if error.is_some() {
            break;
        }
    }
    let bar = progress_bar(0, "removal");
    let mut removed = measure::remove_all(&cri, std::slice::from_ref(&own), &bar).await;
    if removed.is_ok() && error.as_ref().is_some_and(|error| error.is::<cri::NoAnswer>()) {
        // The runtime may still complete the call that got no answer.
        tokio::time::sleep(LATE).await;
        removed = measure::remove_all(&cri, std::slice::from_ref(&own), &bar).await;
    }
    bar.finish_and_clear();
    if let Err(found) = removed {
        eprintln!(
            "warning: could not remove all pods of this run: {found:#}; the next run will offer to remove \
             them"
        );
    }
    if about.is_systemd {
        stop_slice(&own);
    }
    Ok((Saved { program: program(), machine, runs }, error))
}

/// Measures one kind of pods. Returns an error beside the figures if only their last part failed.
async fn measure_one(
    cri: &Cri,
    own: &Run,
    plan: &Plan,
    yes: bool,
) -> Result<(Measured, Option<Error>)> {
    let bar = progress_bar(2 * plan.pods as u64, "one pod");
    let mut subject = plan.subject.clone();
    let mut measurement = Measurement::new(cri, own, plan, &bar)?;
    if let Some(objection) = measurement.try_one(&mut subject).await? {
        bar.suspend(|| confirm(&objection, "Make them anyway?", yes))?;
    }
    let measured = measurement.measure(subject).await;
    bar.finish_and_clear();
    measured
}

/// Removes the pods that earlier runs have left, if the user agrees.
async fn remove_leftovers(cri: &Cri, is_systemd: bool, parent: &str, yes: bool) -> Result<()> {
    let present = processes::present()?;
    let left = cri.ours(None).await?;
    if let Some((_, run, _)) = left.iter().find(|(_, run, _)| run.is_alive(&present)) {
        bail!(
            "another run is in progress, as process {} clock ticks after boot: wait until it ends",
            run.0.replace('_', ", started ")
        );
    }
    let mut runs: Vec<Run> = Vec::new();
    for (_, run, _) in &left {
        if runs.iter().all(|known| known.0 != run.0) {
            runs.push(run.clone());
        }
    }
    if !left.is_empty() {
        let found = format!("{} pods are left over from earlier runs", left.len());
        confirm(&found, "Remove them?", yes)?;
        let bar = progress_bar(left.len() as u64, "removal");
        measure::remove_all(cri, &runs, &bar).await?;
        bar.finish_and_clear();
        if is_systemd {
            runs.iter().for_each(stop_slice);
        }
    }
    // Cgroups may be left even if their pods are gone. This looks only below the parent: elsewhere, there may be
    // cgroups of a run in another PID namespace, which is alive although its process is not visible here.
    let parent = if is_systemd { "/" } else { parent };
    Hierarchies::read()?.remove(parent, &|name| {
        let run = name.strip_prefix("podoverhead-").and_then(|rest| rest.split('-').next());
        run.is_some_and(|run| !Run(run.into()).is_alive(&present))
    });
    Ok(())
}

/// Asks on the terminal. Without a terminal, only `--yes` is a yes.
fn confirm(found: &str, question: &str, yes: bool) -> Result<()> {
    if yes {
        eprintln!("{found}.");
        return Ok(());
    }
    ensure!(
        std::io::stdin().is_terminal(),
        "{found}. {question} stdin is not a terminal: to answer yes, give --yes"
    );
    eprint!("{found}. {question} [y/N] ");
    std::io::stderr().flush()?;
    // A signal ends the wait for the answer.
    let stdin = std::io::stdin();
    let time = Timespec::try_from(interrupt::INTERVAL).expect("a short time");
    while retry_on_intr(|| poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&time)))? == 0 {
        interrupt::check()?;
    }
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("read the answer")?;
    interrupt::check()?;
    ensure!(answer.trim().eq_ignore_ascii_case("y"), "stopped: the answer was not y");
    Ok(())
}

/// The PID of a kubelet, if one runs.
fn kubelet() -> Option<i32> {
    let mut all =
        procfs::process::all_processes().ok()?.filter_map(|process| process.ok()?.stat().ok());
    all.find(|stat| stat.comm == "kubelet").map(|stat| stat.pid)
}

/// Stops the slice in which systemd has put the pods' cgroups: systemd keeps it until it is stopped.
fn stop_slice(run: &Run) {
    let slice = format!("podoverhead-{}.slice", run.0);
    let status = std::process::Command::new("systemctl").args(["stop", &slice]).status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("warning: {slice} may be left over: stop it with systemctl stop {slice}");
    }
}

/// A progress bar on stderr; it is hidden if stderr is not a terminal.
fn progress_bar(length: u64, message: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
    let bar = ProgressBar::new(length).with_style(style.expect("a valid template"));
    bar.with_message(message)
}

/// A description of the machine, without its host name.
fn machine() -> Result<Machine> {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let release = procfs::sys::kernel::Version::current().context("read the kernel's version")?;
    Ok(Machine {
        architecture: std::env::consts::ARCH.into(),
        cpu: model.map_or("unknown", |(_, model)| model).into(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: Meminfo::current().context("read /proc/meminfo")?.mem_total,
        kernel: format!("Linux {}.{}.{}", release.major, release.minor, release.patch),
        page_bytes: procfs::page_size(),
        cgroup_version: Hierarchies::read()?.version()?,
        // procfs reads it as an f32: this restores the two decimals of /proc/loadavg.
        load: (f64::from(LoadAverage::current().context("read /proc/loadavg")?.one) * 100.0)
            .round()
            / 100.0,
    })
}

fn program() -> String {
    format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

fn load(file: &Path) -> Result<Saved> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let name = file.display();
    serde_json::from_str(&text)
        .with_context(|| format!("{name}: it is not a file that --json wrote"))
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

/// A file that is written as a whole or not at all.
struct Output {
    path: PathBuf,
    file: tempfile::NamedTempFile,
}

impl Output {
    fn new(path: &Path) -> Result<Self> {
        let failed = || format!("write {}", path.display());
        // Renaming would replace a link or a device instead of writing to it.
        let path = match path.symlink_metadata() {
            Ok(_) => path.canonicalize().with_context(failed)?,
            Err(_) => path.to_owned(),
        };
        let is_other = path.exists() && !path.is_file();
        ensure!(!is_other, "write {}: it is not a regular file: name one", path.display());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let file = tempfile::Builder::new()
            .prefix(".pod-overhead-")
            .permissions(fs::Permissions::from_mode(0o666)) // less the umask, as for any new file
            .tempfile_in(folder.unwrap_or(Path::new(".")));
        let file = file.with_context(|| format!("write {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn write(mut self, text: &str) -> Result<()> {
        let failed = || format!("write {}", self.path.display());
        self.file.write_all(text.as_bytes()).with_context(failed)?;
        self.file.persist(&self.path).with_context(failed)?;
        Ok(())
    }
}
