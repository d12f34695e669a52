//! The choice of a head by leave-one-out accuracy.
//!
//! For each kind of head, and each value of its few parameters, every example is classified by the head that the others
//! give. Pictures of one burst are nearly the same, so that they are left out together, if their class has examples beside
//! them. The head with the most correct answers is taken; of several, the one under which the right answers are most
//! likely (at the best temperature of each).

use std::collections::{HashMap, HashSet};
use std::fmt;

use pinhole_bundle::{CacheTerms, HeadForm};
use pinhole_kernels::l2_normalize;
use pinhole_model::dot;

use super::ridge::{Ridge, add_scaled, products};
use crate::calibration::{CalibrationLabel, LabelledAnswer, Logits, mean_loss};

/// The kinds of heads that teaching chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaughtHead {
    /// Class embeddings of texts alone.
    ZeroShot,
    /// The normalised mean of each class's examples (Snell et al., 2017).
    Prototypes,
    /// Class embeddings, and the examples themselves (Tip-Adapter, Zhang et al., 2022).
    Cache,
    /// A linear classifier, fitted by ridge regression from the class embeddings of texts, if there are any, or from zero.
    Linear,
}

impl fmt::Display for TaughtHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroShot => "zero-shot",
            Self::Prototypes => "prototypes",
            Self::Cache => "cache",
            Self::Linear => "linear",
        })
    }
}

/// What there is to fit a head to.
pub(super) struct Shown<'a> {
    /// D.
    pub size: usize,
    /// For each class its class embedding by a text, if it has one.
    pub texts: Vec<Option<&'a [f32]>>,
    pub examples: Vec<Example<'a>>,
    /// Embeddings of images of any class.
    pub background: Vec<&'a [f32]>,
    pub logits: Logits,
}

/// An example of a class.
#[derive(Clone, Copy)]
pub(super) struct Example<'a> {
    /// Of norm 1, `[D]`.
    pub embedding: &'a [f32],
    pub class: usize,
    /// The number of its burst, if it was shown in one.
    pub burst: Option<u64>,
}

/// Examples of one class that are left out together.
struct Group {
    class: usize,
    /// Their indices.
    members: Vec<usize>,
    /// The sum of their embeddings, `[D]`.
    sum: Vec<f32>,
}

/// The chosen head.
pub(super) struct Chosen {
    pub kind: TaughtHead,
    /// `[C, D]`, each of norm 1; empty for [`TaughtHead::Linear`].
    pub class_embeddings: Vec<f32>,
    pub form: HeadForm,
    /// The similarities of each example by the head that those of other groups give, `[N, C]`.
    pub held_out: Vec<f32>,
    /// The leave-one-out accuracy of the best head of each kind that is possible.
    pub accuracies: Vec<(TaughtHead, f32)>,
}

/// A head with its parameters, and its similarities of each example without its group, `[N, C]`.
#[derive(Clone)]
struct Candidate {
    kind: TaughtHead,
    held_out: Vec<f32>,
    parts: Parts,
}

#[derive(Clone)]
enum Parts {
    ClassEmbeddings(Vec<f32>),
    Cache {
        class_embeddings: Vec<f32>,
        weight: f32,
        sharpness: f32,
    },
    Linear {
        weight: Vec<f32>,
        bias: Vec<f32>,
    },
}

/// Penalties of the ridge regression, in examples.
const RIDGES: [f32; 5] = [0.1, 0.3, 1.0, 3.0, 10.0];
/// Weights of the cache, in similarity, and its sharpness.
const CACHE_WEIGHTS: [f32; 4] = [0.01, 0.03, 0.1, 0.3];
const CACHE_SHARPNESS: [f32; 4] = [2.0, 5.5, 12.0, 25.0];

impl Shown<'_> {
    /// The best head. Each class has a text or an example.
    pub(super) fn choose(&self) -> Chosen {
        let mut best: Option<(usize, f32, Candidate)> = None;
        let mut accuracies: Vec<(TaughtHead, usize)> = vec![];
        self.candidates(&mut |candidate| {
            let right = self
                .right(&candidate.held_out)
                .filter(|right| *right)
                .count();
            match accuracies
                .iter_mut()
                .find(|(kind, _)| *kind == candidate.kind)
            {
                Some((_, most)) => *most = right.max(*most),
                None => accuracies.push((candidate.kind, right)),
            }
            if best.as_ref().is_some_and(|(most, ..)| right < *most) {
                return;
            }
            let loss = mean_loss(&self.answers(&candidate.held_out), self.logits.scale);
            let is_better =
                (best.as_ref()).is_none_or(|(most, least, _)| right > *most || loss < *least);
            if is_better {
                best = Some((right, loss, candidate));
            }
        });
        let count = self.examples.len().max(1) as f32;
        let candidate = match best {
            Some((.., candidate)) => candidate,
            // Not reached: a class without a text has an example, so that there are prototypes.
            None => self.zero_shot(&self.groups()),
        };
        let (class_embeddings, form) = self.head(candidate.parts);
        Chosen {
            kind: candidate.kind,
            class_embeddings,
            form,
            held_out: candidate.held_out,
            accuracies: (accuracies.into_iter())
                .map(|(kind, right)| (kind, right as f32 / count))
                .collect(),
        }
    }

    /// Class embeddings, if the head has some, and the form.
    fn head(&self, parts: Parts) -> (Vec<f32>, HeadForm) {
        match parts {
            Parts::ClassEmbeddings(rows) => (rows, HeadForm::ClassEmbeddings),
            Parts::Linear { weight, bias } => (vec![], HeadForm::Linear { weight, bias }),
            Parts::Cache {
                class_embeddings,
                weight,
                sharpness,
            } => {
                let terms = CacheTerms {
                    keys: self.embeddings(),
                    labels: self.examples.iter().map(|e| e.class).collect(),
                    weight,
                    sharpness,
                };
                (class_embeddings, HeadForm::Cache(terms))
            }
        }
    }

    /// Whether each example is classified correctly with these similarities `[N, C]`.
    pub(super) fn right(&self, similarities: &[f32]) -> impl Iterator<Item = bool> {
        let rows = similarities.chunks_exact(self.classes().max(1));
        rows.zip(&self.examples).map(|(row, example)| {
            let own = row[example.class];
            // Of equal ones the first is the answer, as in a ranking.
            row.iter()
                .enumerate()
                .all(|(c, s)| *s < own || (*s == own && c >= example.class))
        })
    }

    /// The examples with these similarities `[N, C]`.
    pub(super) fn answers(&self, similarities: &[f32]) -> Vec<LabelledAnswer> {
        let rows = similarities.chunks_exact(self.classes().max(1));
        rows.zip(&self.examples)
            .map(|(row, example)| LabelledAnswer {
                similarities: row.to_vec(),
                negative: None,
                label: CalibrationLabel::Class(example.class),
            })
            .collect()
    }

    fn classes(&self) -> usize {
        self.texts.len()
    }

    /// Number of examples of each class.
    pub(super) fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes()];
        for example in &self.examples {
            counts[example.class] += 1;
        }
        counts
    }

    /// How many times each class was shown: a burst is once.
    pub(super) fn showings(&self) -> Vec<usize> {
        let mut showings = vec![0; self.classes()];
        let mut bursts = HashSet::new();
        for Example { class, burst, .. } in &self.examples {
            let is_new = burst.is_none_or(|burst| bursts.insert((*class, burst)));
            showings[*class] += usize::from(is_new);
        }
        showings
    }

    /// Every example in its group: its burst, if the class was also shown in another one.
    fn groups(&self) -> Vec<Group> {
        let showings = self.showings();
        let mut groups: Vec<Group> = vec![];
        let mut places = HashMap::new();
        for (i, example) in self.examples.iter().enumerate() {
            let class = example.class;
            let new = groups.len();
            let place = match example.burst.filter(|_| showings[class] > 1) {
                Some(burst) => *places.entry((class, burst)).or_insert(new),
                None => new,
            };
            if place == new {
                groups.push(Group {
                    class,
                    members: vec![],
                    sum: vec![0.0; self.size],
                });
            }
            groups[place].members.push(i);
            add_scaled(&mut groups[place].sum, 1.0, example.embedding);
        }
        groups
    }

    /// `[N, D]`.
    fn embeddings(&self) -> Vec<f32> {
        let all = self.examples.iter();
        all.flat_map(|e| e.embedding.to_vec()).collect()
    }

    /// The similarities `[N, C]` with class embeddings `rows`, but of each example with its own class by `own`, which gets
    /// the example's group.
    fn held_out(
        &self,
        rows: &[Vec<f32>],
        groups: &[Group],
        own: impl Fn(&Group) -> Option<Vec<f32>>,
    ) -> Vec<f32> {
        let classes = self.classes();
        let mut held_out = vec![0.0; self.examples.len() * classes];
        for group in groups {
            let own = own(group);
            for &i in &group.members {
                let x = self.examples[i].embedding;
                let similarities = &mut held_out[i * classes..][..classes];
                for (similarity, row) in similarities.iter_mut().zip(rows) {
                    *similarity = dot(row, x);
                }
                // A class without other examples is never recognised.
                similarities[group.class] = own.as_ref().map_or(-1.0, |own| dot(own, x));
            }
        }
        held_out
    }

    /// Gives the candidates to `take` one by one: all of them at once would take many times the memory of the bundle.
    fn candidates(&self, take: &mut dyn FnMut(Candidate)) {
        let has_text = self.texts.iter().any(Option::is_some);
        let all_shown = self.counts().iter().all(|count| *count > 0);
        let groups = self.groups();
        let zero_shot = has_text.then(|| self.zero_shot(&groups));
        let prototypes = all_shown.then(|| self.prototypes(&groups));
        // Without texts, the prototypes take their place. Where a class has no examples, those of others would win its
        // images, which nothing could measure.
        let base = zero_shot.clone().or(prototypes.clone());
        zero_shot.into_iter().chain(prototypes).for_each(&mut *take);
        if let (true, Some(base)) = (all_shown, base) {
            self.caches(&base, &groups, take);
        }
        self.linear(&groups, take);
    }

    /// The sum of each class's examples, `[C, D]`.
    fn sums(&self) -> Vec<Vec<f32>> {
        let mut sums = vec![vec![0.0; self.size]; self.classes()];
        for example in &self.examples {
            add_scaled(&mut sums[example.class], 1.0, example.embedding);
        }
        sums
    }

    /// What stands for the texts of classes that have none: the mean of their examples, moved from where images are to
    /// where texts are (the modality gap, Liang et al., 2022).
    fn priors(&self) -> Priors {
        let (sums, counts) = (self.sums(), self.counts());
        let mut text_mean = vec![0.0; self.size];
        let texts: Vec<&[f32]> = self.texts.iter().flatten().copied().collect();
        for text in &texts {
            add_scaled(&mut text_mean, 1.0 / texts.len() as f32, text);
        }
        let shown = counts.iter().filter(|count| **count > 0).count();
        let images = (shown + self.background.len()).max(1) as f32;
        let mut image_mean = vec![0.0; self.size];
        for (sum, count) in sums.iter().zip(&counts).filter(|(_, count)| **count > 0) {
            add_scaled(&mut image_mean, 1.0 / images / *count as f32, sum);
        }
        for image in &self.background {
            add_scaled(&mut image_mean, 1.0 / images, image);
        }
        let mut offset = text_mean;
        add_scaled(&mut offset, -1.0, &image_mean);
        Priors {
            sums,
            counts,
            offset,
        }
    }

    fn zero_shot(&self, groups: &[Group]) -> Candidate {
        let priors = self.priors();
        let rows: Vec<Vec<f32>> = (self.texts.iter().enumerate())
            .map(|(class, text)| match text {
                Some(text) => text.to_vec(),
                None => priors.moved_mean(class, None),
            })
            .collect();
        let held_out = self.held_out(&rows, groups, |group| {
            Some(match self.texts[group.class] {
                Some(text) => text.to_vec(),
                None => priors.moved_mean(group.class, Some(group)),
            })
        });
        Candidate {
            kind: TaughtHead::ZeroShot,
            held_out,
            parts: Parts::ClassEmbeddings(rows.concat()),
        }
    }

    fn prototypes(&self, groups: &[Group]) -> Candidate {
        let (sums, counts) = (self.sums(), self.counts());
        let rows: Vec<Vec<f32>> = sums.iter().map(|sum| unit(sum.clone())).collect();
        let held_out = self.held_out(&rows, groups, |group| {
            let mut others = sums[group.class].clone();
            add_scaled(&mut others, -1.0, &group.sum);
            (counts[group.class] > group.members.len()).then(|| unit(others))
        });
        Candidate {
            kind: TaughtHead::Prototypes,
            held_out,
            parts: Parts::ClassEmbeddings(rows.concat()),
        }
    }

    /// Caches on the class embeddings of `base`.
    fn caches(&self, base: &Candidate, groups: &[Group], take: &mut dyn FnMut(Candidate)) {
        let Parts::ClassEmbeddings(rows) = &base.parts else {
            return;
        };
        let (count, classes) = (self.examples.len(), self.classes());
        let mut places = vec![0; count];
        for (place, group) in groups.iter().enumerate() {
            group.members.iter().for_each(|&i| places[i] = place);
        }
        let examples = self.embeddings();
        let affinities = products(&examples, &examples, self.size);
        for sharpness in CACHE_SHARPNESS {
            let mut sums = vec![0.0; count * classes];
            for i in 0..count {
                let others = self.examples.iter().enumerate();
                for (j, other) in others.filter(|(j, _)| places[*j] != places[i]) {
                    let affinity: f32 = affinities[i * count + j];
                    sums[i * classes + other.class] += (sharpness * (affinity - 1.0)).exp();
                }
            }
            for weight in CACHE_WEIGHTS {
                let all = base.held_out.iter().zip(&sums);
                take(Candidate {
                    kind: TaughtHead::Cache,
                    held_out: all.map(|(s, sum)| s + weight * sum).collect(),
                    parts: Parts::Cache {
                        class_embeddings: rows.clone(),
                        weight,
                        sharpness,
                    },
                });
            }
        }
    }

    /// The factor with which the best text leads the mean text by 1, in the mean of the images of similarities `[C, N]`.
    fn text_factor_by_lead(&self, similarities: &[Vec<f32>]) -> f32 {
        let texts: Vec<&Vec<f32>> = (similarities.iter().zip(&self.texts))
            .filter_map(|(row, text)| text.map(|_| row))
            .collect();
        let images = similarities.first().map_or(0, Vec::len);
        let leads = (0..images).map(|i| {
            let all = || texts.iter().map(|row| row[i]);
            all().fold(f32::MIN, f32::max) - all().sum::<f32>() / texts.len() as f32
        });
        images as f32 / leads.sum::<f32>()
    }

    /// Linear heads from the texts, and from zero if every class has examples.
    ///
    /// Each class's target is 1 for its examples and 0 for others. A factor times the similarity with its text is
    /// subtracted, so that the penalty draws towards the texts. If there are classes without examples, the images of any
    /// class are to be answered as by the texts. Classes have equal weight, however many examples they have.
    fn linear(&self, groups: &[Group], take: &mut dyn FnMut(Candidate)) {
        let (classes, counts) = (self.classes(), self.counts());
        let shown = counts.iter().filter(|n| **n > 0).count();
        let all_shown = shown == classes;
        let mut images: Vec<(&[f32], Option<usize>)> = (self.examples.iter())
            .map(|e| (e.embedding, Some(e.class)))
            .collect();
        // Of equal weight.
        let mut kinds = shown;
        if !all_shown && !self.background.is_empty() {
            kinds += 1;
            images.extend(self.background.iter().map(|x| (*x, None)));
        }
        if shown == 0 || kinds < 2 {
            return;
        }
        let count = images.len();
        let weights: Vec<f32> = (images.iter())
            .map(|(_, class)| {
                let own = class.map_or(self.background.len(), |class| counts[class]);
                count as f32 / kinds as f32 / own as f32
            })
            .collect();
        let target = |class: usize, i: usize| f32::from(u8::from(images[i].1 == Some(class)));
        // [C, N], zeros for classes without a text.
        let similarities: Vec<Vec<f32>> = (self.texts.iter())
            .map(|text| {
                let all = images.iter();
                all.map(|(x, _)| text.map_or(0.0, |text| dot(text, x)))
                    .collect()
            })
            .collect();
        let factor = if all_shown {
            text_factor(&similarities, &weights, target)
        } else {
            self.text_factor_by_lead(&similarities)
        };
        let mut factors = vec![];
        if factor.is_finite() && factor > 0.0 {
            factors.push(factor);
        }
        if all_shown {
            factors.push(0.0);
        }
        // Of an image of any class, nothing is to change.
        let residual = |class: usize, i: usize, by_text: f32| match images[i].1 {
            Some(_) => target(class, i) - by_text,
            None => 0.0,
        };
        let residuals = factors.iter().flat_map(|factor| {
            let all = similarities.iter().enumerate();
            all.flat_map(move |(class, row)| {
                let all = row.iter().enumerate();
                all.map(move |(i, s)| residual(class, i, factor * s))
            })
        });
        let residuals: Vec<f32> = residuals.collect();
        let rows: Vec<&[f32]> = images.iter().map(|(x, _)| *x).collect();
        let columns = factors.len() * classes;
        let mut left_out: Vec<Vec<usize>> = groups.iter().map(|g| g.members.clone()).collect();
        left_out.extend((self.examples.len()..count).map(|i| vec![i]));
        let ridge = Ridge::new(&rows, weights, residuals, left_out);
        for penalty in RIDGES {
            let fit = ridge.fit(penalty);
            for (f, factor) in factors.iter().enumerate() {
                let own = f * classes..(f + 1) * classes;
                let mut bias = fit.bias[own.clone()].to_vec();
                let mut weight = fit.weight[own.start * self.size..own.end * self.size].to_vec();
                for (row, text) in weight.chunks_exact_mut(self.size).zip(&self.texts) {
                    if let Some(text) = text {
                        add_scaled(row, *factor, text);
                    }
                }
                let mut held_out: Vec<f32> = (0..self.examples.len())
                    .flat_map(|i| {
                        let fitted = &fit.held_out[i * columns..][own.clone()];
                        let texts = similarities.iter().map(move |row| factor * row[i]);
                        fitted.iter().zip(texts).map(|(fitted, text)| fitted + text)
                    })
                    .collect();
                // In units of similarity with a text, or else from -1 to 1.
                let scale = match *factor {
                    0.0 => {
                        let sizes = weight.chunks_exact(self.size).zip(&bias);
                        let sizes = sizes.map(|(row, b)| dot(row, row).sqrt() + b.abs());
                        sizes.fold(f32::MIN_POSITIVE, f32::max)
                    }
                    factor => factor,
                };
                for v in weight.iter_mut().chain(&mut bias).chain(&mut held_out) {
                    *v /= scale;
                }
                take(Candidate {
                    kind: TaughtHead::Linear,
                    held_out,
                    parts: Parts::Linear { weight, bias },
                });
            }
        }
    }
}

/// The factor with which similarities with texts `[C, N]` are nearest to the targets, by least squares around the means.
fn text_factor(
    similarities: &[Vec<f32>],
    weights: &[f32],
    target: impl Fn(usize, usize) -> f32,
) -> f32 {
    let total: f32 = weights.iter().sum();
    let (mut products, mut squares) = (0.0, 0.0);
    for (class, row) in similarities.iter().enumerate() {
        let mean = dot(row, weights) / total;
        for (i, s) in row.iter().enumerate() {
            products += weights[i] * (s - mean) * target(class, i);
            squares += weights[i] * (s - mean) * (s - mean);
        }
    }
    products / squares
}

/// See [`Shown::priors`].
struct Priors {
    sums: Vec<Vec<f32>>,
    counts: Vec<usize>,
    offset: Vec<f32>,
}

impl Priors {
    /// The mean of a class's examples, but `without`, where texts are.
    fn moved_mean(&self, class: usize, without: Option<&Group>) -> Vec<f32> {
        let mut mean = self.offset.clone();
        let count = self.counts[class] - without.map_or(0, |group| group.members.len());
        if count > 0 {
            add_scaled(&mut mean, 1.0 / count as f32, &self.sums[class]);
            if let Some(without) = without {
                add_scaled(&mut mean, -1.0 / count as f32, &without.sum);
            }
        }
        unit(mean)
    }
}

/// The vector of norm 1 in the direction of `v`; the first axis for zeros.
fn unit(mut v: Vec<f32>) -> Vec<f32> {
    l2_normalize(&mut v);
    let norm = dot(&v, &v);
    if norm.is_nan() || (norm - 1.0).abs() > 1e-3 {
        v.fill(0.0);
        v[0] = 1.0;
    }
    v
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_bundle::Head;
    use pinhole_model::Score;

    const LOGITS: Logits = Logits {
        scale: 50.0,
        score: Score::Softmax,
    };
    const SIZE: usize = 6;

    /// Unit vectors around one of each class, that look random.
    fn examples(counts: &[usize], spread: f32) -> Vec<(Vec<f32>, usize)> {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut examples = vec![];
        for (class, count) in counts.iter().enumerate() {
            for _ in 0..*count {
                let x = (0..SIZE).map(|j| f32::from(u8::from(j == class)) + 0.5 + spread * next());
                examples.push((unit(x.collect()), class));
            }
        }
        examples
    }

    fn shown<'a>(examples: &'a [(Vec<f32>, usize)], texts: &'a [Option<Vec<f32>>]) -> Shown<'a> {
        Shown {
            size: SIZE,
            texts: texts.iter().map(Option::as_deref).collect(),
            examples: examples.iter().map(example).collect(),
            background: vec![],
            logits: LOGITS,
        }
    }

    fn example((embedding, class): &(Vec<f32>, usize)) -> Example<'_> {
        Example {
            embedding,
            class: *class,
            burst: None,
        }
    }

    fn texts(of: &[usize], classes: usize) -> Vec<Option<Vec<f32>>> {
        let text = |class: usize| {
            let axis = |j: usize| 0.3 + f32::from(u8::from(j == class));
            unit((0..SIZE).map(axis).collect())
        };
        (0..classes)
            .map(|c| of.contains(&c).then(|| text(c)))
            .collect()
    }

    fn candidates(shown: &Shown) -> Vec<Candidate> {
        let mut all = vec![];
        shown.candidates(&mut |candidate| all.push(candidate));
        all
    }

    fn head(candidate: &Candidate, shown: &Shown) -> Head {
        let (class_embeddings, form) = shown.head(candidate.parts.clone());
        Head {
            classes: shown.classes(),
            embedding_size: SIZE,
            class_embeddings,
            form,
            ..Head::default()
        }
    }

    /// If this fails, the accuracy that users read is that of examples which the head has seen. The regression has a test
    /// of its own: here the classes' weights and the share of the texts would change with the example.
    #[test]
    fn held_out_similarities_are_those_of_a_head_without_the_example() {
        let apart: fn(usize) -> Option<u64> = |_| None;
        for burst in [apart, |i| Some(i as u64 / 2)] {
            for with_text in [vec![0, 1, 2], vec![], vec![0, 2]] {
                let (examples, texts) = (examples(&[3, 4, 2], 0.4), texts(&with_text, 3));
                let mut all = shown(&examples, &texts);
                for (i, example) in all.examples.iter_mut().enumerate() {
                    example.burst = burst(i);
                }
                let found = candidates(&all);
                for (i, (x, own)) in examples.iter().enumerate() {
                    let mut without = shown(&examples, &texts);
                    let mut others = 0..;
                    without.examples.retain(|e| {
                        let j = others.next().unwrap();
                        i != j && (burst(i).is_none() || burst(i) != burst(j) || e.class != *own)
                    });
                    for (candidate, other) in found.iter().zip(candidates(&without)) {
                        assert_eq!(candidate.kind, other.kind);
                        if candidate.kind == TaughtHead::Linear {
                            continue;
                        }
                        let expected = head(&other, &without).similarities(x);
                        let row = &candidate.held_out[i * 3..][..3];
                        for (class, (found, expected)) in row.iter().zip(&expected).enumerate() {
                            // Of the classes without texts, the mean of all images is left as it is.
                            let tolerance = if with_text.len() == 2 { 0.1 } else { 1e-5 };
                            assert!(
                                (found - expected).abs() < tolerance,
                                "{:?} {with_text:?} {i} of {own}, {class}: {found} {expected}",
                                candidate.kind
                            );
                        }
                    }
                }
            }
        }
    }

    /// If this fails, the linear head that was measured is another one than the one that is saved.
    #[test]
    fn a_linear_head_gives_its_own_examples_more_than_without_them() {
        let (examples, texts) = (examples(&[5, 5, 5], 0.5), texts(&[0, 1, 2], 3));
        let all = shown(&examples, &texts);
        let mut linear = candidates(&all);
        linear.retain(|candidate| candidate.kind == TaughtHead::Linear);
        assert_eq!(linear.len(), 2 * RIDGES.len());
        for candidate in &linear {
            let head = head(candidate, &all);
            let mut lost = 0.0;
            for (i, (x, own)) in examples.iter().enumerate() {
                let with = head.similarities(x)[*own];
                let without = candidate.held_out[i * 3 + own];
                assert!((with - without).abs() < 0.3, "{with} {without}");
                lost += with - without;
            }
            assert!(lost > 0.0, "{lost}");
        }
    }

    #[test]
    fn the_best_head_is_chosen() {
        // Texts that are all wrong.
        let examples = examples(&[4, 4, 4], 0.2);
        let right = texts(&[0, 1, 2], 3);
        let wrong = vec![right[1].clone(), right[2].clone(), right[0].clone()];
        let all = shown(&examples, &wrong);
        let chosen = all.choose();
        assert_ne!(chosen.kind, TaughtHead::ZeroShot);
        assert!(all.right(&chosen.held_out).all(|right| right));
        assert_eq!(chosen.accuracies[0], (TaughtHead::ZeroShot, 0.0));
        // Without examples.
        let none = shown(&[], &right);
        let chosen = none.choose();
        assert_eq!(chosen.kind, TaughtHead::ZeroShot);
        assert_eq!(chosen.class_embeddings[..SIZE], right[0].clone().unwrap());
    }

    /// If this fails, one class that was only shown wins for every image, or never.
    #[test]
    fn a_class_without_a_text_competes_with_texts() {
        let background = examples(&[3, 3, 0], 0.2);
        let examples: Vec<_> = examples(&[0, 0, 4], 0.2);
        let texts = texts(&[0, 1], 3);
        let mut all = shown(&examples, &texts);
        all.background = background.iter().map(|(x, _)| x.as_slice()).collect();
        let chosen = all.choose();
        let head = Head {
            classes: 3,
            embedding_size: SIZE,
            class_embeddings: chosen.class_embeddings,
            form: chosen.form,
            ..Head::default()
        };
        for (x, class) in examples.iter().chain(&background) {
            let s = head.similarities(x);
            let best = (0..3).max_by(|a, b| s[*a].total_cmp(&s[*b]));
            assert_eq!(best, Some(*class), "{s:?}");
        }
    }

    /// If this fails, a board is busy for minutes after each example. Prints the time.
    #[test]
    fn twenty_classes_of_32_examples_are_fitted_in_seconds() {
        let (classes, size) = (20, 512);
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let centres: Vec<Vec<f32>> = (0..classes)
            .map(|_| (0..size).map(|_| next()).collect())
            .collect();
        let examples: Vec<(Vec<f32>, usize)> = (0..32 * classes)
            .map(|i| {
                let centre = centres[i % classes].iter();
                (
                    unit(centre.map(|c| c + 3.0 * next()).collect()),
                    i % classes,
                )
            })
            .collect();
        let texts: Vec<Vec<f32>> = centres.into_iter().map(unit).collect();
        let all = Shown {
            size,
            texts: texts.iter().map(|text| Some(text.as_slice())).collect(),
            examples: examples.iter().map(example).collect(),
            background: vec![],
            logits: LOGITS,
        };
        let start = std::time::Instant::now();
        let chosen = all.choose();
        let elapsed = start.elapsed();
        println!("{elapsed:?} for {:?}, {:?}", chosen.kind, chosen.accuracies);
        assert_eq!(chosen.accuracies.len(), 4);
        assert!(elapsed.as_secs() < 20, "{elapsed:?}");
    }
}
