//! From weights in floating point to 8-bit integers with one scale an output.

use pinhole_kernels::PackedLinear;
use rayon::prelude::*;

/// Shares of an output's largest weight that may become 127.
const CLIPS: [f32; 7] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75];

/// `weight` [inputs, outputs] with each input's row multiplied by its factor, if there are any.
pub(crate) fn scale_rows(weight: &[f32], outputs: usize, factors: &[f32]) -> Vec<f32> {
    if factors.is_empty() {
        return weight.to_vec();
    }
    let rows = weight.chunks_exact(outputs).zip(factors);
    rows.flat_map(|(row, factor)| row.iter().map(move |w| w * factor))
        .collect()
}

/// One scale an output, its largest weight being 127.
pub(crate) fn scales(weight: &[f32], outputs: usize) -> Vec<f32> {
    let mut scales = vec![0.0f32; outputs];
    for row in weight.chunks_exact(outputs) {
        for (scale, weight) in scales.iter_mut().zip(row) {
            *scale = scale.max(weight.abs() / 127.0);
        }
    }
    scales
}

/// One scale an output, out of [`CLIPS`] the one that leaves the least error of weights that are squared and
/// weighed with the inputs' `powers`.
pub(crate) fn clipped_scales(weight: &[f32], outputs: usize, powers: &[f64]) -> Vec<f32> {
    let full = scales(weight, outputs);
    let mut best = full.clone();
    let mut least = vec![f64::INFINITY; outputs];
    for clip in CLIPS {
        let mut errors = vec![0.0f64; outputs];
        for (row, power) in weight.chunks_exact(outputs).zip(powers) {
            for (error, (weight, scale)) in errors.iter_mut().zip(row.iter().zip(&full)) {
                let scale = scale * clip;
                let difference = f64::from(weight - f32::from(count(*weight, scale)) * scale);
                *error += power * difference * difference;
            }
        }
        for (o, error) in errors.into_iter().enumerate() {
            if error < least[o] {
                (least[o], best[o]) = (error, full[o] * clip);
            }
        }
    }
    best
}

/// Mean of each channel of the rows `x`; nought without rows.
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
pub(crate) fn powers(x: &[f32], width: usize) -> Vec<f64> {
    let mut powers = vec![0.0; width];
    for row in x.chunks_exact(width) {
        for (power, x) in powers.iter_mut().zip(row) {
            *power += f64::from(*x) * f64::from(*x);
        }
    }
    let rows = (x.len() / width).max(1) as f64;
    powers.iter_mut().for_each(|p| *p /= rows);
    powers
}

/// The nearest whole number of scales, half to even, in -127 ..= 127. An output of zeros has the scale nought,
/// and none of its weights counts.
fn count(weight: f32, scale: f32) -> i8 {
    let count = if scale > 0.0 { weight / scale } else { 0.0 };
    count.round_ties_even().clamp(-127.0, 127.0) as i8
}

/// `weight` [inputs, outputs] in the outputs' `scales`, each weight the nearest.
pub(crate) fn quantize(weight: &[f32], scales: &[f32]) -> (Vec<i8>, Vec<f32>) {
    let weights = weight.iter().zip(scales.iter().cycle());
    (
        weights.map(|(&w, &s)| count(w, s)).collect(),
        scales.to_vec(),
    )
}

/// Rounds of [`settle`]; in the fourth 1 % of the weights still move.
const ROUNDS: usize = 4;

/// Moves the `counts` [inputs, outputs] of `weight` in the outputs' `scales`, one after the other, each to the whole
/// number that leaves an output the least error on rows `x` less their mean, those of the other weights being what
/// they are: cyclic coordinate descent on the layer's quadratic error (QuantEase, Behdin et al. 2023). What rounding
/// one weight up costs, another one whose input goes with that weight's can make up for.
///
/// An input's variance counts as larger by the mean of all, so that what a few rows have in common by chance is not
/// taken for a law.
pub(crate) fn settle(weight: &[f32], scales: &[f32], x: &[f32], counts: &mut [i8]) {
    let outputs = scales.len();
    let width = weight.len() / outputs;
    let mut covariance = covariance(x, width);
    let mean = (0..width).map(|k| covariance[k * width + k]).sum::<f32>() / width as f32;
    if !mean.is_finite() || mean <= 0.0 {
        return;
    }
    (0..width).for_each(|k| covariance[k * width + k] += mean);
    let variance = |k: usize| covariance[k * width + k];
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| variance(b).total_cmp(&variance(a)));

    // By outputs, each of which is a problem of its own.
    let mut by_output = vec![0i8; counts.len()];
    let mut errors = vec![0.0; weight.len()];
    for (i, (&weight, &count)) in weight.iter().zip(&*counts).enumerate() {
        let (k, o) = (i / outputs, i % outputs);
        by_output[o * width + k] = count;
        errors[o * width + k] = weight - f32::from(count) * scales[o];
    }
    // How fast half the error grows with that of each weight.
    let mut slopes = vec![0.0; weight.len()];
    PackedLinear::from_in_out(&covariance, width, width, None).apply(
        &errors,
        outputs,
        None,
        None,
        &mut slopes,
    );
    let problems = by_output
        .par_chunks_exact_mut(width)
        .zip(slopes.par_chunks_exact_mut(width))
        .zip(scales);
    problems.for_each(|((counts, slopes), &scale)| {
        for _ in 0..ROUNDS {
            let before = counts.to_vec();
            for &k in &order {
                let best = f32::from(counts[k]) * scale + slopes[k] / variance(k);
                let next = count(best, scale);
                let change = scale * (f32::from(counts[k]) - f32::from(next));
                if next != counts[k] {
                    counts[k] = next;
                    let row = &covariance[k * width..][..width];
                    slopes
                        .iter_mut()
                        .zip(row)
                        .for_each(|(s, c)| *s += change * c);
                }
            }
            if *counts == *before {
                break;
            }
        }
    });
    for (i, count) in counts.iter_mut().enumerate() {
        *count = by_output[i % outputs * width + i / outputs];
    }
}

/// [width, width] of the rows `x`.
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

    /// Numbers from -0.5 to 0.5 in no order.
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

    /// The error of each output's weights that [`settle`] lessens, in plain loops: the mean square over the rows, less
    /// their mean, and as much again as inputs of the mean variance that have nothing in common would add.
    fn objective(weight: &[f32], scales: &[f32], x: &[f32], counts: &[i8]) -> Vec<f64> {
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
            f64::from(weight[i]) - f64::from(counts[i]) * f64::from(scales[o])
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

    /// Rows of 12 channels that are mixtures of 3, and so go together.
    fn mixtures() -> Vec<f32> {
        let (sources, mixing) = (noise(40 * 3, 1), noise(3 * 12, 2));
        let value = |i: usize, k: usize| {
            (0..3)
                .map(|s| sources[i * 3 + s] * mixing[s * 12 + k])
                .sum::<f32>()
        };
        (0..40 * 12).map(|i| 5.0 + value(i / 12, i % 12)).collect()
    }

    #[test]
    fn settled_weights_cannot_be_bettered_one_by_one() {
        let (weight, x) = (noise(12 * OUTPUTS, 3), mixtures());
        let (nearest, scales) = quantize(&weight, &scales(&weight, OUTPUTS));
        let mut settled = nearest.clone();
        settle(&weight, &scales, &x, &mut settled);
        let before = objective(&weight, &scales, &x, &nearest);
        let after = objective(&weight, &scales, &x, &settled);
        let ratio = after.iter().sum::<f64>() / before.iter().sum::<f64>();
        assert!(ratio < 0.85, "{ratio}");
        for (i, &count) in settled.iter().enumerate() {
            let o = i % OUTPUTS;
            assert!(after[o] <= before[o]);
            for other in [count.saturating_sub(1), count.saturating_add(1)] {
                let mut moved = settled.clone();
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
    fn a_weight_may_move_from_one_end_to_the_other() {
        let weight = vec![1.27; 12 * OUTPUTS];
        let mut counts = vec![-127; weight.len()];
        settle(&weight, &[0.01; OUTPUTS], &mixtures(), &mut counts);
        assert!(counts.iter().all(|&c| c > 120), "{counts:?}");
    }

    #[test]
    fn inputs_without_any_variance_settle_nothing() {
        let weight = noise(12 * OUTPUTS, 3);
        let (nearest, scales) = quantize(&weight, &scales(&weight, OUTPUTS));
        for x in [
            vec![],
            vec![7.0; 12],
            vec![7.0; 120],
            vec![f32::NAN; 24],
            vec![1e30; 24],
        ] {
            let mut settled = nearest.clone();
            settle(&weight, &scales, &x, &mut settled);
            assert_eq!(settled, nearest);
        }
    }
}
