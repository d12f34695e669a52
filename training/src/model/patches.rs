//! Pixels as the input rows of the patch embedding.

use candle_core::{Device, Tensor};
use pinhole_model::PreprocessConfig;
use pinhole_preprocessing::Pixels;

use crate::{Error, Result};

/// Images [size, size, 3] in 0..255 as f32 [images, patches, 3 * patch * patch]: scaled to 0..1 and
/// normalised by mean and standard deviation. Patches are row by row, each in the order of a convolution
/// weight (channel, row, column).
///
/// # Errors
/// For an image of another size than the configuration's, or a size that `patch` does not divide.
pub fn patches(
    images: &[Pixels],
    preprocessing: &PreprocessConfig,
    patch: usize,
) -> Result<Tensor> {
    let size = preprocessing.size as usize;
    if patch == 0 || !size.is_multiple_of(patch) {
        return Err(Error::Config(format!(
            "patches of {patch} pixels do not tile images of {size}"
        )));
    }
    let (side, length) = (size / patch, 3 * patch * patch);
    let scale = preprocessing.std.map(|s| 1.0 / (255.0 * s));
    let offset = [0, 1, 2].map(|c| -preprocessing.mean[c] / preprocessing.std[c]);
    let mut rows = Vec::with_capacity(images.len() * size * size * 3);
    for image in images {
        if image.size as usize != size || image.data.len() != size * size * 3 {
            return Err(Error::Config(format!(
                "image size: expected {size} x {size} pixels, found {} ({} bytes)",
                image.size,
                image.data.len()
            )));
        }
        for py in 0..side {
            for px in 0..side {
                for c in 0..3 {
                    for y in py * patch..(py + 1) * patch {
                        let start = (y * size + px * patch) * 3;
                        let row = &image.data[start..start + patch * 3];
                        rows.extend(
                            row.chunks_exact(3)
                                .map(|p| f32::from(p[c]) * scale[c] + offset[c]),
                        );
                    }
                }
            }
        }
    }
    let shape = (images.len(), side * side, length);
    Ok(Tensor::from_vec(rows, shape, &Device::Cpu)?)
}
