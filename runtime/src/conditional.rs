//! The conditional head (CoCoOp): class embeddings that depend on the image.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pinhole_bundle::Bundle;
use pinhole_model::{ClassPosition, MetaNet, PromptLearner, Tensor};
use pinhole_prompts::conditional::{
    Auto, Costs, Hidden, LinearHead, LinearTerms, Plan, Reuse, shortlist,
};
use pinhole_prompts::{Classes, Conditional, TextEncoder, Tokenizer};

use crate::Error;
use crate::text_encoder::text_encoder;

/// How a conditional head (CoCoOp) computes the similarities of an image. [`Manifest::conditional`] has the measured
/// agreement of the approximations with [`ConditionalMode::Exact`].
///
/// [`Manifest::conditional`]: crate::Manifest::conditional
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConditionalMode {
    /// Run the text encoder for every class.
    #[default]
    Exact,
    /// Select a few classes with a first-order approximation, and run the text encoder for those.
    Shortlist,
    /// Use the first-order approximation alone; the text encoder is not loaded.
    Linear,
    /// Exact, or the longest shortlist, if its text encoder runs fit this time per image.
    Auto(Duration),
}

/// A conditional head, ready to run.
pub(crate) struct ConditionalHead {
    /// `None` in mode `linear`, which saves the text encoder's memory too.
    text: Option<(TextEncoder, Conditional)>,
    hidden: Hidden,
    linear: LinearHead,
    mode: ConditionalMode,
    shortlist: usize,
    movement: f32,
    auto: Option<Mutex<Auto>>,
}

impl ConditionalHead {
    /// Loads the conditional head of a bundle; `None` for a static head. Call it in the classifier's thread pool.
    pub(crate) fn load(bundle: &Bundle, mode: ConditionalMode) -> Result<Option<Self>, Error> {
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
            // A missing tensor fails the shape check as an empty one.
            Ok(learned.get(name).cloned().unwrap_or(NONE))
        });
        let hidden = learner.meta_net.as_ref().map(Hidden::new);
        let hidden = hidden.ok_or_else(|| wrong("expected a meta-net, found none".into()))?;
        let hidden = hidden.map_err(misfit)?;
        let classes = Classes::recorded(&bundle.manifest().classes)?;
        let count = classes.names().len();
        let linear = LinearHead::new(&terms?, count, hidden.len()).map_err(misfit)?;
        let text = match mode {
            ConditionalMode::Linear => None,
            _ => {
                let encoder = text_encoder(bundle)?;
                let conditional = Conditional::new(&encoder, &Tokenizer::new(), &classes, &learner);
                Some((encoder, conditional.map_err(misfit)?))
            }
        };
        let auto = match (mode, &text) {
            (ConditionalMode::Auto(budget), Some((encoder, conditional))) => {
                let costs = Costs::measure(conditional, encoder)?;
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

    /// The similarities `[C]` of an image's L2-normalised embedding `[D]`.
    pub(crate) fn similarities(&self, embedding: &[f32]) -> Result<Vec<f32>, Error> {
        let Some(auto) = &self.auto else {
            let plan = match self.mode {
                ConditionalMode::Linear => Plan::Linear,
                ConditionalMode::Shortlist => Plan::Shortlist(self.shortlist),
                ConditionalMode::Exact | ConditionalMode::Auto(_) => Plan::Exact,
            };
            return self.run(plan, embedding);
        };
        // A panic of another thread cannot leave it inconsistent.
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
            (Plan::Exact, Some((encoder, conditional))) => {
                conditional.similarities(encoder, embedding, None)
            }
            (Plan::Shortlist(k), Some((encoder, conditional))) => {
                shortlist(conditional, encoder, &self.linear, embedding, k)
            }
        };
        Ok(similarities?)
    }

    /// The state that lets a stream skip runs of the text encoder, in mode `exact`.
    pub(crate) fn reuse(&self, logit_scale: f32) -> Result<Option<Reuse>, Error> {
        match self.mode {
            ConditionalMode::Exact => {
                Ok(Some(Reuse::new(self.movement, logit_scale, f32::INFINITY)?))
            }
            _ => Ok(None),
        }
    }

    /// As [`ConditionalHead::similarities`], for the next image of a stream.
    pub(crate) fn next(&self, reuse: &mut Reuse, embedding: &[f32]) -> Result<Vec<f32>, Error> {
        match &self.text {
            Some((encoder, conditional)) => {
                let next = reuse.similarities(conditional, encoder, embedding)?;
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

/// The prompt learner in a head's tensors, or the error.
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
