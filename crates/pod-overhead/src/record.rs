//! What a run has found, as it is saved.

use serde::{Deserialize, Serialize};

use crate::pod::{Network, PidMode};
use crate::statistics::{Line, Quantiles};

/// What `--json` writes.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    /// This program and its version.
    pub program: String,
    /// Where it ran.
    pub machine: Machine,
    /// One for each handler.
    pub runs: Vec<Measured>,
}

/// What the machine is, without its name.
#[derive(Serialize, Deserialize)]
pub struct Machine {
    /// As the compiler names it.
    pub architecture: String,
    /// The model of the processor.
    pub cpu: String,
    /// Processors that this program may use.
    pub cpus: usize,
    /// All memory, in bytes.
    pub memory_bytes: u64,
    /// The number of the kernel's release: the rest of it may name who built it.
    pub kernel: String,
    /// The size of a page, in bytes.
    pub page_bytes: u64,
    /// The version of the cgroups that have the memory controller.
    pub cgroup_version: u8,
    /// Runnable processes, averaged over the minute before the run.
    pub load: f64,
}

/// The pods of one handler.
#[derive(Serialize, Deserialize)]
pub struct Measured {
    /// What was measured.
    pub subject: Subject,
    /// How many pods there were at once.
    pub pods: usize,
    /// All figures, each of one pod.
    pub figures: Vec<Figure>,
    /// How the figures grow with the number of pods.
    pub curve: Vec<Step>,
    /// Where the curve is not straight.
    pub bends: Vec<String>,
    /// What the node had more of when all pods were gone.
    pub left: Vec<Left>,
    /// For `RuntimeClass.overhead.podFixed`.
    pub overhead: Overhead,
}

/// What was measured.
#[derive(Serialize, Deserialize, Clone)]
pub struct Subject {
    /// The runtime and its version.
    pub runtime: String,
    /// The runtime handler. Empty if it is the default one, and the runtime does not tell its name.
    pub handler: String,
    /// The sandbox image, if the runtime tells it.
    pub image: Option<String>,
    /// The network of the pods.
    pub network: Network,
    /// The PID namespace of the pods.
    pub pid: PidMode,
    /// Containers in each pod.
    pub containers: usize,
    /// Their image.
    pub container_image: Option<String>,
    /// What the runtime runs outside of the pod's cgroup for each pod.
    pub runtime_processes: Vec<String>,
}

impl Subject {
    /// In a few words.
    pub fn name(&self) -> String {
        let handler = match self.handler.as_str() {
            "" => "default handler",
            handler => handler,
        };
        let image = self.image.as_deref().unwrap_or("unknown image");
        format!("{image}, {handler}, {}", self.runtime)
    }
}

/// A figure of one pod.
#[derive(Serialize, Deserialize, Clone)]
pub struct Figure {
    /// The table that it is in.
    pub group: String,
    /// Its name there.
    pub name: String,
    /// `ms`, `KiB`, or what is counted.
    pub unit: String,
    /// How many samples it is from.
    pub count: usize,
    /// The median, or the slope of a line through all samples.
    pub value: f64,
    /// The lower quartile; of a slope, the value less twice its standard error.
    pub low: f64,
    /// The upper quartile; of a slope, the value and twice its standard error.
    pub high: f64,
    /// The 95th percentile.
    pub p95: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// Of a slope, the share of the variance that the line explains.
    pub r_squared: Option<f64>,
}

impl Figure {
    /// From samples, of which there must be one.
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

    /// From the line through these points, of which there must be three.
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

/// The pods from one number to the next on the growth curve.
#[derive(Serialize, Deserialize)]
pub struct Step {
    /// How many pods there are at its end.
    pub pods: usize,
    /// Of the pods that it added.
    pub figures: Vec<Figure>,
}

/// What the node had more of after the run.
#[derive(Serialize, Deserialize)]
pub struct Left {
    /// The counter.
    pub name: String,
    /// `KiB`, or nothing if it is a number of things.
    pub unit: String,
    /// The value after the run less that before.
    pub value: f64,
}

/// What a RuntimeClass says of a pod beside its containers.
#[derive(Serialize, Deserialize)]
pub struct Overhead {
    /// The 95th percentile of memory, in bytes, not rounded.
    pub memory_bytes: f64,
    /// The 95th percentile of CPU time while idle, in thousandths of a CPU, not rounded.
    pub cpu_milli: f64,
}
