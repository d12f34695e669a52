//! Offline image classification with CLIP and learned prompts on small boards.
//!
//! A [`Classifier`] opens a bundle, a folder that `pinhole-export` writes, and ranks the bundle's classes for an image:
//!
//! ```
//! use pinhole::{Classifier, DecodeOptions};
//!
//! # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/demo");
//! # let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/samples/red-heart.png");
//! let classifier = Classifier::open(demo)?;
//! let image = pinhole::open_image(photo, &DecodeOptions::default())?;
//! let answer = classifier.classify(&image)?;
//! for class in answer.top(3) {
//!     println!("{:5.1} %  {}", 100.0 * class.probability, class.name);
//! }
//! # assert_eq!(&*answer.ranking[0].name, "red heart");
//! # Ok::<(), pinhole::Error>(())
//! ```
//!
//! `cargo run --release -p pinhole --example classify -- assets/demo assets/samples/*` runs this program.
//!
//! # Frames in memory
//! [`Classifier::classify`] and [`Classifier::embed`] also take an [`RgbView`]: 8-bit RGB in the caller's memory, with
//! width, height and stride, which is read without a copy. [`Stream`] is for the consecutive frames of one camera.
//! The example `frames.rs` classifies raw video from a pipe.
//!
//! ```
//! use pinhole::{Classifier, RgbView};
//!
//! # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/demo");
//! # let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/samples/red-heart.png");
//! # let image = pinhole::open_image(photo, &Default::default())?;
//! # let (width, height, stride) = (image.width, image.height, image.width as usize * 3 + 16);
//! # let rows = image.data.chunks_exact(image.width as usize * 3);
//! # let buffer: Vec<u8> = rows.flat_map(|row| [row, &[0; 16]].concat()).collect();
//! let classifier = Classifier::open(demo)?;
//! let mut stream = classifier.stream()?;
//! // For each frame: `buffer` has `height` rows that begin `stride` bytes apart.
//! let frame = RgbView::with_stride(width, height, stride, &buffer)?;
//! let answer = stream.classify(frame)?;
//! println!("{}", answer.ranking[0].name);
//! # assert_eq!(answer.ranking, classifier.classify(&image)?.ranking);
//! # Ok::<(), pinhole::Error>(())
//! ```
//!
//! The module [`camera`] reads cameras and streams, and smooths the answers.
//!
//! # Text
//! Class embeddings are computed at export, and classification does not run the text encoder. There are two
//! exceptions, for bundles that contain it: CoCoOp's class embeddings depend on the image, so that the text encoder runs
//! for each image ([`ConditionalMode`] has cheaper approximations), and [`set_classes`] embeds new classes.
//!
//! # Teaching
//! A [`Teacher`] adds classes and examples to a bundle, and chooses the head that recognises them best.
//!
//! # Threads
//! A classifier has a thread pool of its own ([`ClassifierBuilder::threads`]), and can be called by any number of threads
//! at the same time. The number of threads does not change the result: embeddings are bit-identical.
//!
//! # Preprocessing
//! Resizing and cropping are part of the bundle and equal Pillow's bit for bit. EXIF orientation is ignored, as in CLIP's
//! own preprocessing, unless [`DecodeOptions::apply_orientation`] is set.

mod board;
mod calibration;
pub mod camera;
mod classes;
mod classification;
mod classifier;
mod conditional;
mod conditional_fit;
mod error;
mod hang_up;
#[doc(hidden)]
pub mod internal;
mod json;
mod listen;
pub mod manifest;
mod network;
mod panics;
mod selftest;
mod standalone;
mod standard_streams;
pub mod system;
mod teaching;
mod text_encoder;
mod usage;
mod watcher;

pub use board::{BoardMonitor, BoardStatus};
pub use classes::{change_classes, class_warnings, set_classes};
pub use classification::{Classification, Embedding, Latency, Ranked};
pub use classifier::{Classifier, ClassifierBuilder, Stream, UnknownThresholds};
pub use conditional::ConditionalMode;
pub use error::{Error, TeachError};
pub use pinhole_bundle::{
    Bundle, EXAMPLES_PER_CLASS, Error as BundleError, LOCK_PATIENCE, LockedBundle, Manifest,
    NONE_OF_THESE, UNDO_STEPS,
};
pub use pinhole_model::{Precision, PreprocessConfig, Resize, Score};
pub use pinhole_preprocessing::{
    DecodeOptions, Error as ImageError, Image, ImageView, Pixels, Reduction, RgbImage, RgbView,
    YuvImage, YuvLayout, YuvRange, decode as decode_image, open as open_image, preprocess,
};
pub use pinhole_prompts::Classes;
pub use selftest::{GoldenResult, SelfTest};
pub use teaching::{ClassLesson, ClassText, ExampleInfo, Lesson, TaughtHead, Teacher, lesson};
pub use watcher::{BundleWatcher, FolderState, RefusedBundle, TestedBundle};
