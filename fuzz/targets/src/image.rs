//! Encoded images.

use pinhole_preprocessing::DecodeOptions;

/// Decodes an image of at most a million pixels.
pub(crate) fn decode(bytes: &[u8]) {
    let options = DecodeOptions {
        max_pixels: 1 << 20,
        apply_orientation: true,
    };
    if let Ok(image) = pinhole_preprocessing::decode(bytes, &options) {
        let pixels = image.width as usize * image.height as usize;
        assert!(pixels <= 1 << 20 && image.data.len() == 3 * pixels);
    }
}
