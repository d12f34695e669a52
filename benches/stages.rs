//! Times the stages from a photo to a result:
//!
//!     cargo bench -p pinhole-benches [-- PART_OF_A_NAME]
//!
//! preprocessing; the image encoder by precision and threads; the head, static or conditional in each mode;
//! and all of them, from the bytes of a JPEG file. A benchmark's name begins with the kernel variant (`PINHOLE_KERNELS`
//! selects another). The models have random weights: an image encoder of ViT-S/32's sizes (width 384, 12
//! layers, 50 tokens), small enough to finish within two minutes, and the text encoder of ViT-B for the
//! conditional head. `benches/encoder` compares ViT-B/32 with other programs, `cargo bench -p pinhole-kernels` times
//! single kernels.

#[allow(unreachable_pub, reason = "tests use it too")]
#[path = "../export/tests/common/weights.rs"]
mod weights;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use criterion::{Criterion, SamplingMode, Throughput};
use pinhole::{
    Classes, Classifier, ConditionalMode as Mode, DecodeOptions, Image, Precision,
    PreprocessConfig, Reduction, RgbImage, preprocess,
};
use pinhole_checkpoint::{Checkpoint, Error, Existing};
use pinhole_export::graph::GraphOptions;
use pinhole_export::{
    CalibrationImages, CalibrationOptions, ClassPrompts, EncoderOptions, EncoderSource,
    ExportOptions, FidelityGate, TextOptions, export,
};
use pinhole_model::{
    Activation, ClassPosition, ClipConfig, ImageEncoderConfig, MetaNet, PromptLearner, Score,
    TextEncoderConfig,
};
use pinhole_prompts::{Templates, Tokenizer};
use weights::random;

const EMBEDDING: usize = 512;
const TEXT_WIDTH: usize = 512;
/// Hidden units of CoCoOp's meta-net.
const HIDDEN: usize = 32;
const SIDE: u32 = 224;
/// Classes of the conditional head.
const CLASSES: usize = 100;
/// Photos that the conditional head's approximate modes are fitted to.
const PHOTOS: usize = 32;

fn main() -> Result<()> {
    pinhole_kernels::check()?;
    let mut bench = Bench {
        criterion: Criterion::default()
            .without_plots()
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1))
            .sample_size(10)
            .nresamples(10_000)
            .configure_from_args(),
        variant: pinhole_kernels::chosen(),
        folder: tempfile::tempdir()?,
    };
    bench.preprocessing()?;
    bench.encoder()?;
    bench.static_head()?;
    bench.conditional_head()?;
    bench.criterion.final_summary();
    Ok(())
}

struct Bench {
    criterion: Criterion,
    variant: &'static str,
    /// The models.
    folder: tempfile::TempDir,
}

impl Bench {
    /// `elements` are multiply-adds, or 1 for an image.
    fn measure(&mut self, what: &str, elements: u64, mut run: impl FnMut()) {
        let mut group = self.criterion.benchmark_group(self.variant);
        group.throughput(Throughput::Elements(elements));
        group.sampling_mode(SamplingMode::Flat);
        group.bench_function(what, |b| b.iter(&mut run));
        group.finish();
    }

    fn preprocessing(&mut self) -> Result<()> {
        let rule = PreprocessConfig::openai(SIDE);
        for (width, height) in [(640, 480), (1920, 1080)] {
            let photo = photo(0, width, height)?;
            let jpeg = jpeg(&photo)?;
            let options = DecodeOptions::default();
            self.measure(&format!("decode JPEG {width}x{height}"), 1, || {
                pinhole_preprocessing::decode(&jpeg, &options).expect("a JPEG file");
            });
            for (name, reduction) in [("", None), (", fast decode", Some(Reduction::to(&rule)))] {
                let options = DecodeOptions {
                    reduction,
                    ..DecodeOptions::default()
                };
                let what = format!("JPEG {width}x{height} to {SIDE}x{SIDE}{name}");
                self.measure(&what, 1, || {
                    let image = Image::decode(&jpeg, &options).expect("a JPEG file");
                    preprocess(&rule, &image).expect("an image");
                });
            }
            let what = format!("preprocess {width}x{height} to {SIDE}x{SIDE}");
            self.measure(&what, 1, || {
                preprocess(&rule, &photo).expect("an image");
            });
        }
        Ok(())
    }

    fn encoder(&mut self) -> Result<()> {
        let (width, layers, patch) = (384, 12, 32usize);
        let clip = self.checkpoint("vit-s", (width, layers, patch as u32), (64, 1))?;
        let tokens = 1 + (SIDE as usize / patch).pow(2);
        // The last block computes only the class token, except for keys and values.
        let block = 12 * width * width * tokens + 2 * tokens * tokens * width;
        let last = 2 * width * width * tokens + 10 * width * width + 2 * tokens * width;
        let products = (tokens - 1) * patch * patch * 3 * width + (layers - 1) * block + last;
        let photo = photo(0, 640, 480)?;
        let jpeg = jpeg(&photo)?;
        for precision in [Precision::F32, Precision::F16, Precision::Int8] {
            let bundle = self.bundle(&clip, precision, &names(10), None)?;
            for threads in threads() {
                let classifier = Classifier::builder().threads(threads).open(&bundle)?;
                let pixels = classifier.preprocess(&photo)?;
                let suffix = format!("{precision}, {threads} threads");
                let what = format!("encoder ViT-S/32 {suffix}");
                self.measure(&what, products as u64, || {
                    classifier.embed_pixels(&pixels.data).expect("an embedding");
                });
                let what = format!("JPEG 640x480 to result, ViT-S/32 {suffix}");
                self.measure(&what, 1, || {
                    let photo = Image::decode(&jpeg, &DecodeOptions::default());
                    (classifier.classify(&photo.expect("a JPEG file"))).expect("an answer");
                });
            }
        }
        Ok(())
    }

    fn static_head(&mut self) -> Result<()> {
        let clip = self.checkpoint("narrow", (64, 1, 112), (64, 1))?;
        for classes in [10, 1000] {
            let bundle = self.bundle(&clip, Precision::F32, &names(classes), None)?;
            let classifier = Classifier::builder().threads(1).open(&bundle)?;
            self.head(
                &classifier,
                &format!("static head, {classes} classes, 1 threads"),
            )?;
        }
        Ok(())
    }

    fn conditional_head(&mut self) -> Result<()> {
        let clip = self.checkpoint("wide-text", (64, 1, 112), (TEXT_WIDTH, 12))?;
        let learner = PromptLearner {
            context: random("ctx", &[4, TEXT_WIDTH]),
            meta_net: Some(MetaNet {
                linear1_weight: random("meta_net.linear1.weight", &[HIDDEN, EMBEDDING]),
                linear1_bias: random("meta_net.linear1.bias", &[HIDDEN]),
                linear2_weight: random("meta_net.linear2.weight", &[TEXT_WIDTH, HIDDEN]),
                linear2_bias: random("meta_net.linear2.bias", &[TEXT_WIDTH]),
            }),
            class_position: Some(ClassPosition::End),
        };
        let bundle = self.bundle(&clip, Precision::F32, &names(CLASSES), Some(&learner))?;
        let budget = Duration::from_millis(20);
        for (name, mode) in [
            ("exact", Mode::Exact),
            ("shortlist", Mode::Shortlist),
            ("linear", Mode::Linear),
            ("auto within 20 ms", Mode::Auto(budget)),
        ] {
            for threads in threads() {
                let builder = Classifier::builder().threads(threads).conditional(mode);
                let what =
                    format!("conditional head, {CLASSES} classes, {name}, {threads} threads");
                self.head(&builder.open(&bundle)?, &what)?;
            }
        }
        Ok(())
    }

    /// Similarities and ranking, as timed by the classifier, without the encoder.
    fn head(&mut self, classifier: &Classifier, what: &str) -> Result<()> {
        let photo = photo(1, SIDE, SIDE)?;
        classifier.classify(&photo)?;
        let mut group = self.criterion.benchmark_group(self.variant);
        group.sampling_mode(SamplingMode::Flat);
        group.bench_function(what, |b| {
            b.iter_custom(|images| {
                let head = |_| classifier.classify(&photo).expect("an answer").latency.head;
                (0..images).map(head).sum()
            });
        });
        group.finish();
        Ok(())
    }

    /// A CLIP with random weights. Image encoder: width, layers, patch size; text encoder: width, layers.
    fn checkpoint(
        &self,
        name: &str,
        (width, layers, patch_size): (usize, usize, u32),
        (text_width, text_layers): (usize, usize),
    ) -> Result<Checkpoint> {
        let config = ClipConfig {
            name: None,
            embedding: EMBEDDING,
            image: ImageEncoderConfig::VisionTransformer {
                image_size: SIDE,
                patch_size,
                width,
                layers,
                heads: width / 64,
                mlp: 4 * width,
                input_norm: true,
                pooling: pinhole_model::VitPooling::ClassToken,
            },
            text: TextEncoderConfig {
                context_length: 77,
                vocabulary: 49_408,
                width: text_width,
                layers: text_layers,
                heads: text_width / 64,
                form: Default::default(),
            },
            activation: Activation::QuickGelu,
            text_activation: Activation::QuickGelu,
            preprocessing: PreprocessConfig::openai(SIDE),
        };
        let shapes = config.tensors();
        let folder = self.folder.path().join(name);
        pinhole_checkpoint::write::<Error>(&folder, &config, Existing::Keep, |name| {
            let shape = shapes.iter().find(|(n, _)| n == name);
            Ok(random(name, &shape.expect("a name of the list").1))
        })?;
        Ok(Checkpoint::open(&folder, &Default::default())?)
    }

    /// A bundle with a static head, or with the conditional head of `learner`.
    fn bundle(
        &self,
        checkpoint: &Checkpoint,
        precision: Precision,
        classes: &[String],
        learner: Option<&PromptLearner>,
    ) -> Result<PathBuf> {
        let templates = Templates::single("a photo of a {}.")?;
        let out = tempfile::tempdir_in(self.folder.path())?
            .keep()
            .join("bundle");
        let images = match learner {
            Some(_) => self.photos()?,
            None => CalibrationImages::default(),
        };
        export(
            &ExportOptions {
                checkpoint: Some(checkpoint),
                preprocessing: checkpoint.config().preprocessing.clone(),
                logit_scale: checkpoint.logit_scale(),
                text: TextOptions {
                    tokenizer: &Tokenizer::new(),
                    classes: &Classes::new(classes)?,
                    prompts: match learner {
                        Some(learner) => ClassPrompts::Learned {
                            learner,
                            position: ClassPosition::End,
                            names: None,
                            deep: None,
                        },
                        None => ClassPrompts::Templates(&templates),
                    },
                    negatives: &[],
                    include_text_encoder: false,
                },
                encoder: EncoderOptions {
                    source: EncoderSource::Checkpoint(checkpoint),
                    graph: GraphOptions {
                        precision,
                        flat: false,
                    },
                    gate: FidelityGate::OFF,
                    report: false,
                },
                method: None,
                score: Score::Softmax,
                calibration: CalibrationOptions {
                    images: &images,
                    keep: 0.95,
                },
                model_card: String::new(),
                out: &out,
            },
            &mut |_, _, _| (),
        )?;
        Ok(out)
    }

    fn photos(&self) -> Result<CalibrationImages> {
        let folder = self.folder.path().join("photos");
        std::fs::create_dir(&folder)?;
        for i in 0..PHOTOS {
            let jpeg = jpeg(&photo(i, SIDE, SIDE)?)?;
            std::fs::write(folder.join(format!("{i}.jpg")), jpeg)?;
        }
        CalibrationImages::find(&folder, &[], &Default::default())
    }
}

/// 1, and 2 if there are as many processors.
fn threads() -> impl Iterator<Item = usize> {
    let most = std::thread::available_parallelism().map_or(1, |n| n.get());
    [1, 2].into_iter().filter(move |&threads| threads <= most)
}

/// Waves of colour that depend on `i`.
fn photo(i: usize, width: u32, height: u32) -> Result<RgbImage> {
    let wave = |at: u32, side: u32, turns: usize| {
        let turn = (turns * 2 + 3 * i) as f32 + turns as f32 * at as f32 / side as f32;
        128.0 + 60.0 * (std::f32::consts::TAU * turn).sin()
    };
    let mut data = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let value = wave(x, width, 3 + channel) + wave(y, height, 2 + i % 5) - 128.0;
                data.push(value as u8);
            }
        }
    }
    Ok(RgbImage::new(width, height, data)?)
}

fn jpeg(photo: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90).encode(
        &photo.data,
        photo.width,
        photo.height,
        image::ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("thing number {i}")).collect()
}
