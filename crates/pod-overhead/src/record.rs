//! The results of a run, as they are saved.

use serde::{Deserialize, Serialize};

use crate::pod::{Network, PidMode};
use crate::statistics::{Line, Quantiles};

/// What `--json` writes.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    /// This program and its version.
    pub program: String,
    /// The machine that it ran on.
    pub machine: Machine,
    /// One for each handler.
    pub runs: Vec<Measured>,
}

/// A description of the machine, without its host name.
#[derive(Serialize, Deserialize)]
pub struct Machine {
    /// The architecture, as the Rust compiler names it.
    pub architecture: String,
    /// The model of the processor.
    pub cpu: String,
    /// Processors that this program may use.
    pub cpus: usize,
    /// All memory, in bytes.
    pub memory_bytes: u64,
    /// The version number of the kernel, such as `Linux 6.1.0`. The rest of the release string is left out,
    /// because it may identify who built the kernel.
    pub kernel: String,
    /// The size of a page, in bytes.
    pub page_bytes: u64,
    /// The version of the cgroup hierarchy that has the memory controller.
    pub cgroup_version: u8,
    /// The load average over the minute before the run.
    pub load: f64,
}

/// The results for the pods of one handler.
#[derive(Serialize, Deserialize)]
pub struct Measured {
    /// What was measured.
    pub subject: Subject,
    /// How many pods ran at the end of the growth curve.
    pub pods: usize,
    /// All figures: most of them are for one pod.
    pub figures: Vec<Figure>,
    /// How the figures grow with the number of pods.
    pub curve: Vec<Step>,
    /// Where the growth curve is not straight, in sentences.
    pub bends: Vec<String>,
    /// How the node's counters, after all pods were removed, differed from their values before the run.
    pub left: Vec<Left>,
    /// For `RuntimeClass.overhead.podFixed`.
    pub overhead: Overhead,
}

/// What was measured.
#[derive(Serialize, Deserialize, Clone)]
pub struct Subject {
    /// The runtime and its version.
    pub runtime: String,
    /// The runtime handler. Empty if it is the default one, and the runtime does not report its name.
    pub handler: String,
    /// The sandbox image, if the runtime reports it.
    pub image: Option<String>,
    /// The network of the pods.
    pub network: Network,
    /// The PID namespace of the pods.
    pub pid: PidMode,
    /// Containers in each pod.
    pub containers: usize,
    /// The image of the containers, if one was given.
    pub container_image: Option<String>,
    /// What the runtime runs outside of the pod's cgroup for each pod.
    pub runtime_processes: Vec<String>,
}

impl Subject {
    /// A short description: image, handler and runtime.
    pub fn name(&self) -> String {
        let handler = match self.handler.as_str() {
            "" => "default handler",
            handler => handler,
        };
        let image = self.image.as_deref().unwrap_or("unknown image");
        format!("{image}, {handler}, {}", self.runtime)
    }
}

/// A figure, usually for one pod.
#[derive(Serialize, Deserialize, Clone)]
pub struct Figure {
    /// The table that it is in.
    pub group: String,
    /// Its name there.
    pub name: String,
    /// `ms`, `KiB`, `pods/s`, `mCPU`, or empty for a count.
    pub unit: String,
    /// How many samples it is computed from; for a rate, how many pods.
    pub count: usize,
    /// The median, or the slope of a line through all samples.
    pub value: f64,
    /// The lower quartile; for a slope, the value minus twice its standard error.
    pub low: f64,
    /// The upper quartile; for a slope, the value plus twice its standard error.
    pub high: f64,
    /// The 95th percentile, except for a slope.
    pub p95: Option<f64>,
    /// The 99th percentile, except for a slope.
    pub p99: Option<f64>,
    /// For a slope, the share of the variance that the line explains.
    pub r_squared: Option<f64>,
}

impl Figure {
    /// From samples; `None` if there are none.
    pub fn of_samples(group: &str, name: &str, unit: &str, samples: &[f64]) -> Option<Self> {
        let quantiles = Quantiles::of(samples.iter().copied())?;
        Some(Self {
            group: group.into(),
            name: name.into(),
            unit: unit.into(),
            count: samples.len(),
            value: quantiles.median,
            low: quantiles.low,
            high: quantiles.high,
            p95: Some(quantiles.p95),
            p99: Some(quantiles.p99),
            r_squared: None,
        })
    }

    /// From the line through these points; `None` if there are fewer than three, or if all have the same x.
    pub fn of_slope(
        group: &str,
        name: &str,
        unit: &str,
        scale: f64,
        points: &[(f64, f64)],
    ) -> Option<Self> {
        let line = Line::fit(points)?;
        Some(Self {
            group: group.into(),
            name: name.into(),
            unit: unit.into(),
            count: points.len(),
            value: line.slope / scale,
            low: (line.slope - 2.0 * line.error) / scale,
            high: (line.slope + 2.0 * line.error) / scale,
            p95: None,
            p99: None,
            r_squared: Some(line.r_squared),
        })
    }
}

/// A step of the growth curve: the pods that were added between one total and the next.
#[derive(Serialize, Deserialize)]
pub struct Step {
    /// How many pods run at its end.
    pub pods: usize,
    /// The figures of the pods that it added.
    pub figures: Vec<Figure>,
}

/// How a counter of the node differed after the run.
#[derive(Serialize, Deserialize)]
pub struct Left {
    /// The counter.
    pub name: String,
    /// `KiB`, or empty for a count.
    pub unit: String,
    /// The value after the run minus the value before.
    pub value: f64,
}

/// The overhead that a RuntimeClass states: what a pod needs in addition to its containers.
#[derive(Serialize, Deserialize)]
pub struct Overhead {
    /// The 95th percentile of memory, in bytes, not rounded.
    pub memory_bytes: f64,
    /// The 95th percentile of CPU time while idle, in thousandths of a CPU, not rounded.
    pub cpu_milli: f64,
}
