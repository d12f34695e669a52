//! How faithful the cheaper ways are to the exact one.

use super::Conditional;
use super::fit::image_rows;
use super::linear::LinearHead;
use super::shortlist::{first, linear, merged};
use crate::TextTower;
use crate::error::Error;

/// Agreement with the exact similarities over some images.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Agreement {
    /// The share of images with the same first class.
    pub top1: f64,
    /// The largest difference of a logit, over all images and classes.
    pub largest: f64,
    /// The mean difference of a logit.
    pub mean: f64,
}

/// What an exporter writes beside the head.
#[derive(Clone, Debug, PartialEq)]
pub struct Fidelity {
    /// The images.
    pub images: usize,
    /// Of the first-order head.
    pub linear: Agreement,
    /// Of shortlists, by their length.
    pub shortlists: Vec<(usize, Agreement)>,
}

/// Compares the first-order head and shortlists of some lengths with the exact similarities, for images
/// given by their L2-normalised embeddings [N, D]: better others than those that the head was fitted to.
/// Logits are similarities times `logit_scale`. Each image goes through the text tower once, and nothing
/// of it is kept. `progress` is called with the number of images done and the number of all, first at 0.
///
/// # Errors
/// [`Error::Input`] for no images, values that are not rows of D, or a head of other classes; those of
/// [`Conditional::exact`].
pub fn fidelity(
    conditional: &Conditional,
    tower: &TextTower,
    head: &LinearHead,
    embeddings: &[f32],
    logit_scale: f32,
    shortlists: &[usize],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Fidelity, Error> {
    let images = image_rows(conditional, embeddings)?;
    let mut found = Fidelity {
        images: images.len(),
        linear: Agreement::default(),
        shortlists: shortlists
            .iter()
            .map(|&k| (k, Agreement::default()))
            .collect(),
    };
    progress(0, images.len());
    for (done, image) in images.iter().enumerate() {
        let exact = conditional.similarities(tower, image, None)?;
        let linear = linear(conditional, head, image)?;
        found.linear.add(&exact, &linear, logit_scale);
        for (k, agreement) in &mut found.shortlists {
            // A class's exact similarity is the same among few classes and among all.
            let picked = first(&linear, *k);
            let of_picked: Vec<f32> = picked.iter().map(|&class| exact[class]).collect();
            let merged = match picked.is_empty() {
                true => linear.clone(),
                false => merged(linear.clone(), &picked, &of_picked),
            };
            agreement.add(&exact, &merged, logit_scale);
        }
        progress(done + 1, images.len());
    }
    let shortlists = found.shortlists.iter_mut().map(|(_, agreement)| agreement);
    for agreement in shortlists.chain([&mut found.linear]) {
        agreement.top1 /= images.len() as f64;
        agreement.mean /= images.len() as f64;
    }
    Ok(found)
}

impl Agreement {
    fn add(&mut self, exact: &[f32], other: &[f32], logit_scale: f32) {
        self.top1 += f64::from(u8::from(first(exact, 1) == first(other, 1)));
        let (mut largest, mut sum) = (0.0f64, 0.0);
        for (e, o) in exact.iter().zip(other) {
            let apart = f64::from(logit_scale * (e - o).abs());
            largest = largest.max(apart);
            sum += apart;
        }
        self.largest = self.largest.max(largest);
        self.mean += sum / exact.len() as f64;
    }
}
