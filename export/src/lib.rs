//! From a checkpoint to a bundle.
//!
//! [`export`] writes the image tower as ONNX ([`graph`]), computes the class embeddings, runs the result
//! with the board's own runtime for the golden embeddings and the fidelity, and publishes the bundle
//! with one rename.

mod bundle;
mod calibrate;
mod fidelity;
mod golden;
pub mod graph;
mod quantization;
mod rounding;
mod text_encoder;

pub use bundle::{Exported, Prompts, Request, Step, export};
pub use calibrate::{CalibrationImage, Label, images_below};
pub use fidelity::Gate;
