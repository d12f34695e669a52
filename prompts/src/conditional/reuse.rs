//! Reuse of class embeddings from one image of a stream to the next.

use pinhole_kernels::PackedLinear;
use pinhole_model::dot;

use super::{Conditional, check_embedding};
use crate::TextEncoder;
use crate::error::Error;

/// Class embeddings of an earlier image of a stream, reused while the shift pi stays within a bound.
///
/// Let L be a Lipschitz constant: |t_c(pi) - t_c(pi')| <= L |pi - pi'| for the unit class embeddings t_c of every class. An
/// image's embedding f has norm 1, so each similarity f · t_c(pi) differs from that with the kept class embedding,
/// f · t_c(pi'), by at most e = L |pi - pi'| (Cauchy-Schwarz). Two similarities that differ by more than 2 e keep their
/// order, and the error of a logit is at most the logit scale times e. The kept class embeddings are therefore reused while
/// the margin between the first two classes exceeds 2 e and the logit scale times e is within the tolerance.
///
/// L is measured on calibration images ([`super::Fit::movement`]), not proven: on images unlike them it may be larger.
#[derive(Debug)]
pub struct Reuse {
    movement: f32,
    logit_scale: f32,
    tolerance: f32,
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    shift: Vec<f32>,
    class_embeddings: PackedLinear,
}

/// The similarities of an image of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Reused {
    /// `[C]`
    pub similarities: Vec<f32>,
    /// Bound of their error; 0 if the text encoder ran for this image.
    pub error: f32,
    /// Whether kept class embeddings were used instead of the text encoder.
    pub reused: bool,
}

impl Reuse {
    /// `movement` is L; `tolerance` is the largest accepted error of a logit, which is `logit_scale` times a similarity.
    /// With an infinite tolerance only the margin counts.
    ///
    /// # Errors
    /// [`Error::Reuse`] for a negative or non-finite movement or scale, or a negative or NaN tolerance.
    pub fn new(movement: f32, logit_scale: f32, tolerance: f32) -> Result<Self, Error> {
        for (field, value, most) in [
            ("movement", movement, f32::MAX),
            ("logit scale", logit_scale, f32::MAX),
            ("tolerance", tolerance, f32::INFINITY),
        ] {
            // Written so that NaN fails.
            if !(0.0..=most).contains(&value) {
                return Err(Error::Reuse { field, value });
            }
        }
        Ok(Reuse {
            movement,
            logit_scale,
            tolerance,
            kept: None,
        })
    }

    /// The similarities of the stream's next image, given by its L2-normalised embedding: with the kept class embeddings
    /// if the bound allows, else with new ones, which are then kept.
    ///
    /// # Errors
    /// Those of [`Conditional::exact`]; the kept class embeddings are dropped.
    pub fn similarities(
        &mut self,
        conditional: &Conditional,
        encoder: &TextEncoder,
        embedding: &[f32],
    ) -> Result<Reused, Error> {
        check_embedding(embedding, conditional.embedding())?;
        let shift = conditional.shift(&conditional.hidden(embedding)?)?;
        let classes = conditional.classes().len();
        if let Some(kept) = &self.kept
            && kept.shift.len() == shift.len()
            && kept.class_embeddings.outputs() == classes
        {
            let error = self.movement * distance(&shift, &kept.shift);
            let similarities = kept.similarities(embedding);
            if margin(&similarities) > 2.0 * error && self.logit_scale * error <= self.tolerance {
                return Ok(Reused {
                    similarities,
                    error,
                    reused: true,
                });
            }
        }
        self.kept = None;
        let exact = conditional.exact_shifted(encoder, &shift, None)?;
        let kept = Kept {
            shift,
            class_embeddings: PackedLinear::from_out_in(&exact, classes, embedding.len(), None),
        };
        let similarities = kept.similarities(embedding);
        self.kept = Some(kept);
        Ok(Reused {
            similarities,
            error: 0.0,
            reused: false,
        })
    }
}

impl Kept {
    fn similarities(&self, embedding: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.class_embeddings.outputs()];
        self.class_embeddings
            .apply(embedding, 1, None, None, &mut out);
        out
    }
}

/// Difference between the largest and the second largest value; infinite for a single one.
fn margin(similarities: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &value in similarities {
        if value > first {
            (first, second) = (value, first);
        } else {
            second = second.max(value);
        }
    }
    first - second
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let apart: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    dot(&apart, &apart).sqrt()
}

/// Measures L over pairs of calibration images: each image with the previous one and with a few anchors. The images are
/// ordered by short steps, since near pairs have the steepest slopes.
pub(super) struct Movement<'a> {
    shifts: &'a [Vec<f32>],
    order: Vec<usize>,
    /// Shorter distances are skipped: they measure f32 rounding rather than a slope.
    least: f32,
    anchors: Vec<(usize, Vec<f32>)>,
    previous: Option<(usize, Vec<f32>)>,
    added: usize,
    bound: f32,
}

/// Images whose class embeddings are compared with those of all later ones.
const ANCHORS: usize = 8;

impl<'a> Movement<'a> {
    pub(super) fn new(shifts: &'a [Vec<f32>]) -> Self {
        // Greedy order: next is the nearest remaining image.
        let mut order: Vec<usize> = (0..shifts.len()).collect();
        for i in 1..order.len() {
            let from = &shifts[order[i - 1]];
            let near = |&a: &usize, &b: &usize| {
                distance(&shifts[order[a]], from).total_cmp(&distance(&shifts[order[b]], from))
            };
            let nearest = (i..order.len()).min_by(near).unwrap_or(i);
            order.swap(i, nearest);
        }
        let farthest = shifts.iter().map(|s| distance(s, &shifts[0]));
        let least = 1e-3 * farthest.fold(0.0, f32::max);
        Movement {
            shifts,
            order,
            least,
            anchors: Vec::new(),
            previous: None,
            added: 0,
            bound: 0.0,
        }
    }

    /// The order in which to add the images.
    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }

    /// Adds the class embeddings [C, D] of an image.
    pub(super) fn add(&mut self, image: usize, exact: Vec<f32>, dim: usize) {
        for (other, known) in self.anchors.iter().chain(&self.previous) {
            let moved = distance(&self.shifts[image], &self.shifts[*other]);
            if moved <= self.least || moved == 0.0 {
                continue;
            }
            let classes = exact.chunks_exact(dim).zip(known.chunks_exact(dim));
            let farthest = classes.map(|(a, b)| distance(a, b)).fold(0.0, f32::max);
            self.bound = self.bound.max(farthest / moved);
        }
        let step = self.order.len().div_ceil(ANCHORS);
        if self.added.is_multiple_of(step) {
            self.anchors.push((image, exact.clone()));
        }
        self.previous = Some((image, exact));
        self.added += 1;
    }

    pub(super) fn bound(&self) -> f32 {
        self.bound
    }
}
