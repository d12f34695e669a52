//! Offline image classification with CLIP and learned prompts on small boards.
//!
//! A [`Classifier`] is opened from a bundle, the folder that `pinhole-export` writes, and ranks the
//! bundle's classes for one image at a time. Everything that depends on text was computed at export.
//!
//! ```no_run
//! use pinhole::{Classifier, DecodeOptions};
//!
//! let classifier = Classifier::builder().threads(4).open("assets/demo")?;
//! let image = pinhole::open_image("photo.jpg", &DecodeOptions::default())?;
//! let answer = classifier.classify(&image)?;
//! for class in answer.top(3) {
//!     println!("{:5.1} %  {}", 100.0 * class.probability, class.name);
//! }
//! # Ok::<(), pinhole::Error>(())
//! ```
//!
//! `cargo run --release -p pinhole --example classify -- assets/demo assets/samples/*` runs the same
//! against the demo bundle.
//!
//! # Threads
//! A classifier owns its thread pool ([`Builder::threads`]); one classifier serves any number of
//! caller's threads at a time. The same image gives the same bits whatever the number of threads.
//!
//! # Images
//! Preprocessing is part of the bundle and equals Pillow's bit for bit; see [`pinhole_preprocessing`].
//! EXIF orientation is ignored, as CLIP's own preprocessing does, unless
//! [`DecodeOptions::apply_orientation`] asks for it.

pub mod camera;
mod classifier;
mod conditional;
mod error;
#[doc(hidden)]
pub mod internal;
mod network;
mod selftest;
mod standalone;
pub mod system;
mod text;

pub use classifier::{
    Builder, Classification, Classifier, Embedding, Latency, Ranked, Stream, thread_pool,
};
pub use conditional::Mode;
pub use error::Error;
pub use pinhole_bundle::{Bundle, Calibration, Fidelity, Manifest};
pub use pinhole_model::{Agreement, Precision, PreprocessConfig};
pub use pinhole_preprocessing::{
    DecodeOptions, Error as ImageError, Pixels, RgbImage, open as open_image, preprocess,
};
pub use pinhole_prompts::Classes;
pub use selftest::{GoldenResult, SelfTest};
pub use text::set_classes;
