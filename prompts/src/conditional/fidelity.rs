//! Fidelity of the cheaper modes to the exact one.

use pinhole_model::Agreement;

use super::Conditional;
use super::fit::image_rows;
use super::linear::LinearHead;
use super::shortlist::{first, linear, merged};
use crate::TextEncoder;
use crate::error::Error;

/// Fidelity of the first-order head and of shortlists, for the manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionalFidelity {
    /// Number of images.
    pub images: usize,
    /// Agreement of the first-order head.
    pub linear: Agreement,
    /// Agreement of shortlists, by their length.
    pub shortlists: Vec<(usize, Agreement)>,
}

/// Compares the first-order head, and shortlists of the given lengths, with the exact similarities on images given by their
/// L2-normalised embeddings [N, D], which should be held-out images, not those of the fit. Logits are similarities times
/// `logit_scale`. The text encoder runs once per image. `progress` is called with the number of images done and their
/// total, first with 0.
///
/// # Errors
/// [`Error::Input`] for no images, values that are not rows of D, or a head of other classes; those of
/// [`Conditional::exact`].
pub fn fidelity(
    conditional: &Conditional,
    encoder: &TextEncoder,
    head: &LinearHead,
    embeddings: &[f32],
    logit_scale: f32,
    shortlists: &[usize],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ConditionalFidelity, Error> {
    let images = image_rows(conditional, embeddings)?;
    let mut of_linear = Sums::default();
    let mut of_shortlists = vec![Sums::default(); shortlists.len()];
    progress(0, images.len());
    for (done, image) in images.iter().enumerate() {
        let exact = conditional.similarities(encoder, image, None)?;
        let linear = linear(conditional, head, image)?;
        of_linear.add(&exact, &linear, logit_scale);
        for (&k, sums) in shortlists.iter().zip(&mut of_shortlists) {
            // The exact similarity of a class does not depend on the other classes.
            let picked = first(&linear, k);
            let of_picked: Vec<f32> = picked.iter().map(|&class| exact[class]).collect();
            let merged = match picked.is_empty() {
                true => linear.clone(),
                false => merged(linear.clone(), &picked, &of_picked),
            };
            sums.add(&exact, &merged, logit_scale);
        }
        progress(done + 1, images.len());
    }
    let means = of_shortlists.iter().map(|sums| sums.mean(images.len()));
    Ok(ConditionalFidelity {
        images: images.len(),
        linear: of_linear.mean(images.len()),
        shortlists: shortlists.iter().copied().zip(means).collect(),
    })
}

/// Sums over images for an [`Agreement`].
#[derive(Clone, Copy, Default)]
struct Sums {
    top1: usize,
    largest: f64,
    mean: f64,
}

impl Sums {
    fn add(&mut self, exact: &[f32], other: &[f32], logit_scale: f32) {
        self.top1 += usize::from(first(exact, 1) == first(other, 1));
        let (mut largest, mut sum) = (0.0f64, 0.0);
        for (e, o) in exact.iter().zip(other) {
            let apart = f64::from(logit_scale * (e - o).abs());
            largest = largest.max(apart);
            sum += apart;
        }
        self.largest = self.largest.max(largest);
        self.mean += sum / exact.len() as f64;
    }

    fn mean(&self, images: usize) -> Agreement {
        Agreement {
            top1: (self.top1 as f64 / images as f64) as f32,
            largest_logit_difference: self.largest as f32,
            mean_logit_difference: (self.mean / images as f64) as f32,
        }
    }
}
