//! A prompt learner in training: batches, updates, log and exact state.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pinhole_checkpoint::{Checkpoint, write_prompt_learner};
use pinhole_model::PromptLearner;
use serde::{Deserialize, Serialize};

use super::{
    event::TrainingEvent,
    features::{ImageFeatures, image_features},
    learner,
    options::PromptOptions,
    sgd,
    text_model::TextModel,
    weight::Weight,
};
use crate::{
    Error, Result,
    dataset::LabelledImage,
    error::io,
    fingerprint::Fingerprint,
    log::{LogLine, LogRecord, TimeSpent, TrainingLog, UpdateStats},
    log_plot::plot_log,
    random::SeededRng,
    state_file::{StateFile, Stored, lock_output, to_bytes, write_state},
};

const FORMAT: &str = "pinhole-prompt-state 1";

/// The file of the trained prompt learner in the output folder.
pub const LEARNER_FILE: &str = "prompt_learner.safetensors";

/// Where a training writes.
#[derive(Clone, Debug)]
pub struct PromptOutput {
    /// The folder for prompt learner, log, plot and state.
    pub folder: PathBuf,
    /// What to do with a training in the folder.
    pub start: Start,
    /// How often log and state are written.
    pub intervals: Intervals,
}

/// Whether to continue an earlier training in the output folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Start a new training; an earlier one is an error.
    New,
    /// Continue the earlier training, if there is one.
    Resume,
}

/// Updates between two lines of the log, and between two saved states.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Updates per line of the log.
    pub log: u64,
    /// Updates per saved state.
    pub save: u64,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { log: 10, save: 50 }
    }
}

impl PromptOutput {
    fn state(&self) -> PathBuf {
        self.folder.join("state.safetensors")
    }

    fn learner(&self) -> PathBuf {
        self.folder.join(LEARNER_FILE)
    }

    /// Rejects an earlier training that would be overwritten or continued by mistake.
    fn check(&self) -> Result<()> {
        let path = self.state();
        let problem = match (path.exists(), self.start) {
            (true, Start::New) => {
                "already contains a training; continue it with --resume or choose another --out"
            }
            (false, Start::Resume) if self.learner().exists() => {
                "missing, but there is a prompt learner; choose another --out"
            }
            _ => return Ok(()),
        };
        Err(Error::State {
            path,
            problem: problem.into(),
        })
    }
}

/// Trains a prompt learner on images, whose labels are indices into `classes`, and writes into the output
/// folder: `prompt_learner.safetensors`, `log.jsonl`, `plot.svg`, and `state.safetensors`. A resumed
/// training is bit-identical to an uninterrupted one. A finished training is only read.
///
/// # Errors
/// [`Error::Options`]; [`Error::Config`] for classes that are empty, duplicate or too long for the
/// context; labels out of range. [`Error::State`] for another training in the output folder. Those of
/// [`image_features`]; [`Error::Diverged`]; [`Error::Io`].
pub fn train(
    clip: &Checkpoint,
    classes: &[String],
    images: &[LabelledImage],
    options: &PromptOptions,
    output: &PromptOutput,
    progress: &mut dyn FnMut(TrainingEvent),
) -> Result<PromptLearner> {
    options.check()?;
    output.check()?;
    let labels: Vec<usize> = images.iter().map(|image| image.label).collect();
    // Errors in the classes are reported before the images are encoded.
    let text = PromptTraining::check(clip, classes, &labels, options)?;
    let features = image_features(clip, images, options, progress)?;
    let mut training = PromptTraining::with(text, classes, features, labels, options)?;
    training.run(output, progress)
}

/// A prompt learner in training.
pub struct PromptTraining {
    options: PromptOptions,
    text: TextModel,
    weights: Vec<Weight>,
    features: ImageFeatures,
    labels: Vec<usize>,
    classes: Vec<String>,
    /// Identifies model, classes and images.
    fingerprint: String,
    done: u64,
    spent: TimeSpent,
}

impl PromptTraining {
    /// A new training on encoded images; `labels` are the images' indices into `classes`.
    ///
    /// # Errors
    /// As [`train`]; [`Error::Config`] for features that do not fit the labels.
    pub fn new(
        clip: &Checkpoint,
        classes: &[String],
        features: ImageFeatures,
        labels: Vec<usize>,
        options: &PromptOptions,
    ) -> Result<Self> {
        let text = Self::check(clip, classes, &labels, options)?;
        Self::with(text, classes, features, labels, options)
    }

    fn check(
        clip: &Checkpoint,
        classes: &[String],
        labels: &[usize],
        options: &PromptOptions,
    ) -> Result<(TextModel, Vec<Weight>)> {
        options.check()?;
        if labels.is_empty() {
            return Err(Error::Config("no training images".into()));
        }
        if let Some(label) = labels.iter().find(|&&label| label >= classes.len()) {
            let count = classes.len();
            return Err(Error::Config(format!(
                "label {label}: expected less than the number of classes, {count}"
            )));
        }
        learner::initialise(clip, classes, options)
    }

    fn with(
        (text, weights): (TextModel, Vec<Weight>),
        classes: &[String],
        features: ImageFeatures,
        labels: Vec<usize>,
        options: &PromptOptions,
    ) -> Result<Self> {
        let (embedding, views, images) = (text.embedding(), options.views.max(1), labels.len());
        let expected = images.saturating_mul(views).saturating_mul(embedding);
        if (features.views, features.embedding, features.data.len()) != (views, embedding, expected)
        {
            return Err(Error::Config(format!(
                "features of {images} images: expected {views} views of {embedding}, found {} values as {} \
                 views of {}",
                features.data.len(),
                features.views,
                features.embedding
            )));
        }
        let fingerprint = fingerprint(classes, &features, &labels, &text);
        Ok(Self {
            options: options.clone(),
            text,
            weights,
            features,
            labels,
            classes: classes.to_vec(),
            fingerprint,
            done: 0,
            spent: TimeSpent::default(),
        })
    }

    /// Updates of the whole training.
    pub fn steps(&self) -> u64 {
        self.options.epochs * self.options.steps_per_epoch(self.labels.len())
    }

    /// The batch of update `step`: indices of images and views. As with PyTorch's RandomSampler, each epoch
    /// has an order of its own.
    pub fn batch(&self, step: u64) -> Vec<(usize, usize)> {
        let images = self.labels.len();
        let per_epoch = self.options.steps_per_epoch(images);
        let (epoch, position) = (step / per_epoch, (step % per_epoch) as usize);
        let mut order: Vec<usize> = (0..images).collect();
        SeededRng::new(self.options.seed ^ 0x006f_7264_6572, epoch).shuffle(&mut order);
        let size = self.options.batch_size;
        let chosen = order.iter().skip(position * size).take(size);
        chosen
            .map(|&image| {
                let index = epoch * images as u64 + image as u64;
                let mut rng = SeededRng::new(self.options.seed ^ 0x6368_6f69_6365, index);
                (image, rng.below(self.features.views))
            })
            .collect()
    }

    /// One update.
    ///
    /// # Errors
    /// [`Error::Diverged`] for a loss that is not finite; [`Error::Config`] for an empty batch, or an image
    /// or view out of range.
    pub fn update(&mut self, batch: &[(usize, usize)]) -> Result<UpdateStats> {
        let (views, count) = (self.features.views, self.labels.len());
        if batch.is_empty() || batch.iter().any(|&(i, view)| i >= count || view >= views) {
            return Err(Error::Config(format!(
                "batch: expected some of {count} images with {views} views, found {batch:?}"
            )));
        }
        let mut images = Vec::with_capacity(batch.len() * self.features.embedding);
        for &(image, view) in batch {
            images.extend(self.features.get(image, view));
        }
        let labels: Vec<usize> = batch.iter().map(|&(i, _)| self.labels[i]).collect();
        let method = self.options.method.implementation();
        let found = method.loss_and_gradients(&self.text, &self.weights, &images, &labels)?;
        let squares = found.gradients.iter().flatten();
        let norm = squares.map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        if !found.loss.is_finite() || !norm.is_finite() {
            return Err(Error::Diverged {
                step: self.done,
                loss: found.loss,
            });
        }
        let (options, rate) = (&self.options, self.learning_rate());
        sgd::update(
            &mut self.weights,
            &found.gradients,
            options,
            rate,
            self.done,
        );
        self.done += 1;
        Ok(UpdateStats {
            loss: found.loss,
            accuracy: found.correct as f64 / batch.len() as f64,
            gradient: norm,
        })
    }

    fn learning_rate(&self) -> f64 {
        let epoch = self.done / self.options.steps_per_epoch(self.labels.len());
        sgd::learning_rate(&self.options, epoch)
    }

    /// The prompt learner as trained so far.
    pub fn learner(&self) -> PromptLearner {
        let method = self.options.method.implementation();
        PromptLearner {
            class_position: Some(self.options.class_position),
            ..method.to_learner(&self.weights)
        }
    }

    /// Trains to the end, with log and saved states, and writes the prompt learner.
    ///
    /// # Errors
    /// [`Error::State`] for another training in the output folder, also if it is running; [`Error::Diverged`]; [`Error::Io`].
    pub fn run(
        &mut self,
        output: &PromptOutput,
        progress: &mut dyn FnMut(TrainingEvent),
    ) -> Result<PromptLearner> {
        let log = self.run_until(self.steps(), output, progress)?;
        let learner = self.learner();
        write_prompt_learner(&output.learner(), &learner, &self.classes)?;
        plot_log(&log, &output.folder.join("plot.svg"))?;
        Ok(learner)
    }

    /// As [`PromptTraining::run`], but stops after update `until` and returns the whole log.
    ///
    /// # Errors
    /// As [`PromptTraining::run`].
    pub fn run_until(
        &mut self,
        until: u64,
        output: &PromptOutput,
        progress: &mut dyn FnMut(TrainingEvent),
    ) -> Result<Vec<LogRecord>> {
        output.check()?;
        fs::create_dir_all(&output.folder).map_err(io(&output.folder))?;
        let _lock = lock_output(&output.folder)?;
        let state = output.state();
        if state.exists() {
            self.load(&state)?;
        }
        let path = output.folder.join("log.jsonl");
        let mut log = TrainingLog::open(&path, self.done, self.spent)?;
        let (steps, until) = (self.steps(), until.min(self.steps()));
        while self.done < until {
            let learning_rate = self.learning_rate();
            let batch = self.batch(self.done);
            log.add(self.update(&batch)?);
            self.spent = log.spent();
            if self.done.is_multiple_of(output.intervals.log.max(1)) || self.done == until {
                let record = log.write(LogLine {
                    step: self.done,
                    learning_rate,
                    logit_scale: f64::from(self.text.logit_scale()),
                    images: self.done * self.options.batch_size.min(self.labels.len()) as u64,
                })?;
                progress(TrainingEvent::Logged { record, steps });
            }
            if self.done.is_multiple_of(output.intervals.save.max(1)) || self.done == until {
                log.sync()?;
                self.save(&state)?;
            }
        }
        Ok(log.into_records())
    }

    fn save(&self, path: &Path) -> Result<()> {
        let header = Header {
            options: self.options.clone(),
            data: self.fingerprint.clone(),
            done: self.done,
            seconds: self.spent.wall,
            cpu_seconds: self.spent.cpu,
        };
        let mut tensors: Vec<Stored> = Vec::new();
        for weight in &self.weights {
            let name = weight.name.to_owned();
            tensors.push((name, weight.shape.clone(), to_bytes(&weight.values)));
            let name = format!("momentum/{}", weight.name);
            tensors.push((name, weight.shape.clone(), to_bytes(&weight.momentum)));
        }
        write_state(path, FORMAT, &header, &tensors)
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let (file, header) = StateFile::open::<Header>(path, FORMAT)?;
        if header.options != self.options {
            return Err(file.error(format!(
                "written with other hyper-parameters; to resume, use the same: {:?}",
                header.options
            )));
        }
        if header.data != self.fingerprint {
            return Err(file.error(
                "written for another checkpoint, other classes or other images; choose another --out"
                    .into(),
            ));
        }
        if header.done > self.steps() {
            let (done, steps) = (header.done, self.steps());
            return Err(file.error(format!("done: expected at most {steps}, found {done}")));
        }
        for weight in &mut self.weights {
            weight.values = file.values(weight.name, &weight.shape)?;
            weight.momentum = file.values(&format!("momentum/{}", weight.name), &weight.shape)?;
        }
        self.done = header.done;
        self.spent = TimeSpent {
            wall: header.seconds,
            cpu: header.cpu_seconds,
        };
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    options: PromptOptions,
    data: String,
    done: u64,
    seconds: f64,
    cpu_seconds: f64,
}

/// A hash of everything that must be the same when a training is resumed: class names, labels, image
/// embeddings, and the text model's constants.
fn fingerprint(
    classes: &[String],
    features: &ImageFeatures,
    labels: &[usize],
    text: &TextModel,
) -> String {
    let mut hash = Fingerprint::new();
    for class in classes {
        hash.text(class);
    }
    for label in labels {
        hash.bytes(&(*label as u64).to_le_bytes());
    }
    hash.numbers(features.data.iter().copied());
    hash.numbers(text.constants());
    let hash = hash.finish();
    format!("{} classes, {} images, {hash}", classes.len(), labels.len())
}
