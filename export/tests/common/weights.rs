//! Random weights for checkpoints.

use pinhole_model::Tensor;

/// Pseudo-random numbers that depend only on the tensor's name: gains near 1, matrices that keep the variance.
pub fn random(name: &str, shape: &[usize]) -> Tensor {
    let mut state = name.bytes().fold(1u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let count = shape.iter().product();
    let gain = name.contains("ln_") && name.ends_with("weight");
    let scale = if shape.len() > 1 {
        2.0 / (shape[shape.len() - 1] as f32).sqrt()
    } else {
        0.2
    };
    let data = (0..count)
        .map(|_| match name {
            "logit_scale" => 4.6,
            _ if gain => 1.0 + 0.2 * uniform(),
            _ => scale * uniform(),
        })
        .collect();
    Tensor {
        shape: shape.to_vec(),
        data,
    }
}
