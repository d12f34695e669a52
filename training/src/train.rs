//! CLIP pre-training from the start.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use candle_core::{Device, Tensor, Var};
use pinhole_checkpoint::Existing;
use pinhole_model::{
    Activation, ClipConfig, ImageEncoderConfig, PreprocessConfig, TextEncoderConfig,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    contrastive::{Batch, step},
    data::Source,
    error::io,
    model::{Clip, initial, tensor_specs},
    ops::read,
    optimiser::{AdamWOptions, Parameter, clip_length, update},
    schedule::learning_rate,
    state,
    vocabulary::Vocabulary,
};

/// Rows of CLIP's token embedding.
const VOCABULARY: usize = 49_408;

/// Sizes of a model, all of which a flag sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelOptions {
    /// Side of the square image in pixels.
    pub image_size: u32,
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// Width of the image tower, a multiple of 64.
    pub width: usize,
    /// Blocks of the image tower.
    pub layers: usize,
    /// Width of the text tower, a multiple of 64.
    pub text_width: usize,
    /// Blocks of the text tower.
    pub text_layers: usize,
    /// Longest text in tokens.
    pub context_length: usize,
    /// Length of the embeddings.
    pub embedding: usize,
}

impl ModelOptions {
    /// The configuration of such a model: QuickGELU, heads of width 64, OpenAI's preprocessing.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that do not fit each other.
    pub fn config(&self) -> Result<ClipConfig> {
        let wrong = |what: String| Err(Error::Config(what));
        for (flag, width) in [("--width", self.width), ("--text-width", self.text_width)] {
            if width == 0 || width % 64 != 0 || width > 8192 {
                return wrong(format!(
                    "{flag} {width}: expected a multiple of 64 up to 8192"
                ));
            }
        }
        let (size, patch) = (self.image_size, self.patch_size);
        if patch == 0 || size == 0 || size > 1024 || size % patch != 0 {
            return wrong(format!(
                "--image-size {size} --patch-size {patch}: expected a size up to 1024 that the \
                 patch size divides"
            ));
        }
        for (flag, layers) in [
            ("--layers", self.layers),
            ("--text-layers", self.text_layers),
        ] {
            if layers == 0 || layers > 64 {
                return wrong(format!("{flag} {layers}: expected 1 to 64"));
            }
        }
        if !(3..=512).contains(&self.context_length) {
            return wrong(format!(
                "--context-length {}: expected 3 to 512",
                self.context_length
            ));
        }
        if self.embedding == 0 || self.embedding > 8192 {
            return wrong(format!(
                "--embedding {}: expected 1 to 8192",
                self.embedding
            ));
        }
        Ok(ClipConfig {
            name: None,
            embedding: self.embedding,
            image: ImageEncoderConfig::VisionTransformer {
                image_size: size,
                patch_size: patch,
                width: self.width,
                layers: self.layers,
                heads: self.width / 64,
            },
            text: TextEncoderConfig {
                context_length: self.context_length,
                vocabulary: VOCABULARY,
                width: self.text_width,
                layers: self.text_layers,
                heads: self.text_width / 64,
            },
            activation: Activation::QuickGelu,
            preprocessing: PreprocessConfig::openai(size),
        })
    }
}

/// Everything that decides what a training computes, apart from its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// The model.
    pub model: ModelOptions,
    /// Updates.
    pub steps: u64,
    /// Pairs per update.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Updates of linear warm-up.
    pub warm_up: u64,
    /// AdamW's decay of the mean of gradients.
    pub beta1: f64,
    /// AdamW's decay of the mean of squared gradients.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub epsilon: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Longest joint gradient; 0 for any.
    pub clip_gradient: f64,
    /// Decides first values, order and variation of the data.
    pub seed: u64,
}

impl TrainOptions {
    fn check(&self) -> Result<()> {
        let fraction = 0.0..1.0;
        let fine = self.steps > 0
            && self.batch_size > 1
            && self.batch_size <= 1 << 16
            && self.learning_rate > 0.0
            && self.learning_rate.is_finite()
            && self.weight_decay >= 0.0
            && self.weight_decay * self.learning_rate < 1.0
            && fraction.contains(&self.beta1)
            && fraction.contains(&self.beta2)
            && self.epsilon > 0.0
            && self.clip_gradient >= 0.0;
        match fine {
            true => Ok(()),
            false => Err(Error::Config(format!(
                "hyper-parameters out of range (steps >= 1, batch size 2 to 65536, learning rate \
                 > 0, betas in 0..1, epsilon > 0, weight decay >= 0, gradient limit >= 0): {self:?}"
            ))),
        }
    }
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Updates done.
    pub step: u64,
    /// Mean loss since the last line.
    pub loss: f64,
    /// Mean share of images whose own text was the nearest of the batch, since the last line.
    pub accuracy: f64,
    /// Learning rate of the last update.
    pub learning_rate: f64,
    /// Factor on the cosine similarity.
    pub logit_scale: f64,
    /// Length of the last gradient before it was limited.
    pub gradient: f64,
    /// Images seen since the start.
    pub images: u64,
    /// Wall time in seconds, of this and earlier sessions.
    pub seconds: f64,
    /// Processor time in seconds of all threads, of this and earlier sessions; where known.
    pub cpu_seconds: Option<f64>,
}

/// A model in training.
pub struct Training {
    /// Hyper-parameters.
    pub options: TrainOptions,
    /// The model's configuration.
    pub config: ClipConfig,
    /// Tokens in use.
    pub vocabulary: Vocabulary,
    /// Weights and moments.
    pub parameters: Vec<Parameter>,
    /// The towers on these weights.
    pub model: Clip,
    /// Updates done.
    pub done: u64,
    /// Wall and processor seconds of earlier sessions.
    pub spent: (f64, f64),
}

impl Training {
    /// A new model whose first values come from the seed.
    ///
    /// # Errors
    /// [`Error::Config`] for hyper-parameters out of range.
    pub fn new(options: TrainOptions, vocabulary: Vocabulary) -> Result<Self> {
        options.check()?;
        let config = options.model.config()?;
        let mut parameters = Vec::new();
        for spec in tensor_specs(&config)? {
            let mut shape = spec.shape.clone();
            let values = if spec.name == "token_embedding.weight" {
                shape[0] = vocabulary.ids().len();
                initial(
                    &spec,
                    options.seed,
                    vocabulary.ids().iter().map(|&id| id as usize),
                )
            } else {
                initial(
                    &spec,
                    options.seed,
                    0..spec.shape.first().copied().unwrap_or(1),
                )
            };
            let var = Var::from_vec(values, shape, &Device::Cpu)?;
            parameters.push(Parameter::new(spec.name, var));
        }
        let model = Clip::new(&config, |name| tensor(&parameters, name))?;
        Ok(Self {
            options,
            config,
            vocabulary,
            parameters,
            model,
            done: 0,
            spent: (0.0, 0.0),
        })
    }

    /// The batch of an update.
    ///
    /// # Errors
    /// Those of [`Source::pair`].
    pub fn batch(&self, source: &Source, step: u64) -> Result<Batch> {
        let size = self.options.batch_size as u64;
        let pairs: Vec<_> = (step * size..(step + 1) * size)
            .into_par_iter()
            .map(|index| {
                let rule = &self.config.preprocessing;
                let (pixels, text) = source.pair(self.options.seed, index, rule)?;
                let context = self.config.text.context_length;
                Ok((pixels, self.vocabulary.tokens(&text, context)?))
            })
            .collect::<Result<_>>()?;
        let (images, texts) = pairs.into_iter().unzip();
        Ok(Batch { images, texts })
    }

    /// One update; returns loss, accuracy in the batch and the gradient's length.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss is not finite.
    pub fn update(&mut self, batch: &Batch) -> Result<(f32, f32, f64)> {
        let mut found = step(&self.model, &self.config, &self.parameters, batch)?;
        let options = &self.options;
        let limit = match options.clip_gradient {
            0.0 => f64::INFINITY,
            limit => limit,
        };
        let gradient = clip_length(&mut found.gradients, limit);
        if !found.loss.is_finite() || !gradient.is_finite() {
            return Err(Error::Diverged {
                step: self.done,
                loss: found.loss,
            });
        }
        let adamw = AdamWOptions {
            beta1: options.beta1,
            beta2: options.beta2,
            epsilon: options.epsilon,
            weight_decay: options.weight_decay,
        };
        let rate = self.learning_rate();
        update(
            &mut self.parameters,
            &found.gradients,
            &adamw,
            rate,
            self.done,
        )?;
        // CLIP keeps the factor at 100 or less, for stability.
        for parameter in self.parameters.iter().filter(|p| p.name == "logit_scale") {
            let value = parameter.var.to_scalar::<f32>()?.clamp(0.0, 100f32.ln());
            parameter.var.set(&Tensor::new(value, &Device::Cpu)?)?;
        }
        self.done += 1;
        Ok((found.loss, found.accuracy, gradient))
    }

    fn learning_rate(&self) -> f64 {
        let o = &self.options;
        learning_rate(self.done, o.learning_rate, o.warm_up, o.steps)
    }

    /// Writes the model as a checkpoint folder. Token rows that no text used keep their first
    /// values.
    ///
    /// # Errors
    /// [`Error::Checkpoint`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let specs = tensor_specs(&self.config)?;
        pinhole_checkpoint::write(folder, &self.config, Existing::Replace, |name| {
            let values = read(&tensor(&self.parameters, name)?, <[f32]>::to_vec)?;
            let spec = specs.iter().find(|spec| spec.name == name);
            let spec = spec.ok_or_else(|| Error::Config(format!("no tensor {name}")))?;
            let mut data = values;
            if name == "token_embedding.weight" {
                let trained = data;
                data = initial(spec, self.options.seed, 0..spec.shape[0]);
                let width = spec.shape[1];
                for (&id, row) in self
                    .vocabulary
                    .ids()
                    .iter()
                    .zip(trained.chunks_exact(width))
                {
                    let start = id as usize * width;
                    data[start..start + width].copy_from_slice(row);
                }
            }
            let shape = spec.shape.clone();
            Ok(pinhole_model::Tensor { shape, data })
        })
    }
}

/// Where a training writes, and how often.
#[derive(Clone, Debug)]
pub struct Output {
    /// The folder; `log.jsonl`, `state.safetensors` and the checkpoint go into it.
    pub folder: PathBuf,
    /// Updates per line of the log.
    pub log_every: u64,
    /// Updates per saved state.
    pub save_every: u64,
}

impl Output {
    /// The file of the exact training state.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state.safetensors")
    }

    /// The file of the log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.jsonl")
    }

    /// The folder of the model.
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join("checkpoint")
    }
}

/// Trains to `until` updates (at most the options' steps) with log and saved states; `observe` is
/// called with each log line. Returns the whole log, earlier sessions included.
///
/// # Errors
/// Those of the data, [`Error::Diverged`] and [`Error::Io`].
pub fn run(
    training: &mut Training,
    source: &Source,
    output: &Output,
    until: u64,
    mut observe: impl FnMut(&Training, &Record) -> Result<()>,
) -> Result<Vec<Record>> {
    fs::create_dir_all(&output.folder).map_err(io(&output.folder))?;
    let mut log = Vec::new();
    if training.done > 0 && output.log().exists() {
        // Lines after the saved state belong to updates that are about to be done again.
        log = read_log(&output.log())?;
        log.retain(|record| record.step <= training.done);
    }
    let path = output.log();
    let mut file = fs::File::create(&path).map_err(io(&path))?;
    for record in &log {
        write_line(&mut file, record).map_err(io(&path))?;
    }
    let (started, cpu_started) = (Instant::now(), cpu_seconds());
    let before = training.spent;
    let until = until.min(training.options.steps);
    let (mut loss_sum, mut accuracy_sum, mut count) = (0.0, 0.0, 0.0);
    let mut batch = training.batch(source, training.done)?;
    while training.done < until {
        let rate = training.learning_rate();
        let this = std::mem::replace(
            &mut batch,
            Batch {
                images: vec![],
                texts: vec![],
            },
        );
        let (loss, accuracy, gradient) = training.update(&this)?;
        if training.done < until {
            batch = training.batch(source, training.done)?;
        }
        loss_sum += f64::from(loss);
        accuracy_sum += f64::from(accuracy);
        count += 1.0;
        let seconds = started.elapsed().as_secs_f64();
        let cpu = cpu_seconds()
            .zip(cpu_started)
            .map(|(now, start)| now - start);
        training.spent = (before.0 + seconds, before.1 + cpu.unwrap_or(0.0));
        if training.done.is_multiple_of(output.log_every) || training.done == until {
            let record = Record {
                step: training.done,
                loss: loss_sum / count,
                accuracy: accuracy_sum / count,
                learning_rate: rate,
                logit_scale: f64::from(training.model.logit_scale.to_scalar::<f32>()?.exp()),
                gradient,
                images: training.done * training.options.batch_size as u64,
                seconds: training.spent.0,
                cpu_seconds: cpu.map(|_| training.spent.1),
            };
            (loss_sum, accuracy_sum, count) = (0.0, 0.0, 0.0);
            write_line(&mut file, &record).map_err(io(&path))?;
            observe(training, &record)?;
            log.push(record);
        }
        if training.done.is_multiple_of(output.save_every) || training.done == until {
            state::save(training, source, &output.state())?;
        }
    }
    Ok(log)
}

/// Reads a log.
///
/// # Errors
/// [`Error::Io`]; [`Error::Data`] for a line that is none.
pub fn read_log(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).map_err(io(path))?;
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::Data {
            path: path.into(),
            problem: format!("line {}: {e}", number + 1),
        })
    };
    text.lines().enumerate().map(parse).collect()
}

pub(crate) fn write_line(file: &mut fs::File, record: &Record) -> std::io::Result<()> {
    let mut line = serde_json::to_string(record)?;
    line.push('\n');
    file.write_all(line.as_bytes())
}

/// A parameter's tensor by name.
pub(crate) fn tensor(parameters: &[Parameter], name: &str) -> Result<Tensor> {
    let found = parameters.iter().find(|p| p.name == name);
    found
        .map(|p| p.var.as_tensor().clone())
        .ok_or_else(|| Error::Config(format!("no tensor {name}")))
}

/// Processor time of this process in seconds, user and system, where /proc tells it.
pub(crate) fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name, in parentheses, may hold spaces; user and system time are the 12th and
    // 13th fields behind it, in ticks of 1/100 s on every Linux.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}
