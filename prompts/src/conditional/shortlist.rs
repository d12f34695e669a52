//! Shortlists: the first-order head picks a few classes, and the text encoder ranks them.

use std::time::{Duration, Instant};

use super::linear::LinearHead;
use super::{Conditional, check_len};
use crate::TextEncoder;
use crate::error::Error;

/// The similarities `[C]` of an image: exact for the top k classes of the first-order head, the head's for all others. A k
/// above C means all classes.
///
/// A class that was not picked ranks below every class that was: a head's similarity that reaches the smallest exact one
/// is replaced by the next smaller number. Of classes with equal similarities, the first in the list are picked.
///
/// # Errors
/// [`Error::Input`] for a head of other classes; those of [`Conditional::exact`].
pub fn shortlist(
    conditional: &Conditional,
    encoder: &TextEncoder,
    head: &LinearHead,
    embedding: &[f32],
    k: usize,
) -> Result<Vec<f32>, Error> {
    if k >= conditional.classes().len() {
        return conditional.similarities(encoder, embedding, None);
    }
    let linear = linear(conditional, head, embedding)?;
    let picked = first(&linear, k);
    if picked.is_empty() {
        return Ok(linear);
    }
    let exact = conditional.similarities(encoder, embedding, Some(&picked))?;
    Ok(merged(linear, &picked, &exact))
}

/// The head's similarities.
pub(super) fn linear(
    conditional: &Conditional,
    head: &LinearHead,
    embedding: &[f32],
) -> Result<Vec<f32>, Error> {
    let classes = conditional.classes().len();
    check_len("classes of the first-order head", head.classes(), classes)?;
    head.similarities(embedding, &conditional.hidden(embedding)?)
}

/// The indices of the k largest values, largest first; of equal values, the first.
pub(super) fn first(similarities: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..similarities.len()).collect();
    let before =
        |a: &usize, b: &usize| similarities[*b].total_cmp(&similarities[*a]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k, before);
        order.truncate(k);
    }
    order.sort_unstable_by(before);
    order
}

/// The shortlist's similarities, as [`shortlist`] defines them.
pub(super) fn merged(mut linear: Vec<f32>, picked: &[usize], exact: &[f32]) -> Vec<f32> {
    let least = exact.iter().copied().fold(f32::INFINITY, f32::min);
    let most = least.next_down();
    linear.iter_mut().for_each(|value| *value = value.min(most));
    for (&class, &similarity) in picked.iter().zip(exact) {
        linear[class] = similarity;
    }
    linear
}

/// How to compute an image's similarities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// By the first-order head only.
    Linear,
    /// By a [`shortlist`] of this length, below the number of classes.
    Shortlist(usize),
    /// By the text encoder only.
    Exact,
}

/// The time of the text side on one machine, in seconds: `fixed` per image and `per_class` for each class that the text
/// encoder computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// The hidden vector, the first-order head, the context's prefix, reading the encoder's weights.
    pub fixed: f64,
    /// Each class.
    pub per_class: f64,
}

impl Costs {
    /// Measures both on this machine with the current number of threads: the minimum of a few runs with one class, and with
    /// up to 16 classes.
    ///
    /// # Errors
    /// Those of [`Conditional::exact`].
    pub fn measure(conditional: &Conditional, encoder: &TextEncoder) -> Result<Self, Error> {
        const RUNS: usize = 3;
        // The time does not depend on the embedding's values.
        let mut embedding = vec![0.0; conditional.embedding()];
        embedding[0] = 1.0;
        let most = conditional.classes().len().min(16);
        let shortest = |count: usize| {
            let classes: Vec<usize> = (0..count).collect();
            let mut least = f64::INFINITY;
            // The first run is a warm-up.
            for _ in 0..=RUNS {
                let start = Instant::now();
                conditional.similarities(encoder, &embedding, Some(&classes))?;
                least = least.min(start.elapsed().as_secs_f64());
            }
            Ok::<_, Error>(least)
        };
        let one = shortest(1)?;
        let per_class = match most {
            1 => 0.0,
            _ => (shortest(most)? - one).max(0.0) / (most - 1) as f64,
        };
        Ok(Costs {
            fixed: (one - per_class).max(0.0),
            per_class,
        })
    }
}

/// Keeps the text side of a stream's images within a time budget: picks the longest shortlist that the measured costs
/// allow.
///
/// A slowdown factor follows the machine, which slows down when it is hot or busy: an exponential moving average with
/// weight 1/8 of measured time over expected time. While the budget allows no class at all, nothing is measured, and the
/// factor decays towards 1 by 1/64 per image. The plan depends on the costs and the recorded times only.
#[derive(Clone, Debug)]
pub struct Auto {
    budget: f64,
    classes: usize,
    costs: Costs,
    /// Slowdown factor: measured time over the time that the costs give.
    slowdown: f64,
}

impl Auto {
    /// A budget per image for a list of `classes` classes.
    pub fn new(budget: Duration, classes: usize, costs: Costs) -> Self {
        Auto {
            budget: budget.as_secs_f64(),
            classes,
            costs,
            slowdown: 1.0,
        }
    }

    /// The best plan within the budget: all classes, else the longest shortlist, else the first-order head only.
    pub fn plan(&self) -> Plan {
        let fits = |k: usize| self.expected(k) <= self.budget;
        if self.classes == 0 || !fits(1) {
            return Plan::Linear;
        }
        if fits(self.classes) {
            return Plan::Exact;
        }
        let per_class = self.costs.per_class * self.slowdown;
        let most = (self.budget - self.costs.fixed * self.slowdown) / per_class;
        // Rounding of the division must neither exceed the budget nor give a shortlist of all classes.
        let mut k = (most as usize).clamp(1, self.classes - 1);
        while k > 1 && !fits(k) {
            k -= 1;
        }
        Plan::Shortlist(k)
    }

    /// Records the time of an image computed by this plan.
    pub fn record(&mut self, plan: Plan, took: Duration) {
        let k = match plan {
            Plan::Linear => {
                self.slowdown += (1.0 - self.slowdown) / 64.0;
                return;
            }
            Plan::Shortlist(k) => k,
            Plan::Exact => self.classes,
        };
        let expected = self.costs.fixed + k as f64 * self.costs.per_class;
        if expected > 0.0 {
            // Bounds the effect of an outlier, such as an image that waited for the disk.
            let measured =
                (took.as_secs_f64() / expected).clamp(self.slowdown / 4.0, self.slowdown * 4.0);
            self.slowdown += (measured - self.slowdown) / 8.0;
        }
    }

    /// The expected time in seconds for k classes.
    pub fn expected(&self, k: usize) -> f64 {
        self.slowdown * (self.costs.fixed + k as f64 * self.costs.per_class)
    }

    /// The similarities of the next image by the current plan, and the plan; records the time.
    ///
    /// # Errors
    /// Those of [`shortlist`].
    pub fn similarities(
        &mut self,
        conditional: &Conditional,
        encoder: &TextEncoder,
        head: &LinearHead,
        embedding: &[f32],
    ) -> Result<(Vec<f32>, Plan), Error> {
        check_len("classes", conditional.classes().len(), self.classes)?;
        let (plan, start) = (self.plan(), Instant::now());
        let similarities = match plan {
            Plan::Linear => linear(conditional, head, embedding)?,
            Plan::Shortlist(k) => shortlist(conditional, encoder, head, embedding, k)?,
            Plan::Exact => conditional.similarities(encoder, embedding, None)?,
        };
        self.record(plan, start.elapsed());
        Ok((similarities, plan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picked_come_first_in_their_exact_order() {
        let linear = vec![0.30, 0.10, 0.29, 0.29, 0.05];
        let picked = first(&linear, 3);
        assert_eq!(picked, [0, 2, 3]);
        let found = merged(linear.clone(), &picked, &[0.17, 0.12, 0.33]);
        assert_eq!(found, [0.17, 0.10, 0.12, 0.33, 0.05]);
        // A class that the head's error would rank above a picked class stays below it.
        let found = merged(linear, &picked, &[0.5, 0.08, 0.6]);
        assert_eq!(found, [0.5, 0.08f32.next_down(), 0.08, 0.6, 0.05]);
        assert_eq!(first(&[0.1, 0.2], 5), [1, 0]);
    }

    #[test]
    fn the_plan_is_the_best_within_the_budget() {
        let costs = Costs {
            fixed: 0.010,
            per_class: 0.002,
        };
        let auto = |milliseconds| Auto::new(Duration::from_millis(milliseconds), 100, costs);
        assert_eq!(auto(11).plan(), Plan::Linear);
        assert_eq!(auto(12).plan(), Plan::Shortlist(1));
        assert_eq!(auto(31).plan(), Plan::Shortlist(10));
        assert_eq!(auto(209).plan(), Plan::Shortlist(99));
        assert_eq!(auto(211).plan(), Plan::Exact);
        assert_eq!(auto(0).plan(), Plan::Linear);
        let none = Costs {
            fixed: 0.0,
            per_class: 0.0,
        };
        assert_eq!(Auto::new(Duration::ZERO, 3, none).plan(), Plan::Exact);
    }

    #[test]
    fn shortlists_shrink_on_a_slow_machine_and_recover() {
        let costs = Costs {
            fixed: 0.010,
            per_class: 0.002,
        };
        let mut auto = Auto::new(Duration::from_millis(31), 100, costs);
        let mut run = |slowness: f64, images: usize| {
            for _ in 0..images {
                let plan = auto.plan();
                let k = match plan {
                    Plan::Linear => 0.0,
                    Plan::Shortlist(k) => k as f64,
                    Plan::Exact => 100.0,
                };
                let took = slowness * (costs.fixed + k * costs.per_class);
                auto.record(plan, Duration::from_secs_f64(took));
            }
            auto.plan()
        };
        assert_eq!(run(1.0, 50), Plan::Shortlist(10));
        // At half the speed, 31 ms correspond to 15.5.
        assert_eq!(run(2.0, 100), Plan::Shortlist(2));
        assert_eq!(run(1.0, 200), Plan::Shortlist(10));
        // Too slow for any class; the factor's decay makes it try again.
        assert_eq!(run(8.0, 30), Plan::Linear);
        assert_eq!(run(1.0, 500), Plan::Shortlist(10));
    }
}
