//! The self-test: does this machine compute the embeddings that the exporter computed?

use std::path::Path;

use pinhole_preprocessing::DecodeOptions;

use crate::{Classifier, Error};

/// The result of [`Classifier::self_test`].
#[derive(Clone, Debug, PartialEq)]
pub struct SelfTest {
    /// One result per golden image.
    pub images: Vec<GoldenResult>,
    /// Smallest cosine that passes.
    pub min_cosine: f32,
}

/// The result for one golden image.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenResult {
    /// Path inside the bundle.
    pub file: String,
    /// Cosine similarity of this machine's and the exporter's embedding.
    pub cosine: f32,
}

impl SelfTest {
    /// Whether every image passes.
    pub fn passed(&self) -> bool {
        self.images.iter().all(|i| i.cosine >= self.min_cosine)
    }
}

impl Classifier {
    /// Embeds the bundle's golden images, from file to embedding, and compares with the exporter's embeddings. A
    /// difference is not an error: see [`SelfTest::passed`].
    ///
    /// # Errors
    /// As [`Classifier::embed`]; [`Error::Image`] for an image that cannot be read.
    pub fn self_test(&self) -> Result<SelfTest, Error> {
        let golden = self.bundle().golden();
        let images = golden
            .images
            .iter()
            .map(|image| {
                let open = |folder: &Path| {
                    let path = folder.join(&image.file);
                    pinhole_preprocessing::open(&path, &DecodeOptions::default())
                };
                let pixels = self.bundle().read_files(open)?;
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

/// Cosine similarity of two vectors of the same length, summed in f64; NaN if one is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>()
    };
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}
