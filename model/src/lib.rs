//! Types that the crates of Pinhole share, without I/O: what a CLIP model is, how its images are
//! preprocessed, what its prompts are made of, and how weights are stored.

mod activation;
mod clip;
mod image_encoder;
mod precision;
mod preprocess;
mod prompt;
mod shapes;
mod tensor;

pub use activation::Activation;
pub use clip::{ClipConfig, TextEncoderConfig};
pub use image_encoder::ImageEncoderConfig;
pub use precision::{Agreement, Precision};
pub use preprocess::{CropRounding, Filter, InvalidPreprocessing, PreprocessConfig, Resize};
pub use prompt::{ClassPosition, MetaNet, PromptLearner, PromptRow};
pub use tensor::{ClipWeights, Tensor};
