//! Pseudo-random numbers of tests/reference/numbers_by_index.py.

use pinhole_model::Tensor;

/// `count` numbers in -1..1 that depend on a tensor's name and the index in it.
pub(crate) fn uniform(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(0x811c_9dc5u32, |seed, byte| {
        (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let value = |i: u32| {
        let mut x = i.wrapping_mul(2_654_435_761).wrapping_add(seed);
        x ^= x >> 16;
        x = x.wrapping_mul(0x7feb_352d);
        x ^= x >> 15;
        x = x.wrapping_mul(0x846c_a68b);
        x ^= x >> 16;
        (x >> 8) as f32 * (2f32).powi(-23) - 1.0
    };
    (0..count as u32).map(value).collect()
}

/// A tensor of CLIP.
pub(crate) fn weight(name: &str, shape: &[usize]) -> Tensor {
    let scale = match shape.len() < 2 || name.contains("embedding") {
        true => 0.125,
        false => 0.25,
    };
    let norm = name.contains(".ln_") || name.starts_with("ln_");
    let value = |u: f32| match () {
        () if name == "logit_scale" => 3.0,
        () if norm && name.ends_with("weight") => u * 0.125 + 1.0,
        () if norm => u * 0.125 + 0.0,
        () => u * scale,
    };
    let numbers = uniform(name, shape.iter().product());
    Tensor {
        shape: shape.to_vec(),
        data: numbers.into_iter().map(value).collect(),
    }
}
