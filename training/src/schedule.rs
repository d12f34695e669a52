//! The learning rate over time.

/// Linear warm-up to `peak` over `warm_up` steps, then half a cosine down to 0 at `steps`.
/// `step` counts from 0; the first update already moves.
pub fn learning_rate(step: u64, peak: f64, warm_up: u64, steps: u64) -> f64 {
    if step < warm_up {
        return peak * (step + 1) as f64 / warm_up as f64;
    }
    let length = steps.saturating_sub(warm_up).max(1) as f64;
    let progress = ((step - warm_up) as f64 / length).min(1.0);
    peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}
