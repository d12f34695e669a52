//! A model in training: its updates and its exact state.

use std::path::Path;

use candle_core::{Device, Tensor, Var};
use pinhole_checkpoint::Existing;
use pinhole_model::ClipConfig;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::options::PretrainingOptions;
use crate::{
    Error, Result,
    contrastive::{Batch, loss_and_gradients},
    log::{TimeSpent, UpdateStats},
    model::{ClipModel, TensorSpec, initial_values, tensor_specs},
    ops::read,
    optimiser::{AdamWOptions, Parameter, clip_norm, update},
    pairs::PairSource,
    schedule::learning_rate,
    state_file::{StateFile, to_bytes, write_state},
    vocabulary::Vocabulary,
};

const FORMAT: &str = "pinhole-training-state 1";

/// The tensor of which only the rows in use are trained.
const TOKEN_EMBEDDING: &str = "token_embedding.weight";

/// A CLIP model in pre-training.
pub struct Pretraining {
    /// Hyper-parameters.
    pub options: PretrainingOptions,
    /// The model's configuration.
    pub config: ClipConfig,
    /// Tokens in use.
    pub vocabulary: Vocabulary,
    /// Weights with their moments.
    pub parameters: Vec<Parameter>,
    /// The model on these weights.
    pub model: ClipModel,
    /// Updates done.
    pub done: u64,
    /// Time spent in all sessions.
    pub spent: TimeSpent,
}

impl Pretraining {
    /// A new model whose initial weights depend on the seed.
    ///
    /// # Errors
    /// [`Error::Config`] for hyper-parameters out of range.
    pub fn new(options: PretrainingOptions, vocabulary: Vocabulary) -> Result<Self> {
        options.check()?;
        let config = options.model.config()?;
        let mut parameters = Vec::new();
        for spec in tensor_specs(&config)? {
            let mut shape = spec.shape.clone();
            let values = if spec.name == TOKEN_EMBEDDING {
                shape[0] = vocabulary.ids().len();
                let rows = vocabulary.ids().iter().map(|&id| id as usize);
                initial_values(&spec, options.seed, rows)
            } else {
                let rows = spec.shape.first().copied().unwrap_or(1);
                initial_values(&spec, options.seed, 0..rows)
            };
            let var = Var::from_vec(values, shape, &Device::Cpu)?;
            parameters.push(Parameter::new(spec.name, var));
        }
        let model = ClipModel::new(&config, |name| tensor(&parameters, name))?;
        Ok(Self {
            options,
            config,
            vocabulary,
            parameters,
            model,
            done: 0,
            spent: TimeSpent::default(),
        })
    }

    /// The batch of update `step`.
    ///
    /// # Errors
    /// Those of [`PairSource::pair`].
    pub fn batch(&self, source: &PairSource, step: u64) -> Result<Batch> {
        let size = self.options.batch_size as u64;
        let pairs: Vec<_> = (step * size..(step + 1) * size)
            .into_par_iter()
            .map(|index| {
                let preprocessing = &self.config.preprocessing;
                let (pixels, text) = source.pair(self.options.seed, index, preprocessing)?;
                let context = self.config.text.context_length;
                Ok((pixels, self.vocabulary.tokens(&text, context)?))
            })
            .collect::<Result<_>>()?;
        let (images, texts) = pairs.into_iter().unzip();
        Ok(Batch { images, texts })
    }

    /// One update.
    ///
    /// # Errors
    /// [`Error::Diverged`] for a loss that is not finite.
    pub fn update(&mut self, batch: &Batch) -> Result<UpdateStats> {
        let mut found = loss_and_gradients(&self.model, &self.config, &self.parameters, batch)?;
        let options = &self.options;
        let limit = if options.clip_gradient == 0.0 {
            f64::INFINITY
        } else {
            options.clip_gradient
        };
        let gradient = clip_norm(&mut found.gradients, limit);
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
        // CLIP limits the scale to 100 for stability.
        for parameter in self.parameters.iter().filter(|p| p.name == "logit_scale") {
            let value = parameter.var.to_scalar::<f32>()?.clamp(0.0, 100f32.ln());
            parameter.var.set(&Tensor::new(value, &Device::Cpu)?)?;
        }
        self.done += 1;
        Ok(UpdateStats {
            loss: found.loss,
            accuracy: f64::from(found.accuracy),
            gradient,
        })
    }

    /// The learning rate of the next update.
    pub(super) fn learning_rate(&self) -> f64 {
        let o = &self.options;
        learning_rate(self.done, o.learning_rate, o.warm_up, o.steps)
    }

    /// Writes the model as a checkpoint folder. Token rows that no text uses have their initial values.
    ///
    /// # Errors
    /// [`Error::Checkpoint`].
    pub fn write_checkpoint(&self, folder: &Path) -> Result<()> {
        let specs = tensor_specs(&self.config)?;
        pinhole_checkpoint::write(folder, &self.config, Existing::Replace, |name| {
            let mut data = read(&tensor(&self.parameters, name)?, <[f32]>::to_vec)?;
            let spec = specs.iter().find(|spec| spec.name == name);
            let spec = spec.ok_or_else(|| Error::Config(format!("no tensor {name}")))?;
            if name == TOKEN_EMBEDDING {
                data = self.all_token_rows(spec, &data);
            }
            let shape = spec.shape.clone();
            Ok(pinhole_model::Tensor { shape, data })
        })
    }

    /// The token embedding of the whole vocabulary, given the trained rows.
    fn all_token_rows(&self, spec: &TensorSpec, trained: &[f32]) -> Vec<f32> {
        let mut data = initial_values(spec, self.options.seed, 0..spec.shape[0]);
        let width = spec.shape[1];
        let trained = trained.chunks_exact(width);
        for (&id, row) in self.vocabulary.ids().iter().zip(trained) {
            let start = id as usize * width;
            data[start..start + width].copy_from_slice(row);
        }
        data
    }

    /// Writes the exact state, from which a resumed training is bit-identical to an uninterrupted one.
    /// The previous state is replaced atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, source: &PairSource, path: &Path) -> Result<()> {
        let header = Header {
            options: self.options.clone(),
            data: source.description(),
            content: source.fingerprint(),
            tokens: self.vocabulary.ids().to_vec(),
            done: self.done,
            seconds: self.spent.wall,
            cpu_seconds: self.spent.cpu,
        };
        let mut tensors = Vec::new();
        for parameter in &self.parameters {
            let shape = parameter.var.dims().to_vec();
            let values = read(parameter.var.as_tensor(), to_bytes)?;
            tensors.push((parameter.name.clone(), shape.clone(), values));
            let name = |kind: &str| format!("{kind}/{}", parameter.name);
            tensors.push((name("first"), shape.clone(), to_bytes(&parameter.first)));
            tensors.push((name("second"), shape, to_bytes(&parameter.second)));
        }
        write_state(path, FORMAT, &header, &tensors)
    }

    /// Loads a state that was written with the same options and data.
    ///
    /// # Errors
    /// [`Error::State`] for a damaged file, or one of other options, data or tokens.
    pub fn load(&mut self, source: &PairSource, path: &Path) -> Result<()> {
        let (file, header) = StateFile::open::<Header>(path, FORMAT)?;
        if header.options != self.options {
            return Err(file.error(format!(
                "written with other hyper-parameters; to resume, use the same: {:?}",
                header.options
            )));
        }
        if header.data != source.description() || header.tokens != self.vocabulary.ids() {
            return Err(file.error(format!(
                "data: expected {}, found {}; to resume, use the same data",
                source.description(),
                header.data
            )));
        }
        if header.content.is_some() && header.content != source.fingerprint() {
            return Err(file.error(format!(
                "data: expected the images, captions and --crop that the training began with, found others in {}; to resume, \
                 use the same data",
                source.description()
            )));
        }
        for parameter in &mut self.parameters {
            let shape = parameter.var.dims().to_vec();
            let weights = file.values(&parameter.name, &shape)?;
            parameter.first = file.values(&format!("first/{}", parameter.name), &shape)?;
            parameter.second = file.values(&format!("second/{}", parameter.name), &shape)?;
            parameter
                .var
                .set(&Tensor::from_vec(weights, shape, &Device::Cpu)?)?;
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
    options: PretrainingOptions,
    data: String,
    /// Fingerprint of the pairs; none for the shapes, and in states of earlier builds.
    #[serde(default)]
    content: Option<String>,
    tokens: Vec<u32>,
    done: u64,
    seconds: f64,
    cpu_seconds: f64,
}

/// A parameter's tensor by name.
fn tensor(parameters: &[Parameter], name: &str) -> Result<Tensor> {
    let found = parameters.iter().find(|p| p.name == name);
    found
        .map(|p| p.var.as_tensor().clone())
        .ok_or_else(|| Error::Config(format!("no tensor {name}")))
}
