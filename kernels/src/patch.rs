//! A vision transformer's first layer.

use crate::{Input, PackedLinear, PackedLinearF16, PackedLinearInt8, scratch};

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
    check(pixels, height, width, patch, weights.inputs());
    scratch::with(pixels.len(), |rows| {
        let patches = gather(pixels, width, patch, rows, f32::from);
        weights.apply(rows, patches, None, None, out);
    });
}

/// As [`patch_embedding`] in 8-bit integers: a pixel is multiplied as it is and counts `scale`.
pub fn patch_embedding_int8(
    pixels: &[u8],
    height: usize,
    width: usize,
    patch: usize,
    weights: &PackedLinearInt8,
    scale: f32,
    out: &mut [f32],
) {
    check(pixels, height, width, patch, weights.inputs());
    scratch::with(pixels.len(), |rows| {
        let patches = gather(pixels, width, patch, rows, |pixel| pixel);
        let x = Input::U8 { x: rows, scale };
        weights.apply(x, patches, None, None, out);
    });
}

/// As [`patch_embedding`] in f16, which holds a pixel's value: it is multiplied as it is and counts `scale`.
pub fn patch_embedding_f16(
    pixels: &[u8],
    height: usize,
    width: usize,
    patch: usize,
    weights: &PackedLinearF16,
    scale: f32,
    out: &mut [f32],
) {
    check(pixels, height, width, patch, weights.inputs());
    scratch::with(pixels.len(), |rows| {
        let patches = gather(pixels, width, patch, rows, f32::from);
        weights.apply_scaled(rows, patches, scale, None, None, out);
    });
}

fn check(pixels: &[u8], height: usize, width: usize, patch: usize, inputs: usize) {
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
        inputs,
        patch * patch * 3,
        "weights: one input a value of the patch"
    );
}

/// One row of `rows` for each patch, in reading order; gives their number.
fn gather<T>(
    pixels: &[u8],
    width: usize,
    patch: usize,
    rows: &mut [T],
    value: impl Fn(u8) -> T,
) -> usize {
    let line = patch * 3;
    let mut lines = rows.chunks_exact_mut(line);
    for band in pixels.chunks_exact((patch * width * 3).max(1)) {
        for x in (0..width * 3).step_by(line) {
            for (from, to) in band.chunks_exact(width * 3).zip(lines.by_ref().take(patch)) {
                for (to, &from) in to.iter_mut().zip(&from[x..][..line]) {
                    *to = value(from);
                }
            }
        }
    }
    pixels.len() / (line * patch)
}
