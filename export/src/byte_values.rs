//! Values between integer convolutions as bytes: scales for all images, from the calibration images.

use pinhole_kernels::Affine;

/// The least and the largest value that a layer writes on the calibration images, or 0.
#[derive(Default)]
pub(crate) struct ValueRange([f32; 2]);

/// A value that may be bytes.
pub(crate) struct ByteValue {
    /// That of the layer that writes it.
    pub name: String,
    pub by: Affine,
    pub stays_float: bool,
    /// 1 - cosine of the embedding where only this value is quantised.
    pub sensitivity: Option<f32>,
}

impl ValueRange {
    /// Records the values of an image.
    pub(crate) fn record(&mut self, values: &[f32]) {
        for &v in values {
            // NaN counts for neither end.
            self.0 = [self.0[0].min(v), self.0[1].max(v)];
        }
    }

    /// 255 steps over the whole range; `None` if all values are 0 or one is infinite. What is clipped would cost more on images
    /// with larger values than smaller steps gain on the others: with the ends of the least squared error, `tests/conformance/trained
    /// --photos` found a worst cosine of 0.95 for a trained ResNet.
    pub(crate) fn affine(&self) -> Option<Affine> {
        let finite = self.0.iter().all(|v| v.is_finite());
        (finite && self.0 != [0.0; 2]).then(|| Affine::dynamic(&self.0))
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

    fn affine(images: &[&[f32]]) -> Option<Affine> {
        let mut range = ValueRange::default();
        images.iter().for_each(|values| range.record(values));
        range.affine()
    }

    #[test]
    fn the_steps_cover_the_values_of_all_images() {
        let by = affine(&[&[0.0, 2.0, -1.0], &[1.0, 4.1]]).unwrap();
        assert_eq!(by.scale, 5.1 / 255.0);
        // After ReLU zero is at the bottom.
        assert_eq!(affine(&[&[0.0, 3.0]]).unwrap().zero_point, -128);
    }

    #[test]
    fn zeros_and_what_is_not_finite_stay_f32() {
        assert_eq!(affine(&[&[0.0; 100]]), None);
        assert_eq!(affine(&[&[1.0, f32::INFINITY]]), None);
    }
}
