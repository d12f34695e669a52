//! Rounding weights to 8-bit integers with one scale per output channel.

use pinhole_kernels::PackedLinear;
use rayon::prelude::*;

/// A form must reduce the error of a simpler one to this share of it.
pub(crate) const MIN_GAIN: f32 = 0.995;

/// Candidate clipping ratios: the share of an output's largest weight that becomes 127.
const CLIP_RATIOS: [f32; 7] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75];

/// `weight` `[inputs, outputs]` with each input's row multiplied by its factor; unchanged if `factors` is empty.
pub(crate) fn scale_rows(weight: &[f32], outputs: usize, factors: &[f32]) -> Vec<f32> {
    if factors.is_empty() {
        return weight.to_vec();
    }
    let rows = weight.chunks_exact(outputs).zip(factors);
    rows.flat_map(|(row, factor)| row.iter().map(move |w| w * factor))
        .collect()
}

/// One scale per output channel, so that its largest weight becomes 127; 0 for an all-zero channel.
pub(crate) fn scales(weight: &[f32], outputs: usize) -> Vec<f32> {
    let mut scales = vec![0.0f32; outputs];
    for row in weight.chunks_exact(outputs) {
        for (scale, weight) in scales.iter_mut().zip(row) {
            *scale = scale.max(weight.abs() / 127.0);
        }
    }
    scales
}

/// One scale per output channel: for each the clipping ratio of [`CLIP_RATIOS`] with the least squared rounding error,
/// weighted by the inputs' mean squares.
pub(crate) fn clipped_scales(weight: &[f32], outputs: usize, mean_squares: &[f64]) -> Vec<f32> {
    let full = scales(weight, outputs);
    let mut best = full.clone();
    let mut least = vec![f64::INFINITY; outputs];
    for ratio in CLIP_RATIOS {
        let mut errors = vec![0.0f64; outputs];
        for (row, mean_square) in weight.chunks_exact(outputs).zip(mean_squares) {
            for (error, (weight, scale)) in errors.iter_mut().zip(row.iter().zip(&full)) {
                let scale = scale * ratio;
                let rounded = f32::from(round_to_nearest(*weight, scale)) * scale;
                let difference = f64::from(weight - rounded);
                *error += mean_square * difference * difference;
            }
        }
        for (o, error) in errors.into_iter().enumerate() {
            if error < least[o] {
                (least[o], best[o]) = (error, full[o] * ratio);
            }
        }
    }
    best
}

/// Mean of each channel of the rows `x`; 0 without rows.
pub(crate) fn mean(x: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; width];
    for row in x.chunks_exact(width) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(s, x)| *s += f64::from(*x));
    }
    let rows = (x.len() / width).max(1) as f64;
    sums.into_iter().map(|s| (s / rows) as f32).collect()
}

/// Mean square of each channel of the rows `x`.
pub(crate) fn mean_squares(x: &[f32], width: usize) -> Vec<f64> {
    let mut means = vec![0.0; width];
    for row in x.chunks_exact(width) {
        for (mean, x) in means.iter_mut().zip(row) {
            *mean += f64::from(*x) * f64::from(*x);
        }
    }
    let rows = (x.len() / width).max(1) as f64;
    means.iter_mut().for_each(|mean| *mean /= rows);
    means
}

/// `weight / scale` rounded to the nearest integer in -127..=127, half to even; 0 for the scale 0.
fn round_to_nearest(weight: f32, scale: f32) -> i8 {
    let quotient = if scale > 0.0 { weight / scale } else { 0.0 };
    quotient.round_ties_even().clamp(-127.0, 127.0) as i8
}

/// `weight` `[inputs, outputs]` rounded to nearest with the scales of its outputs, which are returned with it.
pub(crate) fn quantize(weight: &[f32], scales: &[f32]) -> (Vec<i8>, Vec<f32>) {
    let weights = weight.iter().zip(scales.iter().cycle());
    let quantized = weights.map(|(&w, &s)| round_to_nearest(w, s)).collect();
    (quantized, scales.to_vec())
}

/// ||found - wanted|| / ||wanted||; 0 where both are 0.
pub(crate) fn relative_error(found: &[f32], wanted: &[f32]) -> f32 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let difference: f64 = found.iter().zip(wanted).map(|(f, w)| square(f - w)).sum();
    let norm: f64 = wanted.iter().map(|&w| square(w)).sum();
    if difference == 0.0 {
        0.0
    } else {
        (difference / norm).sqrt() as f32
    }
}

/// The largest value divided by the median; 0 where the median is 0.
pub(crate) fn outlier_ratio(largest: &[f32]) -> f32 {
    let mut sorted = largest.to_vec();
    sorted.sort_by(f32::total_cmp);
    match (sorted.last(), sorted[sorted.len() / 2]) {
        (Some(last), median) if median > 0.0 => last / median,
        _ => 0.0,
    }
}

/// Passes of [`coordinate_descent`]; in the fourth, 1 % of the weights still change.
const PASSES: usize = 4;

/// Most inputs of an output for joint rounding, which needs the square of this number of floats.
pub(crate) const MOST_JOINT_INPUTS: usize = 8192;

/// Improves the rounded weights `quantized` `[inputs, outputs]` of `weight` with the outputs' `scales` by cyclic
/// coordinate descent on the layer's squared output error over the rows `x`, their mean subtracted (QuantEase, Behdin et
/// al. 2023): one weight at a time moves to the integer with the least error given all others, so that correlated
/// inputs compensate each other's rounding errors. Layers of more than [`MOST_JOINT_INPUTS`] stay as they are.
///
/// The diagonal of the covariance is increased by its mean, so that chance correlations in a few rows are not fitted.
pub(crate) fn coordinate_descent(weight: &[f32], scales: &[f32], x: &[f32], quantized: &mut [i8]) {
    let outputs = scales.len();
    let width = weight.len() / outputs;
    if width > MOST_JOINT_INPUTS {
        return;
    }
    let mut covariance = covariance(x, width);
    let mean = (0..width).map(|k| covariance[k * width + k]).sum::<f32>() / width as f32;
    if !mean.is_finite() || mean <= 0.0 {
        return;
    }
    (0..width).for_each(|k| covariance[k * width + k] += mean);
    let variance = |k: usize| covariance[k * width + k];
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| variance(b).total_cmp(&variance(a)));

    // Transposed: each output is an independent problem.
    let mut by_output = vec![0i8; quantized.len()];
    let mut errors = vec![0.0; weight.len()];
    for (i, (&weight, &value)) in weight.iter().zip(&*quantized).enumerate() {
        let (k, o) = (i / outputs, i % outputs);
        by_output[o * width + k] = value;
        errors[o * width + k] = weight - f32::from(value) * scales[o];
    }
    // Half the gradient of the squared error with respect to each weight's rounding error.
    let mut gradients = vec![0.0; weight.len()];
    PackedLinear::from_in_out(&covariance, width, width, None).apply(
        &errors,
        outputs,
        None,
        None,
        &mut gradients,
    );
    let problems = by_output
        .par_chunks_exact_mut(width)
        .zip(gradients.par_chunks_exact_mut(width))
        .zip(scales);
    problems.for_each(|((values, gradients), &scale)| {
        for _ in 0..PASSES {
            let before = values.to_vec();
            for &k in &order {
                let optimum = f32::from(values[k]) * scale + gradients[k] / variance(k);
                let next = round_to_nearest(optimum, scale);
                let change = scale * (f32::from(values[k]) - f32::from(next));
                if next != values[k] {
                    values[k] = next;
                    let row = &covariance[k * width..][..width];
                    gradients
                        .iter_mut()
                        .zip(row)
                        .for_each(|(g, c)| *g += change * c);
                }
            }
            if *values == *before {
                break;
            }
        }
    });
    for (i, value) in quantized.iter_mut().enumerate() {
        *value = by_output[i % outputs * width + i / outputs];
    }
}

/// Covariance `[width, width]` of the rows `x`.
fn covariance(x: &[f32], width: usize) -> Vec<f32> {
    let rows = x.len() / width;
    let mean = mean(x, width);
    let root = (rows.max(1) as f32).sqrt();
    let mut centred = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width) {
        centred.extend(row.iter().zip(&mean).map(|(x, m)| (x - m) / root));
    }
    let mut columns = vec![0.0; x.len()];
    for (i, v) in centred.iter().enumerate() {
        columns[i % width * rows + i / width] = *v;
    }
    let mut covariance = vec![0.0; width * width];
    PackedLinear::from_in_out(&centred, rows, width, None).apply(
        &columns,
        width,
        None,
        None,
        &mut covariance,
    );
    covariance
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Pseudo-random numbers from -0.5 to 0.5.
    pub(crate) fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    const OUTPUTS: usize = 24;

    /// What [`coordinate_descent`] minimises for each output, in plain loops: the mean squared output error over the rows,
    /// their mean subtracted, plus that of uncorrelated inputs of the mean variance.
    fn objective(weight: &[f32], scales: &[f32], x: &[f32], quantized: &[i8]) -> Vec<f64> {
        let outputs = scales.len();
        let width = weight.len() / outputs;
        let rows = x.len() / width;
        let at = |i: usize, k: usize| f64::from(x[i * width + k]);
        let mean = |k: usize| (0..rows).map(|i| at(i, k)).sum::<f64>() / rows as f64;
        let means: Vec<f64> = (0..width).map(mean).collect();
        let variances =
            (0..rows * width).map(|i| (at(i / width, i % width) - means[i % width]).powi(2));
        let variance = variances.sum::<f64>() / (rows * width) as f64;
        let error = |k: usize, o: usize| {
            let i = k * outputs + o;
            f64::from(weight[i]) - f64::from(quantized[i]) * f64::from(scales[o])
        };
        let of_output = |o: usize| {
            let row = |i: usize| {
                (0..width)
                    .map(|k| error(k, o) * (at(i, k) - means[k]))
                    .sum::<f64>()
            };
            let mean = (0..rows).map(|i| row(i).powi(2)).sum::<f64>() / rows as f64;
            mean + variance * (0..width).map(|k| error(k, o).powi(2)).sum::<f64>()
        };
        (0..outputs).map(of_output).collect()
    }

    /// Rows of 12 correlated channels, mixtures of 3.
    fn correlated_rows() -> Vec<f32> {
        let (sources, mixing) = (noise(40 * 3, 1), noise(3 * 12, 2));
        let value = |i: usize, k: usize| {
            (0..3)
                .map(|s| sources[i * 3 + s] * mixing[s * 12 + k])
                .sum::<f32>()
        };
        (0..40 * 12).map(|i| 5.0 + value(i / 12, i % 12)).collect()
    }

    #[test]
    fn coordinate_descent_ends_where_no_single_weight_improves_the_objective() {
        let (weight, x) = (noise(12 * OUTPUTS, 3), correlated_rows());
        let (nearest, scales) = quantize(&weight, &scales(&weight, OUTPUTS));
        let mut optimised = nearest.clone();
        coordinate_descent(&weight, &scales, &x, &mut optimised);
        let before = objective(&weight, &scales, &x, &nearest);
        let after = objective(&weight, &scales, &x, &optimised);
        let ratio = after.iter().sum::<f64>() / before.iter().sum::<f64>();
        assert!(ratio < 0.85, "{ratio}");
        for (i, &value) in optimised.iter().enumerate() {
            let o = i % OUTPUTS;
            assert!(after[o] <= before[o]);
            for other in [value.saturating_sub(1), value.saturating_add(1)] {
                let mut moved = optimised.clone();
                moved[i] = other;
                let worse = objective(&weight, &scales, &x, &moved)[o];
                assert!(
                    other.unsigned_abs() > 127 || worse > 0.9999 * after[o],
                    "{i}"
                );
            }
        }
    }

    #[test]
    fn a_weight_may_move_across_the_whole_range() {
        let weight = vec![1.27; 12 * OUTPUTS];
        let mut quantized = vec![-127; weight.len()];
        coordinate_descent(
            &weight,
            &[0.01; OUTPUTS],
            &correlated_rows(),
            &mut quantized,
        );
        assert!(quantized.iter().all(|&value| value > 120), "{quantized:?}");
    }

    #[test]
    fn inputs_without_a_finite_variance_change_nothing() {
        let weight = noise(12 * OUTPUTS, 3);
        let (nearest, scales) = quantize(&weight, &scales(&weight, OUTPUTS));
        for x in [
            vec![],
            vec![7.0; 12],
            vec![7.0; 120],
            vec![f32::NAN; 24],
            vec![1e30; 24],
        ] {
            let mut optimised = nearest.clone();
            coordinate_descent(&weight, &scales, &x, &mut optimised);
            assert_eq!(optimised, nearest);
        }
        // Nor do more inputs than fit into memory as a square.
        let wide = MOST_JOINT_INPUTS + 1;
        let weight = noise(wide, 3);
        let (nearest, scales) = quantize(&weight, &super::scales(&weight, 1));
        let mut optimised = nearest.clone();
        coordinate_descent(&weight, &scales, &noise(2 * wide, 5), &mut optimised);
        assert_eq!(optimised, nearest);
    }
}
