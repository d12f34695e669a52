//! What a reduced precision keeps of f32: measured against the same weights in f32, on the calibration images.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use pinhole::{Classifier, DecodeOptions, Observed, RgbImage};
use pinhole_bundle::{BundleWriter, Fidelity, Head, Manifest};
use pinhole_kernels::{PackedLinearInt8, patch_embedding_int8};
use pinhole_model::{ImageEncoderConfig, Precision};

use crate::bundle::{Request, Step, assemble};
use crate::golden;
use crate::graph::GraphOptions;
use crate::quantization::{Layer, Quantization};

/// What a reduced precision must keep; 0 turns a bound off.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Least mean cosine with the f32 embedding.
    pub min_cosine: f32,
    /// Least share of images with the same best class as f32.
    pub min_agreement: f32,
}

impl Gate {
    /// Anything passes.
    pub const OFF: Gate = Gate {
        min_cosine: 0.0,
        min_agreement: 0.0,
    };

    pub(crate) fn holds(&self, fidelity: &Fidelity) -> bool {
        // A bound of 0 is off; written so that NaN fails.
        let passes = |value: f32, least: f32| least == 0.0 || value >= least;
        passes(fidelity.mean_cosine, self.min_cosine)
            && passes(fidelity.top1_agreement, self.min_agreement)
    }

    pub(crate) fn check(
        &self,
        fidelity: &Fidelity,
        precision: Precision,
        table: &str,
    ) -> Result<()> {
        ensure!(
            self.holds(fidelity),
            "precision {precision} stays below the gate on {} images: mean cosine {:.4} (--min-cosine {}), same \
             best class {:.1} % (--min-agreement {}){}{table}",
            fidelity.images,
            fidelity.mean_cosine,
            self.min_cosine,
            100.0 * fidelity.top1_agreement,
            self.min_agreement,
            if table.is_empty() { "" } else { "\n\n" },
        );
        ensure!(
            fidelity.worst_cosine.is_finite(),
            "the fidelity is not a number"
        );
        Ok(())
    }
}

/// The export in f32, in a temporary folder, with its embeddings of the calibration images.
pub(crate) struct Reference<'a> {
    request: &'a Request<'a>,
    head: &'a Head,
    classifier: Classifier,
    embeddings: Vec<Vec<f32>>,
    _scratch: tempfile::TempDir,
}

/// Images that the layers' inputs are taken from, spread over all of them; of the last block they show one row each.
const OBSERVED: usize = 1024;
/// Images that a single layer's damage is measured on: each costs one run of the f32 network a layer.
const DAMAGED: usize = 8;

impl<'a> Reference<'a> {
    pub(crate) fn new(
        request: &'a Request<'a>,
        beside: &Path,
        head: &'a Head,
        manifest: &Manifest,
        progress: &mut dyn FnMut(Step, u64, u64),
    ) -> Result<Self> {
        let scratch = tempfile::tempdir_in(beside.parent().unwrap_or(Path::new(".")))
            .context("cannot create a temporary folder for the f32 reference")?;
        let writer = BundleWriter::create(&scratch.path().join("reference"))?;
        let mut manifest = Manifest {
            precision: Precision::F32,
            fidelity: None,
            ..manifest.clone()
        };
        let options = GraphOptions {
            precision: Precision::F32,
            // Its layers are to be seen.
            flat: false,
        };
        let none = &mut Quantization::default();
        assemble(
            request,
            &writer,
            head,
            options,
            none,
            &mut manifest,
            progress,
        )?;
        let classifier = Classifier::open(writer.folder())?;
        let mut embeddings = vec![];
        for_each_image(request, 1, &mut |image| {
            embeddings.push(classifier.embed(image)?.values);
            progress(
                Step::Reference,
                embeddings.len() as u64,
                request.calibration.len() as u64,
            );
            Ok(())
        })?;
        Ok(Self {
            request,
            head,
            classifier,
            embeddings,
            _scratch: scratch,
        })
    }

    /// How many images the figures are of.
    pub(crate) fn images(&self) -> usize {
        self.embeddings.len()
    }

    /// How near `stored` comes, on at most `most` images.
    pub(crate) fn fidelity(
        &self,
        stored: &Classifier,
        most: usize,
        progress: &mut dyn FnMut(Step, u64, u64),
    ) -> Result<Fidelity> {
        let step = self.images().div_ceil(most);
        let total = self.images().div_ceil(step) as u64;
        let mut found = Fidelity {
            images: 0,
            mean_cosine: 0.0,
            worst_cosine: f32::INFINITY,
            top1_agreement: 0.0,
        };
        let (mut sum, mut same) = (0.0, 0usize);
        for_each_image(self.request, step, &mut |image| {
            let a = &self.embeddings[found.images * step];
            let b = stored.embed(image)?.values;
            let cosine = pinhole::cosine(a, &b);
            sum += f64::from(cosine);
            found.worst_cosine = found.worst_cosine.min(cosine);
            same += usize::from(best(self.head, a) == best(self.head, &b));
            found.images += 1;
            progress(Step::Fidelity, found.images as u64, total);
            Ok(())
        })?;
        found.mean_cosine = (sum / found.images as f64) as f32;
        found.top1_agreement = same as f32 / found.images as f32;
        Ok(found)
    }

    /// What each linear layer reads.
    pub(crate) fn observe(&self, progress: &mut dyn FnMut(Step, u64, u64)) -> Result<Quantization> {
        let mut quantization = Quantization::default();
        let step = self.images().div_ceil(OBSERVED);
        let count = self.images().div_ceil(step);
        let mut done = 0;
        for_each_image(self.request, step, &mut |image| {
            let pixels = self.classifier.preprocess(image)?.data;
            if let Some(patch) = self.patch() {
                let (rows, width) = (patches(&pixels, self.side(), patch), patch * patch * 3);
                quantization.show("patch_embedding", &rows, width, count);
            }
            self.classifier.observe(&pixels, &mut |seen| {
                if seen.operator.starts_with("Linear") {
                    quantization.show(seen.name, seen.inputs[0], seen.width, count);
                }
            })?;
            done += 1;
            progress(Step::Layers, done, count as u64);
            Ok(())
        })?;
        Ok(quantization)
    }

    /// Measures what each layer of `quantization` does to the embedding alone.
    pub(crate) fn measure_damage(
        &self,
        quantization: &mut Quantization,
        progress: &mut dyn FnMut(Step, u64, u64),
    ) -> Result<()> {
        let step = self.images().div_ceil(DAMAGED);
        let mut images = vec![];
        for_each_image(self.request, step, &mut |image| {
            images.push(self.classifier.preprocess(image)?.data);
            Ok(())
        })?;
        let exact: Vec<&Vec<f32>> = self.embeddings.iter().step_by(step).collect();
        let total = quantization.layers().len() as u64;
        for (i, layer) in quantization.layers_mut().iter_mut().enumerate() {
            let packed = layer.packed()?;
            let mut damage = 0.0;
            for (pixels, exact) in images.iter().zip(&exact) {
                let damaged = self.classifier.observe(pixels, &mut |seen| {
                    if seen.name == layer.name {
                        self.replace(layer, &packed, pixels, seen);
                    }
                })?;
                damage += 1.0 - pinhole::cosine(exact, &damaged);
            }
            layer.damage = Some(damage / images.len() as f32);
            progress(Step::Damage, i as u64 + 1, total);
        }
        Ok(())
    }

    /// The output of `layer` in integers in the place of f32's.
    fn replace(
        &self,
        layer: &Layer,
        packed: &PackedLinearInt8,
        pixels: &[u8],
        seen: &mut Observed,
    ) {
        let Some(x) = seen.inputs.first() else {
            let (side, patch) = (self.side(), self.patch().unwrap_or(1));
            return patch_embedding_int8(pixels, side, side, patch, packed, 1.0, seen.output);
        };
        let x = layer.prepared(x);
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

    fn side(&self) -> usize {
        self.classifier.manifest().model.image_size as usize
    }

    /// Side of a patch.
    fn patch(&self) -> Option<usize> {
        match self.request.checkpoint.config().image {
            ImageEncoderConfig::VisionTransformer { patch_size, .. } => Some(patch_size as usize),
            ImageEncoderConfig::ModifiedResNet { .. } => None,
        }
    }
}

/// Index of the most similar class.
fn best(head: &Head, embedding: &[f32]) -> Option<usize> {
    let similarities = head.similarities(embedding);
    (0..similarities.len()).max_by(|&a, &b| similarities[a].total_cmp(&similarities[b]))
}

/// Every `step`th calibration image, or golden image where there are none.
fn for_each_image(
    request: &Request,
    step: usize,
    see: &mut dyn FnMut(&RgbImage) -> Result<()>,
) -> Result<()> {
    if request.calibration.is_empty() {
        let images = golden::images()?;
        return images
            .iter()
            .step_by(step)
            .try_for_each(|(_, image)| see(image));
    }
    let mut images = request.calibration.iter().step_by(step);
    images.try_for_each(|image| {
        see(&pinhole::open_image(
            &image.path,
            &DecodeOptions::default(),
        )?)
    })
}

/// `pixels` [side, side, 3] as rows of patches, (y, x, channel) in each.
fn patches(pixels: &[u8], side: usize, patch: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(pixels.len());
    for y in (0..side).step_by(patch) {
        for x in (0..side).step_by(patch) {
            for line in y..y + patch {
                let start = (line * side + x) * 3;
                rows.extend(
                    pixels[start..start + patch * 3]
                        .iter()
                        .map(|&v| f32::from(v)),
                );
            }
        }
    }
    rows
}
