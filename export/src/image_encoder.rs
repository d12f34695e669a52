//! Stage 2: the image encoder, written in the precision asked for and measured against f32.

use std::path::Path;

use anyhow::Result;
use pinhole::internal::StandaloneEncoder;
use pinhole_bundle::{Fidelity, Head};
use pinhole_model::{Precision, PreprocessConfig};

use crate::encoder_comparison::EncoderComparison;
use crate::encoder_source::EncoderSource;
use crate::fidelity::{FidelityGate, Reference};
use crate::graph::{self, GraphOptions};
use crate::images::{CalibrationImages, FidelityImages};
use crate::progress::{ExportProgress, ExportStep};
use crate::quantization::QuantizationPlan;

/// Which image encoder to write, and how.
#[derive(Clone, Copy)]
pub struct EncoderOptions<'a> {
    /// Where it comes from.
    pub source: EncoderSource<'a>,
    /// Precision and form of the graph.
    pub graph: GraphOptions,
    /// The fidelity that it must reach.
    pub gate: FidelityGate,
    /// Whether to report on each layer.
    pub report: bool,
}

impl EncoderOptions<'_> {
    /// Checks that `images` suffice to judge the precision by.
    ///
    /// # Errors
    /// As [`FidelityGate::check_images`].
    pub(crate) fn check_images(&self, images: &CalibrationImages) -> Result<()> {
        self.gate.check_images(self.graph.precision, images.len())
    }
}

/// The written image encoder, loaded as the runtime loads it.
pub(crate) struct ImageStage {
    pub encoder: StandaloneEncoder,
    pub precision: Precision,
    /// Of the stored weights, multiplied in f32; for reduced precisions.
    pub fidelity: Option<Fidelity>,
    /// Of f16 weights multiplied in f16, if the gate accepts it.
    pub f16_arithmetic: Option<Fidelity>,
    /// In Markdown, if asked for.
    pub report: Option<String>,
    /// What the user should know about the encoder.
    pub warning: Option<String>,
    /// By `encoder`, if they were computed.
    embeddings: Option<Vec<Vec<f32>>>,
}

/// Layers that make up at most this share of the multiplications each, and attentions, stay in floating point if they cost
/// [`MIN_SHARE_OF_LOSS`]: that costs little time.
const MAX_SHARE_OF_PRODUCTS: f64 = 0.005;
/// The sensitivity of such a layer, as a share of what int8 loses in all.
const MIN_SHARE_OF_LOSS: f32 = 0.05;
/// Largest share of the weights that may stay in floating point so that the gate accepts int8.
const MAX_FLOAT_SHARE: f32 = 0.25;
/// Most images that f16 arithmetic is measured on: emulated, one image through ViT-B/32 takes seconds.
const MAX_F16_IMAGES: usize = 64;

impl ImageStage {
    /// Writes the encoder to `folder`.
    ///
    /// # Errors
    /// A weight that cannot be stored; a fidelity below the gate; a graph that the runtime cannot load.
    pub(crate) fn run(
        options: &EncoderOptions,
        preprocessing: &PreprocessConfig,
        head: &Head,
        calibration: &CalibrationImages,
        folder: &Path,
        progress: &mut ExportProgress,
    ) -> Result<Self> {
        let writer = EncoderWriter {
            source: options.source,
            preprocessing,
            folder,
        };
        let mut stage = match options.graph.precision {
            Precision::F32 => writer.unchanged(options, progress)?,
            _ => writer.reduced(options, head, calibration, progress)?,
        };
        if let EncoderSource::Onnx {
            file,
            checkpoint: Some(checkpoint),
        } = options.source
        {
            let comparison = EncoderComparison {
                file,
                encoder: &stage.encoder,
                preprocessing,
                checkpoint,
                folder,
            };
            stage.warning = comparison.warning(calibration, progress)?;
        }
        Ok(stage)
    }

    /// The embedding of every calibration image, computed at the first call.
    pub(crate) fn calibration_embeddings(
        &mut self,
        images: &CalibrationImages,
        progress: &mut ExportProgress,
    ) -> Result<&[Vec<f32>]> {
        let embeddings = match self.embeddings.take() {
            Some(embeddings) => embeddings,
            None => {
                let mut embeddings = vec![];
                images.for_each(1, &mut |image| {
                    embeddings.push(self.encoder.embed(image)?);
                    let (done, total) = (embeddings.len(), images.len());
                    progress(ExportStep::Embeddings, done as u64, total as u64);
                    Ok(())
                })?;
                embeddings
            }
        };
        Ok(self.embeddings.insert(embeddings))
    }
}

fn summary(precision: Precision, fidelity: &Fidelity, images: &FidelityImages) -> String {
    format!(
        "{precision}: cosine with f32 mean {:.5}, worst {:.5}; top-1 agreement {:.1} %; {images}.\n\n",
        fidelity.mean_cosine,
        fidelity.worst_cosine,
        100.0 * fidelity.top1_agreement,
    )
}

struct EncoderWriter<'a> {
    source: EncoderSource<'a>,
    preprocessing: &'a PreprocessConfig,
    folder: &'a Path,
}

impl EncoderWriter<'_> {
    fn load(&self, f16_arithmetic: bool) -> Result<StandaloneEncoder> {
        self.source
            .load(self.preprocessing, self.folder, f16_arithmetic)
    }

    /// Writes the encoder and loads it, multiplying in f32.
    fn write(
        &self,
        options: GraphOptions,
        plan: &mut QuantizationPlan,
        progress: &mut ExportProgress,
    ) -> Result<StandaloneEncoder> {
        let mut progress = |done, total| progress(ExportStep::Graph, done, total);
        let (source, preprocessing) = (self.source, self.preprocessing);
        source.write(preprocessing, self.folder, options, plan, &mut progress)?;
        self.load(false)
    }

    /// Writes the precision that the source has.
    fn unchanged(
        &self,
        options: &EncoderOptions,
        progress: &mut ExportProgress,
    ) -> Result<ImageStage> {
        let plan = &mut QuantizationPlan::default();
        let encoder = self.write(options.graph, plan, progress)?;
        Ok(ImageStage {
            // A file may be quantised already.
            precision: graph::precision(&encoder.operators()),
            encoder,
            fidelity: None,
            f16_arithmetic: None,
            report: (options.report).then(|| "Precision f32 changes no layer.\n".into()),
            warning: None,
            embeddings: None,
        })
    }

    /// Writes a reduced precision, measured against f32 by `head`.
    fn reduced(
        &self,
        options: &EncoderOptions,
        head: &Head,
        calibration: &CalibrationImages,
        progress: &mut ExportProgress,
    ) -> Result<ImageStage> {
        let images = FidelityImages::new(calibration)?;
        // Inside the unfinished bundle, so that it goes with it if this process is killed.
        let (source, preprocessing) = (self.source, self.preprocessing);
        let reference =
            Reference::new(source, preprocessing, &images, head, self.folder, progress)?;
        let mut stage = self.fitted(options, &reference, progress)?;
        if let Some(report) = &mut stage.report
            && let Some(fidelity) = stage.fidelity
        {
            report.insert_str(0, &summary(options.graph.precision, &fidelity, &images));
        }
        if calibration.is_empty() {
            // They are the golden images'.
            stage.embeddings = None;
        }
        Ok(stage)
    }

    /// Writes a reduced precision. In int8, small layers and attentions that cost much fidelity stay in floating point, and
    /// the most sensitive ones as far as the gate needs it. The report is the table of layers.
    fn fitted(
        &self,
        options: &EncoderOptions,
        reference: &Reference,
        progress: &mut ExportProgress,
    ) -> Result<ImageStage> {
        let EncoderOptions {
            graph: options,
            gate,
            report,
            ..
        } = *options;
        let int8 = options.precision == Precision::Int8;
        let mut plan = if int8 {
            reference.sample_inputs(progress)?
        } else {
            QuantizationPlan::default()
        };
        let mut encoder = self.write(options, &mut plan, progress)?;
        let (mut fidelity, mut embeddings) = reference.compare(&encoder, usize::MAX, progress)?;
        let of_bytes = gate.of_bytes();
        if int8 && !of_bytes.accepts(&fidelity) {
            reference.measure_bytes(&mut plan, progress)?;
            let mut kept = 1;
            // Doubling bounds how often the network is written and measured.
            while !of_bytes.accepts(&fidelity) && plan.keep_values_float(kept) {
                kept *= 2;
                encoder = self.write(options, &mut plan, progress)?;
                (fidelity, embeddings) = reference.compare(&encoder, usize::MAX, progress)?;
            }
        }
        if int8 {
            let cheap = plan.cheap_in_float(MAX_SHARE_OF_PRODUCTS);
            let loss = 1.0 - fidelity.mean_cosine;
            let all = report || !gate.accepts(&fidelity);
            let chosen = |name: &str| all || cheap.contains(name);
            reference.measure_sensitivity(&mut plan, &chosen, progress)?;
            let names = plan.above(&cheap, MIN_SHARE_OF_LOSS * loss);
            if !names.is_empty() {
                plan.keep_float(names);
                encoder = self.write(options, &mut plan, progress)?;
                (fidelity, embeddings) = reference.compare(&encoder, usize::MAX, progress)?;
            }
        }
        if int8 && !gate.accepts(&fidelity) {
            let candidates = plan.most_sensitive(MAX_FLOAT_SHARE);
            let mut kept = 0;
            while kept < candidates.len() && !gate.accepts(&fidelity) {
                // Doubling bounds how often the network is written and measured.
                let next = (2 * kept).max(1).min(candidates.len());
                plan.keep_float(candidates[kept..next].iter().cloned());
                kept = next;
                encoder = self.write(options, &mut plan, progress)?;
                (fidelity, embeddings) = reference.compare(&encoder, usize::MAX, progress)?;
            }
        }
        let table = if int8 { plan.table() } else { String::new() };
        gate.check(&fidelity, options.precision, &table)?;
        let mut stage = ImageStage {
            encoder,
            precision: options.precision,
            fidelity: Some(fidelity),
            f16_arithmetic: None,
            report: report.then_some(table),
            warning: None,
            embeddings: Some(embeddings),
        };
        // The products of a flat file are tract's, which widens the weights.
        if options.precision == Precision::F16 && !options.flat {
            self.measure_f16_arithmetic(&mut stage, gate, reference, progress)?;
        }
        Ok(stage)
    }

    /// Measures f16 weights multiplied in f16. If the gate accepts that, the stage's encoder becomes the one that
    /// this machine's runtime chooses.
    fn measure_f16_arithmetic(
        &self,
        stage: &mut ImageStage,
        gate: FidelityGate,
        reference: &Reference,
        progress: &mut ExportProgress,
    ) -> Result<()> {
        let encoder = self.load(true)?;
        let (fidelity, _) = reference.compare(&encoder, MAX_F16_IMAGES, progress)?;
        if gate.accepts(&fidelity) && fidelity.worst_cosine.is_finite() {
            stage.f16_arithmetic = Some(fidelity);
            if pinhole_kernels::f16_arithmetic() {
                stage.encoder = encoder;
                stage.embeddings = None;
            }
        }
        Ok(())
    }
}
