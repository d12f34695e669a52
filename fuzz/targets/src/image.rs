//! Encoded images.

use pinhole_model::PreprocessConfig;
use pinhole_preprocessing::{DecodeOptions, Image, Reduction, preprocess};

/// Decodes an image within 8 MiB, whole and reduced, and reads the middle of it.
pub(crate) fn decode(bytes: &[u8]) {
    let middle = PreprocessConfig::openai(8);
    for reduction in [None, Some(Reduction::to(&middle))] {
        let options = DecodeOptions {
            max_memory: 8 << 20,
            apply_orientation: true,
            reduction,
        };
        let Ok(image) = Image::decode(bytes, &options) else {
            return;
        };
        let of_image = preprocess(&middle, &image).ok();
        let image = image.into_rgb();
        let pixels = image.width as usize * image.height as usize;
        assert!(3 * pixels <= 8 << 20 && image.data.len() == 3 * pixels);
        assert_eq!(of_image, preprocess(&middle, &image).ok());
    }
}
