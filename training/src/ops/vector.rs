//! Arithmetic on slices of f32 that the compiler vectorises.

/// Runs `f` compiled for the machine's widest vectors. Nothing is contracted or reordered, so the result
/// does not depend on them.
pub(super) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// e^x within 2 units in the last place for x in -87..88; clamped outside.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.3, 88.0);
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let integer = shifted - 12_582_912.0;
    let r = x - integer * 0.693_359_4 + integer * 2.121_944_4e-4;
    let mut y = 1.987_569_1e-4f32;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
        1.0,
        1.0,
    ] {
        y = y * r + c;
    }
    let exponent = shifted.to_bits().wrapping_add(127) << 23;
    y * f32::from_bits(exponent)
}

#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The gradient of the input of x * sigmoid(1.702 x).
#[inline(always)]
pub(super) fn quick_gelu_gradient(x: &[f32], grad: &[f32], out: &mut [f32]) {
    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
        let s = sigmoid(1.702 * x);
        *out = grad * s * (1.0 + 1.702 * x * (1.0 - s));
    }
}

/// The sum of `f` over a slice, in sixteen interleaved partial sums: an order that vectorises.
#[inline(always)]
pub(super) fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = values.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The inner product, in the order of [`sum`].
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest = a16.remainder().iter().zip(b16.remainder());
    let rest: f32 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in a16.zip(b16) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Mean and reciprocal standard deviation of a row, with a layer norm's epsilon of 1e-5.
#[inline(always)]
pub(super) fn norm_moments(row: &[f32]) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = sum(row, |x| x) / count;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + 1e-5).sqrt())
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_accurate_to_a_few_units() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!(
                (f64::from(exp(x)) / exact - 1.0).abs() < 3e-7,
                "{x}: {} {exact}",
                exp(x)
            );
        }
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }
}
