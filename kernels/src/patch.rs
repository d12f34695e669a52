//! A vision transformer's first layer.

use crate::{Activation, PackedLinear, scratch};

/// Patch embedding of one image: a convolution whose stride is its kernel's side, straight from pixels.
///
/// `pixels` is u8 [height, width, 3], `weights` takes the patch * patch * 3 values of a patch as they lie in
/// the image (row, column, channel) in 0 ..= 255: scale, mean and deviation are folded into it. out is
/// [(height / patch) * (width / patch), weights.outputs()], patches in reading order.
pub fn patch_embedding(
    pixels: &[u8],
    height: usize,
    width: usize,
    patch: usize,
    weights: &PackedLinear,
    out: &mut [f32],
) {
    assert!(
        patch > 0 && height.is_multiple_of(patch) && width.is_multiple_of(patch),
        "{height} x {width} pixels do not divide into patches of {patch}"
    );
    assert_eq!(
        pixels.len(),
        height * width * 3,
        "pixels: [height, width, 3]"
    );
    assert_eq!(
        weights.inputs(),
        patch * patch * 3,
        "weights: one input a value of the patch"
    );
    let line = patch * 3;
    let patches = (height / patch) * (width / patch);
    scratch::with(pixels.len(), |rows| {
        let mut lines = rows.chunks_exact_mut(line);
        for band in pixels.chunks_exact((patch * width * 3).max(1)) {
            for x in (0..width * 3).step_by(line) {
                for (from, to) in band.chunks_exact(width * 3).zip(lines.by_ref().take(patch)) {
                    for (to, &from) in to.iter_mut().zip(&from[x..][..line]) {
                        *to = f32::from(from);
                    }
                }
            }
        }
        weights.apply(rows, patches, Activation::None, None, out);
    });
}
