//! The learning rate schedule of pre-training.

/// The learning rate of `step`, counted from 0: linear warm-up to `peak` over `warm_up` steps, then half a
/// cosine to 0 at `steps`. The first step's rate is not 0.
pub fn learning_rate(step: u64, peak: f64, warm_up: u64, steps: u64) -> f64 {
    if step < warm_up {
        return peak * (step + 1) as f64 / warm_up as f64;
    }
    let length = steps.saturating_sub(warm_up).max(1) as f64;
    let progress = ((step - warm_up) as f64 / length).min(1.0);
    peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::learning_rate;

    #[test]
    fn warm_up_is_linear_and_decay_a_cosine() {
        assert_eq!(learning_rate(0, 1.0, 4, 104), 0.25);
        assert_eq!(learning_rate(3, 1.0, 4, 104), 1.0);
        assert_eq!(learning_rate(4, 1.0, 4, 104), 1.0);
        assert!((learning_rate(54, 1.0, 4, 104) - 0.5).abs() < 1e-12);
        assert!(learning_rate(103, 1.0, 4, 104) < 1e-3);
        assert_eq!(learning_rate(500, 1.0, 4, 104), 0.0);
        // Warm-up longer than the training, and no warm-up.
        assert_eq!(learning_rate(1, 1.0, 10, 5), 0.2);
        assert_eq!(learning_rate(0, 1.0, 0, 5), 1.0);
    }
}
