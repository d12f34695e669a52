//! The base-to-new protocol: prompts are learned on half of the classes and tested on both halves.
//!
//! Zhou et al., "Conditional prompt learning for vision-language models" (CVPR 2022), section 4.1: the first
//! half of the classes are base, the others new. Each method learns from a few images of each base class. It
//! is tested on all test images of the base classes, among the base classes, and on those of the new classes,
//! among the new classes.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use serde_json::{Value, json};

use crate::{
    Error, Result,
    comparison::{MethodResults, RunResult, markdown, summary},
    counted,
    dataset::ClassSubset,
    error::io,
    prompt_learning::Start,
    protocol::{Draw, Materials, MethodOptions, Protocol, ProtocolEvent, check, check_start},
};

/// Model, methods and seeds of a run.
#[derive(Clone, Debug)]
pub struct BaseToNewOptions {
    /// Name of the model, for the report.
    pub model: String,
    /// Training images per base class.
    pub shots: usize,
    /// Seeds of training images, initial values and order.
    pub seeds: Vec<u64>,
    /// The methods.
    pub methods: Vec<MethodOptions>,
}

/// The results of the protocol.
#[derive(Clone, Debug)]
pub struct BaseToNewReport {
    options: BaseToNewOptions,
    templates: Vec<String>,
    data: String,
    base: Vec<String>,
    new: Vec<String>,
    /// Zero-shot, then the methods, each on [`ClassSubset::Base`] and [`ClassSubset::New`].
    pub methods: Vec<MethodResults>,
}

const SUBSETS: [ClassSubset; 2] = [ClassSubset::Base, ClassSubset::New];

const REPORT: &str = "report.json";

/// Trains each method with each seed and tests it. Each training has a folder of its own, such as `out/coop/seed-1`. With
/// [`Start::Resume`] finished trainings are only read and tested, and an interrupted one is continued. Methods that learn
/// something for the base classes alone (linear heads, caches) classify the new ones by the zero-shot prompts.
///
/// # Errors
/// [`Error::State`] if `out` has trainings with other options, data or another model, or any with
/// [`Start::New`]; [`Error::Options`] for no method or no seed; [`Error::Config`] for less than two classes; those of
/// [`Dataset::few_shot`](crate::dataset::Dataset::few_shot), of the training and of the test.
pub fn run(
    materials: &Materials,
    options: &BaseToNewOptions,
    out: &Path,
    start: Start,
    progress: &mut dyn FnMut(ProtocolEvent),
) -> Result<BaseToNewReport> {
    check(
        &options.methods,
        &options.seeds,
        materials.encoder.as_deref(),
    )?;
    let specific = |method: &MethodOptions| match method {
        MethodOptions::Prompts(options) => options.class_specific,
        MethodOptions::Adapter(_) => false,
    };
    if options.methods.iter().any(specific) {
        let problem = "class-specific contexts cannot be tested on new classes";
        return Err(Error::Options(problem.into()));
    }
    check_start(&out.join(REPORT), start)?;
    let [base, new] = SUBSETS.map(|subset| materials.data.subset(subset));
    // Errors in the images of any seed are reported before the first training.
    let draws = (options.seeds.iter()).map(|&seed| Draw::new(&base, options.shots, seed));
    let draws: Vec<Draw> = draws.collect::<Result<_>>()?;
    let mut protocol = Protocol::new(materials, &base.classes, &SUBSETS, start)?;
    let mut results = vec![MethodResults::single("zero-shot", protocol.zero_shot()?)];
    results.extend(options.methods.iter().map(|method| MethodResults {
        name: method.name().into(),
        runs: Vec::new(),
    }));
    for draw in &draws {
        for (method, results) in options.methods.iter().zip(&mut results[1..]) {
            let seed = draw.seed;
            let folder = out.join(method.key()).join(format!("seed-{seed}"));
            let name = format!("seed {seed}");
            let evaluations = protocol.run(method, draw, &folder, &name, progress)?;
            results.runs.push(RunResult { name, evaluations });
        }
    }
    let report = BaseToNewReport {
        options: options.clone(),
        templates: materials.templates.as_slice().to_vec(),
        data: materials.data.name.clone(),
        base: base.classes,
        new: new.classes,
        methods: results,
    };
    report.write(out)?;
    Ok(report)
}

fn write(path: &Path, text: &str) -> Result<()> {
    pinhole_fs::write(path, text.as_bytes()).map_err(io(path))
}

impl BaseToNewReport {
    /// A table with a heading and a row per method: accuracies, H and calibration errors.
    pub fn summary(&self) -> Vec<Vec<String>> {
        summary(&self.methods, &SUBSETS)
    }

    /// All results as JSON.
    pub fn json(&self) -> Value {
        let options = &self.options;
        let methods = options.methods.iter().map(MethodOptions::settings);
        json!({
            "model": options.model,
            "data": self.data,
            "base": self.base,
            "new": self.new,
            "shots": options.shots,
            "seeds": options.seeds,
            "templates": self.templates,
            "settings": methods.collect::<Vec<_>>(),
            "methods": self.methods.iter().map(MethodResults::json).collect::<Vec<_>>(),
        })
    }

    /// The report as Markdown, independent of the machine's paths and speed.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        let options = &self.options;
        let images = |subset: ClassSubset| {
            let evaluation = self.methods[0].runs[0].evaluations.get(&subset);
            evaluation.map_or(0, |evaluation| evaluation.confusion.images())
        };
        writeln!(text, "# Base-to-new on {}\n", self.data)?;
        writeln!(
            text,
            "CLIP {}. Learned from {} of each of the {}, {}. Tested on {} of the base classes, among the base classes, \
             and on {} of the {}, among the new classes.\n",
            options.model,
            counted(options.shots as u64, "image"),
            counted(self.base.len() as u64, "base class"),
            counted(options.seeds.len() as u64, "seed"),
            counted(images(ClassSubset::Base), "image"),
            counted(images(ClassSubset::New), "image"),
            counted(self.new.len() as u64, "new class")
        )?;
        writeln!(text, "{}", markdown(&self.summary()))?;
        writeln!(
            text,
            "Accuracy as a percentage; H is the harmonic mean of base and new, computed per seed; mean ± \
             sample standard deviation over the seeds. ECE is the expected calibration error in 15 bins, \
             as a percentage.\n\n## By seed\n"
        )?;
        let mut table = Vec::new();
        for method in &self.methods[1..] {
            for run in &method.runs {
                let one = MethodResults {
                    name: format!("{}, {}", method.name, run.name),
                    runs: vec![run.clone()],
                };
                let mut rows = summary(&[one], &SUBSETS).into_iter();
                let heading = rows.next();
                table.extend(heading.filter(|_| table.is_empty()));
                table.extend(rows);
            }
        }
        writeln!(text, "{}\n## Settings\n", markdown(&table))?;
        let quoted = self.templates.iter();
        let quoted: Vec<String> = quoted.map(|t| format!("{t:?}")).collect();
        writeln!(text, "Zero-shot: {}.\n", quoted.join(", "))?;
        let settings: Vec<Value> = options
            .methods
            .iter()
            .map(MethodOptions::settings)
            .collect();
        let mut table = vec![vec!["".to_owned()]];
        table[0].extend(options.methods.iter().map(|m| m.name().to_owned()));
        let keys = settings.iter().filter_map(Value::as_object);
        let keys: BTreeSet<&String> = keys.flat_map(|fields| fields.keys()).collect();
        for key in keys.into_iter().filter(|key| *key != "method") {
            let mut row = vec![key.replace('_', " ")];
            row.extend(settings.iter().map(|s| cell(&s[key])));
            table.push(row);
        }
        write!(text, "{}", markdown(&table))
    }

    fn write(&self, out: &Path) -> Result<()> {
        fs::create_dir_all(out).map_err(io(out))?;
        write(&out.join("report.md"), &self.markdown())?;
        write(&out.join(REPORT), &format!("{:#}\n", self.json()))
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
