//! The processes that a pod consists of: those in its cgroups, and those that the runtime started for it.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result};
use procfs::ProcError;
use procfs::process::Process;

use crate::pod::Pod;

/// What is read about each process of the node.
struct Entry {
    parent: i32,
    started: u64,
    name: String,
    /// The index of the pod that the process belongs to, if any.
    pod: Option<usize>,
    is_in_pod_cgroup: bool,
}

/// Identifies a process: its PID and its start time in clock ticks, because PIDs are reused.
pub type Identity = (i32, u64);

/// The processes that exist now.
pub fn present() -> Result<HashSet<Identity>> {
    let all = procfs::process::all_processes().context("read /proc")?;
    let stats = all.filter_map(|process| process.ok()?.stat().ok());
    Ok(stats.map(|stat| (stat.pid, stat.starttime)).collect())
}

/// A process of a pod.
pub struct Member {
    /// Its PID.
    pub pid: i32,
    /// Its name in /proc/PID/comm.
    pub name: String,
    /// Whether its memory is charged to the pod's cgroup.
    pub is_in_pod_cgroup: bool,
}

/// The processes of each pod, in the order of the pods.
///
/// A process belongs to a pod if it is in the cgroup of the pod or of its sandbox, or has the sandbox's id
/// among its arguments. Its ancestors belong to the pod, too, except PID 1 and those that existed `before`
/// the pods. So do all descendants of these processes.
pub fn of_pods(pods: &[Pod], before: &HashSet<Identity>) -> Result<Vec<Vec<Member>>> {
    let by_id: HashMap<&str, usize> =
        pods.iter().enumerate().map(|(index, pod)| (pod.id.as_str(), index)).collect();
    let by_marker: HashMap<String, usize> =
        pods.iter().enumerate().map(|(index, pod)| (pod.marker(), index)).collect();
    let mut entries = HashMap::new();
    for process in procfs::process::all_processes().context("read /proc")? {
        // A process may end while it is read.
        let Ok(process) = process else { continue };
        let Ok(stat) = process.stat() else { continue };
        if before.contains(&(stat.pid, stat.starttime)) {
            continue;
        }
        let groups = process.cgroups().map(|groups| groups.0).unwrap_or_default();
        let parts = groups.iter().flat_map(|group| group.pathname.split('/'));
        let mut by_cgroup = parts.filter_map(|part| {
            let part = part.trim_end_matches(".slice");
            by_marker.get(part).or_else(|| by_id.get(part)).copied()
        });
        let by_cgroup = by_cgroup.next_back();
        let arguments = process.cmdline().unwrap_or_default();
        let by_argument = arguments.iter().find_map(|argument| by_id.get(argument.as_str()));
        entries.insert(
            stat.pid,
            Entry {
                parent: stat.ppid,
                started: stat.starttime,
                name: stat.comm,
                pod: by_cgroup.or(by_argument.copied()),
                is_in_pod_cgroup: by_cgroup.is_some(),
            },
        );
    }
    let seeds: Vec<_> =
        entries.iter().filter_map(|(&pid, entry)| Some((pid, entry.pod?))).collect();
    for (mut pid, pod) in seeds {
        while let Some(entry) = entries.get_mut(&pid).filter(|_| pid != 1) {
            entry.pod.get_or_insert(pod);
            pid = entry.parent;
        }
    }
    let mut members: Vec<Vec<Member>> = pods.iter().map(|_| Vec::new()).collect();
    let mut pids: Vec<_> = entries.iter().map(|(&pid, entry)| (entry.started, pid)).collect();
    pids.sort_unstable();
    for (_, pid) in pids {
        let mut ancestors =
            std::iter::successors(entries.get(&pid), |entry| entries.get(&entry.parent));
        let Some(pod) = ancestors.find_map(|entry| entry.pod) else { continue };
        let (name, is_in_pod_cgroup) = (entries[&pid].name.clone(), entries[&pid].is_in_pod_cgroup);
        members[pod].push(Member { pid, name, is_in_pod_cgroup });
    }
    Ok(members)
}

/// What is read about the processes of one pod, as sums.
#[derive(Default, Clone)]
pub struct Sums {
    /// How many processes there are.
    pub processes: f64,
    /// Threads of all of them.
    pub threads: f64,
    /// Open descriptors of all of them.
    pub descriptors: f64,
    /// PSS of the processes in the pod's cgroup, in bytes.
    pub pss_inside: f64,
    /// PSS of the processes outside that cgroup, in bytes.
    pub pss_outside: f64,
    /// Private memory of the processes outside that cgroup, in bytes.
    pub private_outside: f64,
    /// CPU time of all of them since they started, in nanoseconds.
    pub cpu_ns: f64,
    /// The names of the processes outside that cgroup.
    pub names_outside: Vec<String>,
}

/// Reads the processes of one pod.
pub fn sums(members: &[Member]) -> Result<Sums> {
    let mut sums = Sums::default();
    for member in members {
        match add(&mut sums, member) {
            // The process has ended meanwhile.
            Err(ProcError::NotFound(_)) => {}
            Err(ProcError::PermissionDenied(_)) => {
                anyhow::bail!(
                    "the memory of process {} cannot be read: run this as root",
                    member.pid
                )
            }
            other => other.with_context(|| format!("read /proc/{}", member.pid))?,
        }
    }
    Ok(sums)
}

fn add(sums: &mut Sums, member: &Member) -> Result<(), ProcError> {
    let process = Process::new(member.pid)?;
    let memory = memory(&process)?;
    sums.processes += 1.0;
    sums.threads += process.stat()?.num_threads as f64;
    sums.descriptors += process.fd_count()? as f64;
    for task in process.tasks()? {
        sums.cpu_ns += task?.schedstat()?.sum_exec_runtime as f64;
    }
    if member.is_in_pod_cgroup {
        sums.pss_inside += memory.pss;
    } else {
        sums.pss_outside += memory.pss;
        sums.private_outside += memory.private;
        sums.names_outside.push(member.name.clone());
    }
    Ok(())
}

/// The memory of a process, in bytes.
pub struct Memory {
    /// Its proportional set size: each page is divided by the number of processes that have it mapped.
    pub pss: f64,
    /// The pages that only this process has mapped.
    pub private: f64,
}

/// The memory of a process, from /proc/PID/smaps_rollup.
pub fn memory(process: &Process) -> Result<Memory, ProcError> {
    let rollup = process.smaps_rollup()?.memory_map_rollup;
    let figure = |name: &str| {
        let maps = rollup.iter().filter_map(|map| map.extension.map.get(name));
        maps.sum::<u64>() as f64
    };
    let private = figure("Private_Clean") + figure("Private_Dirty");
    Ok(Memory { pss: figure("Pss"), private })
}
