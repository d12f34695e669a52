//! From an encoded image to the pixels that a CLIP image encoder sees, equal to Pillow bit for bit.

mod rule;

pub use rule::{CropRounding, Filter, Preprocessing, Resize};
