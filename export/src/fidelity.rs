//! Fidelity of a reduced precision: comparison with the same weights in f32 on the calibration images.

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pinhole::internal::{Observed, StandaloneEncoder, cosine};
use pinhole_bundle::dialect::Op;
use pinhole_bundle::{Fidelity, Head};
use pinhole_kernels::{PackedLinearInt8, fake_quantize, patch_embedding_int8};
use pinhole_model::{Precision, PreprocessConfig};

use crate::encoder_source::EncoderSource;
use crate::graph::GraphOptions;
use crate::images::FidelityImages;
use crate::progress::{ExportProgress, ExportStep};
use crate::quantization::{QuantizationPlan, QuantizedLayer};

/// The least fidelity that an export accepts; a bound of 0 is off.
#[derive(Clone, Copy, Debug)]
pub struct FidelityGate {
    /// Least mean cosine with the f32 embeddings.
    pub min_cosine: f32,
    /// Least top-1 agreement with f32.
    pub min_agreement: f32,
}

impl FidelityGate {
    /// Accepts everything.
    pub const OFF: FidelityGate = FidelityGate {
        min_cosine: 0.0,
        min_agreement: 0.0,
    };

    /// Fewest images that int8 is judged by. On the generated images of the self-test it agrees with f32 where it errs
    /// on photos.
    pub const MIN_IMAGES: usize = 16;

    /// Checks that there are enough calibration `images` to judge an export in `precision` by.
    ///
    /// # Errors
    /// int8, a bound that is not off, and too few images.
    pub fn check_images(&self, precision: Precision, images: usize) -> Result<()> {
        let off = self.min_cosine == 0.0 && self.min_agreement == 0.0;
        ensure!(
            off || precision != Precision::Int8 || images >= Self::MIN_IMAGES,
            "precision int8: expected --calibration with a folder of at least {} images, better some hundred, of what the \
             camera will see, found {images}; int8 is fitted to them and judged by them. To quantise without judging the \
             result, turn the bounds off: --min-cosine 0 --min-agreement 0",
            Self::MIN_IMAGES
        );
        Ok(())
    }

    /// The gate that values in bytes must pass, whatever the bounds are; else the most sensitive ones stay f32.
    pub(crate) fn of_bytes(&self) -> FidelityGate {
        FidelityGate {
            min_cosine: self.min_cosine.max(BYTES_MIN_COSINE),
            ..*self
        }
    }

    pub(crate) fn accepts(&self, fidelity: &Fidelity) -> bool {
        // NaN fails unless the bound is off.
        let passes = |value: f32, least: f32| least == 0.0 || value >= least;
        passes(fidelity.mean_cosine, self.min_cosine)
            && passes(fidelity.top1_agreement, self.min_agreement)
    }

    /// # Errors
    /// A fidelity below the gate, or not finite; the message ends with `table`.
    pub(crate) fn check(
        &self,
        fidelity: &Fidelity,
        precision: Precision,
        table: &str,
    ) -> Result<()> {
        ensure!(
            self.accepts(fidelity),
            "precision {precision}: expected a mean cosine with f32 of at least {} (--min-cosine) and a top-1 agreement \
             of at least {} (--min-agreement), found {:.4} and {:.4} on {} images; use a higher precision or lower \
             the bounds{}{table}",
            self.min_cosine,
            self.min_agreement,
            fidelity.mean_cosine,
            fidelity.top1_agreement,
            fidelity.images,
            if table.is_empty() { "" } else { "\n\n" },
        );
        ensure!(
            fidelity.worst_cosine.is_finite(),
            "precision {precision}: expected finite embeddings, found NaN or infinity"
        );
        Ok(())
    }
}

/// The image encoder in f32, with its embeddings of the images.
pub(crate) struct Reference<'a> {
    images: &'a FidelityImages<'a>,
    head: &'a Head,
    encoder: StandaloneEncoder,
    embeddings: Vec<Vec<f32>>,
    /// The layer over patches, and the side of a patch.
    patch_layer: Option<(&'static str, usize)>,
    image_size: usize,
    /// Holds the encoder's weights.
    _scratch: tempfile::TempDir,
}

/// Least mean cosine with f32 where values between convolutions are bytes, if the gate asks for any.
const BYTES_MIN_COSINE: f32 = 0.998;
/// Most images whose layer inputs are sampled.
const MAX_SAMPLED_IMAGES: usize = 1024;
/// Most images that the sensitivity is measured on: each costs one run of the f32 network per layer.
const MAX_SENSITIVITY_IMAGES: usize = 8;

impl<'a> Reference<'a> {
    /// Writes the encoder in f32 to a temporary folder in `parent`, and computes its embeddings of `images`. Classes
    /// are compared by `head`.
    pub(crate) fn new(
        source: EncoderSource,
        preprocessing: &PreprocessConfig,
        images: &'a FidelityImages<'a>,
        head: &'a Head,
        parent: &Path,
        progress: &mut ExportProgress,
    ) -> Result<Self> {
        let scratch = tempfile::tempdir_in(parent)
            .context("cannot create a temporary folder for the f32 reference")?;
        let (folder, plan) = (scratch.path(), &mut QuantizationPlan::default());
        let options = GraphOptions::F32;
        source.write(preprocessing, folder, options, plan, &mut |done, total| {
            progress(ExportStep::Graph, done, total)
        })?;
        let encoder = source.load(preprocessing, folder, false)?;
        let mut embeddings = vec![];
        images.for_each(1, &mut |image| {
            embeddings.push(encoder.embed(image)?);
            let done = embeddings.len() as u64;
            progress(ExportStep::Reference, done, images.len() as u64);
            Ok(())
        })?;
        Ok(Self {
            images,
            head,
            encoder,
            embeddings,
            patch_layer: source.patch_layer(),
            image_size: preprocessing.size as usize,
            _scratch: scratch,
        })
    }

    /// The fidelity of `encoder` on at most `max_images` evenly spaced images, and its embeddings of them.
    pub(crate) fn compare(
        &self,
        encoder: &StandaloneEncoder,
        max_images: usize,
        progress: &mut ExportProgress,
    ) -> Result<(Fidelity, Vec<Vec<f32>>)> {
        let step = self.images.len().div_ceil(max_images);
        let total = self.images.len().div_ceil(step) as u64;
        let mut embeddings = vec![];
        self.images.for_each(step, &mut |image| {
            embeddings.push(encoder.embed(image)?);
            progress(ExportStep::Fidelity, embeddings.len() as u64, total);
            Ok(())
        })?;
        let (mut sum, mut worst, mut same) = (0.0, f32::INFINITY, 0usize);
        for (exact, found) in self.embeddings.iter().step_by(step).zip(&embeddings) {
            let cosine = cosine(exact, found);
            sum += f64::from(cosine);
            worst = worst.min(cosine);
            same += usize::from(best_class(self.head, exact) == best_class(self.head, found));
        }
        let images = embeddings.len();
        let fidelity = Fidelity {
            images,
            mean_cosine: (sum / images as f64) as f32,
            worst_cosine: worst,
            top1_agreement: same as f32 / images as f32,
        };
        Ok((fidelity, embeddings))
    }

    /// Samples the inputs of every linear layer and convolution.
    pub(crate) fn sample_inputs(&self, progress: &mut ExportProgress) -> Result<QuantizationPlan> {
        let mut plan = QuantizationPlan::default();
        let step = self.images.len().div_ceil(MAX_SAMPLED_IMAGES);
        let count = self.images.len().div_ceil(step);
        let mut done = 0;
        self.images.for_each(step, &mut |image| {
            let pixels = self.encoder.preprocess(image)?.data;
            if let Some((name, patch)) = self.patch_layer {
                let (covered, side) = covered(&pixels, self.image_size, patch);
                let rows = patches(&covered, side, patch);
                plan.record(name, &rows, patch * patch * 3, count);
            }
            self.encoder
                .observe(&pixels, &mut |seen| match (seen.function, seen.shape) {
                    (Some(Op::Linear(_) | Op::Convolution(_)), &[1, height, width, channels]) => {
                        let (x, shape) = (seen.inputs[0], [height, width, channels]);
                        if let Some(Op::Linear(_)) = seen.function {
                            plan.record(seen.name, x, channels, count);
                        }
                        plan.record_image(seen.name, x, shape, count);
                        plan.record_output(seen.name, seen.output);
                    }
                    (Some(Op::Linear(_)), &[.., width]) => {
                        plan.record(seen.name, seen.inputs[0], width, count);
                    }
                    (Some(Op::Attention(..)), _) => plan.record_attention(seen.name),
                    _ => {}
                })?;
            done += 1;
            progress(ExportStep::LayerInputs, done, count as u64);
            Ok(())
        })?;
        Ok(plan)
    }

    /// Measures the sensitivity of the values of `plan` that may be bytes.
    pub(crate) fn measure_bytes(
        &self,
        plan: &mut QuantizationPlan,
        progress: &mut ExportProgress,
    ) -> Result<()> {
        let images = SensitivityImages::new(self)?;
        let values = plan.byte_values_mut();
        let total = values.len() as u64;
        for (i, value) in values.iter_mut().enumerate() {
            let by = value.by;
            let found = images.sensitivity(&value.name, &|_, seen| {
                let y = seen.output.to_vec();
                fake_quantize(&y, by, seen.output);
            })?;
            value.sensitivity = Some(found);
            progress(ExportStep::Sensitivity, i as u64 + 1, total);
        }
        Ok(())
    }

    /// Measures the sensitivity of the layers of `plan` that `chosen` accepts.
    pub(crate) fn measure_sensitivity(
        &self,
        plan: &mut QuantizationPlan,
        chosen: &dyn Fn(&str) -> bool,
        progress: &mut ExportProgress,
    ) -> Result<()> {
        let images = SensitivityImages::new(self)?;
        let linear = plan.layers().iter().map(|l| &l.name);
        let convolutions = plan.convolutions().iter().map(|l| &l.name);
        let attentions = plan.attentions().iter().map(|a| &a.name);
        let total = linear
            .chain(convolutions)
            .chain(attentions)
            .filter(|name| chosen(name))
            .count();
        let mut done = 0;
        let mut step = || {
            done += 1;
            progress(ExportStep::Sensitivity, done, total as u64);
        };
        let layers = plan.layers_mut().iter_mut();
        for layer in layers.filter(|l| chosen(&l.name)) {
            let packed = layer.packed()?;
            let found = images.sensitivity(&layer.name, &|pixels, seen| {
                self.replace_output(layer, &packed, pixels, seen);
            })?;
            layer.sensitivity = Some(found);
            step();
        }
        let layers = plan.convolutions_mut().iter_mut();
        for layer in layers.filter(|l| chosen(&l.name)) {
            let packed = layer.packed()?;
            let found = images.sensitivity(&layer.name, &|_, seen| {
                if let &[_, height, width, _] = seen.shape {
                    let residual = seen.inputs.get(1).copied();
                    let image = [height, width];
                    layer.apply(&packed, seen.inputs[0], image, residual, seen.output);
                }
            })?;
            layer.sensitivity = Some(found);
            step();
        }
        let attentions = plan.attentions_mut().iter_mut();
        for attention in attentions.filter(|a| chosen(&a.name)) {
            let found = images.sensitivity(&attention.name, &|_, seen| {
                attention.apply(&seen.inputs, seen.output);
            })?;
            attention.sensitivity = Some(found);
            step();
        }
        Ok(())
    }

    /// Replaces an operator's output by that of `layer` in integers.
    fn replace_output(
        &self,
        layer: &QuantizedLayer,
        packed: &PackedLinearInt8,
        pixels: &[u8],
        seen: &mut Observed,
    ) {
        let Some(x) = seen.inputs.first() else {
            // The layer over patches reads pixels, which are not f32.
            let patch = self.patch_layer.map_or(1, |(_, p)| p);
            let (covered, side) = covered(pixels, self.image_size, patch);
            return patch_embedding_int8(&covered, side, side, patch, packed, 1.0, seen.output);
        };
        let x = layer.transformed(x);
        let rows = x.len() / packed.inputs();
        let residual = seen.inputs.get(1).copied();
        packed.apply(
            layer.input(&x),
            rows,
            layer.activation,
            residual,
            seen.output,
        );
    }
}

/// Some of the images, with their exact embeddings.
struct SensitivityImages<'a> {
    encoder: &'a StandaloneEncoder,
    pixels: Vec<Vec<u8>>,
    exact: Vec<&'a Vec<f32>>,
}

impl<'a> SensitivityImages<'a> {
    fn new(reference: &'a Reference) -> Result<Self> {
        let step = reference.images.len().div_ceil(MAX_SENSITIVITY_IMAGES);
        let mut pixels = vec![];
        reference.images.for_each(step, &mut |image| {
            pixels.push(reference.encoder.preprocess(image)?.data);
            Ok(())
        })?;
        Ok(SensitivityImages {
            encoder: &reference.encoder,
            pixels,
            exact: reference.embeddings.iter().step_by(step).collect(),
        })
    }

    /// 1 - cosine of the embedding where `replace` changes what operator `name` of the f32 encoder writes.
    fn sensitivity(
        &self,
        name: &str,
        replace: &(dyn Fn(&[u8], &mut Observed) + Sync),
    ) -> Result<f32> {
        let mut sum = 0.0;
        for (pixels, exact) in self.pixels.iter().zip(&self.exact) {
            let found = self.encoder.observe(pixels, &mut |seen| {
                if seen.name == name {
                    replace(pixels, seen);
                }
            })?;
            sum += 1.0 - cosine(exact, &found);
        }
        Ok(sum / self.pixels.len() as f32)
    }
}

/// Index of the most similar class.
fn best_class(head: &Head, embedding: &[f32]) -> Option<usize> {
    let similarities = head.similarities(embedding);
    (0..similarities.len()).max_by(|&a, &b| similarities[a].total_cmp(&similarities[b]))
}

/// The part of `pixels` `[side, side, 3]` that whole patches cover, and its side.
fn covered(pixels: &[u8], side: usize, patch: usize) -> (Cow<'_, [u8]>, usize) {
    let covered = side - side % patch;
    if covered == side {
        return (Cow::Borrowed(pixels), side);
    }
    let lines = pixels.chunks_exact(3 * side).take(covered);
    let lines = lines.flat_map(|line| &line[..3 * covered]);
    (lines.copied().collect(), covered)
}

/// `pixels` `[side, side, 3]` as rows of patches, (y, x, channel) in each.
fn patches(pixels: &[u8], side: usize, patch: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(pixels.len());
    for y in (0..side).step_by(patch) {
        for x in (0..side).step_by(patch) {
            for line in y..y + patch {
                let start = (line * side + x) * 3;
                let line = &pixels[start..start + patch * 3];
                rows.extend(line.iter().map(|&v| f32::from(v)));
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, an export without bounds writes bytes whatever they cost.
    #[test]
    fn values_in_bytes_are_judged_where_the_bounds_are_off() {
        let accepted = |gate: FidelityGate, mean_cosine| {
            gate.of_bytes().accepts(&Fidelity {
                images: 16,
                mean_cosine,
                worst_cosine: mean_cosine,
                top1_agreement: 0.0,
            })
        };
        assert!(!accepted(FidelityGate::OFF, 0.997));
        assert!(accepted(FidelityGate::OFF, 0.999));
        let strict = FidelityGate {
            min_cosine: 0.9999,
            ..FidelityGate::OFF
        };
        assert!(!accepted(strict, 0.999));
    }
}
