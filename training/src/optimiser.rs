//! AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization"), as in PyTorch.

use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;

use crate::{Result, ops::read};

/// Hyper-parameters of AdamW, except the learning rate, which has a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
}

/// A trained tensor with its moments.
pub struct Parameter {
    /// Canonical name.
    pub name: String,
    /// The values.
    pub var: Var,
    /// First moment: the running mean of gradients.
    pub first: Vec<f32>,
    /// Second moment: the running mean of squared gradients.
    pub second: Vec<f32>,
}

impl Parameter {
    /// A parameter before its first update.
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

    /// Whether weight decay applies: to matrices and convolutions, not to gains, biases and the logit
    /// scale (as in open_clip).
    pub fn decays(&self) -> bool {
        self.var.rank() >= 2
    }
}

/// One update, with gradients in the order of the parameters; `step` counts from 0.
///
/// # Errors
/// For a gradient whose length is not its parameter's.
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
    let step_size = (learning_rate / correction1) as f32;
    let (beta1, beta2) = (options.beta1 as f32, options.beta2 as f32);
    let epsilon = options.epsilon as f32;
    let pairs = parameters.par_iter_mut().zip(gradients);
    pairs.try_for_each(|(parameter, gradient)| {
        let keep = if parameter.decays() {
            (1.0 - learning_rate * options.weight_decay) as f32
        } else {
            1.0
        };
        let mut values = read(parameter.var.as_tensor(), <[f32]>::to_vec)?;
        let moments = parameter.first.iter_mut().zip(&mut parameter.second);
        for ((value, (first, second)), &g) in values.iter_mut().zip(moments).zip(gradient) {
            *first = beta1 * *first + (1.0 - beta1) * g;
            *second = beta2 * *second + (1.0 - beta2) * g * g;
            let scale = second.sqrt() / correction2 as f32 + epsilon;
            *value = *value * keep - step_size * *first / scale;
        }
        let shape = parameter.var.shape();
        parameter
            .var
            .set(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
        Ok(())
    })
}

/// Scales all gradients so that their global L2 norm is at most `limit`; returns the norm before.
pub fn clip_norm(gradients: &mut [Vec<f32>], limit: f64) -> f64 {
    let squares = gradients
        .iter()
        .flatten()
        .map(|&g| f64::from(g) * f64::from(g));
    let norm = squares.sum::<f64>().sqrt();
    if norm > limit {
        let scale = (limit / norm) as f32;
        gradients.iter_mut().flatten().for_each(|g| *g *= scale);
    }
    norm
}
