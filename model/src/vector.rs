//! Arithmetic of embeddings, for those that have no kernels.

/// The dot product of `a` and `b`, which have equal length, in eight partial sums that fit vector registers.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_products_of_every_remainder() {
        for length in 0..20 {
            let a: Vec<f32> = (0..length).map(|i| i as f32 - 4.0).collect();
            let b: Vec<f32> = (0..length).map(|i| 2.0 * i as f32 + 1.0).collect();
            let expected: i32 = (0..length).map(|i| (i - 4) * (2 * i + 1)).sum();
            assert_eq!(dot(&a, &b), expected as f32, "{length}");
        }
    }
}
