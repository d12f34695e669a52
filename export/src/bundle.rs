//! The steps of an export.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use pinhole::{Classifier, DecodeOptions};
use pinhole_bundle::{
    BundleWriter, FORMAT, Golden, GoldenImage, Head, HeadKind, Manifest, ModelInfo,
    PromptLearnerInfo, UnknownPolicy, VERSION,
};
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{ClassPosition, Precision, PromptLearner, Tensor};
use pinhole_prompts::{Classes, Conditional, Templates, TextEncoder, Tokenizer};

use crate::calibrate::{CalibrationImage, calibrate};
use crate::fidelity::{Gate, Reference};
use crate::graph::{self, Encoder, GraphOptions};
use crate::quantization::Quantization;
use crate::{golden, text_encoder};

/// What to export.
pub struct Request<'a> {
    /// The CLIP model.
    pub checkpoint: &'a Checkpoint,
    /// What encodes images in the place of the checkpoint's image tower. `precision`, `flat`, `gate` and `report` say
    /// nothing then.
    pub encoder: Option<&'a Encoder>,
    /// The classes to rank.
    pub classes: &'a Classes,
    /// The prompts of a class.
    pub prompts: Prompts<'a>,
    /// Whether the text tower goes along, so that new classes can be named on the board.
    pub with_text: bool,
    /// Texts for what is none of the classes.
    pub negatives: &'a [String],
    /// How the weights are stored.
    pub precision: Precision,
    /// Standard operators alone.
    pub flat: bool,
    /// Images to measure the fidelity on, the generated golden images where there are none; those with
    /// a label to fit the temperature and the thresholds for "unknown" to.
    pub calibration: &'a [CalibrationImage],
    /// Share of the rightly classified calibration images that the thresholds are to keep.
    pub keep: f32,
    /// What the fidelity must reach.
    pub gate: Gate,
    /// Whether to report on each layer.
    pub report: bool,
    /// Text for people.
    pub model_card: String,
    /// The bundle's folder, which must not exist.
    pub out: &'a Path,
}

/// What turns a class name into a class embedding.
#[derive(Clone, Copy, Debug)]
pub enum Prompts<'a> {
    /// Texts around the name.
    Templates(&'a Templates),
    /// Learned context vectors around the name.
    Learned(&'a PromptLearner, ClassPosition),
}

/// A step of the export, for a progress bar: (step, done, total).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Class embeddings, in prompts.
    Text,
    /// The graph, in tensors.
    Graph,
    /// Embeddings in f32 to compare with, in images.
    Reference,
    /// What each layer reads, in images.
    Layers,
    /// What each layer's integers do alone, in layers.
    Damage,
    /// Fidelity, in images.
    Fidelity,
    /// Embeddings of the calibration images.
    Embeddings,
    /// The conditional head's cheaper modes, in images.
    Conditional,
    /// Temperature and thresholds, in images.
    Calibration,
}

/// Least cosine between a board and the exporter's machine. Kernels differ in the order of f32 sums
/// alone, which leaves about 1e-6.
const SELF_TEST_COSINE: f32 = 0.9999;

/// [`SELF_TEST_COSINE`] for 8-bit integers whose fidelity nobody has measured.
const FOREIGN_SELF_TEST_COSINE: f32 = 0.999;

/// The same for a bundle. In int8 another order of sums brings values that lie half-way between two whole
/// numbers to the other side, and later layers carry that on: it is the noise of quantisation once more, so
/// a board may be as far from the exporter's machine as the bundle is from f32. So may one that multiplies in
/// f16 where the other does it in f32.
fn self_test_cosine(manifest: &Manifest) -> f32 {
    let fidelity = match manifest.precision {
        Precision::F32 => None,
        Precision::F16 => manifest.f16_arithmetic,
        Precision::Int8 => match manifest.fidelity {
            // An encoder that was quantised elsewhere: one scale for all of a tensor makes that noise larger.
            None => return FOREIGN_SELF_TEST_COSINE,
            found => found,
        },
    };
    fidelity.map_or(SELF_TEST_COSINE, |f| f.worst_cosine.min(SELF_TEST_COSINE))
}

/// Most images that f16 arithmetic is measured on: where the exporter's machine has none, one image through
/// ViT-B/32 takes seconds.
const F16_IMAGES: usize = 64;

/// What an export came to.
pub struct Exported {
    /// The bundle's manifest.
    pub manifest: Manifest,
    /// How each layer was written and what that does, in Markdown, where the request asked for it.
    pub report: Option<String>,
}

/// Writes the bundle.
///
/// # Errors
/// The output folder exists or cannot be written to; a class or a template does not fit; a weight is not
/// finite; the fidelity stays below the gate. Nothing is left at the destination then.
pub fn export(request: &Request, progress: &mut dyn FnMut(Step, u64, u64)) -> Result<Exported> {
    if let Some(encoder) = request.encoder {
        let config = request.checkpoint.config();
        encoder.check(&config.preprocessing, config.embedding)?;
    }
    // First, so that a wrong --out is known before the work is done.
    let writer = BundleWriter::create(request.out)?;
    let head = head(request, progress)?;
    let mut manifest = manifest(request, head.embedding_size);
    let report = image_encoder(request, &writer, &head, &mut manifest, progress)?;
    if let Prompts::Learned(learner, _) = request.prompts
        && learner.meta_net.is_some()
    {
        conditional(request, learner, &writer, &head, &mut manifest, progress)?;
    } else if request.with_text {
        text_encoder::add(request, &writer, &head, &mut manifest, vec![], progress)?;
    }
    writer.write_manifest(&mut manifest)?;
    let classifier = Classifier::open(writer.folder())?;
    let mut bar = |done, total| progress(Step::Calibration, done, total);
    if let Some(fitted) = calibrate(&classifier, request.calibration, request.keep, &mut bar)? {
        manifest.temperature = fitted.temperature;
        manifest.unknown = fitted.policy(&manifest.unknown);
        manifest.calibration = Some(fitted.calibration);
    }
    record_golden(&writer, &manifest)?;
    writer.finish(&mut manifest)?;
    Ok(Exported { manifest, report })
}

/// Share of the weights that may stay in floating point to reach the gate.
const MOST_FLOAT: f32 = 0.25;

/// Writes all but the texts, in int8 with the layers that do the most damage kept in floating point as long as
/// the gate asks for it. Gives back the report.
fn image_encoder(
    request: &Request,
    writer: &BundleWriter,
    head: &Head,
    manifest: &mut Manifest,
    progress: &mut dyn FnMut(Step, u64, u64),
) -> Result<Option<String>> {
    let options = GraphOptions {
        precision: request.precision,
        flat: request.flat,
    };
    let write = |quantization: &mut Quantization,
                 manifest: &mut Manifest,
                 progress: &mut dyn FnMut(Step, u64, u64)| {
        assemble(
            request,
            writer,
            head,
            options,
            quantization,
            manifest,
            progress,
        )
    };
    let mut quantization = Quantization::default();
    if request.precision == Precision::F32 || request.encoder.is_some() {
        write(&mut quantization, manifest, progress)?;
        if request.encoder.is_some() {
            let classifier = Classifier::open(writer.folder())?;
            manifest.precision = graph::precision(&classifier.operators());
            writer.write_manifest(manifest)?;
            return Ok(None);
        }
        return Ok(request
            .report
            .then(|| "Precision f32 changes no layer.\n".into()));
    }
    let reference = Reference::new(request, writer.folder(), head, manifest, progress)?;
    let integers = request.precision == Precision::Int8;
    if integers {
        quantization = reference.observe(progress)?;
    }
    write(&mut quantization, manifest, progress)?;
    let f32_arithmetic = Classifier::builder().f16_arithmetic(false);
    let measure = |progress: &mut dyn FnMut(Step, u64, u64)| {
        let stored = f32_arithmetic.open(writer.folder())?;
        reference.fidelity(&stored, usize::MAX, progress)
    };
    let mut fidelity = measure(progress)?;
    let holds = request.gate.holds(&fidelity);
    if integers && (!holds || request.report) {
        reference.measure_damage(&mut quantization, progress)?;
    }
    if integers && !holds {
        let worst = quantization.worst(MOST_FLOAT);
        let mut kept = 0;
        while kept < worst.len() && !request.gate.holds(&fidelity) {
            // Doubling bounds how often the network is written and measured.
            let next = (2 * kept).max(1).min(worst.len());
            quantization.keep_float(worst[kept..next].iter().cloned());
            kept = next;
            write(&mut quantization, manifest, progress)?;
            fidelity = measure(progress)?;
        }
    }
    let table = if integers {
        quantization.table()
    } else {
        String::new()
    };
    request.gate.check(&fidelity, request.precision, &table)?;
    manifest.fidelity = Some(fidelity);
    // In a flat file the products are tract's, which widens.
    if request.precision == Precision::F16 && !request.flat {
        let stored = Classifier::builder()
            .f16_arithmetic(true)
            .open(writer.folder())?;
        let found = reference.fidelity(&stored, F16_IMAGES, progress)?;
        // Below the gate the bundle is multiplied in f32 everywhere.
        let good = request.gate.holds(&found) && found.worst_cosine.is_finite();
        manifest.f16_arithmetic = good.then_some(found);
    }
    Ok(request.report.then(|| {
        format!(
            "{}: cosine with f32 mean {:.5}, worst {:.5}; same best class {:.1} %; {} {} images.\n\n{table}",
            request.precision,
            fidelity.mean_cosine,
            fidelity.worst_cosine,
            100.0 * fidelity.top1_agreement,
            fidelity.images,
            if request.calibration.is_empty() { "generated" } else { "calibration" },
        )
    }))
}

fn head(request: &Request, progress: &mut dyn FnMut(Step, u64, u64)) -> Result<Head> {
    let tower = TextEncoder::load(request.checkpoint)?;
    let tokenizer = Tokenizer::new();
    let mut learned = BTreeMap::new();
    match request.prompts {
        Prompts::Learned(learner, position) if learner.meta_net.is_some() => {
            ensure!(
                position == ClassPosition::End,
                "prompt learner with a meta-net (CoCoOp): --class-position {position}: only end is possible, \
                 since the text tower is causal and the head shares what stands before the name"
            );
            // The class embeddings at the mean image are known after the long steps; what does not fit is
            // said before them.
            Conditional::new(&tower, &tokenizer, request.classes, learner)?;
            ensure!(
                !request.calibration.is_empty(),
                "prompt learner with a meta-net (CoCoOp): give --calibration a folder of images, a few \
                 hundred of what the camera sees: the head's cheaper modes are fitted to them"
            );
        }
        Prompts::Learned(learner, _) if request.with_text => {
            ensure!(
                learner.class_specific().is_none(),
                "--with-text: class-specific contexts say nothing about new classes; leave it out"
            );
            learned.insert("context".to_owned(), learner.context.clone());
        }
        _ => {}
    }
    let embeddings = text_encoder::embed_classes(request, &tower, progress)?;
    let mut negative_embeddings = vec![];
    for text in request.negatives {
        let tokens = tokenizer.tokens(text, tower.config().context_length)?;
        negative_embeddings.extend(tower.embed_tokens(&tokens)?);
    }
    Ok(Head {
        classes: embeddings.classes.len(),
        embedding_size: embeddings.dim,
        class_embeddings: embeddings.data,
        negative_embeddings,
        learned,
    })
}

/// Writes the text encoder and the conditional head, fitted with them as the board will run them.
fn conditional(
    request: &Request,
    learner: &PromptLearner,
    writer: &BundleWriter,
    plain: &Head,
    manifest: &mut Manifest,
    progress: &mut dyn FnMut(Step, u64, u64),
) -> Result<()> {
    // Still with a static head, for the images' embeddings.
    let classifier = Classifier::open(writer.folder())?;
    let total = request.calibration.len() as u64;
    let mut embeddings = vec![];
    for (i, image) in request.calibration.iter().enumerate() {
        progress(Step::Embeddings, i as u64, total);
        let pixels = pinhole::open_image(&image.path, &DecodeOptions::default())?;
        embeddings.push(classifier.embed(&pixels)?.values);
    }
    progress(Step::Embeddings, total, total);

    let tokens = match request.with_text {
        true => vec![],
        false => {
            let tower = TextEncoder::load(request.checkpoint)?;
            let prompts = Conditional::new(&tower, &Tokenizer::new(), request.classes, learner)?;
            prompts.token_ids().to_vec()
        }
    };
    let tower = text_encoder::add(request, writer, plain, manifest, tokens, progress)?;
    let flat: Vec<f32> = embeddings.concat();
    let (mut head, info) = pinhole::fit_conditional(
        &tower,
        request.classes,
        learner,
        &flat,
        manifest.logit_scale,
        &mut |done, total| progress(Step::Conditional, done as u64, total as u64),
    )?;
    head.negative_embeddings = plain.negative_embeddings.clone();
    if request.with_text {
        let step = embeddings.len().div_ceil(KEPT_EMBEDDINGS);
        let kept: Vec<Vec<f32>> = embeddings.into_iter().step_by(step).collect();
        let tensor = Tensor {
            shape: vec![kept.len(), head.embedding_size],
            data: kept.concat(),
        };
        head.learned.insert("calibration_embeddings".into(), tensor);
    }
    manifest.head = HeadKind::Conditional;
    manifest.conditional = Some(info);
    writer.add_head(&head)?;
    Ok(())
}

/// Embeddings of calibration images that a bundle keeps, to fit its head to new classes on the board:
/// each costs the board one run of the text tower over all classes.
const KEPT_EMBEDDINGS: usize = 64;

fn manifest(request: &Request, embedding_size: usize) -> Manifest {
    let config = request.checkpoint.config();
    let (templates, prompt_learner) = match request.prompts {
        Prompts::Templates(templates) => (templates.as_slice().to_vec(), None),
        Prompts::Learned(learner, class_position) => {
            let info = PromptLearnerInfo {
                n_ctx: learner.n_ctx(),
                class_position,
                class_specific: learner.class_specific().is_some(),
            };
            (vec![], Some(info))
        }
    };
    Manifest {
        format: FORMAT.into(),
        version: VERSION,
        created_by: format!("pinhole-export {}", env!("CARGO_PKG_VERSION")),
        model: ModelInfo {
            name: match request.encoder {
                Some(encoder) => encoder.name(),
                None => (config.name.clone()).unwrap_or_else(|| config.image.usual_name()),
            },
            image_size: config.preprocessing.size,
            embedding_size,
        },
        preprocessing: config.preprocessing.clone(),
        precision: request.precision,
        logit_scale: request.checkpoint.logit_scale(),
        temperature: 1.0,
        classes: request.classes.names().to_vec(),
        templates,
        prompt_learner,
        text_encoder: None,
        unknown: UnknownPolicy {
            negatives: request.negatives.to_vec(),
            ..UnknownPolicy::default()
        },
        head: HeadKind::Static,
        conditional: None,
        fidelity: None,
        f16_arithmetic: None,
        calibration: None,
        model_card: request.model_card.clone(),
        files: vec![],
    }
}

/// Everything but the golden embeddings' true values, so that the bundle can be opened.
pub(crate) fn assemble(
    request: &Request,
    writer: &BundleWriter,
    head: &Head,
    options: GraphOptions,
    quantization: &mut Quantization,
    manifest: &mut Manifest,
    progress: &mut dyn FnMut(Step, u64, u64),
) -> Result<()> {
    let mut bar = |done, total| progress(Step::Graph, done, total);
    match request.encoder {
        Some(encoder) => {
            let rule = &request.checkpoint.config().preprocessing;
            encoder.write(rule, writer.folder(), &mut bar)?;
        }
        None => graph::write_quantized(
            request.checkpoint,
            writer.folder(),
            options,
            quantization,
            &mut bar,
        )?,
    }
    writer.add_head(head)?;
    let mut images = vec![];
    for (file, image) in golden::images()? {
        writer.add(file, &golden::to_png(&image)?)?;
        images.push(GoldenImage {
            file: file.into(),
            embedding: vec![0.0; head.embedding_size],
        });
    }
    writer.add_golden(&Golden {
        min_cosine: SELF_TEST_COSINE,
        images,
    })?;
    writer.write_manifest(manifest)?;
    Ok(())
}

fn record_golden(writer: &BundleWriter, manifest: &Manifest) -> Result<()> {
    let classifier = Classifier::open(writer.folder())?;
    let images = golden::images()?
        .into_iter()
        .map(|(file, image)| {
            Ok(GoldenImage {
                file: file.into(),
                embedding: classifier.embed(&image)?.values,
            })
        })
        .collect::<Result<_>>()?;
    writer.add_golden(&Golden {
        min_cosine: self_test_cosine(manifest),
        images,
    })?;
    Ok(())
}
