//! Whether an ONNX file is the image encoder of the checkpoint that supplies the text side.

use std::path::Path;

use anyhow::{Context, Result};
use pinhole::RgbImage;
use pinhole::internal::{StandaloneEncoder, cosine};
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{Precision, PreprocessConfig};

use crate::graph::{self, GraphOptions, OnnxEncoder};
use crate::images::{CalibrationImages, FidelityImages};
use crate::progress::{ExportProgress, ExportStep};

/// Images that are compared: one shows another model or other pixels already.
const IMAGES: usize = 8;
/// Least mean cosine that is not reported; files quantised by others reach more.
const MIN_COSINE: f32 = 0.9;

/// An ONNX file as it was written, and the checkpoint to compare it with.
pub(crate) struct EncoderComparison<'a> {
    pub file: &'a OnnxEncoder,
    pub encoder: &'a StandaloneEncoder,
    pub preprocessing: &'a PreprocessConfig,
    pub checkpoint: &'a Checkpoint,
    /// For temporary folders.
    pub folder: &'a Path,
}

impl EncoderComparison<'_> {
    /// Compares the embeddings of a few `images` with those of the checkpoint's own image encoder. Returns a warning if
    /// they differ; where the encoders have other sizes, or the checkpoint's is not read, nothing is compared.
    ///
    /// # Errors
    /// An image or a tensor that cannot be read.
    pub(crate) fn warning(
        &self,
        images: &CalibrationImages,
        progress: &mut ExportProgress,
    ) -> Result<Option<String>> {
        let config = self.checkpoint.config();
        if !config.image.is_in_checkpoint()
            || config.image.image_size() != self.file.image_size()
            || config.embedding != self.file.embedding_size()
        {
            return Ok(None);
        }
        let images = FidelityImages::new(images)?;
        let mut few = vec![];
        images.for_each(images.len().div_ceil(IMAGES), &mut |image| {
            few.push(image.clone());
            Ok(())
        })?;
        let scratch = tempfile::tempdir_in(self.folder);
        let scratch = scratch.context("cannot create a temporary folder for the comparison")?;
        let options = GraphOptions {
            precision: Precision::F32,
            flat: false,
        };
        graph::write(
            self.checkpoint,
            scratch.path(),
            options,
            &mut |done, total| progress(ExportStep::Graph, done, total),
        )?;
        let (size, own_pixels) = (config.embedding, &config.preprocessing);
        let own = StandaloneEncoder::load(scratch.path(), own_pixels, size, false)?;
        let expected = embed(&own, &few)?;
        let found = mean_cosine(&expected, &embed(self.encoder, &few)?);
        if found >= MIN_COSINE {
            return Ok(None);
        }
        let file = self.file.path().display();
        let differs = format!(
            "{file}: its embeddings of {} images have a mean cosine of {found:.3} with those of the checkpoint's own image \
             encoder",
            few.len()
        );
        let unit = self.preprocessing.unnormalised();
        self.file.write(&unit, scratch.path(), &mut |_, _| {})?;
        let raw = StandaloneEncoder::load(scratch.path(), &unit, size, false)?;
        let raw = mean_cosine(&expected, &embed(&raw, &few)?);
        Ok(Some(if raw >= MIN_COSINE {
            format!(
                "{differs}, and of {raw:.3} with pixels 0..1: it normalises the pixels itself; export again with \
                 --encoder-pixels 0..1"
            )
        } else {
            format!(
                "{differs}: it belongs to another model than --clip, or expects other pixels; the class embeddings do \
                 not fit it"
            )
        }))
    }
}

fn embed(encoder: &StandaloneEncoder, images: &[RgbImage]) -> Result<Vec<Vec<f32>>> {
    let embeddings = images.iter().map(|image| Ok(encoder.embed(image)?));
    embeddings.collect()
}

/// NaN counts as no agreement.
fn mean_cosine(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let sum: f32 = a.iter().zip(b).map(|(a, b)| cosine(a, b).max(-1.0)).sum();
    sum / a.len() as f32
}
