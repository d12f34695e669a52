//! Patch embedding, a vision transformer's first layer.

use crate::half::PackedLinearF16;
use crate::int8::{Int8Input, PackedLinearInt8};
use crate::linear::PackedLinear;
use crate::scratch;

/// Patch embedding of one image: a convolution whose stride equals its kernel size.
///
/// `pixels` is u8 [height, width, 3]. `weights` has patch * patch * 3 inputs in the order row, column, channel, each in
/// 0 ..= 255: scale, mean and deviation are folded into it. out is [(height / patch) * (width / patch), weights.outputs()],
/// patches in row-major order.
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

/// As [`patch_embedding`] in 8-bit integers; products of pixels and weights are multiplied by `scale`.
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
        let x = Int8Input::U8 { x: rows, scale };
        weights.apply(x, patches, None, None, out);
    });
}

/// As [`patch_embedding`] in f16, which represents pixels exactly; products are multiplied by `scale`.
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
        "pixels: expected a multiple of {patch} in height and width, found {height} x {width}"
    );
    assert_eq!(
        pixels.len(),
        height * width * 3,
        "pixels: [height, width, 3]"
    );
    assert_eq!(
        inputs,
        patch * patch * 3,
        "weights: one input per value of a patch"
    );
}

/// Copies each patch into a row of `rows`, in row-major order; returns the number of patches.
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
