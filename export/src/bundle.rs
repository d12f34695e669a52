//! The steps of an export.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pinhole::{Classifier, DecodeOptions, RgbImage};
use pinhole_bundle::{
    Bundle, BundleWriter, FORMAT, Fidelity, Golden, GoldenImage, Head, HeadKind, Manifest,
    ModelInfo, Precision, PromptLearnerInfo, UnknownPolicy, VERSION,
};
use pinhole_checkpoint::{Checkpoint, ClassPosition, ImageTower, PromptLearner, Tensor};
use pinhole_prompts::{
    Classes, Conditional, Templates, TextTower, Tokenizer, class_embeddings, learned_embeddings,
};

use crate::calibrate::{CalibrationImage, calibrate};
use crate::graph::{self, Encoder, GraphOptions};
use crate::{golden, text_encoder};

/// What to export.
pub struct Request<'a> {
    /// The CLIP model.
    pub checkpoint: &'a Checkpoint,
    /// What encodes images in the place of the checkpoint's image tower. `precision` and `flat` say nothing then.
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
}

/// A step of the export, for a progress bar: (step, done, total).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Class embeddings, in prompts.
    Text,
    /// The graph, in tensors.
    Graph,
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
/// a board may be as far from the exporter's machine as the bundle is from f32.
fn self_test_cosine(manifest: &Manifest) -> f32 {
    match (manifest.precision, manifest.fidelity) {
        (Precision::Int8, Some(fidelity)) => fidelity.worst_cosine.min(SELF_TEST_COSINE),
        // An encoder that was quantised elsewhere: one scale for all of a tensor makes that noise larger.
        (Precision::Int8, None) => FOREIGN_SELF_TEST_COSINE,
        _ => SELF_TEST_COSINE,
    }
}

/// Writes the bundle and gives back its manifest.
///
/// # Errors
/// The output folder exists or cannot be written to; a class or a template does not fit; a weight is not
/// finite; the fidelity stays below the gate. Nothing is left at the destination then.
pub fn export(request: &Request, progress: &mut dyn FnMut(Step, u64, u64)) -> Result<Manifest> {
    if let Some(encoder) = request.encoder {
        let config = request.checkpoint.config();
        encoder.check(&config.preprocessing, config.embedding)?;
    }
    // First, so that a wrong --out is known before the work is done.
    let writer = BundleWriter::create(request.out)?;
    let head = head(request, progress)?;
    let mut manifest = manifest(request, head.embedding_size);
    assemble(
        request,
        &writer,
        &head,
        request.precision,
        &mut manifest,
        progress,
    )?;
    if request.encoder.is_some() {
        let classifier = Classifier::open(writer.folder())?;
        manifest.precision = graph::precision(&classifier.operators());
        writer.write_manifest(&mut manifest)?;
    } else if request.precision != Precision::F32 {
        manifest.fidelity = Some(fidelity(request, &writer, &head, &manifest, progress)?);
    }
    if let Prompts::Learned(learner, _) = request.prompts
        && learner.meta_net.is_some()
    {
        conditional(request, learner, &writer, &head, &mut manifest, progress)?;
    } else if request.with_text {
        let (checkpoint, folder) = (request.checkpoint, writer.folder());
        let text = text_encoder::write(checkpoint, folder, request.precision, vec![])?;
        manifest.text_encoder = Some(text);
    }
    writer.write_manifest(&mut manifest)?;
    let classifier = Classifier::open(writer.folder())?;
    let mut bar = |done, total| progress(Step::Calibration, done, total);
    if let Some(fitted) = calibrate(&classifier, request.calibration, request.keep, &mut bar)? {
        manifest.temperature = fitted.temperature;
        manifest.unknown = fitted.policy(&manifest.unknown);
        manifest.calibration = Some(fitted.calibration);
    }
    record_golden(&writer, &mut manifest)?;
    writer.finish()?;
    Ok(manifest)
}

fn head(request: &Request, progress: &mut dyn FnMut(Step, u64, u64)) -> Result<Head> {
    let tower = TextTower::load(request.checkpoint)?;
    let tokenizer = Tokenizer::new();
    let mut text = |done: usize, total: usize| progress(Step::Text, done as u64, total as u64);
    let mut learned = BTreeMap::new();
    let embeddings = match request.prompts {
        Prompts::Templates(templates) => {
            class_embeddings(&tower, &tokenizer, request.classes, templates, &mut text)?
        }
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
            let unconditional = PromptLearner {
                meta_net: None,
                ..learner.clone()
            };
            let classes = request.classes;
            learned_embeddings(
                &tower,
                &tokenizer,
                classes,
                &unconditional,
                position,
                &mut text,
            )?
        }
        Prompts::Learned(learner, position) => {
            if request.with_text {
                ensure!(
                    learner.class_specific().is_none(),
                    "--with-text: class-specific contexts say nothing about new classes; leave it out"
                );
                learned.insert("context".to_owned(), learner.context.clone());
            }
            let classes = request.classes;
            learned_embeddings(&tower, &tokenizer, classes, learner, position, &mut text)?
        }
    };
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
            let tower = TextTower::load(request.checkpoint)?;
            let prompts = Conditional::new(&tower, &Tokenizer::new(), request.classes, learner)?;
            prompts.token_ids().to_vec()
        }
    };
    let folder = writer.folder();
    let text = text_encoder::write(request.checkpoint, folder, request.precision, tokens)?;
    manifest.text_encoder = Some(text);
    writer.write_manifest(manifest)?;
    let tower = pinhole::text_tower(&Bundle::open(folder)?)?;
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
                None => (config.name.clone()).unwrap_or_else(|| model_name(&config.image)),
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
        calibration: None,
        model_card: request.model_card.clone(),
        files: vec![],
    }
}

/// Everything but the golden embeddings' true values, so that the bundle can be opened.
fn assemble(
    request: &Request,
    writer: &BundleWriter,
    head: &Head,
    precision: Precision,
    manifest: &mut Manifest,
    progress: &mut dyn FnMut(Step, u64, u64),
) -> Result<()> {
    let mut bar = |done, total| progress(Step::Graph, done, total);
    match request.encoder {
        Some(encoder) => {
            let rule = &request.checkpoint.config().preprocessing;
            encoder.write(rule, writer.folder(), &mut bar)?;
        }
        None => {
            let options = GraphOptions {
                precision,
                flat: request.flat,
            };
            graph::write(request.checkpoint, writer.folder(), options, &mut bar)?;
        }
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

fn record_golden(writer: &BundleWriter, manifest: &mut Manifest) -> Result<()> {
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
    writer.write_manifest(manifest)?;
    Ok(())
}

/// Exports the same weights in f32 to a temporary bundle and compares.
fn fidelity(
    request: &Request,
    writer: &BundleWriter,
    head: &Head,
    manifest: &Manifest,
    progress: &mut dyn FnMut(Step, u64, u64),
) -> Result<Fidelity> {
    let scratch = tempfile::tempdir_in(writer.folder().parent().unwrap_or(Path::new(".")))
        .context("cannot create a temporary folder for the f32 reference")?;
    let reference = BundleWriter::create(&scratch.path().join("reference"))?;
    let mut reference_manifest = Manifest {
        precision: Precision::F32,
        fidelity: None,
        ..manifest.clone()
    };
    assemble(
        request,
        &reference,
        head,
        Precision::F32,
        &mut reference_manifest,
        progress,
    )?;
    let exact = Classifier::open(reference.folder())?;
    let stored = Classifier::open(writer.folder())?;

    let mut sum = 0.0;
    let mut worst = f32::INFINITY;
    let mut same = 0usize;
    let mut count = 0usize;
    let mut compare = |image: &RgbImage| -> Result<()> {
        let (a, b) = (exact.embed(image)?.values, stored.embed(image)?.values);
        let cosine = pinhole::cosine(&a, &b);
        sum += f64::from(cosine);
        worst = worst.min(cosine);
        same += usize::from(best(head, &a) == best(head, &b));
        count += 1;
        Ok(())
    };
    if request.calibration.is_empty() {
        golden::images()?
            .iter()
            .try_for_each(|(_, image)| compare(image))?;
    }
    for (i, image) in request.calibration.iter().enumerate() {
        compare(&pinhole::open_image(
            &image.path,
            &DecodeOptions::default(),
        )?)?;
        progress(
            Step::Fidelity,
            i as u64 + 1,
            request.calibration.len() as u64,
        );
    }
    let fidelity = Fidelity {
        images: count,
        mean_cosine: (sum / count as f64) as f32,
        worst_cosine: worst,
        top1_agreement: same as f32 / count as f32,
    };
    let Gate {
        min_cosine,
        min_agreement,
    } = request.gate;
    // A bound of 0 is off; written so that NaN fails.
    let passes = |value: f32, least: f32| least == 0.0 || value >= least;
    if !passes(fidelity.mean_cosine, min_cosine) || !passes(fidelity.top1_agreement, min_agreement)
    {
        bail!(
            "precision {} stays below the gate on {count} images: mean cosine {:.4} (--min-cosine {min_cosine}), \
             same best class {:.1} % (--min-agreement {min_agreement})",
            request.precision,
            fidelity.mean_cosine,
            100.0 * fidelity.top1_agreement
        );
    }
    ensure!(
        fidelity.worst_cosine.is_finite(),
        "the fidelity is not a number"
    );
    Ok(fidelity)
}

/// Index of the most similar class.
fn best(head: &Head, embedding: &[f32]) -> Option<usize> {
    let similarities = head.similarities(embedding);
    (0..similarities.len()).max_by(|&a, &b| similarities[a].total_cmp(&similarities[b]))
}

/// The usual name of an image tower, or its sizes where it has none.
pub fn model_name(tower: &ImageTower) -> String {
    match *tower {
        ImageTower::VisionTransformer {
            patch_size,
            width,
            layers,
            ..
        } => match (width, layers) {
            (768, 12) => format!("ViT-B/{patch_size}"),
            (1024, 24) => format!("ViT-L/{patch_size}"),
            (1280, 32) => format!("ViT-H/{patch_size}"),
            _ => format!("ViT/{patch_size}, {layers} layers of {width}"),
        },
        ImageTower::ModifiedResNet { layers, width, .. } => match (layers, width) {
            ([3, 4, 6, 3], 64) => "RN50".into(),
            ([3, 4, 23, 3], 64) => "RN101".into(),
            ([4, 6, 10, 6], 80) => "RN50x4".into(),
            ([6, 8, 18, 8], 96) => "RN50x16".into(),
            ([3, 15, 36, 10], 128) => "RN50x64".into(),
            _ => format!("ModifiedResNet {layers:?}, {width} wide"),
        },
    }
}
