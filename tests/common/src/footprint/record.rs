//! The results of a run: the figures, what each of them means, and the goals.

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
    /// Only the version number, because the rest of the release may name who built the kernel.
    pub kernel: String,
    pub page_bytes: u64,
    pub memory_cgroup: String,
    pub user: String,
    pub command: String,
    pub instances: usize,
    /// Runnable processes, averaged over the minute before the run: how busy the machine was.
    pub load: f64,
}

/// The kind of a program. It decides which goals there are.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pause,
    Given,
    Loop,
    Exit,
    Installed,
}

/// The figures of one program. A figure that does not apply, or could not be measured, is absent.
#[derive(Serialize, Deserialize)]
pub struct Figures {
    pub name: String,
    pub kind: Kind,
    pub version: Option<String>,
    pub file_bytes: u64,
    pub segment_bytes: Option<u64>,
    /// Present if the OCI layout of the program's image was given (`--layout`).
    pub image_bytes: Option<u64>,
    pub memory: Option<Memory>,
    pub charged_inside: Option<Charged>,
    pub charged_after_exec: Option<Charged>,
    pub start: Start,
    /// Measured for pause only. Older records do not have it.
    pub sandbox: Option<Sandbox>,
    pub orphans: Vec<Orphans>,
    pub idle: Option<Idle>,
    pub scale: Vec<Scale>,
}

/// The median of several measurements, and the quartiles (`low` and `high`).
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
    /// Absent in records that were made before the library could start sandboxes.
    #[serde(default)]
    pub library: Option<LibrarySandbox>,
}

/// The time of the library's `spawn`, and of a bare clone3 and exec of the looping assembly program in new
/// namespaces of the same kinds, measured alternately.
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
    /// Pairs: milliseconds since the start of the storm, and the number of zombies then.
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
    ("file_bytes", "size of the program's file, without the libraries of a dynamic program"),
    ("segment_bytes", "bytes of the file in loadable segments"),
    (
        "image_bytes",
        "bytes that a node downloads for its platform: manifest, configuration and compressed \
         layers",
    ),
    (
        "rss_bytes",
        "Rss in /proc/PID/smaps_rollup: resident memory, shared or not. This and the next six \
         figures are sums over the processes of a program, and medians of 25 instances",
    ),
    (
        "rss_anonymous_bytes",
        "Anonymous in /proc/PID/smaps_rollup: resident memory that no file backs. VmRSS, \
         RssAnon and RssFile in /proc/PID/status are only estimates on some kernels",
    ),
    ("rss_file_bytes", "the rest of Rss: resident pages of files"),
    (
        "pss_bytes",
        "Pss in /proc/PID/smaps_rollup, read while all instances run: Rss, with each page \
         divided by the number of processes that share it",
    ),
    (
        "private_bytes",
        "Private_Clean and Private_Dirty in /proc/PID/smaps_rollup: pages that no other process \
         has mapped",
    ),
    ("page_tables_bytes", "VmPTE in /proc/PID/status: page tables of the lowest three levels"),
    ("mappings", "lines of /proc/PID/maps, except [vsyscall], which every process has"),
    (
        "charged_inside",
        "the charge to the memory cgroup for one more instance, which is PID 1 of its own PID \
         namespace and is forked inside the cgroup. It includes anonymous memory, pages of \
         files and kernel memory, from memory.stat (with cgroup v1, kernel memory from \
         memory.kmem.usage_in_bytes). Instances are started in several batches. The growth of \
         the charge in a batch is divided by the number of its instances. Pages of files that \
         an earlier instance has loaded are not charged again",
    ),
    (
        "charged_after_exec",
        "the same charge, but the instance is forked outside the cgroup and moves into it before \
         the exec, as container runtimes do. What fork allocates, such as the kernel stack, is \
         not charged",
    ),
    (
        "kernel_stack_bytes, slab_bytes",
        "kernel_stack and slab in memory.stat, which only cgroup v2 reports",
    ),
    (
        "other_kernel_bytes",
        "the rest of the kernel memory: the top page table and, with cgroup v1, also the kernel \
         stack and slab",
    ),
    (
        "answer_us",
        "time from the spawn (clone with CLONE_VFORK, then execve) until the process is reaped, \
         all on one CPU, right after another start of the same program. The program gets an \
         argument that makes it print its version and exit; `assembly: exit` gets none and only \
         exits",
    ),
    (
        "asleep_us",
        "time from the spawn, as PID 1 of a new PID namespace, until the process (and its child, \
         if it starts one) is seen asleep in /proc/PID/stat, which is polled. The spawn comes \
         right after another start of the same program",
    ),
    (
        "term_to_reaped_us",
        "time from SIGTERM to such a PID 1 until it is reaped. A PID 1 without a handler never \
         receives SIGTERM",
    ),
    (
        "system_calls",
        "system calls from execve to sleep, counted with ptrace, including the call that \
         sleeps. Those of a child do not count",
    ),
    (
        "page_faults",
        "minflt and majflt in /proc/PID/stat from execve to sleep, including those of execve \
         itself",
    ),
    (
        "sandbox",
        "times to start pause as PID 1 of new PID, network, IPC, UTS and mount namespaces. \
         file_us and memfd_us: from the spawn until pause is seen asleep as above. For file_us, \
         its file is executed. For memfd_us, the library executes a memfd that all instances \
         share. The two alternate. library: spawn_us and bare_us alternate, on one CPU. \
         spawn_us is the time of the library's spawn(), which returns when pause sleeps. \
         bare_us is the time of a bare clone3 of the benchmark and an execve of `assembly: \
         pause(2) in a loop`, until that program is executed",
    ),
    (
        "orphans",
        "processes in the PID namespace whose parents exit without waiting for them, 50 at a time",
    ),
    (
        "context_switches_per_1000",
        "voluntary_ctxt_switches and nonvoluntary_ctxt_switches of PID 1, per 1,000 orphans",
    ),
    (
        "wakeups_per_1000",
        "how often PID 1 was put on a CPU (third number of /proc/PID/schedstat), per 1,000 orphans",
    ),
    (
        "cpu_ms_per_1000",
        "CPU time of PID 1, user and system (first number of /proc/PID/schedstat), per 1,000 \
         orphans",
    ),
    (
        "zombies_peak",
        "the largest number of children of PID 1 in state Z at one time, sampled throughout the \
         storm of orphans. A child counts only if two looks find it in state Z",
    ),
    ("zombies_left", "zombies that are left 100 ms after the storm"),
    ("stopped", "PID 1 is stopped by SIGSTOP"),
    ("traced", "each orphan makes PID 1 its tracer with PTRACE_TRACEME, and exits"),
    (
        "lowest_cpu_share",
        "PID 1 is alone in a cgroup with cpu.shares 2 or cpu.weight 1, as a sandbox is. On the \
         same CPU, another process always runs",
    ),
    (
        "idle_wakeups",
        "context switches of all processes of the program in the given number of seconds, while \
         they have nothing to do",
    ),
    (
        "charged_per_instance_bytes",
        "the charge to a cgroup in which this many instances have been forked, including what \
         the first of them load, divided by the number of instances",
    ),
    (
        "start_all_ms",
        "time from the first spawn until all instances are asleep. They are spawned one after \
         the other",
    ),
    ("end_all_ms", "time from the first SIGKILL until all instances are reaped"),
    ("spread", "in brackets: from the lower to the upper quartile"),
    ("load", "load average of the whole machine over the minute before the run"),
];

/// A goal for pause: the upper limit of a figure, and the figure itself.
#[derive(Serialize, Deserialize)]
pub struct Goal {
    pub what: String,
    pub limit: f64,
    /// Absent if the figure could not be measured.
    pub measured: Option<f64>,
}

impl Goal {
    pub fn is_met(&self) -> Option<bool> {
        // Rounded to two decimals, as ratios are printed: a ratio that is printed like its limit meets it.
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
    // Older records do not have the figures for these two goals.
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
