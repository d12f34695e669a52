//! Stochastic gradient descent as in PyTorch, and the reference's learning rate schedule.

use super::{options::PromptOptions, weight::Weight};

/// One update (torch.optim.SGD): weight decay is added to the gradient, the momentum buffer starts as the
/// first gradient, and the learning rate multiplies the buffer. `step` counts from 0.
pub(super) fn update(
    weights: &mut [Weight],
    gradients: &[Vec<f32>],
    options: &PromptOptions,
    rate: f64,
    step: u64,
) {
    let (decay, momentum) = (options.weight_decay as f32, options.momentum as f32);
    let undamped = (1.0 - options.dampening) as f32;
    let rate = rate as f32;
    for (weight, gradient) in weights.iter_mut().zip(gradients) {
        let values = weight.values.iter_mut().zip(&mut weight.momentum);
        for ((value, buffer), &gradient) in values.zip(gradient) {
            let gradient = gradient + decay * *value;
            *buffer = match step {
                0 => gradient,
                _ => momentum * *buffer + undamped * gradient,
            };
            *value -= rate * *buffer;
        }
    }
}

/// The learning rate of an epoch, counted from 0. Dassl's `ConstantWarmupScheduler` keeps the warm-up's rate
/// and then starts PyTorch's `CosineAnnealingLR` with the length of all epochs, so training stops before the
/// end of the cosine.
pub(super) fn learning_rate(options: &PromptOptions, epoch: u64) -> f64 {
    if epoch < options.warm_up {
        return options.warm_up_rate;
    }
    let progress = (epoch - options.warm_up) as f64 / options.epochs as f64;
    0.5 * options.learning_rate * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt_learning::methods::Method;

    #[test]
    fn the_cosine_starts_after_the_warm_up() {
        let mut options = PromptOptions::new(Method::COOP, 1, 1);
        assert_eq!(options.epochs, 50);
        assert_eq!(learning_rate(&options, 0), 1e-5);
        assert_eq!(learning_rate(&options, 1), 0.002);
        assert!((learning_rate(&options, 26) - 0.001).abs() < 1e-12);
        // Dassl's value for the last of 50 epochs.
        assert!((learning_rate(&options, 49) - 7.885_298_685_522_227e-6).abs() < 1e-15);
        options.warm_up = 0;
        assert_eq!(learning_rate(&options, 0), 0.002);
    }

    #[test]
    fn the_first_gradient_is_the_first_momentum() {
        let options = PromptOptions {
            weight_decay: 0.5,
            momentum: 0.5,
            dampening: 0.25,
            ..PromptOptions::new(Method::COOP, 1, 1)
        };
        let mut weights = [Weight::new("ctx", &[1], vec![2.0])];
        update(&mut weights, &[vec![1.0]], &options, 0.5, 0);
        // 1 + 0.5 * 2 = 2, undamped.
        assert_eq!((weights[0].values[0], weights[0].momentum[0]), (1.0, 2.0));
        update(&mut weights, &[vec![3.5]], &options, 0.5, 1);
        // 0.5 * 2 + 0.75 * (3.5 + 0.5 * 1) = 4.
        assert_eq!((weights[0].values[0], weights[0].momentum[0]), (-1.0, 4.0));
    }
}
