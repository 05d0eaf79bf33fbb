//! The results as a picture: the memory that is charged to a pod, in its parts, and the memory that the node
//! needs for each additional pod.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::cgroup::CHARGED;
use crate::measure::{CGROUP, NODE};
use crate::node::COUNTERS;
use crate::record::{Figure, Measured};

const WIDTH: u32 = 980;
/// The height of a run's row in the first chart.
const ROW: u32 = 44;
const GROWTH_HEIGHT: u32 = 320;
/// Where the bars begin: the names are to the left.
const LEFT: u32 = 400;
const FONT: &str = "DejaVu Sans, Helvetica, Arial, sans-serif";

/// Okabe and Ito's colours, which colour-blind people can tell apart, too.
const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
const GREEN: RGBColor = RGBColor(0x00, 0x9e, 0x73);
const ORANGE: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
const PINK: RGBColor = RGBColor(0xcc, 0x79, 0xa7);

/// The parts of what is charged to a pod's cgroup: the name of the figure, and its colour.
const PARTS: [(&str, RGBColor); 3] = [("anonymous", BLUE), ("file", GREEN), ("kernel", ORANGE)];

/// Draws these runs.
pub fn svg(runs: &[&Measured]) -> Result<String> {
    let charged_height = 90 + ROW * runs.len() as u32;
    let mut text = String::new();
    {
        let size = (WIDTH, charged_height + GROWTH_HEIGHT);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let (above, below) = area.split_vertically(charged_height);
        draw_charged(&above, runs)?;
        draw_growth(&below, runs)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Bars in parts: the median of what is charged to a pod's cgroup.
fn draw_charged(area: &Area, runs: &[&Measured]) -> Result<()> {
    let value = |run: &Measured, name: &str| {
        figure(&run.figures, CGROUP, name).map_or(0.0, |found| found.value)
    };
    let most = runs.iter().map(|run| value(run, CHARGED)).fold(1.0, f64::max);
    let rows = runs.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption("Memory charged to the cgroup of a pod, KiB", (FONT, 18))
        .margin(14)
        .y_label_area_size(LEFT)
        .x_label_area_size(24)
        .build_cartesian_2d(0.0..most * 1.1, 0.0..rows)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .max_light_lines(1)
        .x_labels(6)
        .x_label_formatter(&|kib| format!("{kib:.0}"))
        .label_style((FONT, 13))
        .draw()
        .map_err(failed)?;
    for (index, run) in runs.iter().enumerate() {
        // The first run is at the top.
        let middle = rows - index as f64 - 0.5;
        // The medians of the parts may add up to a little more or less than the median of the whole.
        let (whole, parts) =
            (value(run, CHARGED), PARTS.map(|(part, _)| value(run, part).max(0.0)));
        let scale = whole / parts.iter().sum::<f64>().max(1.0);
        let mut x = 0.0;
        for ((_, colour), kib) in PARTS.into_iter().zip(parts) {
            let from = x;
            x += kib * scale;
            let corners = [(from, middle - 0.28), (x, middle + 0.28)];
            chart.draw_series([Rectangle::new(corners, colour.filled())]).map_err(failed)?;
        }
        let centred =
            |horizontal| (FONT, 13).into_text_style(area).pos(Pos::new(horizontal, VPos::Center));
        let total = format!("{whole:.0}");
        let place = (x + most / 100.0, middle);
        let text = Text::new(total, place, centred(HPos::Left));
        chart.draw_series([text]).map_err(failed)?;
        let (left, y) = chart.plotting_area().map_coordinate(&(0.0, middle));
        area.draw(&Text::new(label(run), (left - 10, y), centred(HPos::Right))).map_err(failed)?;
    }
    // The legend of the colours.
    for (index, (part, colour)) in PARTS.iter().enumerate() {
        let (x, y) = (WIDTH as i32 - 290 + 100 * index as i32, 18);
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], colour.filled())).map_err(failed)?;
        area.draw(&Text::new(*part, (x + 17, y), (FONT, 13))).map_err(failed)?;
    }
    Ok(())
}

/// Lines: how much more memory the whole node needs for each pod that a step adds.
fn draw_growth(area: &Area, runs: &[&Measured]) -> Result<()> {
    let points = |run: &Measured| -> Vec<(f64, f64)> {
        let steps = run.curve.iter();
        let points = steps.filter_map(|step| {
            Some((step.pods as f64, figure(&step.figures, NODE, COUNTERS[0].name)?.value / 1_024.0))
        });
        points.collect()
    };
    let all = || runs.iter().flat_map(|run| points(run));
    let pods = all().map(|point| point.0).fold(10.0, f64::max);
    let most = all().map(|point| point.1).fold(0.1, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("Memory that the node needs for each additional pod, MiB", (FONT, 18))
        .margin(14)
        .y_label_area_size(60)
        .x_label_area_size(44)
        .build_cartesian_2d((1.0..pods).log_scale(), 0.0..most * 1.15)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .max_light_lines(1)
        .x_labels(5)
        .x_label_formatter(&|pods| format!("{pods:.0}"))
        .x_desc("pods on the node")
        .label_style((FONT, 13))
        .draw()
        .map_err(failed)?;
    for (run, colour) in runs.iter().zip([BLUE, ORANGE, GREEN, PINK].into_iter().cycle()) {
        let points = points(run);
        let line = LineSeries::new(points.clone(), colour.stroke_width(2)).point_size(4);
        let entry = chart.draw_series(line).map_err(failed)?;
        entry
            .label(label(run))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 13))
        .draw()
        .map_err(failed)?;
    Ok(())
}

/// A run in a few words: the name of its sandbox image, and the handler.
fn label(run: &Measured) -> String {
    let subject = &run.subject;
    let image = subject.image.as_deref().unwrap_or("unknown image");
    let handler = if subject.handler.is_empty() { "default handler" } else { &subject.handler };
    format!("{image}, {handler}")
}

fn figure<'a>(figures: &'a [Figure], group: &str, name: &str) -> Option<&'a Figure> {
    figures.iter().find(|figure| figure.group == group && figure.name == name)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw the picture: {error}")
}
