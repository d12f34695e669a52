//! From weights in floating point to 8-bit integers with one scale an output.

/// Shares of an output's largest weight that may become 127.
const CLIPS: [f32; 7] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75];

/// `weight` [inputs, outputs] with each input's row multiplied by its factor.
pub(crate) fn scale_rows(weight: &[f32], outputs: usize, factors: &[f32]) -> Vec<f32> {
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

/// As [`quantize`], for rows of pixels, (y, x, channel): what rounding a weight takes from an output, the same
/// colour's next pixel, which is nearly alike, gives back.
pub(crate) fn quantize_pixels(weight: &[f32], scales: &[f32]) -> (Vec<i8>, Vec<f32>) {
    let outputs = scales.len();
    let mut carried = vec![0.0f32; 3 * outputs];
    let mut counts = Vec::with_capacity(weight.len());
    for (k, row) in weight.chunks_exact(outputs).enumerate() {
        let carried = &mut carried[k % 3 * outputs..][..outputs];
        for (carried, (weight, &scale)) in carried.iter_mut().zip(row.iter().zip(scales)) {
            let wanted = weight + *carried;
            let count = count(wanted, scale);
            *carried = wanted - f32::from(count) * scale;
            counts.push(count);
        }
    }
    (counts, scales.to_vec())
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

    /// What is lost of a pixel's weights is made up for by its neighbour's: on pictures of one colour nothing is.
    #[test]
    fn pixels_weights_are_rounded_together() {
        let weight = noise(3 * 64 * OUTPUTS, 4);
        let scales = scales(&weight, OUTPUTS);
        let lost = |counts: &[i8]| {
            let mut sums = vec![0.0f32; 3 * OUTPUTS];
            for (i, (count, weight)) in counts.iter().zip(&weight).enumerate() {
                let sum = &mut sums[i / OUTPUTS % 3 * OUTPUTS + i % OUTPUTS];
                *sum += (weight - f32::from(*count) * scales[i % OUTPUTS]) / scales[i % OUTPUTS];
            }
            sums.iter().fold(0.0f32, |m, v| m.max(v.abs()))
        };
        assert!(lost(&quantize(&weight, &scales).0) > 3.0);
        assert!(lost(&quantize_pixels(&weight, &scales).0) < 1.5);
    }
}
