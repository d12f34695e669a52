//! The training of prompts: batches, updates, log and exact state.

use std::{fs, path::Path, time::Instant};

use pinhole_checkpoint::{Checkpoint, write_prompt_learner};
use pinhole_model::PromptLearner;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    dataset::Item,
    error::io,
    fingerprint::Fingerprint,
    plot::plot,
    prompt_learning::{
        Features, Progress, PromptOptions, image_features,
        learner::{self, TextSide},
        sgd::{self, Weight},
    },
    shapes::Dice,
    state::{StateFile, Stored, bytes, write_file},
    train::{Record, cpu_seconds, read_log, write_line},
};

const FORMAT: &str = "pinhole-prompt-state 1";

/// File of what was learned, in the output folder.
pub const LEARNER_FILE: &str = "prompt_learner.safetensors";

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

/// Trains on the items, whose labels index `classes`, and writes into the folder `out`:
/// `prompt_learner.safetensors`, `log.jsonl`, `plot.svg`, and `state.safetensors`, from which `resume`
/// continues with the bits of an uninterrupted training. A training that is complete is only read.
///
/// # Errors
/// [`Error::Config`] for options out of range, classes that are empty, doubled or too long for the
/// context, labels that are no class; [`Error::State`] where `out` holds another training, or one and
/// `resume` is not given; those of [`image_features`]; [`Error::Diverged`]; [`Error::Io`].
pub fn train(
    clip: &Checkpoint,
    classes: &[String],
    items: &[Item],
    options: &PromptOptions,
    out: &Path,
    resume: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<PromptLearner> {
    let intervals = Intervals::default();
    train_with(
        clip, classes, items, options, intervals, out, resume, progress,
    )
}

/// As [`train`], with the intervals of log and state.
///
/// # Errors
/// As [`train`].
#[allow(clippy::too_many_arguments)]
pub fn train_with(
    clip: &Checkpoint,
    classes: &[String],
    items: &[Item],
    options: &PromptOptions,
    intervals: Intervals,
    out: &Path,
    resume: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<PromptLearner> {
    options.check()?;
    refuse_other(out, resume)?;
    let labels: Vec<usize> = items.iter().map(|item| item.label).collect();
    // What is wrong with the classes is said before the images are encoded.
    let text = Training::check(clip, classes, &labels, options)?;
    let features = image_features(clip, items, options, progress)?;
    let mut training = Training::with(text, classes, features, labels, options)?;
    training.run(out, resume, intervals, progress)
}

/// A prompt learner in training.
pub struct Training {
    options: PromptOptions,
    text: TextSide,
    weights: Vec<Weight>,
    features: Features,
    labels: Vec<usize>,
    /// Tells apart what it is trained on.
    fingerprint: String,
    done: u64,
    spent: (f64, f64),
}

impl Training {
    /// A new training on images that are encoded already; `labels` are those of the images, as places
    /// in `classes`.
    ///
    /// # Errors
    /// As [`train`]; [`Error::Config`] where features and labels do not fit each other.
    pub fn new(
        clip: &Checkpoint,
        classes: &[String],
        features: Features,
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
    ) -> Result<(TextSide, Vec<Weight>)> {
        options.check()?;
        if labels.is_empty() {
            return Err(Error::Config("no image to train on".into()));
        }
        if let Some(label) = labels.iter().find(|&&label| label >= classes.len()) {
            let count = classes.len();
            return Err(Error::Config(format!("label {label} of {count} classes")));
        }
        learner::start(clip, classes, options)
    }

    fn with(
        (text, weights): (TextSide, Vec<Weight>),
        classes: &[String],
        features: Features,
        labels: Vec<usize>,
        options: &PromptOptions,
    ) -> Result<Self> {
        let (embedding, views) = (text.embedding(), options.views.max(1));
        let expected = labels.len().saturating_mul(views).saturating_mul(embedding);
        if (features.views, features.embedding, features.data.len()) != (views, embedding, expected)
        {
            return Err(Error::Config(format!(
                "{} values as {} views of {} for {} images with {views} views of {embedding}",
                features.data.len(),
                features.views,
                features.embedding,
                labels.len()
            )));
        }
        let fingerprint = fingerprint(classes, &features, &labels, &text);
        Ok(Self {
            options: options.clone(),
            text,
            weights,
            features,
            labels,
            fingerprint,
            done: 0,
            spent: (0.0, 0.0),
        })
    }

    /// Updates of the whole training.
    pub fn steps(&self) -> u64 {
        self.options.epochs * self.options.steps_per_epoch(self.labels.len())
    }

    /// The batch of an update: images and views. As with PyTorch's RandomSampler, each epoch has an
    /// order of its own.
    pub fn batch(&self, step: u64) -> Vec<(usize, usize)> {
        let images = self.labels.len();
        let per_epoch = self.options.steps_per_epoch(images);
        let (epoch, place) = (step / per_epoch, (step % per_epoch) as usize);
        let mut order: Vec<usize> = (0..images).collect();
        Dice::new(self.options.seed ^ 0x006f_7264_6572, epoch).shuffle(&mut order);
        let size = self.options.batch_size;
        let chosen = order.iter().skip(place * size).take(size);
        chosen
            .map(|&image| {
                let index = epoch * images as u64 + image as u64;
                let mut dice = Dice::new(self.options.seed ^ 0x6368_6f69_6365, index);
                (image, dice.below(self.features.views))
            })
            .collect()
    }

    /// One update; returns loss, share of right answers and the gradient's length.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss is not finite; [`Error::Config`] for an empty batch, or an
    /// image or a view that is not there.
    pub fn update(&mut self, batch: &[(usize, usize)]) -> Result<(f32, f64, f64)> {
        let (views, count) = (self.features.views, self.labels.len());
        if batch.is_empty() || batch.iter().any(|&(i, view)| i >= count || view >= views) {
            return Err(Error::Config(format!(
                "a batch {batch:?} from {count} images with {views} views"
            )));
        }
        let mut images = Vec::with_capacity(batch.len() * self.features.embedding);
        for &(image, view) in batch {
            images.extend(self.features.get(image, view));
        }
        let labels: Vec<usize> = batch.iter().map(|&(i, _)| self.labels[i]).collect();
        let found = learner::step(&self.text, &self.weights, &images, &labels)?;
        let squares = found.gradients.iter().flatten();
        let length = squares.map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        if !found.loss.is_finite() || !length.is_finite() {
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
        Ok((found.loss, found.right as f64 / batch.len() as f64, length))
    }

    fn learning_rate(&self) -> f64 {
        let epoch = self.done / self.options.steps_per_epoch(self.labels.len());
        sgd::learning_rate(&self.options, epoch)
    }

    /// What was learned so far.
    pub fn learner(&self) -> PromptLearner {
        learner::to_learner(&self.weights, &self.options)
    }

    /// Trains to the end with log and saved states in the folder `out`, and writes what was learned
    /// there.
    ///
    /// # Errors
    /// [`Error::State`] where `out` holds another training, or one and `resume` is not given;
    /// [`Error::Diverged`]; [`Error::Io`].
    pub fn run(
        &mut self,
        out: &Path,
        resume: bool,
        intervals: Intervals,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PromptLearner> {
        let log = self.run_until(self.steps(), out, resume, intervals, progress)?;
        let learner = self.learner();
        write_prompt_learner(&out.join(LEARNER_FILE), &learner)?;
        plot(&log, &out.join("plot.svg"))?;
        Ok(learner)
    }

    /// As [`Training::run`], but stops after the update `until`; returns the whole log.
    ///
    /// # Errors
    /// As [`Training::run`].
    pub fn run_until(
        &mut self,
        until: u64,
        out: &Path,
        resume: bool,
        intervals: Intervals,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Record>> {
        refuse_other(out, resume)?;
        fs::create_dir_all(out).map_err(io(out))?;
        let (state, path) = (state_file(out), out.join("log.jsonl"));
        if state.exists() {
            self.load(&state)?;
        }
        let mut log = Vec::new();
        if self.done > 0 && path.exists() {
            // Lines after the saved state belong to updates that are about to be done again.
            log = read_log(&path)?;
            log.retain(|record| record.step <= self.done);
        }
        let mut file = fs::File::create(&path).map_err(io(&path))?;
        for record in &log {
            write_line(&mut file, record).map_err(io(&path))?;
        }
        let (started, cpu_started, before) = (Instant::now(), cpu_seconds(), self.spent);
        let (steps, until) = (self.steps(), until.min(self.steps()));
        let (mut loss_sum, mut accuracy_sum, mut count) = (0.0, 0.0, 0.0);
        let mut seen = self.seen(self.done);
        while self.done < until {
            let rate = self.learning_rate();
            let batch = self.batch(self.done);
            let (loss, accuracy, gradient) = self.update(&batch)?;
            loss_sum += f64::from(loss);
            accuracy_sum += accuracy;
            count += 1.0;
            seen += batch.len() as u64;
            let seconds = started.elapsed().as_secs_f64();
            let cpu = cpu_seconds()
                .zip(cpu_started)
                .map(|(now, start)| now - start);
            self.spent = (before.0 + seconds, before.1 + cpu.unwrap_or(0.0));
            if self.done.is_multiple_of(intervals.log.max(1)) || self.done == until {
                let record = Record {
                    step: self.done,
                    loss: loss_sum / count,
                    accuracy: accuracy_sum / count,
                    learning_rate: rate,
                    logit_scale: f64::from(self.text.logit_scale()),
                    gradient,
                    images: seen,
                    seconds: self.spent.0,
                    cpu_seconds: cpu.map(|_| self.spent.1),
                };
                (loss_sum, accuracy_sum, count) = (0.0, 0.0, 0.0);
                write_line(&mut file, &record).map_err(io(&path))?;
                progress(Progress::Training {
                    record: &record,
                    steps,
                });
                log.push(record);
            }
            if self.done.is_multiple_of(intervals.save.max(1)) || self.done == until {
                self.save(&state)?;
            }
        }
        Ok(log)
    }

    /// Images of the first updates.
    fn seen(&self, steps: u64) -> u64 {
        steps * self.options.batch_size.min(self.labels.len()) as u64
    }

    fn save(&self, path: &Path) -> Result<()> {
        let header = Header {
            options: self.options.clone(),
            data: self.fingerprint.clone(),
            done: self.done,
            seconds: self.spent.0,
            cpu_seconds: self.spent.1,
        };
        let mut tensors: Vec<Stored> = Vec::new();
        for weight in &self.weights {
            let name = weight.name.to_owned();
            tensors.push((name, weight.shape.clone(), bytes(&weight.values)));
            let name = format!("momentum/{}", weight.name);
            tensors.push((name, weight.shape.clone(), bytes(&weight.momentum)));
        }
        write_file(path, FORMAT, &header, &tensors)
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let (file, header) = StateFile::open::<Header>(path, FORMAT)?;
        if header.options != self.options {
            return Err(file.broken(format!(
                "written with other hyper-parameters; to resume, give the same: {:?}",
                header.options
            )));
        }
        if header.data != self.fingerprint {
            return Err(file.broken(
                "written for another checkpoint, other classes or other images than these".into(),
            ));
        }
        if header.done > self.steps() {
            let (done, steps) = (header.done, self.steps());
            return Err(file.broken(format!("{done} updates done of {steps}")));
        }
        for weight in &mut self.weights {
            weight.values = file.values(weight.name, &weight.shape)?;
            weight.momentum = file.values(&format!("momentum/{}", weight.name), &weight.shape)?;
        }
        self.done = header.done;
        self.spent = (header.seconds, header.cpu_seconds);
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

fn state_file(out: &Path) -> std::path::PathBuf {
    out.join("state.safetensors")
}

/// A training is neither overwritten nor continued by mistake.
fn refuse_other(out: &Path, resume: bool) -> Result<()> {
    let path = state_file(out);
    let problem = match (path.exists(), resume) {
        (true, false) => {
            "there is a training already; continue it with --resume or choose another --out"
        }
        (false, true) if out.join(LEARNER_FILE).exists() => {
            "missing beside a prompt learner; choose another --out"
        }
        _ => return Ok(()),
    };
    Err(Error::State {
        path,
        problem: problem.into(),
    })
}

/// FNV-1a over names, labels, embeddings and the text tower's answer to the first context: what must be
/// the same where a training is resumed.
fn fingerprint(
    classes: &[String],
    features: &Features,
    labels: &[usize],
    text: &TextSide,
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
