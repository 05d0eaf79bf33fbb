//! Counters of the whole node, from /proc.

use std::fs;

use anyhow::{Context, Result};
use procfs::process::Process;
use procfs::{Current, LoadAverage, Meminfo};

/// What a counter counts.
#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    /// Bytes of memory.
    Bytes,
    /// A number of objects.
    Count,
}

/// One counter: its name, and what it counts.
pub struct Counter {
    /// The name in tables and in saved runs.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
}

/// The counters, in the order of [`read`].
pub const COUNTERS: [Counter; 13] = [
    bytes(IN_USE),                    // MemTotal - MemAvailable in /proc/meminfo
    bytes("anonymous memory"),        // AnonPages there
    bytes("slab, reclaimable"),       // SReclaimable there
    bytes("slab, unreclaimable"),     // SUnreclaim there
    bytes("kernel stacks"),           // KernelStack there
    bytes("page tables"),             // PageTables there
    bytes("per-CPU memory"),          // Percpu there
    bytes("tmpfs and shared memory"), // Shmem there
    count("threads"),                 // threads that exist, in /proc/loadavg
    count("open files"),              // the first number in /proc/sys/fs/file-nr
    count("mounts"),                  // lines of /proc/self/mountinfo
    count("network devices"),         // lines of /proc/self/net/dev
    count("memory cgroups"),          // the row `memory` of /proc/cgroups
];

const fn bytes(name: &'static str) -> Counter {
    Counter { name, unit: Unit::Bytes }
}

const fn count(name: &'static str) -> Counter {
    Counter { name, unit: Unit::Count }
}

/// The name of the first counter. Like all counters, it grows with the pods.
pub const IN_USE: &str = "memory in use";

/// The values of [`COUNTERS`] at one moment. The number of memory cgroups is NaN if the kernel
/// does not report it. A line that /proc/meminfo lacks counts as 0.
pub type Reading = [f64; COUNTERS.len()];

/// Reads all counters.
pub fn read() -> Result<Reading> {
    let memory = Meminfo::current().context("read /proc/meminfo")?;
    let available = memory.mem_available.context("/proc/meminfo has no MemAvailable")?;
    let used = memory.mem_total - available;
    let load = LoadAverage::current().context("read /proc/loadavg")?;
    let files = procfs::sys::fs::file_nr().context("read /proc/sys/fs/file-nr")?;
    let own = Process::myself().context("read /proc/self")?;
    let mounts = own.mountinfo().context("read /proc/self/mountinfo")?.0.len();
    let devices = own.dev_status().context("read /proc/self/net/dev")?.len();
    let bytes = [
        used,
        memory.anon_pages.unwrap_or_default(),
        memory.s_reclaimable.unwrap_or_default(),
        memory.s_unreclaim.unwrap_or_default(),
        memory.kernel_stack.unwrap_or_default(),
        memory.page_tables.unwrap_or_default(),
        per_cpu_bytes()?,
        memory.shmem.unwrap_or_default(),
    ];
    let counts = [u64::from(load.max), files.allocated, mounts as u64, devices as u64];
    let reading = bytes.into_iter().chain(counts).map(|value| value as f64);
    let mut reading = reading.chain([memory_cgroups().unwrap_or(f64::NAN)]);
    Ok(std::array::from_fn(|_| reading.next().expect("as many values as counters")))
}

/// `Percpu` in /proc/meminfo, which the crate procfs does not read.
fn per_cpu_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Percpu:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.unwrap_or_default() * 1_024)
}

/// How many memory cgroups the kernel has, if it tells. A removed one counts until its last page is gone.
fn memory_cgroups() -> Option<f64> {
    let controllers = procfs::cgroups().map(|controllers| controllers.0).unwrap_or_default();
    let memory = controllers.iter().find(|controller| controller.name == "memory");
    if let Some(memory) = memory {
        return Some(memory.num_cgroups.into());
    }
    // Without cgroup v1, newer kernels have no such row. cgroup.stat counts all cgroups of v2.
    let text = fs::read_to_string("/sys/fs/cgroup/cgroup.stat").ok()?;
    let number = |name: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    Some(number("nr_descendants ")? + number("nr_dying_descendants ")?)
}

/// How many more threads the node can have: each needs a PID.
pub fn free_pids() -> Result<u64> {
    let number = |path: &str| -> Result<u64> {
        let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        text.trim().parse().with_context(|| format!("{path} is not a number"))
    };
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let load = LoadAverage::current().context("read /proc/loadavg")?;
    Ok(most.saturating_sub(load.max.into()))
}
