//! The measurements. Each one measures all programs in turn, so that noise affects them alike.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use common::footprint::record::{
    Charged, Condition, Figures, Idle, Kind, LibrarySandbox, Memory, Orphans, Sandbox, Scale,
    Spread, Start,
};
use podpause::Namespace;
use procfs::process::{MMapPath, Process as Proc};
use rustix::process::Signal;

use crate::Result;
use crate::cgroup::{Charge, Group, Hierarchy};
use crate::process::{self, Pinned, Process, Setting, start};
use crate::programs::Program;

/// How long to wait until a cgroup's figures are complete: the kernel adds up the counts of all CPUs every
/// two seconds.
const SETTLE: Duration = Duration::from_millis(2_500);
/// The number of instances before the first reading. They load the program's pages, and fill caches.
const WARM_UP: usize = 20;
/// The number of batches of instances that follow, and the number of instances in each.
const BATCHES: usize = 3;
const PER_BATCH: usize = 100;
/// The number of instances whose memory is read, to take the median.
const SAMPLE: usize = 25;
/// How many times each duration is measured: STARTS for an answer, HOLDS for falling asleep and for ending,
/// SANDBOXES for the start of a sandbox.
const STARTS: usize = 1_000;
const HOLDS: usize = 100;
const SANDBOXES: usize = 200;
/// How long a program may take to print its version.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);
/// How long a program may take to end after SIGTERM.
const TERM_DEADLINE: Duration = Duration::from_secs(1);
/// The number of orphans in a storm, and the number of them in each batch.
const ORPHANS: usize = 1_000;
const AT_ONCE: usize = 50;

/// A program, and its figures so far.
pub struct Subject {
    pub program: Program,
    pub figures: Figures,
}

impl Subject {
    pub fn new(program: Program) -> Self {
        let figures = Figures {
            name: program.name.clone(),
            kind: program.kind,
            version: program.version.clone(),
            file_bytes: program.file_bytes,
            segment_bytes: program.segment_bytes,
            image_bytes: None,
            memory: None,
            charged_inside: None,
            charged_after_exec: None,
            start: Start::default(),
            sandbox: None,
            orphans: Vec::new(),
            idle: None,
            scale: Vec::new(),
        };
        Self { program, figures }
    }

    fn start(&self, setting: Setting) -> Result<Process> {
        start(&self.program, &self.program.hold, Setting { is_pid1: true, ..setting })
    }

    fn start_and_wait(&self, setting: Setting) -> Result<Process> {
        let mut process = self.start(setting)?;
        process.wait_until_asleep(&self.program)?;
        Ok(process)
    }
}

/// The subjects that sleep until they are ended: all but the assembly program that only exits.
fn holders(subjects: &mut [Subject]) -> impl Iterator<Item = &mut Subject> {
    subjects.iter_mut().filter(|subject| subject.program.holds())
}

/// Starts a program once, so that one that cannot be measured is reported at the beginning. Returns a note
/// for the record, if any.
pub fn check(program: &mut Program) -> Result<Option<String>> {
    if program.holds() {
        let setting = Setting { is_pid1: true, ..Setting::default() };
        let mut process = start(program, &program.hold, setting)?;
        process.wait_until_asleep(program)?;
        // This finds a program that sleeps for a moment and then ends.
        if process.ends_within(Duration::from_millis(50))? {
            process.wait_until_asleep(program)?;
        }
    }
    if let Some(argv) = &program.answer {
        if !start(program, argv, Setting::default())?.ends_within(ANSWER_DEADLINE)? {
            let question = argv.last().map(|text| text.to_string_lossy().into_owned());
            program.answer = None;
            return Ok(Some(format!(
                "{} does not end when it is started with {}: the time to answer is not measured",
                program.name,
                question.unwrap_or_default()
            )));
        }
        program.ask_version();
    }
    Ok(None)
}

/// The instances of a program in a cgroup, and what the group was charged at each reading.
struct Population<'a> {
    /// They end before `group` is removed: the callers declare groups before populations.
    processes: Vec<Process>,
    group: Option<&'a Group>,
    is_inside: bool,
    charges: Vec<Charge>,
}

impl<'a> Population<'a> {
    fn new(group: Option<&'a Group>, is_inside: bool) -> Self {
        Self { processes: Vec::new(), group, is_inside, charges: Vec::new() }
    }

    /// Starts this many instances, and waits until all of them sleep.
    fn grow(&mut self, subject: &Subject, count: usize) -> Result<()> {
        let inside = match self.group {
            Some(group) if self.is_inside => Some(group.enter()?),
            _ => None,
        };
        let group = if self.is_inside { None } else { self.group };
        for _ in 0..count {
            self.processes.push(subject.start(Setting { group, ..Setting::default() })?);
        }
        drop(inside);
        let from = self.processes.len() - count;
        for process in &mut self.processes[from..] {
            process.wait_until_asleep(&subject.program)?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        if let Some(group) = self.group {
            self.charges.push(group.charge()?);
        }
        Ok(())
    }

    /// The growth of the charge in each batch, divided by the number of instances in the batch.
    fn charged(&self, per_batch: usize, page_tables_bytes: f64) -> Option<Charged> {
        let growth = |part: &dyn Fn(&Charge) -> f64| -> Vec<f64> {
            let pairs = self.charges.windows(2);
            pairs.map(|pair| (part(&pair[1]) - part(&pair[0])) / per_batch as f64).collect()
        };
        let median = |part: &dyn Fn(&Charge) -> f64| Some(Spread::of(growth(part))?.median);
        let known = |part: &dyn Fn(&Charge) -> Option<f64>| {
            part(self.charges.first()?)?;
            median(&|charge| part(charge).unwrap_or_default())
        };
        let kernel = median(&|charge| charge.kernel_bytes)?;
        let kernel_stack = known(&|charge| charge.kernel_stack_bytes);
        let slab = known(&|charge| charge.slab_bytes);
        let apart = page_tables_bytes + kernel_stack.unwrap_or_default() + slab.unwrap_or_default();
        let total =
            |charge: &Charge| charge.anonymous_bytes + charge.file_bytes + charge.kernel_bytes;
        Some(Charged {
            total_bytes: Spread::of(growth(&total))?,
            anonymous_bytes: median(&|charge| charge.anonymous_bytes)?,
            file_bytes: median(&|charge| charge.file_bytes)?,
            page_tables_bytes,
            kernel_stack_bytes: kernel_stack,
            slab_bytes: slab,
            other_kernel_bytes: (kernel - apart).max(0.0),
        })
    }
}

/// Measures the memory of an instance and, if there are cgroups, what a cgroup is charged for it.
pub fn memory(
    subjects: &mut [Subject],
    cgroups: Option<&Hierarchy>,
    progress: &dyn Fn(),
) -> Result<()> {
    let count = holders(subjects).count();
    let groups = |way: &str| -> Result<Vec<Option<Group>>> {
        let group = |index| cgroups.map(|cgroups| cgroups.group(&format!("{way}-{index}")));
        (0..count).map(|index| group(index).transpose()).collect()
    };
    let (inside_groups, after_groups) = (groups("inside")?, groups("after")?);
    // An instance is either forked inside its group or moves there before its execve. Each way has a
    // population for each program. Without cgroups only the first is needed.
    let population = |group, is_inside| Population::new(Option::as_ref(group), is_inside);
    let mut inside: Vec<_> = inside_groups.iter().map(|group| population(group, true)).collect();
    let after = after_groups.iter().filter(|_| cgroups.is_some());
    let mut after: Vec<_> = after.map(|group| population(group, false)).collect();

    for batch in [WARM_UP].into_iter().chain([PER_BATCH; BATCHES]) {
        for (index, subject) in holders(subjects).enumerate() {
            inside[index].grow(subject, batch)?;
            if let Some(after) = after.get_mut(index) {
                after.grow(subject, batch)?;
            }
            progress();
        }
        settle(cgroups)?;
        for population in inside.iter_mut().chain(&mut after) {
            population.read()?;
        }
    }
    for (index, subject) in holders(subjects).enumerate() {
        let memory = typical_memory(&inside[index].processes)?;
        let page_tables = memory.page_tables_bytes as f64;
        let ways = [inside.get(index), after.get(index)];
        let [inside, after] = ways.map(|population| population?.charged(PER_BATCH, page_tables));
        subject.figures.charged_inside = inside;
        subject.figures.charged_after_exec = after;
        subject.figures.memory = Some(memory);
    }
    for population in inside.into_iter().chain(after) {
        process::end_all(population.processes);
    }
    Ok(())
}

/// Waits until everything that is charged to cgroups has been counted.
fn settle(cgroups: Option<&Hierarchy>) -> Result<()> {
    match cgroups {
        Some(_) => process::sleep(SETTLE),
        None => Ok(()),
    }
}

/// The median of each figure over the instances that were started last.
fn typical_memory(processes: &[Process]) -> Result<Memory> {
    let last = &processes[processes.len().saturating_sub(SAMPLE)..];
    let samples = last.iter().map(read_memory).collect::<Result<Vec<_>>>()?;
    let median = |figure: &dyn Fn(&Memory) -> u64| {
        let spread = Spread::of(samples.iter().map(|memory| figure(memory) as f64).collect());
        spread.map_or(0, |spread| spread.median as u64)
    };
    Ok(Memory {
        rss_bytes: median(&|memory| memory.rss_bytes),
        rss_anonymous_bytes: median(&|memory| memory.rss_anonymous_bytes),
        rss_file_bytes: median(&|memory| memory.rss_file_bytes),
        pss_bytes: median(&|memory| memory.pss_bytes),
        private_bytes: median(&|memory| memory.private_bytes),
        page_tables_bytes: median(&|memory| memory.page_tables_bytes),
        mappings: median(&|memory| memory.mappings),
    })
}

/// The memory of a process and its children.
fn read_memory(process: &Process) -> Result<Memory> {
    let mut memory = Memory::default();
    for pid in process.family() {
        let failed = |error: procfs::ProcError| error.to_string();
        let proc = Proc::new(pid).map_err(failed)?;
        let rollup = proc.smaps_rollup().map_err(failed)?.memory_map_rollup;
        let rollup = rollup.iter().next().ok_or("smaps_rollup is empty")?;
        let figure = |name: &str| rollup.extension.map.get(name).copied().unwrap_or_default();
        memory.rss_bytes += figure("Rss");
        memory.rss_anonymous_bytes += figure("Anonymous");
        memory.pss_bytes += figure("Pss");
        memory.private_bytes += figure("Private_Clean") + figure("Private_Dirty");
        let status = proc.status().map_err(failed)?;
        memory.page_tables_bytes += 1_024 * status.vmpte.unwrap_or_default();
        let maps = proc.maps().map_err(failed)?;
        let own = maps.into_iter().filter(|map| map.pathname != MMapPath::Vsyscall);
        memory.mappings += own.count() as u64;
    }
    memory.rss_file_bytes = memory.rss_bytes - memory.rss_anonymous_bytes;
    Ok(memory)
}

/// Measures the times that programs take to answer, to fall asleep and to end, and counts their system calls
/// and page faults until they sleep.
pub fn starts(subjects: &mut [Subject], progress: &dyn Fn()) -> Result<()> {
    let us = |start: Instant| start.elapsed().as_secs_f64() * 1e6;
    let mut answers = vec![Vec::new(); subjects.len()];
    // The scheduler may move a program to another CPU at its execve, which takes longer than the program
    // itself runs.
    let pinned = Pinned::to(process::first_cpu()?)?;
    for round in 0..STARTS {
        for index in rotated(subjects.len(), round) {
            let program = &subjects[index].program;
            let Some(argv) = &program.answer else { continue };
            process::check_interrupt()?;
            // Each program is started twice, and only the second start counts: it finds the caches as the
            // same program left them, not another one.
            start(program, argv, Setting::default())?.wait();
            let begin = Instant::now();
            start(program, argv, Setting::default())?.wait();
            answers[index].push(us(begin));
        }
        if round % (STARTS / 10) == 0 {
            progress();
        }
    }
    drop(pinned);
    let mut asleep = vec![Vec::new(); subjects.len()];
    let mut ended = vec![Vec::new(); subjects.len()];
    let mut ends_on_term = vec![true; subjects.len()];
    for round in 0..HOLDS {
        for index in rotated(subjects.len(), round) {
            let subject = &subjects[index];
            if !subject.program.holds() {
                continue;
            }
            drop(subject.start_and_wait(Setting::default())?);
            let begin = Instant::now();
            let mut process = subject.start_and_wait(Setting::default())?;
            asleep[index].push(us(begin));
            if ends_on_term[index] {
                let begin = Instant::now();
                process.send(Signal::TERM);
                if process.ends_within(TERM_DEADLINE)? {
                    process.wait();
                    ended[index].push(us(begin));
                } else {
                    ends_on_term[index] = false;
                }
            }
        }
        if round % (HOLDS / 10) == 0 {
            progress();
        }
    }
    let figures = answers.into_iter().zip(asleep).zip(ended).zip(ends_on_term);
    for (subject, (((answers, asleep), ended), ends_on_term)) in subjects.iter_mut().zip(figures) {
        subject.figures.start.answer_us = Spread::of(answers);
        if subject.program.holds() {
            let mut faults = Vec::new();
            for _ in 0..5 {
                faults.push(subject.start_and_wait(Setting::default())?.faults()? as f64);
            }
            subject.figures.start = Start {
                asleep_us: Spread::of(asleep),
                term_to_reaped_us: Spread::of(ended),
                ends_on_term: Some(ends_on_term),
                system_calls: Some(process::count_system_calls(&subject.program)? as u64),
                page_faults: Spread::of(faults).map(|faults| faults.median as u64),
                ..std::mem::take(&mut subject.figures.start)
            };
        }
        progress();
    }
    Ok(())
}

/// Measures the start of pause as a sandbox, from its file and from a memfd.
pub fn sandboxes(subjects: &mut [Subject], memfd: BorrowedFd, progress: &dyn Fn()) -> Result<()> {
    let pause = subjects.iter_mut().find(|subject| subject.program.kind == Kind::Pause);
    let pause = pause.ok_or("pause is not among the programs")?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..SANDBOXES {
        for index in rotated(times.len(), round) {
            let memfd = [None, Some(memfd)][index];
            let setting = Setting { is_sandbox: true, memfd, ..Setting::default() };
            drop(pause.start_and_wait(setting)?);
            let begin = Instant::now();
            let process = pause.start_and_wait(setting)?;
            times[index].push(begin.elapsed().as_secs_f64() * 1e6);
            drop(process);
        }
    }
    let [file, memfd] = times.map(Spread::of);
    pause.figures.sandbox =
        file.zip(memfd).map(|(file_us, memfd_us)| Sandbox { file_us, memfd_us, library: None });
    progress();
    Ok(())
}

/// Measures the start of a sandbox by the library, and by the least that a runtime could do.
pub fn library_sandboxes(subjects: &mut [Subject], library: &podpause::Program) -> Result<()> {
    const KINDS: [Namespace; 5] =
        [Namespace::Pid, Namespace::Net, Namespace::Ipc, Namespace::Uts, Namespace::Mount];
    let assembly = subjects.iter().position(|subject| subject.program.kind == Kind::Loop);
    // The assembly programs exist for some architectures only.
    let Some(assembly) = assembly else { return Ok(()) };
    let spawn = || -> Result<f64> {
        let begin = Instant::now();
        let mut sandbox = library
            .sandbox()
            .new_namespaces(KINDS)
            .kill_with_parent()
            .spawn()
            .map_err(|error| error.to_string())?;
        let us = begin.elapsed().as_secs_f64() * 1e6;
        sandbox.kill().and_then(|()| sandbox.wait()).map_err(|error| error.to_string())?;
        Ok(us)
    };
    let namespaces = KINDS.iter().fold(0, |flags, kind| flags | kind.flag());
    let bare = |subjects: &[Subject]| -> Result<f64> {
        let begin = Instant::now();
        let process = process::start_bare(&subjects[assembly].program, namespaces)?;
        let us = begin.elapsed().as_secs_f64() * 1e6;
        drop(process);
        Ok(us)
    };
    let _pinned = Pinned::to(process::first_cpu()?)?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..SANDBOXES {
        process::check_interrupt()?;
        for index in rotated(times.len(), round) {
            // Each is started twice in a row, and only the second start counts.
            for is_second in [false, true] {
                let us = if index == 0 { spawn()? } else { bare(subjects)? };
                if is_second {
                    times[index].push(us);
                }
            }
        }
    }
    let [spawn_us, bare_us] = times.map(Spread::of);
    let pause = subjects.iter_mut().find(|subject| subject.program.kind == Kind::Pause);
    if let Some(sandbox) = pause.and_then(|pause| pause.figures.sandbox.as_mut()) {
        sandbox.library =
            spawn_us.zip(bare_us).map(|(spawn_us, bare_us)| LibrarySandbox { spawn_us, bare_us });
    }
    Ok(())
}

/// The numbers below `count`, starting from a different one in the next round, so that none always comes
/// first.
fn rotated(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |index| (index + round) % count)
}

/// Measures each program in a storm of orphans.
pub fn orphans(
    subjects: &mut [Subject],
    condition: Condition,
    cgroups: Option<&Hierarchy>,
    progress: &dyn Fn(),
) -> Result<()> {
    let group = cgroups.map(|cgroups| cgroups.group("lowest-share")).transpose()?;
    let group = group.as_ref();
    if let Some(group) = group {
        group.set_lowest_cpu_share()?;
    }
    let cpu = match condition {
        Condition::LowestCpuShare => Some(process::first_cpu()?),
        _ => None,
    };
    for subject in holders(subjects) {
        let process = subject.start_and_wait(Setting { group, cpu, ..Setting::default() })?;
        let neighbour = cpu.map(process::busy_neighbour).transpose()?;
        if condition == Condition::Stopped {
            process.send(Signal::STOP);
            process.wait_until_stopped()?;
        }
        subject.figures.orphans.push(storm(&process, condition)?);
        drop((process, neighbour));
        progress();
    }
    Ok(())
}

fn storm(process: &Process, condition: Condition) -> Result<Orphans> {
    let before = Counters::settled(process.pid.as_raw_pid())?;
    let begin = Instant::now();
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (reports, report) = pipe.map_err(|error| format!("pipe: {error}"))?;
    let is_traced = condition == Condition::Traced;
    let maker = process::make_orphans(process, ORPHANS, AT_ONCE, is_traced, report)?;
    let mut zombies_over_time = vec![(0.0, 0)];
    let mut look = || {
        let zombies = process.zombies();
        zombies_over_time.push((begin.elapsed().as_secs_f64() * 1e3, zombies));
        zombies
    };
    while !maker.ends_within(Duration::from_millis(2))? {
        look();
    }
    look();
    let mut maker = maker;
    if maker.wait().exit_status() != Some(0) {
        return Err("the orphans could not be made: a limit on processes?".into());
    }
    let made = process::bytes_until_end(reports)?;
    if made != ORPHANS {
        return Err(format!("{made} orphans of {ORPHANS} were made, {}", condition.name()));
    }
    process::sleep(Duration::from_millis(100))?;
    let zombies_left = look();
    let after = Counters::read(process.pid.as_raw_pid())?;
    let per_1000 = |before: u64, after: u64| (after - before) as f64 * 1_000.0 / ORPHANS as f64;
    Ok(Orphans {
        condition,
        orphans: ORPHANS,
        context_switches_per_1000: per_1000(before.context_switches, after.context_switches),
        wakeups_per_1000: per_1000(before.runs, after.runs),
        cpu_ms_per_1000: per_1000(before.cpu_ns, after.cpu_ns) / 1e6,
        zombies_peak: zombies_over_time.iter().map(|&(_, zombies)| zombies).max().unwrap_or(0),
        zombies_left,
        zombies_over_time: thinned(zombies_over_time),
    })
}

/// Keeps at most 41 of the samples, which is enough for a picture, among them the first and the last.
fn thinned(samples: Vec<(f64, usize)>) -> Vec<(f64, usize)> {
    let step = samples.len().div_ceil(40);
    let last = samples.len() - 1;
    let kept = samples.into_iter().enumerate();
    let kept = kept.filter(|(index, _)| index % step == 0 || *index == last);
    kept.map(|(_, (ms, zombies))| ((ms * 10.0).round() / 10.0, zombies)).collect()
}

/// The kernel's counters for a process.
#[derive(PartialEq)]
struct Counters {
    context_switches: u64,
    runs: u64,
    cpu_ns: u64,
}

impl Counters {
    /// Waits until the counters stand still: a process is already shown as asleep or stopped a moment before
    /// it leaves the CPU.
    fn settled(pid: i32) -> Result<Self> {
        let mut before = Self::read(pid)?;
        loop {
            process::sleep(Duration::from_millis(20))?;
            let now = Self::read(pid)?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
    }

    fn read(pid: i32) -> Result<Self> {
        let failed = |error: procfs::ProcError| error.to_string();
        let proc = Proc::new(pid).map_err(failed)?;
        let status = proc.status().map_err(failed)?;
        let schedule = proc.schedstat().map_err(failed)?;
        let switches = [status.voluntary_ctxt_switches, status.nonvoluntary_ctxt_switches];
        Ok(Self {
            context_switches: switches.into_iter().flatten().sum(),
            runs: schedule.pcount,
            cpu_ns: schedule.sum_exec_runtime,
        })
    }
}

/// Counts the wake-ups of the idle programs. All of them run at the same time.
pub fn idle(subjects: &mut [Subject], duration: Duration) -> Result<()> {
    let mut processes = Vec::new();
    for subject in holders(subjects) {
        processes.push(subject.start_and_wait(Setting::default())?);
    }
    let read = |process: &Process| -> Result<u64> {
        let counters = process.family().into_iter().map(Counters::read);
        counters.map(|counters| Ok(counters?.context_switches)).sum()
    };
    // The programs finish their start first.
    process::sleep(Duration::from_millis(500))?;
    let before = processes.iter().map(read).collect::<Result<Vec<_>>>()?;
    process::sleep(duration)?;
    for ((subject, process), before) in holders(subjects).zip(&processes).zip(before) {
        let wakeups = read(process)? - before;
        subject.figures.idle = Some(Idle { seconds: duration.as_secs_f64(), wakeups });
    }
    process::end_all(processes);
    Ok(())
}

/// The most instances alive at once, unless those of a single program are more.
const WAVE: usize = 2_000;

/// Measures memory and times for a number of instances. Several programs, as many as fit in one wave, are
/// measured at once, so that they wait together for their cgroups to settle.
pub fn scale(
    subjects: &mut [Subject],
    cgroups: Option<&Hierarchy>,
    instances: usize,
    progress: &dyn Fn(),
) -> Result<()> {
    let mut subjects: Vec<_> = holders(subjects).collect();
    let at_once = (WAVE / instances).max(1);
    for wave in subjects.chunks_mut(at_once) {
        let group = |index| cgroups.map(|cgroups| cgroups.group(&format!("scale-{index}")));
        let groups = (0..wave.len()).map(|index| group(index).transpose());
        let groups = groups.collect::<Result<Vec<_>>>()?;
        let mut populations = Vec::new();
        for (subject, group) in wave.iter().zip(&groups) {
            let mut population = Population::new(group.as_ref(), true);
            population.read()?;
            let begin = Instant::now();
            population.grow(subject, instances)?;
            let start_all_ms = begin.elapsed().as_secs_f64() * 1e3;
            populations.push((population, start_all_ms));
            progress();
        }
        settle(cgroups)?;
        for (subject, (mut population, start_all_ms)) in wave.iter_mut().zip(populations) {
            population.read()?;
            let charged = population.charged(1, 0.0).map(|charged| charged.total_bytes.median);
            let begin = Instant::now();
            process::end_all(std::mem::take(&mut population.processes));
            subject.figures.scale.push(Scale {
                instances,
                charged_bytes: charged,
                charged_per_instance_bytes: charged.map(|charged| charged / instances as f64),
                start_all_ms,
                end_all_ms: begin.elapsed().as_secs_f64() * 1e3,
            });
        }
    }
    Ok(())
}
