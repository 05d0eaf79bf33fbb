//! The results, as text.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use crate::record::{Figure, Measured, Saved};

/// The whole report on these runs.
pub fn text(saved: &Saved) -> String {
    let machine = &saved.machine;
    let mut text = format!(
        "{}: {} CPUs ({}, {}), {:.0} GiB, {}, pages of {} KiB, cgroups of version {}, load before the run {}\n",
        saved.program,
        machine.cpus,
        machine.cpu,
        machine.architecture,
        machine.memory_bytes as f64 / (1_u64 << 30) as f64,
        machine.kernel,
        machine.page_bytes / 1_024,
        machine.cgroup_version,
        machine.load,
    );
    for run in &saved.runs {
        text += &measured(run);
        text.push('\n');
        text += &match run.subject.containers {
            0 => runtime_class(saved, run),
            // Kubernetes adds podFixed to what the containers request.
            _ => "No RuntimeClass: these figures include the containers. Measure without --containers.\n".into(),
        };
    }
    text
}

/// All tables of one run.
fn measured(run: &Measured) -> String {
    let subject = &run.subject;
    let containers = match subject.containers {
        0 => "no containers".into(),
        count => format!(
            "{count} containers of {}",
            subject.container_image.as_deref().unwrap_or("the same image")
        ),
    };
    let mut text = format!(
        "\n{}: {} pods, network of the {:?}, PID namespace of the {:?}, {containers}\n",
        subject.name(),
        run.pods,
        subject.network,
        subject.pid,
    );
    let processes = match subject.runtime_processes.as_slice() {
        [] => "none".into(),
        names => names.join(", "),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "The runtime's processes for a pod, outside of its cgroup: {processes}");
    let mut table = new_table(&[
        "For one pod",
        "unit",
        "samples",
        "median or slope",
        "spread",
        "p95",
        "p99",
        "r²",
    ]);
    let mut group = "";
    for figure in &run.figures {
        if figure.group != group {
            group = &figure.group;
            table.add_row([format!("{group}:")]);
        }
        let or_nothing = |value: Option<f64>| value.map_or(String::new(), number);
        table.add_row([
            format!("  {}", figure.name),
            figure.unit.clone(),
            figure.count.to_string(),
            number(figure.value),
            spread(figure),
            or_nothing(figure.p95),
            or_nothing(figure.p99),
            figure.r_squared.map_or(String::new(), |value| format!("{value:.2}")),
        ]);
    }
    text += &lines(&table);
    text += "The spread is the range from the lower to the upper quartile. \
             For a slope (a row with r²), it is the slope ± twice its standard error.\n";

    let names = run.curve.last().map_or(&[][..], |step| &step.figures);
    let header: Vec<_> =
        names.iter().map(|figure| format!("{}, {}", short(&figure.name), figure.unit)).collect();
    let header: Vec<_> = ["Pods"].into_iter().chain(header.iter().map(String::as_str)).collect();
    let mut table = new_table(&header);
    for step in &run.curve {
        let cells = names.iter().map(|name| {
            let found = step
                .figures
                .iter()
                .find(|figure| (&figure.group, &figure.name) == (&name.group, &name.name));
            found.map_or("–".into(), |figure| {
                format!("{} [{}]", number(figure.value), spread(figure))
            })
        });
        table.add_row([step.pods.to_string()].into_iter().chain(cells));
    }
    let _ = write!(text, "\nGrowth, for each pod that a step adds:\n{}", lines(&table));
    match run.bends.as_slice() {
        [] => {
            let _ = writeln!(text, "No bend was found up to {} pods.", run.pods);
        }
        bends => bends.iter().for_each(|bend| {
            let _ = writeln!(text, "{bend}.");
        }),
    }

    let left = run.left.iter().filter(|left| left.value.abs() >= 0.5);
    let left: Vec<_> = left
        .map(|left| format!("{} {:+.0} {}", left.name, left.value, left.unit).trim_end().to_owned())
        .collect();
    let left = if left.is_empty() { "no difference".into() } else { left.join(", ") };
    let _ = writeln!(
        text,
        "\nWhat the whole node uses after the removal, compared with before the run (the pods are \
         not necessarily the cause): {left}"
    );
    text
}

/// What Kubernetes has to know about such pods, as a RuntimeClass.
fn runtime_class(saved: &Saved, run: &Measured) -> String {
    let (subject, machine) = (&run.subject, &saved.machine);
    let handler = match subject.handler.as_str() {
        "" => "HANDLER  # the runtime does not report the name of its default handler",
        name => name,
    };
    let name = match subject.handler.as_str() {
        "" => "measured".into(),
        // Runtimes allow characters in a handler's name that Kubernetes does not allow in an object's name.
        name => name.to_lowercase().replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"),
    };
    let mib = (run.overhead.memory_bytes / (1 << 20) as f64).ceil();
    let milli = run.overhead.cpu_milli.ceil();
    let in_use = run.figures.iter().find(|figure| figure.name == crate::node::IN_USE);
    let in_use = in_use.map_or("not measured".into(), |figure| {
        format!("{:.0} KiB (± {:.0})", figure.value, figure.value - figure.low)
    });
    let mut text = format!(
        "\
# Measured by {program} on {pods} pods of {subject}, with {containers} containers,
# on {kernel}, {architecture}, cgroups of version {version}, pages of {page} KiB.
# memory: the 95th percentile ({memory:.0} KiB), rounded up, of what is charged to a pod's cgroup plus the
# PSS of the runtime's processes for the pod outside of it. For comparison, the memory in use on the
# node (MemTotal - MemAvailable) grew by {in_use} with each pod. Only the latter includes the growth
# of the runtime's daemon, and kernel memory that is not charged to the pod's cgroup.
# cpu: the 95th percentile ({cpu:.3} mCPU), rounded up, of the CPU time of all processes of an idle
# pod. It does not include the start of pods, exec, probes or logs.
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: {name}
handler: {handler}
overhead:
  podFixed:
    memory: {mib}Mi
",
        program = saved.program,
        pods = run.pods,
        subject = subject.name(),
        containers = subject.containers,
        kernel = machine.kernel,
        architecture = machine.architecture,
        version = machine.cgroup_version,
        page = machine.page_bytes / 1_024,
        memory = run.overhead.memory_bytes / 1_024.0,
        cpu = run.overhead.cpu_milli,
    );
    if milli > 0.0 {
        let _ = writeln!(text, "    cpu: {milli}m");
    }
    text
}

/// The pairs of runs to compare: each run with the first one of the other file or, without such a file, with
/// the first one of its own file.
pub fn pairs<'a>(
    saved: &'a Saved,
    against: Option<&'a Saved>,
) -> Vec<(&'a Measured, &'a Measured)> {
    let (first, rest) = match against {
        Some(against) => (against.runs.first(), saved.runs.as_slice()),
        None => (saved.runs.first(), saved.runs.get(1..).unwrap_or_default()),
    };
    rest.iter().filter_map(|run| Some((run, first?))).collect()
}

/// The ratios of two runs.
pub fn comparison(ours: &Measured, theirs: &Measured) -> String {
    let mut table = new_table(&["", "unit", "this", "other", "this / other", "spread"]);
    for figure in &ours.figures {
        let is_it = |other: &&Figure| (&other.group, &other.name) == (&figure.group, &figure.name);
        let Some(other) = theirs.figures.iter().find(is_it) else { continue };
        let ratio = |a: f64, b: f64| if b > 0.0 { format!("{:.2}", a / b) } else { "–".into() };
        table.add_row([
            figure.name.clone(),
            figure.unit.clone(),
            number(figure.value),
            number(other.value),
            ratio(figure.value, other.value),
            format!("{}–{}", ratio(figure.low, other.high), ratio(figure.high, other.low)),
        ]);
    }
    format!(
        "\nThis: {}\nOther: {}\n{}The spread of a ratio is the range from the lowest to the highest ratio \
         that the two spreads allow.\n",
        ours.subject.name(),
        theirs.subject.name(),
        lines(&table)
    )
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The table without spaces at the ends of its lines.
fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn spread(figure: &Figure) -> String {
    format!("{}–{}", number(figure.low), number(figure.high))
}

/// The number, with two decimals if it is small, and fewer if it is larger.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        large if large >= 100.0 => 0,
        middle if middle >= 1.0 && middle.fract() == 0.0 => 0,
        middle if middle >= 1.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

fn short(name: &str) -> &str {
    match name {
        "the runtime's, for the pod, PSS" => "runtime PSS",
        name => name,
    }
}
