//! What the few-shot protocols have in common: methods, the images of a seed, trainings in folders, and their tests.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use pinhole_checkpoint::{Checkpoint, LearnedOptions, read_learned, write_learned};
use pinhole_model::Learned;
use pinhole_prompts::Templates;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    adaptation::{AdapterOptions, Examples, LEARNED_FILE, Task},
    dataset::{ClassSubset, Dataset, ImageSource, LabelledImage},
    error::io,
    evaluate::{Evaluation, PromptEvaluator, TestSet, check_computable},
    fingerprint::Fingerprint,
    image_encoder::ImageEncoder,
    prompt_learning::{
        ImageFeatures, Intervals, LEARNER_FILE, PromptOptions, PromptOutput, PromptTraining, Start,
        TrainingEvent, image_features,
    },
};

/// A method that a protocol trains, with its options.
#[derive(Clone, Debug)]
pub enum MethodOptions {
    /// Learned context vectors; the seed is not used.
    Prompts(Box<PromptOptions>),
    /// A cache, a linear head, or changes of the image encoder.
    Adapter(AdapterOptions),
}

impl MethodOptions {
    /// Name in reports, such as "CoOp".
    pub fn name(&self) -> &'static str {
        match self {
            Self::Prompts(options) => options.method.name(),
            Self::Adapter(options) => options.adapter.name,
        }
    }

    /// Name of the output folder, such as "coop".
    pub fn key(&self) -> &'static str {
        match self {
            Self::Prompts(options) => options.method.key(),
            Self::Adapter(options) => options.adapter.key,
        }
    }

    /// Whether it gives another image encoder.
    pub fn changes_image_encoder(&self) -> bool {
        match self {
            Self::Prompts(_) => false,
            Self::Adapter(options) => options.adapter.changes_image_encoder,
        }
    }

    /// Rejects options out of range.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Prompts(options) => options.check(),
            Self::Adapter(options) => options.check(),
        }
    }

    /// The options without the seed and those without an effect, with file names instead of paths.
    pub(crate) fn settings(&self) -> Value {
        let options = match self {
            Self::Prompts(options) => options,
            Self::Adapter(options) => {
                let defaults = options.adapter.options.iter();
                let values = defaults.map(|option| {
                    let given = options.values.iter().find(|(name, _)| name == option.name);
                    let value = given.map(|(_, value)| *value).or(option.default);
                    // 0.1 in f32 is 0.1 in the report.
                    let value = value.and_then(|value| value.to_string().parse::<f64>().ok());
                    (option.name.replace('-', "_"), json!(value))
                });
                let mut object = json!({"method": options.adapter.key});
                values.for_each(|(name, value)| object[name] = value);
                return object;
            }
        };
        let name = |path: &Option<PathBuf>| Some(path.as_ref()?.file_name()?.to_owned().into());
        let mut value = json!(PromptOptions {
            init: name(&options.init),
            encoder: name(&options.encoder),
            ..(**options).clone()
        });
        if let Some(fields) = value.as_object_mut() {
            fields.remove("seed");
            fields.retain(|_, value| !value.is_null());
            // Initial words determine the number of context vectors, and only views are cropped and mirrored.
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

    /// The options of a training, as `trained.json` has them.
    fn recorded(&self, seed: u64) -> Value {
        match self {
            Self::Prompts(options) => json!(PromptOptions {
                seed,
                ..(**options).clone()
            }),
            Self::Adapter(_) => {
                let mut value = self.settings();
                value["seed"] = seed.into();
                value
            }
        }
    }
}

/// Rejects methods that occur twice, have options out of range, or change the image encoder that an `encoder` (a bundle's)
/// stands for, and seeds that occur twice.
pub(crate) fn check(
    methods: &[MethodOptions],
    seeds: &[u64],
    encoder: Option<&Path>,
) -> Result<()> {
    let wrong = |what: &str| Err(Error::Options(what.into()));
    let mut sorted = seeds.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != seeds.len() || seeds.is_empty() {
        return wrong("--seeds: expected at least one, each once");
    }
    let names: Vec<&str> = methods.iter().map(MethodOptions::key).collect();
    if names.is_empty() || (1..names.len()).any(|i| names[..i].contains(&names[i])) {
        return wrong("--methods: expected at least one, each once");
    }
    for method in methods {
        if encoder.is_some() && method.changes_image_encoder() {
            return Err(encoder_is_changed(method.name()));
        }
        method.check()?;
    }
    Ok(())
}

/// Rejects the report of an earlier run.
pub(crate) fn check_start(report: &Path, start: Start) -> Result<()> {
    if start == Start::New && report.exists() {
        return Err(Error::State {
            path: report.into(),
            problem: "already exists; continue with --resume or choose another --out".into(),
        });
    }
    Ok(())
}

/// Progress of a protocol.
#[derive(Clone, Debug)]
pub enum ProtocolEvent<'a> {
    /// A method is being trained.
    Training(TrainingEvent<'a>),
    /// A method was trained.
    Trained {
        /// The method's name.
        method: &'static str,
        /// The training among those of the method, such as "seed 1".
        run: &'a str,
    },
    /// The training was finished before.
    Kept {
        /// The method's name.
        method: &'static str,
        /// The training among those of the method, such as "seed 1".
        run: &'a str,
    },
}

/// What a protocol runs on.
pub struct Materials<'a> {
    /// The CLIP.
    pub clip: &'a Checkpoint,
    /// The images.
    pub data: &'a Dataset,
    /// The data's test images of all classes, embedded.
    pub tests: &'a TestSet,
    /// A bundle of the same CLIP that embeds the images, in place of the checkpoint's image encoder.
    pub encoder: Option<PathBuf>,
    /// Zero-shot prompts.
    pub templates: Templates,
    /// How often a prompt training writes log and state.
    pub intervals: Intervals,
}

/// The images of one training.
pub(crate) struct Draw {
    /// Images of each class.
    pub(crate) shots: usize,
    /// The seed that drew them.
    pub(crate) seed: u64,
    /// Drawn for training.
    pub(crate) images: Vec<LabelledImage>,
    /// For the choice of options: others.
    pub(crate) validation: Vec<LabelledImage>,
}

impl Draw {
    /// The images of a seed.
    ///
    /// # Errors
    /// Those of [`Dataset::few_shot`].
    pub(crate) fn new(data: &Dataset, shots: usize, seed: u64) -> Result<Self> {
        Ok(Self {
            shots,
            seed,
            images: data.few_shot(shots, seed)?,
            validation: data.few_shot_validation(shots, seed),
        })
    }
}

/// A protocol that runs: methods learn from images of some classes, and are tested on sets of test images.
pub(crate) struct Protocol<'a> {
    materials: &'a Materials<'a>,
    start: Start,
    classes: Vec<String>,
    sets: BTreeMap<ClassSubset, TestSet>,
    evaluator: PromptEvaluator,
    /// Class embeddings of the zero-shot prompts for `classes`.
    class_embeddings: Vec<f32>,
    features: FeatureStore<'a>,
    /// Fingerprint of the CLIP.
    model: String,
}

impl<'a> Protocol<'a> {
    /// A protocol that learns `classes`, the first of the data's.
    ///
    /// # Errors
    /// [`Error::Config`] for a subset without classes or images; those of [`PromptEvaluator`].
    pub(crate) fn new(
        materials: &'a Materials<'a>,
        classes: &[String],
        subsets: &[ClassSubset],
        start: Start,
    ) -> Result<Self> {
        let sets = subsets
            .iter()
            .map(|subset| Ok((*subset, materials.tests.subset(*subset)?)));
        let sets = sets.collect::<Result<_>>()?;
        let evaluator = PromptEvaluator::open(materials.clip)?;
        Ok(Self {
            class_embeddings: evaluator.class_embeddings(classes, &materials.templates)?,
            materials,
            start,
            classes: classes.to_vec(),
            sets,
            evaluator,
            features: FeatureStore::new(materials),
            model: model_fingerprint(materials.clip, materials.encoder.as_deref())?,
        })
    }

    /// Zero-shot classification of each set.
    ///
    /// # Errors
    /// Those of [`PromptEvaluator::zero_shot`].
    pub(crate) fn zero_shot(&self) -> Result<BTreeMap<ClassSubset, Evaluation>> {
        let templates = &self.materials.templates;
        let each = self.sets.iter();
        each.map(|(subset, set)| Ok((*subset, self.evaluator.zero_shot(set, templates)?)))
            .collect()
    }

    /// Trains a method in a folder, or reads what it learned before, and tests it.
    ///
    /// # Errors
    /// [`Error::State`] for a training with other options, images or model; those of the training and of the test.
    pub(crate) fn run(
        &mut self,
        method: &MethodOptions,
        draw: &Draw,
        folder: &Path,
        run: &str,
        progress: &mut dyn FnMut(ProtocolEvent),
    ) -> Result<BTreeMap<ClassSubset, Evaluation>> {
        let learned = self.learn(method, draw, folder, run, progress)?;
        self.test(&learned)
    }

    fn learn(
        &mut self,
        method: &MethodOptions,
        draw: &Draw,
        folder: &Path,
        run: &str,
        progress: &mut dyn FnMut(ProtocolEvent),
    ) -> Result<Learned> {
        let name = method.name();
        let finished = folder.join("trained.json");
        let provenance = self.provenance(method, draw);
        let file = folder.join(match method {
            MethodOptions::Prompts(_) => LEARNER_FILE,
            MethodOptions::Adapter(_) => LEARNED_FILE,
        });
        if self.start == Start::Resume && finished.exists() {
            provenance.check(&finished)?;
            progress(ProtocolEvent::Kept { method: name, run });
        } else {
            self.train(method, draw, folder, &file, &mut |event| {
                progress(ProtocolEvent::Training(event));
            })?;
            let text = serde_json::to_string_pretty(&provenance).map_err(|e| Error::State {
                path: finished.clone(),
                problem: e.to_string(),
            })?;
            pinhole_fs::write(&finished, text.as_bytes()).map_err(io(&finished))?;
            progress(ProtocolEvent::Trained { method: name, run });
        }
        // Read again, so that what is tested is what the file holds.
        let options = LearnedOptions {
            clip: Some(self.materials.clip.config().clone()),
            ..LearnedOptions::default()
        };
        Ok(read_learned(&file, &options)?)
    }

    /// Trains a method, and writes `file` in the folder.
    fn train(
        &mut self,
        method: &MethodOptions,
        draw: &Draw,
        folder: &Path,
        file: &Path,
        progress: &mut dyn FnMut(TrainingEvent),
    ) -> Result<()> {
        let labels: Vec<usize> = draw.images.iter().map(|image| image.label).collect();
        match method {
            MethodOptions::Prompts(options) => {
                let options = PromptOptions {
                    seed: draw.seed,
                    ..(**options).clone()
                };
                let features = self.features.of_prompts(draw, &options, progress)?;
                let clip = self.materials.clip;
                let mut training =
                    PromptTraining::new(clip, &self.classes, features, labels, &options)?;
                let output = PromptOutput {
                    folder: folder.into(),
                    start: self.start,
                    intervals: self.materials.intervals,
                };
                training.run(&output, progress)?;
            }
            MethodOptions::Adapter(options) => {
                if self.start == Start::New && file.exists() {
                    return Err(Error::State {
                        path: file.into(),
                        problem: "already exists; continue with --resume, or choose another --out"
                            .into(),
                    });
                }
                let task = Task {
                    clip: self.materials.clip,
                    images: &draw.images,
                    examples: self.features.examples(&draw.images, progress)?,
                    validation: self.features.examples(&draw.validation, progress)?,
                    class_embeddings: self.class_embeddings.clone(),
                    classes: &self.classes,
                    logit_scale: self.materials.clip.logit_scale(),
                    seed: draw.seed,
                };
                let learned = options.train(&task, progress)?;
                fs::create_dir_all(folder).map_err(io(folder))?;
                write_learned(file, &learned)?;
            }
        }
        Ok(())
    }

    /// Tests what was learned on each set. What belongs to the classes of the training says nothing about others: they are
    /// classified by the zero-shot prompts.
    fn test(&self, learned: &Learned) -> Result<BTreeMap<ClassSubset, Evaluation>> {
        let Materials {
            clip,
            data,
            templates,
            encoder,
            ..
        } = self.materials;
        let changed = Adapted::new(clip, learned, data, encoder.as_deref(), &|_| {})?;
        let mut evaluations = BTreeMap::new();
        for (subset, set) in &self.sets {
            let of_set;
            let (evaluator, set) = match &changed {
                None => (&self.evaluator, set),
                Some(changed) => {
                    of_set = changed.tests.subset(*subset)?;
                    (&changed.evaluator, &of_set)
                }
            };
            let other = set.classes != self.classes && learned.is_class_specific();
            let evaluation = match other {
                true => evaluator.zero_shot(set, templates)?,
                false => evaluator.imported(set, learned, None, templates)?,
            };
            evaluations.insert(*subset, evaluation);
        }
        Ok(evaluations)
    }

    fn provenance(&self, method: &MethodOptions, draw: &Draw) -> Provenance {
        let mut images = Fingerprint::new();
        for image in &draw.images {
            images.text(&portable_name(image));
        }
        // The validation images of prompt trainings are not used.
        if let MethodOptions::Adapter(_) = method {
            for image in &draw.validation {
                images.text(&portable_name(image));
            }
            for template in self.materials.templates.as_slice() {
                images.text(template);
            }
        }
        let mut options = method.recorded(draw.seed);
        // Prompt-learning methods have it in their options.
        if let (MethodOptions::Adapter(_), Some(encoder)) = (method, &self.materials.encoder) {
            options["encoder"] = json!(encoder);
        }
        Provenance {
            options,
            classes: self.classes.clone(),
            images: images.finish(),
            model: self.model.clone(),
        }
    }
}

fn encoder_is_changed(method: &str) -> Error {
    Error::Options(format!(
        "--encoder: {method} changes the image encoder, which a bundle has as it was: remove --encoder, or export a bundle \
         with pinhole-export bundle --learned and evaluate that with --model"
    ))
}

/// A CLIP whose image encoder a learned method changes.
pub struct Adapted {
    /// Its text encoder.
    pub evaluator: PromptEvaluator,
    /// The test images as its image encoder embeds them.
    pub tests: TestSet,
}

impl Adapted {
    /// The changed CLIP; `None` if the method leaves both encoders as they are. For `progress` see
    /// [`ImageEncoder::embed`].
    ///
    /// # Errors
    /// [`Error::Options`] with a bundle as `encoder`; changes that do not fit the CLIP; those of [`TestSet::new`].
    pub fn new(
        clip: &Checkpoint,
        learned: &Learned,
        data: &Dataset,
        encoder: Option<&Path>,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Option<Self>> {
        check_computable(learned)?;
        if !learned.changes_image_encoder() && !learned.changes_text_encoder() {
            return Ok(None);
        }
        if encoder.is_some() {
            return Err(encoder_is_changed(learned.method));
        }
        let mut changed = clip.clone();
        changed.adapt(learned)?;
        Ok(Some(Self {
            evaluator: PromptEvaluator::open(&changed)?,
            tests: TestSet::new(&ImageEncoder::open(&changed)?, data, progress)?,
        }))
    }
}

/// What a finished training was made from, in `trained.json` next to what it learned.
#[derive(PartialEq, Serialize, Deserialize)]
struct Provenance {
    options: Value,
    classes: Vec<String>,
    /// Fingerprint of the images' names.
    images: String,
    /// Fingerprint of the CLIP model.
    model: String,
}

impl Provenance {
    /// Compares with a finished training's.
    fn check(&self, finished: &Path) -> Result<()> {
        let problem = |problem: String| Error::State {
            path: finished.into(),
            problem,
        };
        let text = fs::read_to_string(finished).map_err(io(finished))?;
        let found: Self =
            pinhole_fs::from_json(text.as_bytes()).map_err(|e| problem(e.to_string()))?;
        let differing = [
            ("options", found.options != self.options),
            ("classes", found.classes != self.classes),
            ("images", found.images != self.images),
            ("weights of CLIP", found.model != self.model),
        ];
        match differing.iter().find(|(_, differs)| *differs) {
            None => Ok(()),
            Some((what, _)) => Err(problem(format!(
                "this training was made with other {what}; choose another --out"
            ))),
        }
    }
}

/// Embeddings of training images, each computed once.
struct FeatureStore<'a> {
    materials: &'a Materials<'a>,
    encoder: Option<ImageEncoder>,
    /// Rows by the image's name.
    rows: HashMap<ImageSource, Vec<f32>>,
    /// The last views of images, with what they depend on.
    views: Option<(ViewKey, ImageFeatures)>,
}

/// Shots, seed, views, crop and flip.
type ViewKey = (usize, u64, usize, u32, bool);

impl<'a> FeatureStore<'a> {
    fn new(materials: &'a Materials<'a>) -> Self {
        Self {
            materials,
            encoder: None,
            rows: HashMap::new(),
            views: None,
        }
    }

    fn encoder(&mut self) -> Result<&ImageEncoder> {
        let encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => match &self.materials.encoder {
                Some(folder) => ImageEncoder::from_bundle(self.materials.clip, folder)?,
                None => ImageEncoder::open(self.materials.clip)?,
            },
        };
        Ok(self.encoder.insert(encoder))
    }

    /// The images with their embeddings.
    fn examples(
        &mut self,
        images: &[LabelledImage],
        progress: &mut dyn FnMut(TrainingEvent),
    ) -> Result<Examples> {
        let missing: Vec<LabelledImage> = (images.iter())
            .filter(|image| !self.rows.contains_key(&image.source))
            .cloned()
            .collect();
        let dim = self.materials.clip.config().embedding;
        let total = missing.len();
        let mut done = 0;
        // In rounds, to report progress between them.
        for round in missing.chunks(256) {
            progress(TrainingEvent::Encoded { done, total });
            let embedded = self.encoder()?.embed(round, &|_| {})?;
            for (image, row) in round.iter().zip(embedded.chunks_exact(dim)) {
                self.rows.insert(image.source.clone(), row.to_vec());
            }
            done += round.len();
        }
        let rows = images
            .iter()
            .filter_map(|image| self.rows.get(&image.source));
        Ok(Examples {
            labels: images.iter().map(|image| image.label).collect(),
            embeddings: rows.flatten().copied().collect(),
        })
    }

    /// The embeddings for a prompt training: of the images, or of views of them.
    fn of_prompts(
        &mut self,
        draw: &Draw,
        options: &PromptOptions,
        progress: &mut dyn FnMut(TrainingEvent),
    ) -> Result<ImageFeatures> {
        if options.views == 0 {
            return Ok(ImageFeatures {
                views: 1,
                embedding: self.materials.clip.config().embedding,
                data: self.examples(&draw.images, progress)?.embeddings,
            });
        }
        let key = (
            draw.shots,
            draw.seed,
            options.views,
            options.crop.to_bits(),
            options.flip,
        );
        if let Some((known, features)) = &self.views
            && *known == key
        {
            return Ok(features.clone());
        }
        let features = image_features(self.materials.clip, &draw.images, options, progress)?;
        self.views = Some((key, features.clone()));
        Ok(features)
    }
}

/// The last two components of a path, which do not depend on where the data are, and the file's size, which tells most
/// files of one name apart.
fn portable_name(image: &LabelledImage) -> String {
    match &image.source {
        ImageSource::File(path) => {
            let parts: Vec<_> = path.iter().rev().take(2).collect();
            let parts = parts.iter().rev().map(|part| part.to_string_lossy());
            let name = parts.collect::<Vec<_>>().join("/");
            let size = fs::metadata(path).map_or(0, |file| file.len());
            format!("{name} {size}")
        }
        ImageSource::Shapes { .. } => image.to_string(),
    }
}

/// A fingerprint of the model: small tensors whole, and of large ones values at equal distances. Merged changes, such as
/// LoRA's, leave the small ones as they are. With the bundle that embeds the images, if there is one.
fn model_fingerprint(clip: &Checkpoint, encoder: Option<&Path>) -> Result<String> {
    let mut hash = Fingerprint::new();
    if let Some(bundle) = encoder {
        // It has the hashes of the bundle's files.
        let manifest = bundle.join("manifest.json");
        hash.bytes(&fs::read(&manifest).map_err(io(&manifest))?);
    }
    for (name, _) in clip.tensors() {
        hash.text(name);
        let values = clip.tensor(name)?.data;
        let step = values.len().div_ceil(1 << 16).max(1);
        hash.numbers(values.into_iter().step_by(step));
    }
    Ok(hash.finish())
}
