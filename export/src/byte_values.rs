//! Values between integer convolutions as bytes: scales for all images, chosen on the calibration images.

use pinhole_kernels::{Affine, fake_quantize};

/// What a layer writes on the calibration images.
pub(crate) struct ValueSamples {
    /// The least and the largest value, or 0.
    range: [f32; 2],
    /// Values of all images.
    some: Vec<f32>,
    images: usize,
}

/// A value that may be bytes.
pub(crate) struct ByteValue {
    /// That of the layer that writes it.
    pub name: String,
    pub by: Affine,
    pub stays_float: bool,
    /// 1 - cosine of the embedding where only this value is quantised.
    pub sensitivity: Option<f32>,
}

/// About as many values are kept, of all images together.
const SAMPLES: usize = 1 << 17;

/// Shares of the range's ends that are tried: the values beyond are clipped.
const CLIPPED: [f32; 14] = [
    1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35,
];

impl ValueSamples {
    /// For `images` images.
    pub(crate) fn new(images: usize) -> Self {
        ValueSamples {
            range: [0.0; 2],
            some: vec![],
            images,
        }
    }

    /// Records the value of the next image.
    pub(crate) fn record(&mut self, values: &[f32]) {
        for &v in values {
            // NaN counts for neither end.
            self.range = [self.range[0].min(v), self.range[1].max(v)];
        }
        let take = SAMPLES.div_ceil(self.images.max(1)).min(values.len());
        let first = self.some.len();
        // A step that no number of channels divides.
        let step = (values.len() / take.max(1)).max(1) | 1;
        self.some.extend(values.iter().step_by(step).take(take));
        debug_assert!(self.some.len() > first || values.is_empty());
    }

    /// The scale and zero point with the least squared error; `None` if all values are 0 or one is not finite.
    pub(crate) fn affine(&self) -> Option<Affine> {
        let finite = self.range.iter().all(|v| v.is_finite());
        if !finite || self.range == [0.0; 2] {
            return None;
        }
        let mut best = self.range;
        let mut least = f64::INFINITY;
        // The higher end first: after most activation functions, the lower one is near 0.
        for end in [1, 0] {
            let whole = best;
            for share in CLIPPED {
                let mut range = whole;
                range[end] *= share;
                let error = self.error(Affine::dynamic(&range));
                if error < least {
                    (least, best) = (error, range);
                }
            }
        }
        let by = Affine::dynamic(&best);
        (by.scale.is_finite() && by.scale > 0.0).then_some(by)
    }

    /// The sum of squared errors of the samples.
    fn error(&self, by: Affine) -> f64 {
        let mut quantized = vec![0.0; self.some.len()];
        fake_quantize(&self.some, by, &mut quantized);
        let differences = self.some.iter().zip(&quantized).map(|(v, q)| v - q);
        differences.map(|d| f64::from(d) * f64::from(d)).sum()
    }
}

impl ByteValue {
    pub(crate) fn new(name: &str, by: Affine) -> Self {
        ByteValue {
            name: name.into(),
            by,
            stays_float: false,
            sensitivity: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::tests::noise;

    fn affine(values: &[f32]) -> Option<Affine> {
        let mut samples = ValueSamples::new(2);
        samples.record(values);
        samples.record(values);
        samples.affine()
    }

    #[test]
    fn outliers_are_clipped_where_that_costs_less() {
        let mut values = noise(100_000, 1);
        let uniform = affine(&values).unwrap();
        let least = values.iter().copied().fold(0.0, f32::min);
        let most = values.iter().copied().fold(0.0, f32::max);
        // Uniform values have no outliers.
        assert_eq!(uniform.scale, (most - least) / 255.0);
        // One value does not pay for larger steps of all.
        values[0] = 1.2 * most;
        let clipped = affine(&values).unwrap();
        let whole = (1.2 * most - least) / 255.0;
        assert!(clipped.scale < 0.96 * whole, "{clipped:?}, {whole}");
    }

    #[test]
    fn results_of_relu_have_their_zero_at_the_bottom() {
        let values: Vec<f32> = noise(10_000, 1).into_iter().map(|v| v.max(0.0)).collect();
        assert_eq!(affine(&values).unwrap().zero_point, -128);
    }

    #[test]
    fn zeros_and_what_is_not_finite_stay_f32() {
        assert_eq!(affine(&[0.0; 100]), None);
        assert_eq!(affine(&[1.0, f32::INFINITY]), None);
    }
}
