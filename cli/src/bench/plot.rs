//! Frame rate and temperature over time, as SVG.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use pinhole_fs::AtomicFile;
use plotters::prelude::*;

use super::measure::Row;

/// The file of a plot, opened before the run, so that an unusable path is not found ten minutes later.
pub(super) struct PlotFile {
    path: PathBuf,
    file: AtomicFile,
}

impl PlotFile {
    /// # Errors
    /// If `path` exists or its folder is not writable.
    pub(super) fn create(path: &Path) -> Result<Self> {
        // A dangling symbolic link counts as existing.
        if path.symlink_metadata().is_ok() {
            bail!(
                "--plot: {}: expected a path that does not exist, found a file; remove it or choose another name",
                path.display()
            );
        }
        let file = AtomicFile::create(path).with_context(|| {
            format!(
                "--plot: {}: cannot create a file in its folder",
                path.display()
            )
        })?;
        let path = path.to_owned();
        Ok(Self { path, file })
    }

    /// # Errors
    /// If the disk is full, or `path` was created in the meantime.
    pub(super) fn write(mut self, title: &str, rows: &[Row]) -> Result<()> {
        let svg = svg(title, rows).map_err(|e| anyhow!("{e}"));
        let written = svg.and_then(|svg| {
            self.file.file().write_all(svg.as_bytes())?;
            Ok(self.file.create_new()?)
        });
        written.with_context(|| format!("--plot: {}: cannot write", self.path.display()))
    }
}

/// A line for the frame rate, and one for the temperature, if known, with an axis of its own.
fn svg(title: &str, rows: &[Row]) -> Result<String, Box<dyn std::error::Error>> {
    let temperatures: Vec<(f64, f64)> = rows
        .iter()
        .filter_map(|row| Some((row.end_s, row.temperature_c?)))
        .collect();
    let end = rows.last().map_or(1.0, |row| row.end_s);
    let fastest = rows.iter().map(|row| row.frames_per_second);
    let fastest = fastest.fold(0.0, f64::max).max(1e-3);
    let hottest = temperatures.iter().map(|t| t.1).fold(0.0, f64::max);
    let coolest = temperatures.iter().map(|t| t.1).fold(hottest, f64::min);
    let degrees = (coolest - 5.0).floor()..(hottest + 5.0).ceil();
    let right = if temperatures.is_empty() { 16 } else { 56 };

    // XML cannot represent control characters.
    let title = title.replace(char::is_control, "?");
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (800, 400)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .caption(title, ("sans-serif", 16))
        .x_label_area_size(40)
        .y_label_area_size(56)
        .right_y_label_area_size(right)
        .build_cartesian_2d(0.0..end, 0.0..fastest * 1.1)?
        .set_secondary_coord(0.0..end, degrees);
    chart
        .configure_mesh()
        .max_light_lines(0)
        .x_desc("time (s)")
        .y_desc("frames per second")
        .draw()?;
    // A row is drawn at its end, where the temperature was read.
    let rates = rows.iter().map(|row| (row.end_s, row.frames_per_second));
    chart
        .draw_series(LineSeries::new(rates, &BLUE).point_size(2))?
        .label("frames per second")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLUE));
    if !temperatures.is_empty() {
        chart
            .configure_secondary_axes()
            .y_desc("temperature (°C)")
            .draw()?;
        chart
            .draw_secondary_series(LineSeries::new(temperatures, &RED).point_size(2))?
            .label("temperature")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], RED));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(temperature_c: impl Fn(u32) -> Option<f64>) -> Vec<Row> {
        let row = |i: u32| Row {
            start_s: 10.0 * f64::from(i),
            end_s: 10.0 * f64::from(i + 1),
            iterations: 400,
            frames_per_second: if i < 30 { 44.0 } else { 31.0 },
            p50_ms: 22.0,
            p99_ms: Some(30.0),
            temperature_c: temperature_c(i),
            frequency_mhz: None,
            throttled: None,
        };
        (0..60).map(row).collect()
    }

    #[test]
    fn the_temperature_is_drawn_if_it_is_known() {
        let warm = svg("a & b <c>\x1b", &rows(|i| Some(48.0 + f64::from(i) / 2.0))).unwrap();
        assert!(warm.contains("temperature (°C)") && warm.contains("frames per second"));
        // Folders can have any name.
        assert!(warm.contains("a &amp; b &lt;c&gt;?"), "{warm}");
        let cold = svg("", &rows(|_| None)).unwrap();
        assert!(!cold.contains("temperature"));
        let red = "stroke=\"#FF0000\"";
        assert!(warm.contains(red) && !cold.contains(red));
    }

    #[test]
    fn plots_of_no_and_of_one_row_are_drawn() {
        for count in [0, 1] {
            let rows = &rows(|_| Some(-40.0))[..count];
            assert!(svg("short", rows).unwrap().ends_with("</svg>\n"));
        }
    }

    #[test]
    fn a_file_created_during_the_run_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.svg");
        let plot = PlotFile::create(&path).unwrap();
        std::fs::write(&path, "another's").unwrap();
        let error = format!("{:#}", plot.write("title", &rows(|_| None)).unwrap_err());
        assert!(error.contains("out.svg"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "another's");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
