//! Wider pixels to RGB.

/// Keeps the first three bytes of each `stride` bytes, in place: a second buffer would exceed the memory limit.
pub(super) fn keep_rgb(data: &mut Vec<u8>, stride: usize) {
    let pixels = data.len() / stride;
    for pixel in 0..pixels {
        data.copy_within(pixel * stride..pixel * stride + 3, pixel * 3);
    }
    data.truncate(pixels * 3);
}
