//! What a run has found: the figures, what each of them means, and the goals.

use serde::{Deserialize, Serialize};

/// A run, as it is saved.
#[derive(Serialize, Deserialize)]
pub struct Record {
    pub machine: Machine,
    pub programs: Vec<Figures>,
    pub goals: Vec<Goal>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    pub definitions: Vec<Definition>,
}

#[derive(Serialize, Deserialize)]
pub struct Machine {
    pub architecture: String,
    pub cpu: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    /// Its number alone: the rest of the release may name who built it.
    pub kernel: String,
    pub page_bytes: u64,
    pub memory_cgroup: String,
    pub user: String,
    pub command: String,
    pub instances: usize,
    /// Runnable processes, averaged over the minute before the run: how busy the machine was.
    pub load: f64,
}

/// What a program is, for the goals.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pause,
    Given,
    Loop,
    Exit,
    Installed,
}

/// The figures of one program. What does not apply, or could not be measured, is absent.
#[derive(Serialize, Deserialize)]
pub struct Figures {
    pub name: String,
    pub kind: Kind,
    pub version: Option<String>,
    pub file_bytes: u64,
    pub segment_bytes: Option<u64>,
    /// Where a layout was given.
    pub image_bytes: Option<u64>,
    pub memory: Option<Memory>,
    pub charged_inside: Option<Charged>,
    pub charged_after_exec: Option<Charged>,
    pub start: Start,
    /// Of pause alone. Records from before it was measured do not have it.
    pub sandbox: Option<Sandbox>,
    pub orphans: Vec<Orphans>,
    pub idle: Option<Idle>,
    pub scale: Vec<Scale>,
}

/// The median of several measurements, and the range that has the middle half of them.
#[derive(Serialize, Deserialize, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (samples.len() - 1) as f64;
            let (below, above) = (samples[place.floor() as usize], samples[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        (!samples.is_empty()).then(|| Self { median: at(0.5), low: at(0.25), high: at(0.75) })
    }
}

#[derive(Serialize, Deserialize, Default)]
pub struct Memory {
    pub rss_bytes: u64,
    pub rss_anonymous_bytes: u64,
    pub rss_file_bytes: u64,
    pub pss_bytes: u64,
    pub private_bytes: u64,
    pub page_tables_bytes: u64,
    pub mappings: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Charged {
    pub total_bytes: Spread,
    pub anonymous_bytes: f64,
    pub file_bytes: f64,
    pub page_tables_bytes: f64,
    pub kernel_stack_bytes: Option<f64>,
    pub slab_bytes: Option<f64>,
    pub other_kernel_bytes: f64,
}

#[derive(Serialize, Deserialize, Default)]
pub struct Start {
    pub answer_us: Option<Spread>,
    pub asleep_us: Option<Spread>,
    pub term_to_reaped_us: Option<Spread>,
    pub ends_on_term: Option<bool>,
    pub system_calls: Option<u64>,
    pub page_faults: Option<u64>,
}

/// The start of a pod's sandbox, from a file and from the library's memfd.
#[derive(Serialize, Deserialize)]
pub struct Sandbox {
    pub file_us: Spread,
    pub memfd_us: Spread,
    /// Records of before have no library that starts sandboxes.
    #[serde(default)]
    pub library: Option<LibrarySandbox>,
}

/// From the call of the library's `spawn` to its return, and the same for a bare clone3 and exec of the
/// assembly program in the same namespaces, measured in turn.
#[derive(Serialize, Deserialize)]
pub struct LibrarySandbox {
    pub spawn_us: Spread,
    pub bare_us: Spread,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Running,
    Stopped,
    LowestCpuShare,
    /// Each orphan asks its new parent to trace it, by PTRACE_TRACEME, and exits.
    Traced,
}

impl Condition {
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::LowestCpuShare => "at the lowest CPU share, beside a busy neighbour",
            Self::Traced => "traced",
        }
    }
}

/// A storm of orphans, under one condition.
#[derive(Serialize, Deserialize)]
pub struct Orphans {
    pub condition: Condition,
    pub orphans: usize,
    pub context_switches_per_1000: f64,
    pub wakeups_per_1000: f64,
    pub cpu_ms_per_1000: f64,
    pub zombies_peak: usize,
    pub zombies_left: usize,
    /// The zombies at times since the start of the storm: milliseconds, zombies.
    pub zombies_over_time: Vec<(f64, usize)>,
}

#[derive(Serialize, Deserialize)]
pub struct Idle {
    pub seconds: f64,
    pub wakeups: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Scale {
    pub instances: usize,
    pub charged_bytes: Option<f64>,
    pub charged_per_instance_bytes: Option<f64>,
    pub start_all_ms: f64,
    pub end_all_ms: f64,
}

/// What a figure means.
#[derive(Serialize, Deserialize)]
pub struct Definition {
    pub figure: String,
    pub meaning: String,
}

/// The definitions, in the order in which the figures are shown.
pub fn definitions() -> Vec<Definition> {
    let definitions = DEFINITIONS.iter();
    definitions
        .map(|&(figure, meaning)| Definition { figure: figure.into(), meaning: meaning.into() })
        .collect()
}

const DEFINITIONS: &[(&str, &str)] = &[
    ("file_bytes", "size of the program's file, without the libraries of a dynamic one"),
    ("segment_bytes", "bytes of the file in loadable segments"),
    (
        "image_bytes",
        "what a node fetches of an image, for its platform: manifest, configuration and compressed layers",
    ),
    (
        "rss_bytes",
        "Rss in /proc/PID/smaps_rollup: memory in use, shared or not; this and the next six are sums \
         over a program's processes, and the median of 25 instances",
    ),
    (
        "rss_anonymous_bytes",
        "Anonymous there: memory of its own that no file backs (VmRSS, RssAnon and RssFile in \
         /proc/PID/status are estimates on some kernels)",
    ),
    ("rss_file_bytes", "the rest of Rss: pages of files"),
    (
        "pss_bytes",
        "Pss there: Rss, with each page divided by the number of processes that share it, while \
         all instances run",
    ),
    ("private_bytes", "Private_Clean and Private_Dirty there: pages that nobody else has mapped"),
    ("page_tables_bytes", "VmPTE in /proc/PID/status: page tables of all levels but the top one"),
    ("mappings", "lines of /proc/PID/maps, but for [vsyscall], which every process has"),
    (
        "charged_inside",
        "what the memory cgroup is charged for one more instance, PID 1 of its own PID namespace, \
         if it is forked inside of the cgroup: anonymous memory, pages of files and kernel \
         memory, from memory.stat (and memory.kmem.usage_in_bytes in version 1); the growth in \
         each of several batches, divided by its instances; pages of files that an earlier \
         instance has brought in are not charged again",
    ),
    (
        "charged_after_exec",
        "the same if it is forked outside, and moves into the cgroup before the exec, as runtimes \
         do: what fork made, like the kernel stack, is not charged",
    ),
    (
        "kernel_stack_bytes, slab_bytes",
        "kernel_stack and slab in memory.stat; only version 2 says them",
    ),
    (
        "other_kernel_bytes",
        "the rest of the kernel memory: the top page table, and with version 1 also the kernel \
         stack and slab",
    ),
    (
        "answer_us",
        "from the spawn (clone with CLONE_VFORK, then execve) until it is reaped, all on one CPU, \
         right after another one of its kind, with the argument that makes it say its version and \
         end; assembly: exit just ends",
    ),
    (
        "asleep_us",
        "from the spawn, as PID 1 of a new PID namespace, until it, and the process that it \
         starts, are seen asleep in /proc/PID/stat, which is read in a loop; right after another \
         one of its kind",
    ),
    (
        "term_to_reaped_us",
        "from SIGTERM to such a PID 1 until it is reaped; a PID 1 without a handler never gets it",
    ),
    (
        "system_calls",
        "counted by ptrace from execve to sleep, with the one that it sleeps in; those of the \
         process that it starts do not count",
    ),
    (
        "page_faults",
        "minflt and majflt in /proc/PID/stat from execve to sleep, with those of execve itself",
    ),
    (
        "sandbox",
        "from the spawn, as PID 1 of new PID, network, IPC, UTS and mount namespaces, until it is \
         seen asleep as above: executed from its file (file_us), or by the library from a memfd that \
         all of them share (memfd_us), in turn, each right after another one of its kind; library: on \
         one CPU, from the library's spawn() to its return, when pause holds (spawn_us), and a bare \
         clone3 of this process and execve of the assembly program, until that is executed (bare_us)",
    ),
    ("orphans", "processes in its PID namespace whose parent ends before them, 50 at a time"),
    (
        "context_switches_per_1000",
        "voluntary_ctxt_switches and nonvoluntary_ctxt_switches of PID 1, per 1,000 orphans",
    ),
    (
        "wakeups_per_1000",
        "how often PID 1 was put on a CPU (third number of /proc/PID/schedstat), per 1,000 \
         orphans",
    ),
    (
        "cpu_ms_per_1000",
        "CPU time of PID 1, user and system (first number of /proc/PID/schedstat), per 1,000 \
         orphans",
    ),
    (
        "zombies_peak",
        "the most children of PID 1 in state Z at once, looked at all through the storm, and each \
         of them twice",
    ),
    ("zombies_left", "those that are left 100 ms after the storm"),
    ("stopped", "PID 1 is stopped by SIGSTOP"),
    ("traced", "each orphan makes PID 1 its tracer by PTRACE_TRACEME, and exits"),
    (
        "lowest_cpu_share",
        "PID 1 is alone in a cgroup with cpu.shares 2 or cpu.weight 1, as a sandbox is, on a CPU \
         with a process that always runs",
    ),
    (
        "idle_wakeups",
        "context switches of all the program's processes, with nothing to do, in this time",
    ),
    (
        "charged_per_instance_bytes",
        "the charge of a cgroup in which this many instances have been forked, with all that the \
         first of them bring in, divided by them",
    ),
    ("start_all_ms", "from the first spawn until all are asleep, one spawn after the other"),
    ("end_all_ms", "from the first SIGKILL until all are reaped"),
    ("spread", "in brackets: from the lower to the upper quartile"),
    ("load", "runnable processes of the whole machine, average of the minute before the run"),
];

/// Something that pause shall be, and whether it is.
#[derive(Serialize, Deserialize)]
pub struct Goal {
    pub what: String,
    pub limit: f64,
    /// Absent if it could not be measured.
    pub measured: Option<f64>,
}

impl Goal {
    pub fn is_met(&self) -> Option<bool> {
        // What prints as the limit is not above it.
        self.measured.map(|measured| (measured * 100.0).round() <= self.limit * 100.0)
    }
}

/// The goals, for these figures.
pub fn goals(programs: &[Figures]) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut goal = |what: String, limit, measured| goals.push(Goal { what, limit, measured });
    let Some(pause) = programs.iter().find(|program| program.kind == Kind::Pause) else {
        return goals;
    };
    let inside = |program: &Figures| Some(program.charged_inside.as_ref()?.total_bytes.median);
    let after = |program: &Figures| Some(program.charged_after_exec.as_ref()?.total_bytes.median);
    let answer = |program: &Figures| Some(program.start.answer_us?.median);
    let ratio = |ours: Option<f64>, theirs: Option<f64>| Some(ours? / theirs?);
    for program in programs {
        let limits = match program.kind {
            Kind::Loop => (0.80, 0.65),
            Kind::Given => (0.45, 0.30),
            Kind::Exit => {
                let what = format!("time to answer -v, against {}", program.name);
                goal(what, 1.05, ratio(answer(pause), answer(program)));
                continue;
            }
            _ => continue,
        };
        let against = |what| format!("memory charged {what}, against {}", program.name);
        goal(against("inside"), limits.0, ratio(inside(pause), inside(program)));
        goal(against("after exec"), limits.1, ratio(after(pause), after(program)));
    }
    for condition in [Condition::Running, Condition::Stopped, Condition::LowestCpuShare] {
        let orphans = pause.orphans.iter().find(|orphans| orphans.condition == condition);
        let what = |what| format!("{what}, {}", condition.name());
        let switches = orphans.map(|orphans| orphans.context_switches_per_1000);
        goal(what("context switches for 1,000 orphans"), 0.0, switches);
        let zombies = orphans.map(|orphans| orphans.zombies_peak as f64);
        goal(what("zombies in a storm of orphans"), 0.0, zombies);
    }
    // Records from before these goals do not have the figures.
    if let Some(traced) = pause.orphans.iter().find(|storm| storm.condition == Condition::Traced) {
        goal("zombies left of traced orphans".into(), 0.0, Some(traced.zombies_left as f64));
    }
    if let Some(library) = pause.sandbox.as_ref().and_then(|sandbox| sandbox.library.as_ref()) {
        let measured = Some(library.spawn_us.median / library.bare_us.median);
        goal("spawn() until ready, against a bare clone3 and exec".into(), 1.05, measured);
    }
    goal("wake-ups while idle".into(), 0.0, pause.idle.as_ref().map(|idle| idle.wakeups as f64));
    goals
}
