//! CLIP's two encoders in candle, with the tensor names and formulas of OpenAI's implementation.

mod initial;
mod patches;
mod transformer;

pub use initial::{Initialisation, TensorSpec, initial_values, tensor_specs};
pub use patches::patches;
pub use transformer::{ClipModel, TextTransformer, VisionTransformer, normalise};
