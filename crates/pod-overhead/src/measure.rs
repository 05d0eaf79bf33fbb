//! The measurement: how the figures grow with the number of pods (the growth curve), how long removal takes,
//! and how fast several pods start and are removed at the same time.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use indicatif::ProgressBar;
use procfs::process::Process;
use procfs::{Current, Meminfo};

use crate::cgroup::{self, CHARGED, Charge, Hierarchies};
use crate::cri::{Cri, NoAnswer};
use crate::interrupt;
use crate::node::{self, COUNTERS, Reading, Unit};
use crate::pod::{self, Kind, Pod, Run};
use crate::processes::{self, Identity, Sums};
use crate::record::{Figure, Left, Measured, Overhead, Step, Subject};

/// How long to wait before reading the counters of a cgroup. Each CPU counts for itself, and the kernel adds
/// up these counts only every two seconds.
const SETTLE: Duration = Duration::from_millis(2_500);
/// How long CPU time is counted while the pods do nothing.
const IDLE: Duration = Duration::from_secs(5);
/// How long the node is given to free what the pods used.
const GIVE_BACK: Duration = Duration::from_secs(10);

const TIMES: &str = "Time";
/// The group of the figures of [`crate::cgroup::charge`].
pub const CGROUP: &str = "Memory charged to the pod's cgroup";
const PROCESSES: &str = "Memory of processes";
/// The group of the node's memory counters: how much each grows with each pod.
pub const NODE: &str = "Memory of the node, by the growth with each pod";
const THINGS: &str = "Things";
const CPU: &str = "CPU while idle";

/// The advice if processes of the node are not visible.
pub const RUN_ON_THE_NODE: &str = "run this on the node itself, or in its PID namespace (hostPID)";

/// What is to be measured.
pub struct Plan {
    /// The settings of the pods.
    pub kind: Kind,
    /// What is measured, for the report.
    pub subject: Subject,
    /// How many pods run at the end of the growth curve.
    pub pods: usize,
    /// How many pods are started at the same time, after those of the growth curve are removed.
    pub at_once: usize,
}

/// A measurement of one kind of pods.
pub struct Measurement<'a> {
    cri: &'a Cri,
    run: &'a Run,
    plan: &'a Plan,
    hierarchies: Hierarchies,
    before: HashSet<Identity>,
    bar: &'a ProgressBar,
}

/// Everything that was read about the pods at one moment.
struct Snapshot {
    charges: Vec<Charge>,
    sums: Vec<Sums>,
    /// When the sums were read.
    times: Vec<Instant>,
    mounts: Vec<f64>,
    devices: Vec<f64>,
}

/// What was sampled for each pod as it was made.
#[derive(Default)]
struct Samples {
    run_ms: Vec<f64>,
    containers_ms: Vec<f64>,
    node: Vec<Reading>,
    daemon_pss: Vec<f64>,
}

impl<'a> Measurement<'a> {
    /// Prepares the measurement, and notes which processes exist before the pods.
    pub fn new(cri: &'a Cri, run: &'a Run, plan: &'a Plan, bar: &'a ProgressBar) -> Result<Self> {
        let (hierarchies, before) = (Hierarchies::read()?, processes::present()?);
        Ok(Self { cri, run, plan, hierarchies, before, bar })
    }

    /// Runs one pod and removes it. This finds errors that would affect all pods, fills caches, and shows
    /// what one pod needs. Returns an objection if the node does not have room for as many pods as planned.
    pub async fn try_one(&mut self, subject: &mut Subject) -> Result<Option<String>> {
        let pod = self.make(0, &mut Samples::default()).await?;
        subject.image.clone_from(&pod.image);
        let snapshot = self.snapshot(std::slice::from_ref(&pod))?;
        let (charge, sums) = (&snapshot.charges[0], &snapshot.sums[0]);
        subject.runtime_processes.clone_from(&sums.names_outside);
        let count = self.plan.pods.max(self.plan.at_once) as u64;
        let mut objections = Vec::new();
        let mut check = |limit: &str, unit: &str, each: u64, free: u64| {
            let needed = each * count;
            if needed > free {
                objections.push(format!(
                    "{count} pods need about {needed} {unit}, but only {free} {unit} are free {limit}"
                ));
            }
        };
        let threads = sums.threads as u64;
        check("within the node's limit", "threads", threads, node::free_pids()?);
        let memory = (charge[0].1 + sums.pss_outside) as u64 >> 20;
        let available = Meminfo::current()?.mem_available.unwrap_or(u64::MAX) >> 20;
        check("in the node's memory", "MiB", memory.max(1), available);
        let inside = Process::new(pod.pid).context("the sandbox has ended")?;
        let daemon = self.cri.daemon.and_then(|pid| Process::new(pid).ok());
        // The ancestors of the pod's cgroup may have limits, too. So may the daemon's cgroup, in which its
        // shims may run.
        for process in [Some(inside), daemon].into_iter().flatten() {
            if let Some(free) = self.hierarchies.free(&process, "pids") {
                check("within a cgroup's pids.max", "threads", threads, free);
            }
            if let Some(free) = self.hierarchies.free(&process, "memory") {
                check("within a cgroup's memory limit", "MiB", memory.max(1), free >> 20);
            }
        }
        self.cri.remove(&pod.id).await?;
        Ok(objections.into_iter().next())
    }

    /// Does the whole measurement. Returns an error beside the figures if only the pods at once failed.
    pub async fn measure(&mut self, mut subject: Subject) -> Result<(Measured, Option<Error>)> {
        tokio::time::sleep(SETTLE).await;
        let baseline = node::read()?;
        let mut samples = Samples::default();
        let mut pods: Vec<Pod> = Vec::new();
        let mut curve = Vec::new();
        let mut last = None;
        for count in steps(self.plan.pods) {
            self.bar.set_message(format!("{count} pods"));
            let from = pods.len();
            while pods.len() < count {
                let number = pods.len() + 1;
                let pod = self.make(number, &mut samples).await;
                pods.push(pod.with_context(|| format!("pod {number} of {}", self.plan.pods))?);
                self.bar.inc(1);
            }
            self.pause(SETTLE).await?;
            let snapshot = self.snapshot(&pods)?;
            curve.push(Step { pods: count, figures: step(from, &samples, &snapshot) });
            last = Some(snapshot);
        }
        let last = last.context("there are no pods")?;
        self.bar.set_message("idle");
        self.pause(IDLE).await?;
        let later = self.snapshot(&pods)?;
        // A snapshot of many pods takes seconds, so each pod has its own interval.
        let cpu_milli = (0..pods.len()).map(|pod| {
            let seconds = (later.times[pod] - last.times[pod]).as_secs_f64();
            ((later.sums[pod].cpu_ns - last.sums[pod].cpu_ns) / 1e6 / seconds).max(0.0)
        });
        let cpu_milli: Vec<_> = cpu_milli.collect();

        self.bar.set_message("removal");
        let mut remove_ms = Vec::new();
        for pod in &pods {
            interrupt::check()?;
            let begin = Instant::now();
            self.cri.remove(&pod.id).await?;
            remove_ms.push(ms(begin));
            self.bar.inc(1);
        }
        self.remove_cgroups();
        let left = self.left(&baseline).await?;
        let (rates, error) = match self.plan.at_once {
            0 => (None, None),
            count => match self.at_once(count).await {
                Ok(rates) => (Some(rates), None),
                Err(error) => (None, Some(error)),
            },
        };

        subject.runtime_processes.clone_from(&last.sums[0].names_outside);
        let mut figures = Vec::new();
        let mut add = |figure: Option<Figure>| figures.extend(figure);
        add(Figure::of_samples(TIMES, "RunPodSandbox", "ms", &samples.run_ms));
        add(Figure::of_samples(TIMES, "create and start containers", "ms", &samples.containers_ms));
        add(Figure::of_samples(TIMES, "StopPodSandbox and RemovePodSandbox", "ms", &remove_ms));
        if let Some((run, remove)) = rates {
            let count = self.plan.at_once;
            let rate = |name: String, value| Figure {
                count,
                ..Figure::of_samples(TIMES, &name, "pods/s", &[value]).expect("one sample")
            };
            add(Some(rate(format!("RunPodSandbox, {count} at once"), run)));
            add(Some(rate(format!("Stop and remove, {count} at once"), remove)));
        }
        for (index, (name, _)) in last.charges[0].iter().enumerate() {
            let bytes = last.charges.iter().map(|charge| charge[index].1 / 1_024.0);
            add(Figure::of_samples(CGROUP, name, "KiB", &bytes.collect::<Vec<_>>()));
        }
        let of_sums =
            |figure: &dyn Fn(&Sums) -> f64| -> Vec<f64> { last.sums.iter().map(figure).collect() };
        let inside = of_sums(&|sums| sums.pss_inside / 1_024.0);
        add(Figure::of_samples(PROCESSES, "in the pod's cgroup, PSS", "KiB", &inside));
        let outside = of_sums(&|sums| sums.pss_outside / 1_024.0);
        add(Figure::of_samples(PROCESSES, "the runtime's, for the pod, PSS", "KiB", &outside));
        let private = of_sums(&|sums| sums.private_outside / 1_024.0);
        add(Figure::of_samples(PROCESSES, "the runtime's, for the pod, private", "KiB", &private));
        let points = |values: &dyn Fn(usize) -> f64| -> Vec<(f64, f64)> {
            (0..samples.node.len()).map(|index| ((index + 1) as f64, values(index))).collect()
        };
        if samples.daemon_pss.len() == samples.node.len() {
            let daemon = points(&|index| samples.daemon_pss[index]);
            add(Figure::of_slope(
                PROCESSES,
                "the runtime's daemon, growth of PSS",
                "KiB",
                1_024.0,
                &daemon,
            ));
        }
        for (index, counter) in COUNTERS.iter().enumerate() {
            let points = points(&|pod| samples.node[pod][index]);
            // The kernel does not report every counter.
            if points.iter().any(|(_, value)| value.is_nan()) {
                continue;
            }
            add(match counter.unit {
                Unit::Bytes => Figure::of_slope(NODE, counter.name, "KiB", 1_024.0, &points),
                Unit::Count => {
                    let name = format!("{}, on the node", counter.name);
                    Figure::of_slope(THINGS, &name, "", 1.0, &points)
                }
            });
        }
        add(Figure::of_samples(THINGS, "processes", "", &of_sums(&|sums| sums.processes)));
        add(Figure::of_samples(THINGS, "threads", "", &of_sums(&|sums| sums.threads)));
        add(Figure::of_samples(THINGS, "descriptors", "", &of_sums(&|sums| sums.descriptors)));
        add(Figure::of_samples(THINGS, "mounts in the sandbox", "", &last.mounts));
        add(Figure::of_samples(THINGS, "network devices in the sandbox", "", &last.devices));
        add(Figure::of_samples(CPU, "all processes of the pod", "mCPU", &cpu_milli));

        let memory = last.charges.iter().zip(&last.sums);
        let memory: Vec<_> = memory.map(|(charge, sums)| charge[0].1 + sums.pss_outside).collect();
        let p95 = |samples: &[f64]| {
            crate::statistics::Quantiles::of(samples.iter().copied()).map_or(0.0, |found| found.p95)
        };
        let overhead = Overhead { memory_bytes: p95(&memory), cpu_milli: p95(&cpu_milli) };
        let bends = bends(&curve);
        let pods = self.plan.pods;
        Ok((Measured { subject, pods, figures, curve, bends, left, overhead }, error))
    }

    /// Makes a pod, and adds its times and the node's counters to the samples.
    async fn make(&self, number: usize, samples: &mut Samples) -> Result<Pod> {
        interrupt::check()?;
        let marker = self.run.marker(number);
        let (cri, kind, subject) = (self.cri, &self.plan.kind, &self.plan.subject);
        let begin = Instant::now();
        let id = cri.run(kind, self.run, &marker).await?;
        samples.run_ms.push(ms(begin));
        let sandbox = cri.sandbox(&id).await?;
        if subject.containers > 0 {
            let image = subject.container_image.clone().or_else(|| sandbox.image.clone());
            let image =
                image.context("the runtime does not report its sandbox image: give --image")?;
            let begin = Instant::now();
            for container in 0..subject.containers {
                cri.start_container(kind, self.run, &marker, &id, container, &image).await?;
            }
            samples.containers_ms.push(ms(begin));
        }
        let process = Process::new(sandbox.pid).with_context(|| {
            format!(
                "the process of the sandbox, {}, is not visible here: {RUN_ON_THE_NODE}",
                sandbox.pid
            )
        })?;
        let cgroup = pod::pod_cgroup(self.hierarchies.memory_of(&process)?, &marker);
        samples.node.push(node::read()?);
        let daemon = cri.daemon.and_then(|pid| Process::new(pid).ok());
        let daemon = daemon.and_then(|daemon| processes::memory(&daemon).ok());
        samples.daemon_pss.extend(daemon.map(|memory| memory.pss));
        let (run, pid, image) = (self.run.clone(), sandbox.pid, sandbox.image);
        Ok(Pod { number, run, id, pid, image, cgroup })
    }

    /// Reads everything about these pods.
    fn snapshot(&self, pods: &[Pod]) -> Result<Snapshot> {
        let version = self.hierarchies.version()?;
        let members = processes::of_pods(pods, &self.before)?;
        let own_network = network_of(&Process::myself()?);
        let mut snapshot = Snapshot {
            charges: Vec::new(),
            sums: Vec::new(),
            times: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
        };
        for (pod, members) in pods.iter().zip(&members) {
            let process = Process::new(pod.pid).with_context(|| {
                format!("the sandbox of pod {} has ended, or somebody has removed it", pod.number)
            })?;
            let charge = cgroup::charge(&pod.cgroup, version);
            snapshot.charges.push(charge.context("read the memory of a pod's cgroup")?);
            snapshot.sums.push(processes::sums(members)?);
            snapshot.times.push(Instant::now());
            snapshot.mounts.push(process.mountinfo().map_or(0, |mounts| mounts.0.len()) as f64);
            // On the node's network, the devices are not the pod's.
            let is_own = network_of(&process) != own_network;
            let devices = process.dev_status().map_or(0, |devices| devices.len());
            snapshot.devices.push(if is_own { devices as f64 } else { 0.0 });
        }
        Ok(snapshot)
    }

    /// How the node's counters, [`GIVE_BACK`] after the removal of the pods, differ from the baseline.
    async fn left(&self, baseline: &Reading) -> Result<Vec<Left>> {
        self.pause(GIVE_BACK).await?;
        let after = node::read()?;
        let left = COUNTERS.iter().zip(after.iter().zip(baseline));
        let left = left.filter(|(_, (after, _))| !after.is_nan());
        let left = left.map(|(counter, (after, before))| match counter.unit {
            Unit::Bytes => Left {
                name: counter.name.into(),
                unit: "KiB".into(),
                value: (after - before) / 1_024.0,
            },
            Unit::Count => {
                Left { name: counter.name.into(), unit: String::new(), value: after - before }
            }
        });
        Ok(left.collect())
    }

    /// Starts this many pods at the same time, then removes them at the same time. Returns both rates, in
    /// pods per second.
    async fn at_once(&self, count: usize) -> Result<(f64, f64)> {
        interrupt::check()?;
        self.bar.set_message(format!("{count} at once"));
        let rate = |begin: Instant| count as f64 / begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        let mut starts = tokio::task::JoinSet::new();
        for number in 0..count {
            let (cri, kind, run) = (self.cri.clone(), self.plan.kind.clone(), self.run.clone());
            let marker = self.run.marker(self.plan.pods + 1 + number);
            starts.spawn(async move { cri.run(&kind, &run, &marker).await });
        }
        let ids = starts.join_all().await.into_iter().collect::<Result<Vec<_>>>();
        let ids = ids.with_context(|| format!("{count} pods at once"))?;
        let run = rate(begin);
        interrupt::check()?;
        let begin = Instant::now();
        let mut ends = tokio::task::JoinSet::new();
        for id in ids {
            let cri = self.cri.clone();
            ends.spawn(async move { cri.remove(&id).await });
        }
        ends.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
        let remove = rate(begin);
        self.remove_cgroups();
        Ok((run, remove))
    }

    fn remove_cgroups(&self) {
        let start = format!("podoverhead-{}-", self.run.0);
        self.hierarchies.remove("/", &|name| name.starts_with(&start));
    }

    /// Waits. Fails if a signal arrives before or while it waits.
    async fn pause(&self, duration: Duration) -> Result<()> {
        let begin = Instant::now();
        while let Some(left) = duration.checked_sub(begin.elapsed()) {
            interrupt::check()?;
            tokio::time::sleep(left.min(interrupt::INTERVAL)).await;
        }
        Ok(())
    }
}

/// 1, 10, 100 and so on, and finally the total.
fn steps(pods: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1_usize), |power| power.checked_mul(10));
    powers.take_while(|&power| power < pods).chain([pods]).collect()
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

fn network_of(process: &Process) -> Option<u64> {
    let namespaces = process.namespaces().ok()?.0;
    Some(namespaces.get(std::ffi::OsStr::new("net"))?.identifier)
}

/// The figures of the pods that a step has added.
fn step(from: usize, samples: &Samples, snapshot: &Snapshot) -> Vec<Figure> {
    let charged = snapshot.charges[from..].iter().map(|charge| charge[0].1 / 1_024.0);
    let charged: Vec<_> = charged.collect();
    // Not the PSS: with each new pod, every pod's share of a shared page falls.
    let outside = snapshot.sums[from..].iter().map(|sums| sums.private_outside / 1_024.0);
    let outside: Vec<_> = outside.collect();
    let used = samples.node[from..].iter().enumerate();
    let used: Vec<_> = used.map(|(index, reading)| (index as f64, reading[0])).collect();
    let figures = [
        Figure::of_samples(TIMES, "RunPodSandbox", "ms", &samples.run_ms[from..]),
        Figure::of_samples(CGROUP, CHARGED, "KiB", &charged),
        Figure::of_samples(PROCESSES, "the runtime's, for the pod, private", "KiB", &outside),
        Figure::of_slope(NODE, COUNTERS[0].name, "KiB", 1_024.0, &used),
    ];
    figures.into_iter().flatten().collect()
}

/// Describes each figure whose value in a later step differs from that in the first step that added more than
/// two pods: by more than a fifth, and with spreads that do not overlap.
fn bends(curve: &[Step]) -> Vec<String> {
    let mut bends = Vec::new();
    let Some(index) =
        curve.iter().position(|step| step.figures.iter().any(|figure| figure.count > 2))
    else {
        return bends;
    };
    for first in &curve[index].figures {
        let is_it = |figure: &&Figure| (&figure.group, &figure.name) == (&first.group, &first.name);
        let mut before = curve[index].pods;
        for step in &curve[index + 1..] {
            let Some(now) = step.figures.iter().find(is_it) else { continue };
            let is_far = (now.value - first.value).abs() > 0.2 * first.value.abs();
            if is_far && (now.low > first.high || now.high < first.low) {
                bends.push(format!(
                    "{} ({}) is not linear beyond {before} pods: {:.1} {} for each pod up to {} pods, \
                     but {:.1} for each of the pods {} to {}",
                    first.name, first.group, first.value, first.unit, curve[index].pods, now.value,
                    before + 1, step.pods
                ));
                break;
            }
            before = step.pods;
        }
    }
    bends
}

/// Removes all pods of these runs, also those that another process made.
pub async fn remove_all(cri: &Cri, runs: &[Run], bar: &ProgressBar) -> Result<()> {
    let hierarchies = Hierarchies::read()?;
    for run in runs {
        let ids = cri.ours(Some(run)).await?.into_iter().map(|(id, _, _)| id).collect();
        let removed = interrupt::unless_again(remove_pods(cri, ids, bar)).await;
        let start = format!("podoverhead-{}-", run.0);
        hierarchies.remove("/", &|name| name.starts_with(&start));
        removed?;
    }
    Ok(())
}

/// Removes pods. Returns the first error, after trying the other pods, too.
async fn remove_pods(cri: &Cri, ids: Vec<String>, bar: &ProgressBar) -> Result<()> {
    let mut result = Ok(());
    for id in ids {
        let removed = cri.remove(&id).await;
        // If one call gets no answer, the others would take as long.
        let is_hopeless = removed.as_ref().is_err_and(|error| error.is::<NoAnswer>());
        result = result.and(removed);
        if is_hopeless {
            break;
        }
        bar.inc(1);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A curve whose steps have these samples of one figure.
    fn curve(steps: &[(usize, &[f64])]) -> Vec<Step> {
        let steps = steps.iter().map(|&(pods, samples)| Step {
            pods,
            figures: Figure::of_samples(CGROUP, CHARGED, "KiB", samples).into_iter().collect(),
        });
        steps.collect()
    }

    #[test]
    fn finds_where_a_curve_bends() {
        let straight = [100.0, 101.0, 99.0, 100.0];
        assert_eq!(bends(&curve(&[(1, &[300.0]), (10, &straight), (100, &straight)])), [""; 0]);
        // A small difference is no bend, and neither is a large one with a wide spread.
        assert_eq!(bends(&curve(&[(10, &straight), (100, &[110.0; 4])])), [""; 0]);
        let wide = [60.0, 100.0, 180.0, 300.0];
        assert_eq!(bends(&curve(&[(10, &straight), (100, &wide)])), [""; 0]);
        for other in [[150.0; 4], [50.0; 4]] {
            let steps: [(usize, &[f64]); 4] =
                [(1, &[100.0]), (10, &straight), (100, &straight), (1_000, &other)];
            let found = bends(&curve(&steps));
            assert_eq!(found.len(), 1);
            assert!(found[0].contains("is not linear beyond 100 pods: 100.0 KiB"), "{found:?}");
        }
    }

    #[test]
    fn grows_by_powers_of_ten() {
        assert_eq!(steps(3), [1, 3]);
        assert_eq!(steps(100), [1, 10, 100]);
        assert_eq!(steps(250), [1, 10, 100, 250]);
    }
}
