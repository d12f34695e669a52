//! Cross-entropy, -log softmax(logits)[label].

use candle_core::{D, Device, Result, Tensor};

/// The cross-entropy of each row of logits [n, C], [n, 1].
///
/// # Errors
/// Another shape; a label that is not below C.
pub fn cross_entropies(logits: &Tensor, labels: &[usize]) -> Result<Tensor> {
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let total = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    let normaliser = (total.log()? + max)?;
    let labels: Vec<u32> = labels.iter().map(|&label| label as u32).collect();
    let labels = Tensor::from_vec(labels, (logits.dim(0)?, 1), &Device::Cpu)?;
    normaliser - logits.gather(&labels, 1)?
}

/// The cross-entropy of one row of logits, and its gradient: probabilities, minus 1 at the label.
pub fn cross_entropy(logits: &[f64], label: usize) -> (f64, Vec<f64>) {
    let most = logits.iter().copied().fold(f64::MIN, f64::max);
    let mut slopes: Vec<f64> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f64 = slopes.iter().sum();
    slopes.iter_mut().for_each(|slope| *slope /= sum);
    slopes[label] -= 1.0;
    (sum.ln() + most - logits[label], slopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, methods that learn by one form of the loss and by the other learn different things.
    #[test]
    fn both_forms_agree() {
        let (rows, labels) = ([[1.0f32, -2.0, 0.5], [30.0, 31.0, -40.0]], [2, 0]);
        let logits = Tensor::new(&rows, &Device::Cpu).unwrap();
        let found = cross_entropies(&logits, &labels).unwrap();
        let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for ((row, label), found) in rows.iter().zip(labels).zip(found) {
            let (loss, slopes) = cross_entropy(&row.map(f64::from), label);
            assert!((loss - f64::from(found)).abs() < 1e-6, "{loss} {found}");
            assert!(slopes.iter().sum::<f64>().abs() < 1e-12 && slopes[label] < 0.0);
        }
    }
}
