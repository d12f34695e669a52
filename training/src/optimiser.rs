//! AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization"), as in PyTorch.

use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;

use crate::{Result, ops::read};

/// Hyper-parameters of AdamW, without the learning rate, which a schedule gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f64,
}

/// A trained tensor and its moments.
pub struct Parameter {
    /// Canonical name.
    pub name: String,
    /// The values.
    pub var: Var,
    /// Mean of gradients.
    pub first: Vec<f32>,
    /// Mean of squared gradients.
    pub second: Vec<f32>,
}

impl Parameter {
    /// A parameter that has not been updated yet.
    pub fn new(name: String, var: Var) -> Self {
        let zeros = vec![0.0; var.elem_count()];
        let (first, second) = (zeros.clone(), zeros);
        Self {
            name,
            var,
            first,
            second,
        }
    }

    /// Decay is for matrices and convolutions, not for gains, biases and the logit scale
    /// (open_clip's grouping: tensors of less than two axes, norms, biases, logit_scale).
    pub fn decays(&self) -> bool {
        self.var.rank() >= 2
    }
}

/// One update with the gradients in the order of the parameters; `step` counts from 0.
///
/// # Errors
/// Where a gradient's length is not its parameter's.
pub fn update(
    parameters: &mut [Parameter],
    gradients: &[Vec<f32>],
    options: &AdamWOptions,
    learning_rate: f64,
    step: u64,
) -> Result<()> {
    let power = i32::try_from(step + 1).unwrap_or(i32::MAX);
    let correction1 = 1.0 - options.beta1.powi(power);
    let correction2 = (1.0 - options.beta2.powi(power)).sqrt();
    let size = (learning_rate / correction1) as f32;
    let (beta1, beta2) = (options.beta1 as f32, options.beta2 as f32);
    let epsilon = options.epsilon as f32;
    let pairs = parameters.par_iter_mut().zip(gradients);
    pairs.try_for_each(|(parameter, gradient)| {
        let keep = match parameter.decays() {
            true => (1.0 - learning_rate * options.weight_decay) as f32,
            false => 1.0,
        };
        let mut values = read(parameter.var.as_tensor(), <[f32]>::to_vec)?;
        let moments = parameter.first.iter_mut().zip(&mut parameter.second);
        for ((value, (first, second)), &g) in values.iter_mut().zip(moments).zip(gradient) {
            *first = beta1 * *first + (1.0 - beta1) * g;
            *second = beta2 * *second + (1.0 - beta2) * g * g;
            let scale = second.sqrt() / correction2 as f32 + epsilon;
            *value = *value * keep - size * *first / scale;
        }
        let shape = parameter.var.shape();
        parameter
            .var
            .set(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
        Ok(())
    })
}

/// Scales all gradients so that their joint Euclidean length is at most `limit`; returns the length
/// before.
pub fn clip_length(gradients: &mut [Vec<f32>], limit: f64) -> f64 {
    let squares = gradients
        .iter()
        .flatten()
        .map(|&g| f64::from(g) * f64::from(g));
    let length = squares.sum::<f64>().sqrt();
    if length > limit {
        let scale = (limit / length) as f32;
        gradients.iter_mut().flatten().for_each(|g| *g *= scale);
    }
    length
}
