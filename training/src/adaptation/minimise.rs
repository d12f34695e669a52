//! Minimisation of a smooth function.

use std::collections::VecDeque;

/// Pairs that L-BFGS remembers.
const MEMORY: usize = 10;

/// L-BFGS (Nocedal and Wright, "Numerical Optimization", algorithm 7.5) with backtracking, from `x`, until the norm of the
/// gradient is at most `tolerance`, or after `iterations`. `function` gives value and gradient.
///
/// Returns the best point found, with its value.
pub(super) fn minimise(
    mut x: Vec<f64>,
    function: impl Fn(&[f64]) -> (f64, Vec<f64>),
    tolerance: f64,
    iterations: usize,
) -> (Vec<f64>, f64) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (mut value, mut gradient) = function(&x);
    // (change of x, change of the gradient, 1 / their product).
    let mut memory: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::new();
    for _ in 0..iterations {
        let norm = dot(&gradient, &gradient).sqrt();
        if norm.is_nan() || norm <= tolerance {
            break;
        }
        let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut factors = Vec::with_capacity(memory.len());
        for (s, y, inverse) in memory.iter().rev() {
            let factor = inverse * dot(s, &direction);
            direction
                .iter_mut()
                .zip(y)
                .for_each(|(d, y)| *d -= factor * y);
            factors.push(factor);
        }
        let scale = match memory.back() {
            Some((_, y, inverse)) => 1.0 / (inverse * dot(y, y)),
            None => 1.0 / norm.max(1.0),
        };
        direction.iter_mut().for_each(|d| *d *= scale);
        for ((s, y, inverse), factor) in memory.iter().zip(factors.iter().rev()) {
            let change = factor - inverse * dot(y, &direction);
            direction
                .iter_mut()
                .zip(s)
                .for_each(|(d, s)| *d += change * s);
        }
        let slope = dot(&gradient, &direction);
        let mut step = 1.0;
        let next = loop {
            let at: Vec<f64> = x
                .iter()
                .zip(&direction)
                .map(|(x, d)| x + step * d)
                .collect();
            let (next, of_next) = function(&at);
            if next <= value + 1e-4 * step * slope {
                break Some((at, next, of_next));
            }
            step *= 0.5;
            if step < 1e-12 {
                break None;
            }
        };
        // No descent is left at this precision.
        let Some((at, next, of_next)) = next else {
            break;
        };
        let s: Vec<f64> = at.iter().zip(&x).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = of_next.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let product = dot(&s, &y);
        if product > 1e-14 * dot(&y, &y).max(f64::MIN_POSITIVE) {
            memory.push_back((s, y, 1.0 / product));
            if memory.len() > MEMORY {
                memory.pop_front();
            }
        }
        (x, value, gradient) = (at, next, of_next);
    }
    (x, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rosenbrock_is_minimised() {
        let function = |x: &[f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            let gradient = vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b];
            (a * a + 100.0 * b * b, gradient)
        };
        let (x, value) = minimise(vec![-1.2, 1.0], function, 1e-9, 500);
        assert!(
            (x[0] - 1.0).abs() < 1e-7 && (x[1] - 1.0).abs() < 1e-7,
            "{x:?}"
        );
        assert!(value < 1e-14);
        let (x, _) = minimise(vec![2.0], |x| (x[0] * x[0], vec![f64::NAN]), 1e-9, 500);
        assert_eq!(x, [2.0]);
    }
}
