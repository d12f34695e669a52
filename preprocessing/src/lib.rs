//! From an encoded image to the pixels that a CLIP image encoder sees. Resize and crop are bit-identical to Pillow.

mod apply;
mod decode;
mod decode_options;
mod encode;
mod error;
mod files;
mod image;
mod missing;
mod resize;
mod rgb;
mod yuv;

pub use crate::image::{Image, ImageView, YuvView};
pub use apply::preprocess;
pub use decode::{decode, is_image, open, read};
pub use decode_options::{DecodeOptions, Reduction};
pub use error::Error;
pub use files::{EXTENSIONS, has_image_extension, is_hidden};
pub use missing::missing;
pub use rgb::{Pixels, RgbImage, RgbView};
pub use yuv::{YuvImage, YuvLayout, YuvRange};
