//! Does this machine compute what the exporter's did?

use pinhole_preprocessing::DecodeOptions;

use crate::{Classifier, Error};

/// The outcome of [`Classifier::self_test`].
#[derive(Clone, Debug, PartialEq)]
pub struct SelfTest {
    /// One result an image.
    pub images: Vec<GoldenResult>,
    /// Least cosine that passes.
    pub min_cosine: f32,
}

/// One golden image's result.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenResult {
    /// Path inside the bundle.
    pub file: String,
    /// Cosine between this machine's embedding and the exporter's.
    pub cosine: f32,
}

impl SelfTest {
    /// Whether every image agrees.
    pub fn passed(&self) -> bool {
        self.images.iter().all(|i| i.cosine >= self.min_cosine)
    }
}

impl Classifier {
    /// Embeds the bundle's golden images, from file to embedding, and compares with the exporter's.
    ///
    /// # Errors
    /// What [`Classifier::embed`] and reading the images answer; a difference is not an error.
    pub fn self_test(&self) -> Result<SelfTest, Error> {
        let golden = self.bundle().golden();
        let images = golden
            .images
            .iter()
            .map(|image| {
                let path = self.bundle().folder().join(&image.file);
                let pixels = pinhole_preprocessing::open(&path, &DecodeOptions::default())?;
                let embedding = self.embed(&pixels)?.values;
                Ok(GoldenResult {
                    file: image.file.clone(),
                    cosine: cosine(&embedding, &image.embedding),
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(SelfTest {
            images,
            min_cosine: golden.min_cosine,
        })
    }
}

/// Cosine of two vectors of one length, summed in f64 so that rounding does not show; NaN for a zero vector.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>()
    };
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}
