//! A plot of loss and accuracy over a training.

use std::path::Path;

use plotters::prelude::*;

use crate::{Error, Result, log::LogRecord};

/// Writes a log as SVG: the loss above, the accuracy within batches below.
///
/// # Errors
/// [`Error::Io`]; [`Error::Config`] for an empty log.
pub fn plot_log(log: &[LogRecord], path: &Path) -> Result<()> {
    let Some(last) = log.last() else {
        return Err(Error::Config("nothing to plot: the log is empty".into()));
    };
    let mut svg = String::new();
    let mut draw = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(&mut svg, (800, 600)).into_drawing_area();
        area.fill(&WHITE)?;
        let parts = area.split_evenly((2, 1));
        let max_loss = log.iter().map(|r| r.loss).fold(0.0, f64::max);
        let curves: [(&str, f64, RGBColor, Value); 2] = [
            ("loss", max_loss * 1.05, RED, |r| r.loss),
            ("accuracy in the batch", 1.0, BLUE, |r| r.accuracy),
        ];
        for (part, (name, top, colour, value)) in parts.iter().zip(curves) {
            let mut chart = ChartBuilder::on(part)
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(48)
                .caption(name, ("sans-serif", 18))
                .build_cartesian_2d(0..last.step, 0.0..top.max(1e-6))?;
            chart.configure_mesh().x_desc("step").draw()?;
            let points = log.iter().map(|r| (r.step, value(r)));
            chart.draw_series(LineSeries::new(points, &colour))?;
        }
        area.present()?;
        Ok(())
    };
    draw().map_err(|e| Error::Config(format!("{}: cannot plot: {e}", path.display())))?;
    pinhole_fs::write(path, svg.as_bytes()).map_err(crate::error::io(path))
}

/// The value of a log line that a curve shows.
type Value = fn(&LogRecord) -> f64;
