//! Draws a run as a picture with three parts: the memory that a pod is charged, the zombies while pause is
//! stopped, and the memory against the number of instances.
//!
//! This writes plain SVG without a plotting library. The picture needs only rectangles, lines and texts, and
//! a test relies on getting the same bytes from the same record.

use std::fmt::Write;

use super::record::{Charged, Condition, Figures, Kind, Record};
use crate::number::number;

const WIDTH: f64 = 980.0;
/// The left and right edges of the bars and plots. Names are to the left of them, and values to the right.
const LEFT: f64 = 250.0;
const RIGHT: f64 = 700.0;
/// The greatest number of characters of a name that fit.
const NAME_MAX: usize = 30;
const BAR: f64 = 20.0;
const ROW: f64 = 30.0;
const PLOT_HEIGHT: f64 = 210.0;
/// The least distance between two labels.
const LINE: f64 = 17.0;

const INK: &str = "#222222";
const FAINT: &str = "#d0d0d0";
/// Colours that colour-blind readers can tell apart: the palette of Okabe and Ito.
const BLUE: &str = "#0072b2";
const ORANGE: &str = "#e69f00";
const GREEN: &str = "#009e73";
const GREY: &str = "#b0b0b0";
/// The colour of the lines of all programs but pause. Labels distinguish these lines.
const OTHERS: &str = "#707070";

/// A part of a bar: its name, its colour, and its figure.
type Part = (&'static str, &'static str, fn(&Charged) -> f64);
const PARTS: [Part; 4] = [
    ("private pages", BLUE, |charged| charged.anonymous_bytes),
    ("shared pages", GREEN, |charged| charged.file_bytes),
    ("page tables", ORANGE, |charged| charged.page_tables_bytes),
    ("kernel stack, slab and other kernel memory", GREY, |charged| {
        let apart = [charged.kernel_stack_bytes, charged.slab_bytes];
        charged.other_kernel_bytes + apart.into_iter().flatten().sum::<f64>()
    }),
];

/// Draws the whole picture.
pub fn svg(record: &Record) -> String {
    let mut canvas = Canvas { body: String::new(), y: 20.0 };
    charged(&mut canvas, record);
    zombies(&mut canvas, record);
    scale(&mut canvas, record);
    let machine = &record.machine;
    let source = format!(
        "{}, {}, pages of {} KiB, memory cgroup {}; medians of one run",
        machine.architecture,
        machine.kernel,
        machine.page_bytes / 1_024,
        machine.memory_cgroup
    );
    canvas.text(20.0, canvas.y + 10.0, "start", 12, "normal", INK, &source);
    let height = canvas.y + 26.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
        canvas.body
    )
}

/// What has been drawn so far, and the y coordinate below it.
struct Canvas {
    body: String,
    y: f64,
}

impl Canvas {
    fn add(&mut self, element: std::fmt::Arguments) {
        // Writing to a string cannot fail.
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }

    #[expect(clippy::too_many_arguments, reason = "they are the attributes of an SVG text")]
    fn text(
        &mut self,
        x: f64,
        y: f64,
        anchor: &str,
        size: u32,
        weight: &str,
        fill: &str,
        text: &str,
    ) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" \
             font-weight=\"{weight}\" fill=\"{fill}\">{text}</text>"
        ));
    }

    fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             fill=\"{fill}\"/>"
        ));
    }

    fn line(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>();
        self.add(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\"/>",
            points.join(" ")
        ));
    }

    fn title(&mut self, title: &str, explanation: &str) {
        self.text(20.0, self.y + 10.0, "start", 17, "bold", INK, title);
        self.text(20.0, self.y + 30.0, "start", 13, "normal", INK, explanation);
        self.y += 46.0;
    }

    /// Draws names at the right ends of lines, and moves them apart where they would overlap.
    fn labels(&mut self, mut labels: Vec<(f64, String, &'static str, &'static str)>) {
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        // From top to bottom: each name is at least one line below the previous one.
        let mut last = f64::NEG_INFINITY;
        for (y, text, weight, colour) in labels {
            let place = y.max(last + LINE);
            self.line(&[(RIGHT + 2.0, y), (RIGHT + 14.0, place)], FAINT, 1.0);
            self.text(RIGHT + 18.0, place + 4.0, "start", 12, weight, colour, &text);
            last = place;
        }
    }
}

fn weight(program: &Figures) -> &'static str {
    if program.kind == Kind::Pause { "bold" } else { "normal" }
}

/// The colour and the width of a program's line.
fn stroke(program: &Figures) -> (&'static str, f64) {
    if program.kind == Kind::Pause { (BLUE, 4.0) } else { (OTHERS, 1.5) }
}

/// The colour of a program's label.
fn label_colour(program: &Figures) -> &'static str {
    if program.kind == Kind::Pause { BLUE } else { INK }
}

/// A program's name, or only the end of the name if it is a long path.
fn name(program: &Figures) -> String {
    let length = program.name.chars().count();
    match length > NAME_MAX {
        true => format!("…{}", program.name.chars().skip(length - NAME_MAX).collect::<String>()),
        false => program.name.clone(),
    }
}

/// Bars: what the cgroup is charged for one more instance.
fn charged(canvas: &mut Canvas, record: &Record) {
    let charged = record.programs.iter();
    let charged = charged.filter_map(|program| Some((program, program.charged_inside.as_ref()?)));
    let mut charged: Vec<_> = charged.collect();
    charged.sort_by(|(_, a), (_, b)| a.total_bytes.median.total_cmp(&b.total_bytes.median));
    let most = charged.iter().map(|(_, charged)| charged.total_bytes.median).fold(0.0, f64::max);
    if charged.is_empty() {
        return;
    }
    canvas.title(
        "Memory charged to a pod for its pause container, in KiB",
        "Forked inside of the pod's memory cgroup. In brackets: forked outside, as runtimes do.",
    );
    let mut x = 20.0;
    for (name, colour, _) in PARTS {
        canvas.rectangle(x, canvas.y, 13.0, 13.0, colour);
        canvas.text(x + 19.0, canvas.y + 11.0, "start", 13, "normal", INK, name);
        x += 60.0 + 7.5 * name.len() as f64;
    }
    canvas.y += 26.0;
    for (program, charged) in charged {
        let middle = canvas.y + BAR / 2.0 + 4.5;
        canvas.text(LEFT - 10.0, middle, "end", 13, weight(program), INK, &name(program));
        let mut x = LEFT;
        for (_, colour, part) in PARTS {
            let width = part(charged).max(0.0) / most * (RIGHT - LEFT);
            canvas.rectangle(x, canvas.y, width, BAR, colour);
            x += width;
        }
        let kib = |charged: &Charged| format!("{:.0}", charged.total_bytes.median / 1_024.0);
        let after = program.charged_after_exec.as_ref();
        let after = after.map_or(String::new(), |after| format!(" ({})", kib(after)));
        let text = format!("{}{after}", kib(charged));
        canvas.text(x + 8.0, middle, "start", 13, weight(program), INK, &text);
        canvas.y += ROW;
    }
    canvas.y += 30.0;
}

/// Lines: zombies in a storm of orphans.
fn zombies(canvas: &mut Canvas, record: &Record) {
    let stopped = |program: &Figures| {
        program.orphans.iter().position(|orphans| orphans.condition == Condition::Stopped)
    };
    let storms = record.programs.iter().filter_map(|program| Some((program, stopped(program)?)));
    let storms: Vec<_> =
        storms.map(|(program, index)| (program, &program.orphans[index])).collect();
    let Some((_, first)) = storms.first() else { return };
    let samples = || storms.iter().flat_map(|(_, storm)| &storm.zombies_over_time);
    let longest = samples().map(|&(ms, _)| ms).fold(1.0, f64::max);
    let most = samples().map(|&(_, zombies)| zombies).fold(first.orphans, usize::max) as f64;
    canvas.title(
        "Zombies while the pause container is stopped",
        &format!(
            "{} orphans end while PID 1 is stopped by SIGSTOP, as in a frozen or starved pod.",
            number(first.orphans as u64)
        ),
    );
    let top = canvas.y;
    let x = |ms: f64| LEFT + ms / longest * (RIGHT - LEFT);
    let y = |zombies: f64| top + PLOT_HEIGHT * (1.0 - zombies / most);
    for share in [0.0, 0.5, 1.0] {
        canvas.line(&[(LEFT, y(share * most)), (RIGHT, y(share * most))], FAINT, 1.0);
        let label = format!("{} zombies", number((share * most) as u64));
        canvas.text(LEFT - 10.0, y(share * most) + 4.0, "end", 12, "normal", INK, &label);
    }
    // Programs with the same number of zombies at the end share a label, which lists their names.
    let mut ends: Vec<(usize, Vec<&Figures>)> = Vec::new();
    for (program, storm) in storms.iter().rev() {
        let points =
            storm.zombies_over_time.iter().map(|&(ms, zombies)| (x(ms), y(zombies as f64)));
        let (colour, width) = stroke(program);
        let mut points: Vec<_> = points.collect();
        let last = points[points.len() - 1].1;
        points.push((RIGHT, last));
        canvas.line(&points, colour, width);
        match ends.iter_mut().find(|(zombies, _)| *zombies == storm.zombies_left) {
            Some((_, programs)) => programs.insert(0, program),
            None => ends.push((storm.zombies_left, vec![program])),
        }
    }
    for (zombies, programs) in ends {
        let place = y(zombies as f64);
        for (index, program) in programs.iter().enumerate() {
            // The list grows downwards, or upwards in the lower half of the plot.
            let line = if place > top + PLOT_HEIGHT / 2.0 {
                -((programs.len() - 1 - index) as f64)
            } else {
                index as f64
            };
            let (x, y) = (RIGHT + 18.0, place + 4.0 + line * LINE);
            canvas.text(x, y, "start", 12, weight(program), label_colour(program), &name(program));
        }
    }
    let below = top + PLOT_HEIGHT + 18.0;
    canvas.text(LEFT, below, "start", 12, "normal", INK, "0 ms");
    canvas.text(RIGHT, below, "end", 12, "normal", INK, &format!("{longest:.0} ms"));
    canvas.y = below + 34.0;
}

/// Lines: memory against the number of instances, both axes logarithmic.
fn scale(canvas: &mut Canvas, record: &Record) {
    let totals = |program: &Figures| -> Vec<(f64, f64)> {
        let mib = |bytes: f64| bytes / (1 << 20) as f64;
        let scales = program.scale.iter();
        scales
            .filter_map(|scale| Some((scale.instances as f64, mib(scale.charged_bytes?))))
            .collect()
    };
    let lines: Vec<_> = record.programs.iter().map(|program| (program, totals(program))).collect();
    let points = || lines.iter().flat_map(|(_, points)| points);
    let bounds = |values: Vec<f64>| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min).log10();
        let high = values.iter().copied().fold(0.0, f64::max).log10();
        (low, high)
    };
    let (first, last) = bounds(points().map(|point| point.0).collect());
    // With a single number of instances there is no line to draw, and with none there are no bounds.
    if points().next().is_none() || first >= last {
        return;
    }
    let (low, high) = bounds(points().map(|point| point.1).collect());
    let (low, high) = (low.floor(), high.ceil());
    canvas.title(
        "Memory of all instances together",
        "Charged to one cgroup for this many instances, each PID 1 of its own PID namespace. \
         Both axes in powers of ten.",
    );
    let top = canvas.y;
    let height = PLOT_HEIGHT * 1.2;
    let x = |instances: f64| LEFT + (instances.log10() - first) / (last - first) * (RIGHT - LEFT);
    let y = |mib: f64| top + height * (1.0 - (mib.log10() - low) / (high - low));
    for power in low as i32..=high as i32 {
        let mib = 10_f64.powi(power);
        canvas.line(&[(LEFT, y(mib)), (RIGHT, y(mib))], FAINT, 1.0);
        let mib_text = if mib < 1.0 { format!("{mib}") } else { number(mib as u64) };
        let label = format!("{mib_text} MiB");
        canvas.text(LEFT - 10.0, y(mib) + 4.0, "end", 12, "normal", INK, &label);
    }
    let below = top + height + 18.0;
    let mut counts: Vec<_> = points().map(|point| point.0).collect();
    counts.sort_by(f64::total_cmp);
    counts.dedup();
    for count in counts {
        canvas.line(&[(x(count), top), (x(count), top + height)], FAINT, 1.0);
        canvas.text(x(count), below, "middle", 12, "normal", INK, &number(count as u64));
    }
    let mut labels = Vec::new();
    for (program, points) in lines.iter().rev() {
        let Some(&(_, mib)) = points.last() else { continue };
        let (colour, width) = stroke(program);
        let places: Vec<_> = points.iter().map(|&(count, mib)| (x(count), y(mib))).collect();
        canvas.line(&places, colour, width);
        let text = format!("{} MiB  {}", number(mib.round() as u64), name(program));
        labels.push((y(mib), text, weight(program), label_colour(program)));
    }
    canvas.labels(labels);
    canvas.text((LEFT + RIGHT) / 2.0, below + 20.0, "middle", 12, "normal", INK, "instances");
    canvas.y = below + 52.0;
}
