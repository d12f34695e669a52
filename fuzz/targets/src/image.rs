//! Encoded images.

use pinhole_preprocessing::DecodeOptions;

/// Decodes an image within 8 MiB.
pub(crate) fn decode(bytes: &[u8]) {
    let options = DecodeOptions {
        max_memory: 8 << 20,
        apply_orientation: true,
    };
    if let Ok(image) = pinhole_preprocessing::decode(bytes, &options) {
        let pixels = image.width as usize * image.height as usize;
        assert!(3 * pixels <= 8 << 20 && image.data.len() == 3 * pixels);
    }
}
