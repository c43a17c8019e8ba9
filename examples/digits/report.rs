//! What came of it: a table for the terminal and a picture of the loss curves.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use plotters::prelude::*;

/// One training run.
pub(crate) struct Run {
    /// Mean loss over the training set, as seen while each epoch went by.
    pub(crate) losses: Vec<f64>,
    /// Share of the test images whose digit is found at the end.
    pub(crate) accuracy: f64,
    pub(crate) state_bytes: usize,
    /// The least time of an optimizer step of the whole model.
    pub(crate) step: Duration,
}

/// An optimizer with its runs.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) lr: f64,
    pub(crate) cpu: Run,
    /// Missing where there is no adapter.
    pub(crate) gpu: Option<Run>,
}

impl Entry {
    /// The greatest relative difference between CPU and GPU in the loss of an epoch.
    pub(crate) fn difference(&self) -> Option<f64> {
        let relative = |(&cpu, &gpu): (&f64, &f64)| (cpu - gpu).abs() / cpu;
        // Unlike with `f64::max`, a NaN stays.
        let worse = |worst: f64, x: f64| if worst.is_nan() || x <= worst { worst } else { x };
        let gpu = self.gpu.as_ref()?;
        Some(self.cpu.losses.iter().zip(&gpu.losses).map(relative).fold(0.0, worse))
    }
}

/// Prints a line for each optimizer.
pub(crate) fn table(entries: &[Entry], parameters: usize) {
    let line = |cells: [&str; 9]| {
        let [name, numbers @ ..] = cells;
        println!("{name:<10}{}", numbers.map(|cell| format!("{cell:>12}")).concat());
    };
    let micros = |run: &Run| format!("{:.0}", run.step.as_secs_f64() * 1e6);
    let relative = |x: f64| if x == 0.0 { "none".into() } else { format!("{x:.1e}") };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());

    line([
        "",
        "learning",
        "test",
        "training",
        "state",
        "bytes per",
        "CPU step",
        "GPU step",
        "CPU–GPU",
    ]);
    line(["optimizer", "rate", "accuracy", "loss", "bytes", "parameter", "µs", "µs", "difference"]);
    for entry in entries {
        let run = &entry.cpu;
        line([
            entry.name,
            &entry.lr.to_string(),
            &format!("{:.1} %", 100.0 * run.accuracy),
            &format!("{:.5}", run.losses.last().copied().unwrap_or(f64::NAN)),
            &run.state_bytes.to_string(),
            &format!("{:.2}", run.state_bytes as f64 / parameters as f64),
            &micros(run),
            &or_dash(entry.gpu.as_ref().map(micros)),
            &or_dash(entry.difference().map(relative)),
        ]);
    }
    println!(
        "A step is one of all tensors, {parameters} parameters, without transfers: the fastest of the run.\n\
         The difference is the greatest relative one in the training loss of an epoch."
    );
}

/// Colours that stay apart for colour-blind eyes (Okabe and Ito).
const COLOURS: [RGBColor; 5] = [
    RGBColor(120, 120, 120),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(213, 94, 0),
];

/// Epochs, from 1 on, and their losses.
fn points(run: &Run) -> Vec<(usize, f64)> {
    (1..).zip(run.losses.iter().copied()).collect()
}

/// Draws the loss curves: the CPU's as lines, the GPU's as circles on them.
pub(crate) fn picture(entries: &[Entry], path: &Path) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let losses = || entries.iter().flat_map(|e| &e.cpu.losses).copied().filter(|x| *x > 0.0);
    let (low, high) = (losses().fold(f64::INFINITY, f64::min), losses().fold(0.0, f64::max));
    let epochs = entries.iter().map(|e| points(&e.cpu).len()).max().unwrap_or(1);

    let root = SVGBackend::new(path, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Handwritten digits, one model, five optimizers", ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(1..epochs, (low * 0.8..high * 1.25).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .axis_style(BLACK.mix(0.5))
        .label_style(("sans-serif", 14))
        .x_desc("epoch")
        .y_desc("training loss (mean cross-entropy, log scale)")
        .y_label_formatter(&|y| format!("{y}"))
        .draw()?;

    for (entry, colour) in entries.iter().zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(LineSeries::new(points(&entry.cpu), colour.stroke_width(2)))?
            .label(entry.name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
        if let Some(gpu) = &entry.gpu {
            let circle = |at| Circle::new(at, 4, colour.stroke_width(1));
            chart.draw_series(points(gpu).into_iter().map(circle))?;
        }
    }
    if entries.iter().any(|entry| entry.gpu.is_some()) {
        chart
            .draw_series(std::iter::empty::<Circle<(usize, f64), i32>>())?
            .label("the same on the GPU")
            .legend(|(x, y)| Circle::new((x + 12, y), 4, BLACK.mix(0.6).stroke_width(1)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(16)
        .legend_area_size(32)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    root.present()?;
    Ok(())
}
