//! Prints a run as text: all figures for a terminal, and one table for the README.

use super::record::{Condition, Figures, Goal, Kind, LibrarySandbox, Orphans, Record, Spread};
use crate::number::number;

/// A table. The first column is text, and the others are figures.
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&text| text.into()).collect(), rows: Vec::new() }
    }

    fn plain(&self) -> String {
        let rows = || [&self.header].into_iter().chain(&self.rows);
        let width =
            |column: usize| rows().map(|row: &Vec<String>| row[column].chars().count()).max();
        let widths: Vec<_> =
            (0..self.header.len()).map(|column| width(column).unwrap_or(0)).collect();
        let line = |row: &Vec<String>| -> String {
            let cells = row.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            });
            cells.collect::<String>().trim_end().to_owned() + "\n"
        };
        rows().map(line).collect()
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let alignment = "|---".to_owned() + &"|--:".repeat(self.header.len() - 1) + "|\n";
        let rows = self.rows.iter().map(|row| line(row));
        line(&self.header) + &alignment + &rows.collect::<String>()
    }
}

/// A figure, or a dash where there is none.
fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".into())
}

fn kib(bytes: u64) -> String {
    format!("{}", bytes / 1_024)
}

fn kib_0(bytes: f64) -> String {
    format!("{:.0}", bytes / 1_024.0)
}

fn kib_1(bytes: f64) -> String {
    format!("{:.1}", bytes / 1_024.0)
}

fn spread(spread: Spread, scale: f64, decimals: usize) -> String {
    let [median, low, high] = [spread.median, spread.low, spread.high].map(|value| value / scale);
    format!("{median:.decimals$} [{low:.decimals$}–{high:.decimals$}]")
}

impl Figures {
    /// The program's name, with its version number if that is known.
    fn name_and_version(&self) -> String {
        let is_number = |word: &&str| word.trim_start_matches('v').starts_with(char::is_numeric);
        let version = self.version.as_ref().and_then(|text| text.split(' ').find(is_number));
        match version {
            Some(version) => format!("{} ({})", self.name, version.trim_start_matches('v')),
            None => self.name.clone(),
        }
    }

    fn storm(&self, condition: Condition) -> Option<&Orphans> {
        self.orphans.iter().find(|orphans| orphans.condition == condition)
    }
}

/// All figures of a run.
pub fn all(record: &Record) -> String {
    let section = |title: &str, table: Table| match table.rows.is_empty() {
        true => String::new(),
        false => format!("\n{title}\n\n{}", table.plain()),
    };
    let mut text = machine(record) + "\n";
    text += &section("Memory of one instance (KiB)", memory(record));
    text += &section("Charged for one more instance (KiB)", charged(record));
    text += &section("Start and end (µs)", starts(record));
    text += &section("Start of a sandbox (µs)", sandboxes(record));
    text += &section("Storms of orphans (per 1,000 of them)", orphans(record));
    text += &section("Idle", idle(record));
    text += &section("Scale: forked inside of one cgroup", scale(record));
    text += "\nGoals\n\n";
    text += &record.goals.iter().map(goal).collect::<String>();
    text += "\nDefinitions\n\n";
    for definition in &record.definitions {
        text += &format!("{}: {}\n", definition.figure, definition.meaning);
    }
    text += "\nNotes\n\n";
    text += &record.notes.iter().map(|note| format!("{note}\n")).collect::<String>();
    text
}

/// The machine and the command, in one sentence.
fn machine(record: &Record) -> String {
    let machine = &record.machine;
    format!(
        "{} CPUs ({}, {}), {:.0} GiB, {}, pages of {} KiB, memory cgroup: {}, user: {}, load before the \
         run {}: `{}`.",
        machine.cpus,
        machine.cpu,
        machine.architecture,
        machine.memory_bytes as f64 / (1_u64 << 30) as f64,
        machine.kernel,
        machine.page_bytes / 1_024,
        machine.memory_cgroup,
        machine.user,
        machine.load,
        machine.command.trim_end(),
    )
}

fn memory(record: &Record) -> Table {
    let mut table = Table::new(&[
        "",
        "file B",
        "segments B",
        "image B",
        "Rss",
        "anonymous",
        "file",
        "Pss",
        "private",
        "page tables",
        "mappings",
    ]);
    for program in &record.programs {
        let memory = program.memory.as_ref();
        let figure = |figure: &dyn Fn(&super::record::Memory) -> u64| {
            or_dash(memory.map(|memory| kib(figure(memory))))
        };
        table.rows.push(vec![
            program.name_and_version(),
            number(program.file_bytes),
            or_dash(program.segment_bytes.map(number)),
            or_dash(program.image_bytes.map(number)),
            figure(&|memory| memory.rss_bytes),
            figure(&|memory| memory.rss_anonymous_bytes),
            figure(&|memory| memory.rss_file_bytes),
            figure(&|memory| memory.pss_bytes),
            figure(&|memory| memory.private_bytes),
            figure(&|memory| memory.page_tables_bytes),
            or_dash(memory.map(|memory| memory.mappings.to_string())),
        ]);
    }
    table
}

fn charged(record: &Record) -> Table {
    let mut table = Table::new(&[
        "",
        "forked",
        "total",
        "anonymous",
        "file",
        "page tables",
        "kernel stack",
        "slab",
        "other kernel",
    ]);
    for program in &record.programs {
        let ways = [("inside", &program.charged_inside), ("outside", &program.charged_after_exec)];
        for (way, charged) in ways {
            let Some(charged) = charged else { continue };
            table.rows.push(vec![
                program.name.clone(),
                way.into(),
                spread(charged.total_bytes, 1_024.0, 1),
                kib_1(charged.anonymous_bytes),
                kib_1(charged.file_bytes),
                kib_1(charged.page_tables_bytes),
                or_dash(charged.kernel_stack_bytes.map(kib_1)),
                or_dash(charged.slab_bytes.map(kib_1)),
                kib_1(charged.other_kernel_bytes),
            ]);
        }
    }
    table
}

fn starts(record: &Record) -> Table {
    let mut table = Table::new(&[
        "",
        "says its version",
        "asleep",
        "TERM to reaped",
        "system calls",
        "page faults",
    ]);
    for program in &record.programs {
        let start = &program.start;
        let us = |figure: Option<Spread>| or_dash(figure.map(|figure| spread(figure, 1.0, 0)));
        table.rows.push(vec![
            program.name.clone(),
            us(start.answer_us),
            us(start.asleep_us),
            match start.ends_on_term {
                Some(false) => "never".into(),
                _ => us(start.term_to_reaped_us),
            },
            or_dash(start.system_calls.map(number)),
            or_dash(start.page_faults.map(number)),
        ]);
    }
    table
}

fn sandboxes(record: &Record) -> Table {
    let mut table = Table::new(&[
        "",
        "from its file",
        "from a memfd",
        "memfd / file",
        "spawn()",
        "bare clone3 and exec",
        "spawn() / bare",
    ]);
    for program in &record.programs {
        let Some(sandbox) = &program.sandbox else { continue };
        let library = sandbox.library.as_ref();
        let ratio = |library: &LibrarySandbox| library.spawn_us.median / library.bare_us.median;
        table.rows.push(vec![
            program.name.clone(),
            spread(sandbox.file_us, 1.0, 0),
            spread(sandbox.memfd_us, 1.0, 0),
            format!("{:.2}", sandbox.memfd_us.median / sandbox.file_us.median),
            or_dash(library.map(|library| spread(library.spawn_us, 1.0, 0))),
            or_dash(library.map(|library| spread(library.bare_us, 1.0, 0))),
            or_dash(library.map(|library| format!("{:.2}", ratio(library)))),
        ]);
    }
    table
}

fn orphans(record: &Record) -> Table {
    let mut table = Table::new(&[
        "",
        "condition",
        "context switches",
        "wake-ups",
        "CPU ms",
        "most zombies",
        "zombies left",
    ]);
    for program in &record.programs {
        for orphans in &program.orphans {
            table.rows.push(vec![
                program.name.clone(),
                match orphans.condition {
                    Condition::LowestCpuShare => "lowest share",
                    condition => condition.name(),
                }
                .into(),
                format!("{:.0}", orphans.context_switches_per_1000),
                format!("{:.0}", orphans.wakeups_per_1000),
                format!("{:.2}", orphans.cpu_ms_per_1000),
                number(orphans.zombies_peak as u64),
                number(orphans.zombies_left as u64),
            ]);
        }
    }
    table
}

fn idle(record: &Record) -> Table {
    let mut table = Table::new(&["", "wake-ups", "in"]);
    for program in &record.programs {
        let Some(idle) = &program.idle else { continue };
        let seconds = format!("{:.0} s", idle.seconds);
        table.rows.push(vec![program.name.clone(), number(idle.wakeups), seconds]);
    }
    table
}

fn scale(record: &Record) -> Table {
    let mut table =
        Table::new(&["", "instances", "total MiB", "each KiB", "all start ms", "all end ms"]);
    for program in &record.programs {
        for scale in &program.scale {
            let mib = |bytes: f64| format!("{:.1}", bytes / (1 << 20) as f64);
            table.rows.push(vec![
                program.name.clone(),
                number(scale.instances as u64),
                or_dash(scale.charged_bytes.map(mib)),
                or_dash(scale.charged_per_instance_bytes.map(kib_1)),
                number(scale.start_all_ms as u64),
                number(scale.end_all_ms as u64),
            ]);
        }
    }
    table
}

fn goal(goal: &Goal) -> String {
    let verdict = match goal.is_met() {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "not measured",
    };
    let measured = or_dash(goal.measured.map(|measured| format!("{measured:.2}")));
    format!("{verdict:<12}  {measured:>5} (at most {:.2})  {}\n", goal.limit, goal.what)
}

/// The table of the README.
pub fn markdown(record: &Record) -> String {
    let mut table = Table::new(&[
        "",
        "file, bytes",
        "charged, KiB",
        "resident, KiB",
        "wake-ups for 1,000 orphans",
        "zombies while stopped",
    ]);
    for program in &record.programs {
        let memory = program.memory.as_ref();
        let charged = program.charged_after_exec.as_ref();
        let storm = |condition| program.storm(condition);
        let row = vec![
            match program.kind {
                Kind::Installed | Kind::Given => format!("`{}`", program.name),
                _ => program.name.clone(),
            },
            number(program.file_bytes),
            or_dash(charged.map(|charged| kib_0(charged.total_bytes.median))),
            or_dash(memory.map(|memory| number(memory.rss_bytes / 1_024))),
            or_dash(storm(Condition::Running).map(|storm| number(storm.wakeups_per_1000 as u64))),
            or_dash(storm(Condition::Stopped).map(|storm| number(storm.zombies_left as u64))),
        ];
        table.rows.push(match program.kind {
            Kind::Pause => row.into_iter().map(|cell| format!("**{cell}**")).collect(),
            _ => row,
        });
    }
    table.markdown() + "\n" + &machine(record) + "\n"
}
