//! The base-to-new protocol: prompts are learned on half of the classes and tested on both halves.
//!
//! Zhou et al., "Conditional prompt learning for vision-language models" (CVPR 2022), section 4.1: the
//! first half of the classes are base, the others new. Each method learns from a few images of each
//! base class. It is tested on all test images of the base classes, chosen from their names, and on
//! those of the new classes, chosen from theirs.

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
    comparison::{Measured, Run, markdown, summary},
    dataset::{Dataset, Item, ItemSource, Part},
    error::io,
    evaluate::{TestSet, TextSide},
    fingerprint::Fingerprint,
    prompt_learning::{
        Features, Intervals, LEARNER_FILE, Method, Progress, PromptOptions, Training,
        image_features,
    },
};

/// What is done to which model.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Name of the model, for the report.
    pub model: String,
    /// Images of each base class to learn from.
    pub shots: usize,
    /// Each seed draws images of its own, and decides first values and order.
    pub seeds: Vec<u64>,
    /// What the class names are put into without learning.
    pub templates: Templates,
    /// One for each method; the seed in them is not used.
    pub methods: Vec<PromptOptions>,
    /// How often a training writes log and state.
    pub intervals: Intervals,
}

/// What the protocol is doing.
#[derive(Clone, Debug)]
pub enum Stage<'a> {
    /// One method learns with one seed.
    Training(Progress<'a>),
    /// A method has learned with a seed.
    Learned {
        /// The method.
        method: Method,
        /// The seed.
        seed: u64,
        /// By an earlier run.
        before: bool,
    },
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    protocol: Protocol,
    data: String,
    base: Vec<String>,
    new: Vec<String>,
    /// Zero-shot, then the methods, each on [`Part::Base`] and [`Part::New`].
    pub methods: Vec<Measured>,
}

const PARTS: [Part; 2] = [Part::Base, Part::New];

/// Trains each method with each seed and tests it; `tests` are the data's test images of all classes.
/// Each training is in a folder of its own, such as `out/coop/seed-1`. With `resume` those that are
/// complete are only read and tested, and the one that was interrupted goes on.
///
/// # Errors
/// [`Error::State`] where `out` holds trainings with other options, data or another model, or some
/// and `resume` is not given; [`Error::Config`] for less than two classes, no method or no seed; those
/// of [`Dataset::few_shot`], of the training and of [`TextSide::learned`].
pub fn run(
    clip: &Checkpoint,
    data: &Dataset,
    tests: &TestSet,
    protocol: &Protocol,
    out: &Path,
    resume: bool,
    progress: &mut dyn FnMut(Stage),
) -> Result<Report> {
    check(protocol)?;
    if !resume && out.join(REPORT).exists() {
        return Err(Error::State {
            path: out.join(REPORT),
            problem: "there is a report already; continue with --resume or choose another --out"
                .into(),
        });
    }
    let (base, new) = (data.part(Part::Base), data.part(Part::New));
    let sets = PARTS.map(|part| Ok((part, tests.part(part)?)));
    let sets: BTreeMap<Part, TestSet> = sets.into_iter().collect::<Result<_>>()?;
    // What is wrong with any seed's images is said before the first is trained on.
    let shots = (protocol.seeds.iter()).map(|&seed| base.few_shot(protocol.shots, seed));
    let shots: Vec<Vec<Item>> = shots.collect::<Result<_>>()?;

    let texts = TextSide::open(clip)?;
    let zero_shot = Measured {
        name: "zero-shot".into(),
        runs: vec![Run {
            name: "zero-shot".into(),
            outcomes: (sets.iter())
                .map(|(part, set)| Ok((*part, texts.zero_shot(set, &protocol.templates)?)))
                .collect::<Result<_>>()?,
        }],
    };
    let named = |options: &PromptOptions| Measured {
        name: title(options.method).into(),
        runs: Vec::new(),
    };
    let mut methods: Vec<Measured> = [zero_shot]
        .into_iter()
        .chain(protocol.methods.iter().map(named))
        .collect();
    let model = fingerprint(clip)?;
    for (&seed, items) in protocol.seeds.iter().zip(&shots) {
        // The methods learn from the same images.
        let mut features: Option<(PromptOptions, Features)> = None;
        for (options, measured) in protocol.methods.iter().zip(&mut methods[1..]) {
            let options = PromptOptions {
                seed,
                ..options.clone()
            };
            let job = Job {
                clip,
                model: &model,
                classes: &base.classes,
                items,
                options: &options,
                intervals: protocol.intervals,
                out: &out
                    .join(title(options.method).to_lowercase())
                    .join(format!("seed-{seed}")),
                resume,
            };
            let learner = job.learn(&mut features, progress)?;
            let outcomes = sets.iter().map(|(part, set)| {
                let outcome = texts.learned(set, &learner, Some(options.class_position))?;
                Ok((*part, outcome))
            });
            measured.runs.push(Run {
                name: format!("seed {seed}"),
                outcomes: outcomes.collect::<Result<_>>()?,
            });
        }
    }
    let report = Report {
        protocol: protocol.clone(),
        data: data.name.clone(),
        base: base.classes,
        new: new.classes,
        methods,
    };
    report.write(out)?;
    Ok(report)
}

const REPORT: &str = "report.json";

fn check(protocol: &Protocol) -> Result<()> {
    let wrong = |what: &str| Err(Error::Config(what.into()));
    let mut seeds = protocol.seeds.clone();
    seeds.sort_unstable();
    seeds.dedup();
    if seeds.len() != protocol.seeds.len() || seeds.is_empty() {
        return wrong("expected one seed or more, each once");
    }
    let names: Vec<Method> = protocol.methods.iter().map(|m| m.method).collect();
    if names.is_empty() || (1..names.len()).any(|i| names[..i].contains(&names[i])) {
        return wrong("expected one method or more, each once");
    }
    if protocol.methods.iter().any(|m| m.class_specific) {
        return wrong("class-specific contexts have none for new classes");
    }
    protocol.methods.iter().try_for_each(PromptOptions::check)
}

fn title(method: Method) -> &'static str {
    match method {
        Method::CoOp => "CoOp",
        Method::CoCoOp => "CoCoOp",
    }
}

/// One training.
struct Job<'a> {
    clip: &'a Checkpoint,
    model: &'a str,
    classes: &'a [String],
    items: &'a [Item],
    options: &'a PromptOptions,
    intervals: Intervals,
    out: &'a Path,
    resume: bool,
}

/// What a complete training was made with; written beside what it learned.
#[derive(Serialize, Deserialize)]
struct Trained {
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
        features: &mut Option<(PromptOptions, Features)>,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<PromptLearner> {
        let (method, seed) = (self.options.method, self.options.seed);
        let mark = self.out.join("trained.json");
        if self.resume && mark.exists() {
            self.check(&mark)?;
            progress(Stage::Learned {
                method,
                seed,
                before: true,
            });
            return Ok(read_prompt_learner(&self.out.join(LEARNER_FILE))?);
        }
        let views = |o: &PromptOptions| (o.views, o.crop.to_bits(), o.flip, o.encoder.clone());
        let known = features
            .take()
            .filter(|(o, _)| views(o) == views(self.options));
        let (_, embedded) = match known {
            Some(known) => features.insert(known),
            None => {
                let tell = &mut |step: Progress| progress(Stage::Training(step));
                let embedded = image_features(self.clip, self.items, self.options, tell)?;
                features.insert((self.options.clone(), embedded))
            }
        };
        let labels = self.items.iter().map(|item| item.label).collect();
        let embedded = embedded.clone();
        let mut training = Training::new(self.clip, self.classes, embedded, labels, self.options)?;
        let tell = &mut |step: Progress| progress(Stage::Training(step));
        let learner = training.run(self.out, self.resume, self.intervals, tell)?;
        let text = serde_json::to_string_pretty(&self.trained()).map_err(|e| Error::State {
            path: mark.clone(),
            problem: e.to_string(),
        })?;
        write(&mark, &text)?;
        progress(Stage::Learned {
            method,
            seed,
            before: false,
        });
        Ok(learner)
    }

    fn trained(&self) -> Trained {
        let mut images = Fingerprint::new();
        for item in self.items {
            images.text(&item_name(item));
        }
        Trained {
            options: self.options.clone(),
            classes: self.classes.to_vec(),
            images: images.finish(),
            model: self.model.into(),
        }
    }

    fn check(&self, mark: &Path) -> Result<()> {
        let problem = |problem: String| Error::State {
            path: mark.into(),
            problem,
        };
        let text = fs::read_to_string(mark).map_err(io(mark))?;
        let found: Trained = serde_json::from_str(&text).map_err(|e| problem(e.to_string()))?;
        let now = self.trained();
        let differs = match () {
            () if found.options != now.options => Some("options"),
            () if found.classes != now.classes => Some("classes"),
            () if found.images != now.images => Some("images"),
            () if found.model != now.model => Some("weights of CLIP"),
            () => None,
        };
        match differs {
            None => Ok(()),
            Some(what) => Err(problem(format!(
                "this training was made with other {what}; choose another --out"
            ))),
        }
    }
}

/// The last two parts of a path, which are the same wherever the data lie.
fn item_name(item: &Item) -> String {
    match &item.source {
        ItemSource::File(path) => {
            let parts: Vec<_> = path.iter().rev().take(2).collect();
            let parts = parts.iter().rev().map(|part| part.to_string_lossy());
            parts.collect::<Vec<_>>().join("/")
        }
        ItemSource::Shapes { .. } => item.to_string(),
    }
}

/// Of the model's small tensors: any training moves all of them, and reading the large ones takes
/// longer.
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

impl Report {
    /// Heading and lines of the table: methods down; accuracies, H and calibration errors across.
    pub fn summary(&self) -> Vec<Vec<String>> {
        summary(&self.methods, &PARTS)
    }

    /// Everything, for programs.
    pub fn json(&self) -> Value {
        let protocol = &self.protocol;
        let methods = protocol.methods.iter().map(settings);
        json!({
            "model": protocol.model,
            "data": self.data,
            "base": self.base,
            "new": self.new,
            "shots": protocol.shots,
            "seeds": protocol.seeds,
            "templates": protocol.templates.as_slice(),
            "settings": methods.collect::<Vec<_>>(),
            "methods": self.methods.iter().map(Measured::json).collect::<Vec<_>>(),
        })
    }

    /// For people. Nothing in it depends on the machine's paths or speed.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.put(&mut text);
        text
    }

    fn put(&self, text: &mut String) -> std::fmt::Result {
        let protocol = &self.protocol;
        let images = |part: Part| {
            let outcome = self.methods[0].runs[0].outcomes.get(&part);
            outcome.map_or(0, |outcome| outcome.table.images())
        };
        writeln!(text, "# Base-to-new on {}\n", self.data)?;
        writeln!(
            text,
            "CLIP {}. Learned from {} images of each of the {} base classes, {} seeds. Tested on {} \
             images of the base classes, chosen from their names, and on {} images of the {} new \
             classes, chosen from theirs.\n",
            protocol.model,
            protocol.shots,
            self.base.len(),
            protocol.seeds.len(),
            images(Part::Base),
            images(Part::New),
            self.new.len()
        )?;
        writeln!(text, "{}", markdown(&self.summary()))?;
        writeln!(
            text,
            "Accuracy in per cent; H, the harmonic mean of base and new, of each seed; mean ± sample \
             standard deviation over the seeds. ECE: expected calibration error in 15 bins, in per \
             cent.\n\n## By seed\n"
        )?;
        let mut lines = Vec::new();
        for measured in &self.methods[1..] {
            for run in &measured.runs {
                let one = Measured {
                    name: format!("{}, {}", measured.name, run.name),
                    runs: vec![run.clone()],
                };
                let mut of = summary(&[one], &PARTS).into_iter();
                let heading = of.next();
                lines.extend(heading.filter(|_| lines.is_empty()));
                lines.extend(of);
            }
        }
        writeln!(text, "{}\n## Settings\n", markdown(&lines))?;
        let quoted = protocol.templates.as_slice().iter();
        let quoted: Vec<String> = quoted.map(|t| format!("{t:?}")).collect();
        writeln!(text, "Zero-shot: {}.\n", quoted.join(", "))?;
        let settings: Vec<Value> = protocol.methods.iter().map(settings).collect();
        let mut lines = vec![vec!["".to_owned()]];
        lines[0].extend(protocol.methods.iter().map(|m| title(m.method).to_owned()));
        let keys = settings.iter().filter_map(Value::as_object);
        let keys: BTreeSet<&String> = keys.flat_map(|fields| fields.keys()).collect();
        for key in keys.into_iter().filter(|key| *key != "method") {
            let mut line = vec![key.replace('_', " ")];
            line.extend(settings.iter().map(|s| cell(&s[key])));
            lines.push(line);
        }
        write!(text, "{}", markdown(&lines))
    }

    fn write(&self, out: &Path) -> Result<()> {
        fs::create_dir_all(out).map_err(io(out))?;
        write(&out.join("report.md"), &self.markdown())?;
        write(&out.join(REPORT), &format!("{:#}\n", self.json()))
    }
}

/// A method's options without the seed, which differs, and with the names of files only.
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
        // Words to start from decide how many vectors there are, and without views none is cut.
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
