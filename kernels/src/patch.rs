//! A vision transformer's first layer.

use crate::{Activation, PackedLinear};

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
    let mut rows = Vec::with_capacity(pixels.len());
    for band in pixels.chunks_exact((patch * width * 3).max(1)) {
        for x in (0..width).step_by(patch) {
            for line in band.chunks_exact(width * 3) {
                rows.extend(line[x * 3..][..patch * 3].iter().map(|&v| f32::from(v)));
            }
        }
    }
    let patches = (height / patch) * (width / patch);
    weights.apply(&rows, patches, Activation::None, None, out);
}
