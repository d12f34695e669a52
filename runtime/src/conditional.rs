//! The conditional head: CoCoOp's class embeddings, made for every image.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pinhole_bundle::{Bundle, ConditionalInfo, Head};
use pinhole_kernels::l2_normalize;
use pinhole_model::{Agreement, ClassPosition, MetaNet, PromptLearner, Tensor};
use pinhole_prompts::conditional::{
    Auto, Costs, FitOptions, Hidden, LinearHead, LinearTerms, Plan, Reuse, fidelity, fit, shortlist,
};
use pinhole_prompts::{Classes, Conditional, TextEncoder, Tokenizer};

use crate::Error;
use crate::text::text_tower;

/// How a conditional head computes an image's similarities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The text tower for every class.
    #[default]
    Exact,
    /// The first-order head picks a few classes, and the text tower ranks them.
    Shortlist,
    /// The first-order head alone.
    Linear,
    /// Exact or the longest shortlist that this time allows for the text side of an image.
    Auto(Duration),
}

/// A conditional head made ready.
pub(crate) struct ConditionalHead {
    /// Not for mode `linear`, so that it spares the tower's memory as well.
    text: Option<(TextEncoder, Conditional)>,
    hidden: Hidden,
    linear: LinearHead,
    mode: Mode,
    shortlist: usize,
    movement: f32,
    auto: Option<Mutex<Auto>>,
}

impl ConditionalHead {
    /// Reads the head of a bundle whose head is conditional; in the classifier's thread pool.
    pub(crate) fn load(bundle: &Bundle, mode: Mode) -> Result<Option<Self>, Error> {
        let Some(info) = bundle.manifest().conditional else {
            return Ok(None);
        };
        let wrong = |reason: String| Error::Head {
            path: bundle.folder().join(pinhole_bundle::HEAD),
            reason,
        };
        let misfit = |error: pinhole_prompts::Error| wrong(error.to_string());
        let learned = &bundle.head().learned;
        let learner = learner(learned).map_err(wrong)?;
        let terms = LinearTerms::from_tensors(|name| {
            // An empty one has no shape that fits.
            Ok(learned.get(name).cloned().unwrap_or(NONE))
        });
        let hidden = learner.meta_net.as_ref().map(Hidden::new);
        let hidden = hidden.ok_or_else(|| wrong("expected a meta-net, found none".into()))?;
        let hidden = hidden.map_err(misfit)?;
        let classes = Classes::new(&bundle.manifest().classes)?;
        let count = classes.names().len();
        let linear = LinearHead::new(&terms?, count, hidden.len()).map_err(misfit)?;
        let text = match mode {
            Mode::Linear => None,
            _ => {
                let tower = text_tower(bundle)?;
                let conditional = Conditional::new(&tower, &Tokenizer::new(), &classes, &learner);
                Some((tower, conditional.map_err(misfit)?))
            }
        };
        let auto = match (mode, &text) {
            (Mode::Auto(budget), Some((tower, conditional))) => {
                let costs = Costs::measure(conditional, tower)?;
                Some(Mutex::new(Auto::new(budget, count, costs)))
            }
            _ => None,
        };
        Ok(Some(Self {
            text,
            hidden,
            linear,
            mode,
            shortlist: info.shortlist_length,
            movement: info.movement,
            auto,
        }))
    }

    /// The similarities `[C]` of an image's unit embedding.
    pub(crate) fn similarities(&self, embedding: &[f32]) -> Result<Vec<f32>, Error> {
        let Some(auto) = &self.auto else {
            let plan = match self.mode {
                Mode::Linear => Plan::Linear,
                Mode::Shortlist => Plan::Shortlist(self.shortlist),
                Mode::Exact | Mode::Auto(_) => Plan::Exact,
            };
            return self.run(plan, embedding);
        };
        // Nothing can be left half-done in it, so another thread's panic does not matter.
        let plan = auto.lock().unwrap_or_else(PoisonError::into_inner).plan();
        let start = Instant::now();
        let similarities = self.run(plan, embedding)?;
        let mut auto = auto.lock().unwrap_or_else(PoisonError::into_inner);
        auto.record(plan, start.elapsed());
        Ok(similarities)
    }

    fn run(&self, plan: Plan, embedding: &[f32]) -> Result<Vec<f32>, Error> {
        let similarities = match (plan, &self.text) {
            (Plan::Linear, _) | (_, None) => {
                let hidden = self.hidden.of(embedding)?;
                self.linear.similarities(embedding, &hidden)
            }
            (Plan::Exact, Some((tower, conditional))) => {
                conditional.similarities(tower, embedding, None)
            }
            (Plan::Shortlist(k), Some((tower, conditional))) => {
                shortlist(conditional, tower, &self.linear, embedding, k)
            }
        };
        Ok(similarities?)
    }

    /// What spares the text tower from one image of a stream to the next, in mode `exact`.
    pub(crate) fn reuse(&self, logit_scale: f32) -> Result<Option<Reuse>, Error> {
        match self.mode {
            Mode::Exact => Ok(Some(Reuse::new(self.movement, logit_scale, f32::INFINITY)?)),
            _ => Ok(None),
        }
    }

    /// As [`ConditionalHead::similarities`], for the next image of a stream.
    pub(crate) fn next(&self, reuse: &mut Reuse, embedding: &[f32]) -> Result<Vec<f32>, Error> {
        match &self.text {
            Some((tower, conditional)) => {
                let next = reuse.similarities(conditional, tower, embedding)?;
                Ok(next.similarities)
            }
            None => self.similarities(embedding),
        }
    }
}

const NONE: Tensor = Tensor {
    shape: vec![],
    data: vec![],
};

/// The prompt learner among a head's tensors, or what is missing.
pub(crate) fn learner(learned: &BTreeMap<String, Tensor>) -> Result<PromptLearner, String> {
    let tensor = |name: &str| {
        let missing = || format!("expected tensor {name}, found none");
        learned.get(name).cloned().ok_or_else(missing)
    };
    Ok(PromptLearner {
        context: tensor("context")?,
        meta_net: Some(MetaNet {
            linear1_weight: tensor("meta_net.linear1.weight")?,
            linear1_bias: tensor("meta_net.linear1.bias")?,
            linear2_weight: tensor("meta_net.linear2.weight")?,
            linear2_bias: tensor("meta_net.linear2.bias")?,
        }),
        class_position: Some(ClassPosition::End),
    })
}

/// Lengths of the shortlist that are tried.
const SHORTLISTS: [usize; 5] = [3, 5, 10, 20, 50];
/// What a shortlist must reach to be preferred to a longer one.
const SHORTLIST_AGREEMENT: f32 = 0.999;
/// Images of a fit, and of the comparison after it: each costs one run of the text tower over all
/// classes.
const MOST_IMAGES: usize = 512;

/// Fits the cheaper modes of a conditional head for `classes` to calibration images, given by their unit
/// `embeddings` `[N, D]`, and compares them with the exact one on every fourth of these images, which is
/// not fitted to (with fewer than 8 images, on the same). Of more than 512 images for either, evenly
/// picked ones are taken. Runs in rayon's current pool; `progress` is called with images done and all.
///
/// # Errors
/// [`Error::Text`] for a learner that does not fit the tower, or no images.
pub fn fit_conditional(
    tower: &TextEncoder,
    classes: &Classes,
    learner: &PromptLearner,
    embeddings: &[f32],
    logit_scale: f32,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Head, ConditionalInfo), Error> {
    let conditional = Conditional::new(tower, &Tokenizer::new(), classes, learner)?;
    let dim = tower.embedding();
    let images: Vec<&[f32]> = embeddings.chunks_exact(dim).collect();
    let (fitted, compared): (Vec<_>, Vec<_>) = match images.len() {
        0..8 => (images.clone(), images),
        _ => {
            let held = |i: &usize| i % 4 == 3;
            let of = |want: bool| {
                let picked = (0..images.len()).filter(move |i| held(i) == want);
                picked.map(|i| images[i]).collect::<Vec<_>>()
            };
            (of(false), of(true))
        }
    };
    let (fitted, compared) = (spread(fitted, MOST_IMAGES), spread(compared, MOST_IMAGES));
    let (first, second) = (fitted.len() / dim, compared.len() / dim);
    let all = first + second;
    let mut at_fit = |done, _: usize| progress(done, all);
    let found = fit(
        &conditional,
        tower,
        &fitted,
        FitOptions::default(),
        &mut at_fit,
    )?;
    let count = classes.names().len();
    let linear = LinearHead::new(&found.terms, count, conditional.hidden_len())?;
    let mut lengths: Vec<usize> = SHORTLISTS.into_iter().filter(|&k| k < count).collect();
    if lengths.is_empty() {
        lengths.push(count);
    }
    let mut at_compare = |done, _: usize| progress(first + done, all);
    let compared = fidelity(
        &conditional,
        tower,
        &linear,
        &compared,
        logit_scale,
        &lengths,
        &mut at_compare,
    )?;
    let enough = |(_, agreement): &&(usize, Agreement)| agreement.top1 >= SHORTLIST_AGREEMENT;
    let lists = &compared.shortlists;
    let (length, shortlist) = match lists.iter().find(enough).or(lists.last()) {
        Some(&(length, agreement)) => (length, agreement),
        None => (count, compared.linear),
    };
    let info = ConditionalInfo {
        fitted_images: first,
        compared_images: compared.images,
        movement: found.movement,
        linear: compared.linear,
        shortlist_length: length,
        shortlist: shortlist,
    };

    let mut class_embeddings = found.terms.class_embeddings.data.clone();
    class_embeddings
        .chunks_exact_mut(dim)
        .for_each(l2_normalize);
    let mut learned: BTreeMap<String, Tensor> = (found.terms.tensors().into_iter())
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    learned.insert("context".into(), learner.context.clone());
    if let Some(net) = &learner.meta_net {
        for (name, tensor) in [
            ("linear1.weight", &net.linear1_weight),
            ("linear1.bias", &net.linear1_bias),
            ("linear2.weight", &net.linear2_weight),
            ("linear2.bias", &net.linear2_bias),
        ] {
            learned.insert(format!("meta_net.{name}"), tensor.clone());
        }
    }
    let head = Head {
        classes: count,
        embedding_size: dim,
        class_embeddings,
        negative_embeddings: vec![],
        learned,
    };
    Ok((head, info))
}

/// At most `most` of the rows, evenly picked, one after the other.
pub(crate) fn spread(rows: Vec<&[f32]>, most: usize) -> Vec<f32> {
    let step = rows.len().div_ceil(most).max(1);
    rows.into_iter().step_by(step).flatten().copied().collect()
}
