//! The few-shot protocol: methods learn all classes from 1, 2, 4, 8 and 16 images of each, and are tested on all test images.
//!
//! Zhou et al., "Learning to prompt for vision-language models" (IJCV 2022), section 4.1 and figure 3.

use std::{fmt::Write, fs, path::Path};

use plotters::prelude::*;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    comparison::{MethodResults, RunResult, markdown},
    counted,
    dataset::ClassSubset,
    error::io,
    prompt_learning::Start,
    protocol::{Draw, Materials, MethodOptions, Protocol, ProtocolEvent, check, check_start},
};

/// The methods, and numbers of images.
#[derive(Clone, Debug)]
pub struct FewShotOptions {
    /// Name of the model, for the report.
    pub model: String,
    /// Seeds of training images, initial values and order.
    pub seeds: Vec<u64>,
    /// Numbers of images per class, ascending, each with the methods and their options; the methods are the same for all.
    pub shots: Vec<(usize, Vec<MethodOptions>)>,
}

/// The results of the protocol.
#[derive(Clone, Debug)]
pub struct FewShotReport {
    options: FewShotOptions,
    data: String,
    templates: Vec<String>,
    /// On [`ClassSubset::All`].
    pub zero_shot: MethodResults,
    /// For each number of shots, the methods in their order.
    pub methods: Vec<Vec<MethodResults>>,
}

const ALL: ClassSubset = ClassSubset::All;
const REPORT: &str = "report.json";

/// Trains each method with each number of shots and each seed, and tests it. Each training has a folder of its own, such as
/// `out/coop/4-shots/seed-1`. With [`Start::Resume`] finished trainings are only read and tested, and an interrupted one is
/// continued. Writes `report.json`, `report.md`, `accuracy.csv` and `plot.svg`.
///
/// # Errors
/// [`Error::State`] if `out` has trainings with other options, data or another model, or any with
/// [`Start::New`]; [`Error::Options`] for no method, seed or shots; those of
/// [`Dataset::few_shot`](crate::dataset::Dataset::few_shot), of the training and of the test.
pub fn run(
    materials: &Materials,
    options: &FewShotOptions,
    out: &Path,
    start: Start,
    progress: &mut dyn FnMut(ProtocolEvent),
) -> Result<FewShotReport> {
    let ascending = options.shots.is_sorted_by(|a, b| a.0 < b.0);
    if options.shots.is_empty() || !ascending {
        let problem = "--shots: expected at least one number, each once, ascending";
        return Err(Error::Options(problem.into()));
    }
    for (_, methods) in &options.shots {
        check(methods, &options.seeds, materials.encoder.as_deref())?;
    }
    check_start(&out.join(REPORT), start)?;
    // Errors in the images of any training are reported before the first one.
    let draws = options.shots.iter().map(|(shots, _)| {
        let seeds = options.seeds.iter();
        seeds
            .map(|&seed| Draw::new(materials.data, *shots, seed))
            .collect()
    });
    let draws: Vec<Vec<Draw>> = draws.collect::<Result<_>>()?;
    let classes = &materials.data.classes;
    let mut protocol = Protocol::new(materials, classes, &[ALL], start)?;
    let zero_shot = MethodResults::single("zero-shot", protocol.zero_shot()?);
    let mut all = Vec::new();
    for ((shots, methods), draws) in options.shots.iter().zip(&draws) {
        let mut results: Vec<MethodResults> = (methods.iter())
            .map(|method| MethodResults {
                name: method.name().into(),
                runs: Vec::new(),
            })
            .collect();
        for draw in draws {
            for (method, results) in methods.iter().zip(&mut results) {
                let seed = draw.seed;
                let folder = out.join(method.key()).join(format!("{shots}-shots"));
                let folder = folder.join(format!("seed-{seed}"));
                let run = format!("{}, seed {seed}", counted(*shots as u64, "shot"));
                let evaluations = protocol.run(method, draw, &folder, &run, progress)?;
                results.runs.push(RunResult {
                    name: format!("seed {seed}"),
                    evaluations,
                });
            }
        }
        all.push(results);
    }
    let report = FewShotReport {
        options: options.clone(),
        data: materials.data.name.clone(),
        templates: materials.templates.as_slice().to_vec(),
        zero_shot,
        methods: all,
    };
    report.write(out)?;
    Ok(report)
}

impl FewShotReport {
    fn shots(&self) -> impl Iterator<Item = usize> {
        self.options.shots.iter().map(|(shots, _)| *shots)
    }

    /// The accuracy of zero-shot.
    fn zero_shot_accuracy(&self) -> f64 {
        let accuracy = self.zero_shot.mean_sd(|run| run.accuracy(ALL));
        accuracy.map_or(0.0, |accuracy| accuracy.mean)
    }

    /// A table with a heading and a row per method: accuracy for each number of shots, mean ± sample standard deviation over
    /// the seeds, as percentages.
    pub fn summary(&self) -> Vec<Vec<String>> {
        let mut heading = vec![String::new()];
        heading.extend(self.shots().map(|shots| counted(shots as u64, "shot")));
        let cell = |results: &MethodResults| {
            let accuracy = results.mean_sd(|run| run.accuracy(ALL));
            accuracy.map_or("-".into(), |accuracy| accuracy.percent())
        };
        let mut zero_shot = vec!["zero-shot".to_owned()];
        zero_shot.extend(self.shots().map(|_| cell(&self.zero_shot)));
        let mut rows = vec![heading, zero_shot];
        for (i, first) in self.methods.first().into_iter().flatten().enumerate() {
            let mut row = vec![first.name.clone()];
            row.extend(self.methods.iter().map(|methods| cell(&methods[i])));
            rows.push(row);
        }
        rows
    }

    /// All results as JSON.
    pub fn json(&self) -> Value {
        let options = &self.options;
        let by_shots = options.shots.iter().zip(&self.methods);
        let by_shots: Vec<Value> = by_shots
            .map(|((shots, settings), methods)| {
                let settings: Vec<Value> = settings.iter().map(MethodOptions::settings).collect();
                let methods: Vec<Value> = methods.iter().map(MethodResults::json).collect();
                json!({"shots": shots, "settings": settings, "methods": methods})
            })
            .collect();
        json!({
            "model": options.model,
            "data": self.data,
            "seeds": options.seeds,
            "templates": self.templates,
            "zero_shot": self.zero_shot.json(),
            "by_shots": by_shots,
        })
    }

    /// A line per training: method, shots, seed and accuracy; zero-shot has 0 shots and no seed.
    pub fn csv(&self) -> String {
        let mut text = String::from("method,shots,seed,accuracy\n");
        text.push_str(&format!("zero-shot,0,,{:.6}\n", self.zero_shot_accuracy()));
        for (shots, methods) in self.shots().zip(&self.methods) {
            for method in methods {
                for (run, seed) in method.runs.iter().zip(&self.options.seeds) {
                    let accuracy = run.accuracy(ALL).unwrap_or(f64::NAN);
                    text.push_str(&format!("{},{shots},{seed},{accuracy:.6}\n", method.name));
                }
            }
        }
        text
    }

    /// The report as Markdown, independent of the machine's paths and speed.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        let matrix = self.zero_shot.confusion(ALL);
        let (classes, images) = matrix.map_or((0, 0), |m| (m.classes.len(), m.images()));
        writeln!(text, "# Few-shot on {}\n", self.data)?;
        writeln!(
            text,
            "CLIP {}. Learned from the given number of images of each of {classes} classes, {}. Tested on {}.\n",
            self.options.model,
            counted(self.options.seeds.len() as u64, "seed"),
            counted(images, "other image")
        )?;
        writeln!(text, "{}", markdown(&self.summary()))?;
        writeln!(
            text,
            "Accuracy as a percentage; mean ± sample standard deviation over the seeds.\n\n![Accuracy over \
             shots](plot.svg)\n\n## Settings\n"
        )?;
        let quoted: Vec<String> = self.templates.iter().map(|t| format!("{t:?}")).collect();
        writeln!(text, "Zero-shot: {}.\n", quoted.join(", "))?;
        let Some((shots, methods)) = self.options.shots.last() else {
            return Ok(());
        };
        writeln!(text, "Options for {}:\n", counted(*shots as u64, "shot"))?;
        for method in methods {
            let settings = method.settings();
            let fields = settings.as_object().into_iter().flatten();
            let fields: Vec<String> = fields
                .filter(|(key, _)| *key != "method")
                .map(|(key, value)| match value {
                    Value::Null => format!(
                        "{} chosen on validation images, or the default without any",
                        key.replace('_', " ")
                    ),
                    value => format!("{} {value}", key.replace('_', " ")),
                })
                .collect();
            writeln!(text, "- {}: {}", method.name(), fields.join(", "))?;
        }
        Ok(())
    }

    fn write(&self, out: &Path) -> Result<()> {
        fs::create_dir_all(out).map_err(io(out))?;
        let plot = self
            .plot()
            .map_err(|e| Error::Config(format!("{}: cannot plot: {e}", out.display())))?;
        for (name, text) in [
            ("report.md", self.markdown()),
            ("accuracy.csv", self.csv()),
            ("plot.svg", plot),
            (REPORT, format!("{:#}\n", self.json())),
        ] {
            let path = out.join(name);
            pinhole_fs::write(&path, text.as_bytes()).map_err(io(&path))?;
        }
        Ok(())
    }

    /// Accuracy over shots as in the figures of CoOp's paper, as SVG: a line per method, and zero-shot at 0.
    ///
    /// # Errors
    /// Those of the plotting crate.
    pub fn plot(&self) -> std::result::Result<String, Box<dyn std::error::Error>> {
        let shots: Vec<usize> = self.shots().collect();
        let zero_shot = 100.0 * self.zero_shot_accuracy();
        let curves: Vec<(&str, Vec<(f64, f64)>)> = (self.methods.first().into_iter().flatten())
            .enumerate()
            .map(|(i, first)| {
                let points = shots
                    .iter()
                    .zip(&self.methods)
                    .filter_map(|(shots, methods)| {
                        let accuracy = methods[i].mean_sd(|run| run.accuracy(ALL))?;
                        Some((*shots as f64, 100.0 * accuracy.mean))
                    });
                (first.name.as_str(), points.collect())
            })
            .collect();
        let values = || {
            curves
                .iter()
                .flat_map(|(_, points)| points.iter().map(|p| p.1))
        };
        let lowest = values().fold(zero_shot, f64::min);
        let highest = values().fold(zero_shot, f64::max);
        let last = shots.last().copied().unwrap_or(1) as f64;
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (560, 400)).into_drawing_area();
            area.fill(&WHITE)?;
            let bottom = (lowest - 3.0).max(0.0);
            let mut chart = ChartBuilder::on(&area)
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(44)
                .build_cartesian_2d(-0.4..last + 0.4, bottom..(highest + 3.0).min(100.5))?;
            chart
                .configure_mesh()
                .x_desc("labelled images per class")
                .y_desc("accuracy (%)")
                .x_label_formatter(&|x| format!("{x:.0}"))
                .y_label_formatter(&|y| format!("{y:.0}"))
                .light_line_style(WHITE)
                .draw()?;
            let grey = RGBColor(90, 90, 90);
            chart
                .draw_series([TriangleMarker::new((0.0, zero_shot), 6, grey.filled())])?
                .label("zero-shot")
                .legend(move |(x, y)| TriangleMarker::new((x + 9, y), 6, grey.filled()));
            for (i, (name, points)) in curves.iter().enumerate() {
                let colour = COLOURS[i % COLOURS.len()];
                let line = colour.stroke_width(2);
                chart
                    .draw_series(LineSeries::new(points.iter().copied(), line))?
                    .label(*name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], line));
                let markers = points.iter().map(|p| Circle::new(*p, 3, colour.filled()));
                chart.draw_series(markers)?;
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE.mix(0.85))
                .border_style(RGBColor(200, 200, 200))
                .draw()?;
            area.present()?;
        }
        Ok(svg)
    }
}

/// Colours that are distinct for most eyes (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
