//! Pixels as the rows that the patch embedding takes.

use candle_core::{Device, Tensor};
use pinhole_model::PreprocessConfig;
use pinhole_preprocessing::Pixels;

use crate::{Error, Result};

/// Images [size, size, 3] in 0..255 as f32 [images, patches, 3 * patch * patch]: scaled to 0..1,
/// less the mean, over the standard deviation; patches row by row, and in each the order of a
/// convolution weight (channel, row, column).
///
/// # Errors
/// Where an image is not of the rule's size, or `patch` does not divide it.
pub fn patches(images: &[Pixels], rule: &PreprocessConfig, patch: usize) -> Result<Tensor> {
    let size = rule.size as usize;
    if patch == 0 || !size.is_multiple_of(patch) {
        return Err(Error::Config(format!(
            "patches of {patch} pixels do not tile images of {size}"
        )));
    }
    let (side, length) = (size / patch, 3 * patch * patch);
    let scale = rule.std.map(|s| 1.0 / (255.0 * s));
    let offset = [0, 1, 2].map(|c| -rule.mean[c] / rule.std[c]);
    let mut rows = Vec::with_capacity(images.len() * size * size * 3);
    for image in images {
        if image.size as usize != size || image.data.len() != size * size * 3 {
            return Err(Error::Config(format!(
                "an image of {} pixels ({} bytes) where the model takes {size}",
                image.size,
                image.data.len()
            )));
        }
        for py in 0..side {
            for px in 0..side {
                for c in 0..3 {
                    for y in py * patch..(py + 1) * patch {
                        let start = (y * size + px * patch) * 3;
                        let line = &image.data[start..start + patch * 3];
                        rows.extend(
                            line.chunks_exact(3)
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
