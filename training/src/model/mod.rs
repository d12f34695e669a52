//! CLIP's two towers in candle, with the tensor names and formulas of OpenAI's implementation.

mod init;
mod pixels;
mod towers;

pub use init::{Init, TensorSpec, initial, tensor_specs};
pub use pixels::patches;
pub use towers::{Clip, TextTransformer, VisionTransformer, normalise};
