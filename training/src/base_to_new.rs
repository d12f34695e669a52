//! The base-to-new protocol: prompts are learned on half of the classes and tested on both halves.
//!
//! Zhou et al., "Conditional prompt learning for vision-language models" (CVPR 2022), section 4.1: the first
//! half of the classes are base, the others new. Each method learns from a few images of each base class. It
//! is tested on all test images of the base classes, among the base classes, and on those of the new classes,
//! among the new classes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use pinhole_checkpoint::{Checkpoint, read_prompt_learner};
use pinhole_model::PromptLearner;
use pinhole_prompts::Templates;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    comparison::{MethodResults, RunResult, markdown, summary},
    dataset::{ClassSubset, Dataset, ImageSource, LabelledImage},
    error::io,
    evaluate::{PromptEvaluator, TestSet},
    fingerprint::Fingerprint,
    prompt_learning::{
        ImageFeatures, Intervals, LEARNER_FILE, Method, PromptOptions, PromptOutput,
        PromptTraining, Start, TrainingEvent, image_features,
    },
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
    /// Zero-shot prompts.
    pub templates: Templates,
    /// Options of each method; their seed is not used.
    pub methods: Vec<PromptOptions>,
    /// How often a training writes log and state.
    pub intervals: Intervals,
}

/// Progress of the protocol.
#[derive(Clone, Debug)]
pub enum BaseToNewEvent<'a> {
    /// A method is being trained with a seed.
    Training(TrainingEvent<'a>),
    /// A method was trained with a seed.
    Trained {
        /// The method.
        method: Method,
        /// The seed.
        seed: u64,
    },
    /// The training of a method with a seed was finished before.
    Kept {
        /// The method.
        method: Method,
        /// The seed.
        seed: u64,
    },
}

/// The results of the protocol.
#[derive(Clone, Debug)]
pub struct BaseToNewReport {
    options: BaseToNewOptions,
    data: String,
    base: Vec<String>,
    new: Vec<String>,
    /// Zero-shot, then the methods, each on [`ClassSubset::Base`] and [`ClassSubset::New`].
    pub methods: Vec<MethodResults>,
}

const SUBSETS: [ClassSubset; 2] = [ClassSubset::Base, ClassSubset::New];

const REPORT: &str = "report.json";

/// Trains each method with each seed and tests it; `tests` are the data's test images of all classes. Each
/// training has a folder of its own, such as `out/coop/seed-1`. With [`Start::Resume`] finished trainings are
/// only read and tested, and an interrupted one is continued.
///
/// # Errors
/// [`Error::State`] if `out` has trainings with other options, data or another model, or any with
/// [`Start::New`]; [`Error::Config`] for less than two classes, no method or no seed; those of
/// [`Dataset::few_shot`], of the training and of [`PromptEvaluator::learned`].
pub fn run(
    clip: &Checkpoint,
    data: &Dataset,
    tests: &TestSet,
    options: &BaseToNewOptions,
    out: &Path,
    start: Start,
    progress: &mut dyn FnMut(BaseToNewEvent),
) -> Result<BaseToNewReport> {
    check(options)?;
    if start == Start::New && out.join(REPORT).exists() {
        return Err(Error::State {
            path: out.join(REPORT),
            problem: "already exists; continue with --resume or choose another --out".into(),
        });
    }
    let (base, new) = (
        data.subset(ClassSubset::Base),
        data.subset(ClassSubset::New),
    );
    let sets = SUBSETS.map(|subset| Ok((subset, tests.subset(subset)?)));
    let sets: BTreeMap<ClassSubset, TestSet> = sets.into_iter().collect::<Result<_>>()?;
    // Errors in the images of any seed are reported before the first training.
    let shots = (options.seeds.iter()).map(|&seed| base.few_shot(options.shots, seed));
    let shots: Vec<Vec<LabelledImage>> = shots.collect::<Result<_>>()?;

    let evaluator = PromptEvaluator::open(clip)?;
    let zero_shot = sets.iter().map(|(subset, set)| {
        let evaluation = evaluator.zero_shot(set, &options.templates)?;
        Ok((*subset, evaluation))
    });
    let mut results = vec![MethodResults::single(
        "zero-shot",
        zero_shot.collect::<Result<_>>()?,
    )];
    results.extend(options.methods.iter().map(|options| MethodResults {
        name: options.method.name().into(),
        runs: Vec::new(),
    }));
    let model = fingerprint(clip)?;
    for (&seed, images) in options.seeds.iter().zip(&shots) {
        // All methods of a seed learn from the same images.
        let mut features: Option<(PromptOptions, ImageFeatures)> = None;
        for (method, results) in options.methods.iter().zip(&mut results[1..]) {
            let method = PromptOptions {
                seed,
                ..method.clone()
            };
            let folder = out.join(method.method.key()).join(format!("seed-{seed}"));
            let job = Job {
                clip,
                model: &model,
                classes: &base.classes,
                images,
                options: &method,
                output: PromptOutput {
                    folder,
                    start,
                    intervals: options.intervals,
                },
            };
            let learner = job.learn(&mut features, progress)?;
            let evaluations = sets.iter().map(|(subset, set)| {
                let evaluation = evaluator.learned(set, &learner, Some(method.class_position))?;
                Ok((*subset, evaluation))
            });
            results.runs.push(RunResult {
                name: format!("seed {seed}"),
                evaluations: evaluations.collect::<Result<_>>()?,
            });
        }
    }
    let report = BaseToNewReport {
        options: options.clone(),
        data: data.name.clone(),
        base: base.classes,
        new: new.classes,
        methods: results,
    };
    report.write(out)?;
    Ok(report)
}

fn check(options: &BaseToNewOptions) -> Result<()> {
    let wrong = |what: &str| Err(Error::Config(what.into()));
    let mut seeds = options.seeds.clone();
    seeds.sort_unstable();
    seeds.dedup();
    if seeds.len() != options.seeds.len() || seeds.is_empty() {
        return wrong("--seeds: expected at least one, each once");
    }
    let names: Vec<Method> = options.methods.iter().map(|m| m.method).collect();
    if names.is_empty() || (1..names.len()).any(|i| names[..i].contains(&names[i])) {
        return wrong("--methods: expected at least one, each once");
    }
    if options.methods.iter().any(|m| m.class_specific) {
        return wrong("class-specific contexts cannot be tested on new classes");
    }
    options.methods.iter().try_for_each(PromptOptions::check)
}

/// One training.
struct Job<'a> {
    clip: &'a Checkpoint,
    model: &'a str,
    classes: &'a [String],
    images: &'a [LabelledImage],
    options: &'a PromptOptions,
    output: PromptOutput,
}

/// What a finished training was made from, in `trained.json` next to its prompt learner.
#[derive(Serialize, Deserialize)]
struct Provenance {
    options: PromptOptions,
    classes: Vec<String>,
    /// Fingerprint of the images' names.
    images: String,
    /// Fingerprint of the CLIP model.
    model: String,
}

impl Job<'_> {
    fn learn(
        &self,
        features: &mut Option<(PromptOptions, ImageFeatures)>,
        progress: &mut dyn FnMut(BaseToNewEvent),
    ) -> Result<PromptLearner> {
        let (method, seed) = (self.options.method, self.options.seed);
        let finished = self.output.folder.join("trained.json");
        if self.output.start == Start::Resume && finished.exists() {
            self.check(&finished)?;
            progress(BaseToNewEvent::Kept { method, seed });
            let file = self.output.folder.join(LEARNER_FILE);
            return Ok(read_prompt_learner(&file)?);
        }
        let training_event = &mut |event: TrainingEvent| progress(BaseToNewEvent::Training(event));
        let views = |o: &PromptOptions| (o.views, o.crop.to_bits(), o.flip, o.encoder.clone());
        let known = features
            .take()
            .filter(|(o, _)| views(o) == views(self.options));
        let (_, embedded) = match known {
            Some(known) => features.insert(known),
            None => {
                let embedded =
                    image_features(self.clip, self.images, self.options, training_event)?;
                features.insert((self.options.clone(), embedded))
            }
        };
        let labels = self.images.iter().map(|image| image.label).collect();
        let embedded = embedded.clone();
        let mut training =
            PromptTraining::new(self.clip, self.classes, embedded, labels, self.options)?;
        let learner = training.run(&self.output, training_event)?;
        let text = serde_json::to_string_pretty(&self.provenance()).map_err(|e| Error::State {
            path: finished.clone(),
            problem: e.to_string(),
        })?;
        write(&finished, &text)?;
        progress(BaseToNewEvent::Trained { method, seed });
        Ok(learner)
    }

    fn provenance(&self) -> Provenance {
        let mut images = Fingerprint::new();
        for image in self.images {
            images.text(&portable_name(image));
        }
        Provenance {
            options: self.options.clone(),
            classes: self.classes.to_vec(),
            images: images.finish(),
            model: self.model.into(),
        }
    }

    fn check(&self, finished: &Path) -> Result<()> {
        let problem = |problem: String| Error::State {
            path: finished.into(),
            problem,
        };
        let text = fs::read_to_string(finished).map_err(io(finished))?;
        let found: Provenance =
            pinhole_fs::from_json(text.as_bytes()).map_err(|e| problem(e.to_string()))?;
        let now = self.provenance();
        let differing = [
            ("options", found.options != now.options),
            ("classes", found.classes != now.classes),
            ("images", found.images != now.images),
            ("weights of CLIP", found.model != now.model),
        ];
        match differing.iter().find(|(_, differs)| *differs) {
            None => Ok(()),
            Some((what, _)) => Err(problem(format!(
                "this training was made with other {what}; choose another --out"
            ))),
        }
    }
}

/// The last two components of a path, which do not depend on where the data are.
fn portable_name(image: &LabelledImage) -> String {
    match &image.source {
        ImageSource::File(path) => {
            let parts: Vec<_> = path.iter().rev().take(2).collect();
            let parts = parts.iter().rev().map(|part| part.to_string_lossy());
            parts.collect::<Vec<_>>().join("/")
        }
        ImageSource::Shapes { .. } => image.to_string(),
    }
}

/// A fingerprint of the model's small tensors: any training changes all of them, and reading the large ones
/// takes longer.
fn fingerprint(clip: &Checkpoint) -> Result<String> {
    let mut hash = Fingerprint::new();
    for (name, shape) in clip.tensors() {
        hash.text(name);
        if shape.iter().product::<usize>() <= 1 << 16 {
            hash.numbers(clip.tensor(name)?.data);
        }
    }
    Ok(hash.finish())
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
        let methods = options.methods.iter().map(settings);
        json!({
            "model": options.model,
            "data": self.data,
            "base": self.base,
            "new": self.new,
            "shots": options.shots,
            "seeds": options.seeds,
            "templates": options.templates.as_slice(),
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
            "CLIP {}. Learned from {} images of each of the {} base classes, {} seeds. Tested on {} images \
             of the base classes, among the base classes, and on {} images of the {} new classes, among \
             the new classes.\n",
            options.model,
            options.shots,
            self.base.len(),
            options.seeds.len(),
            images(ClassSubset::Base),
            images(ClassSubset::New),
            self.new.len()
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
        let quoted = options.templates.as_slice().iter();
        let quoted: Vec<String> = quoted.map(|t| format!("{t:?}")).collect();
        writeln!(text, "Zero-shot: {}.\n", quoted.join(", "))?;
        let settings: Vec<Value> = options.methods.iter().map(settings).collect();
        let mut table = vec![vec!["".to_owned()]];
        table[0].extend(options.methods.iter().map(|m| m.method.name().to_owned()));
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

/// A method's options without the seed, and with file names instead of paths.
fn settings(options: &PromptOptions) -> Value {
    let name = |path: &Option<PathBuf>| Some(path.as_ref()?.file_name()?.to_owned().into());
    let options = PromptOptions {
        init: name(&options.init),
        encoder: name(&options.encoder),
        ..options.clone()
    };
    let mut value = json!(options);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("seed");
        fields.retain(|_, value| !value.is_null());
        // Options without an effect: initial words determine the number of context vectors, and only views
        // are cropped and mirrored.
        if options.words.is_some() {
            fields.remove("n_ctx");
        }
        if options.views == 0 {
            fields.remove("crop");
            fields.remove("flip");
        }
    }
    value
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
