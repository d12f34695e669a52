//! Stage 4: the head that the bundle gets, static or conditional.

use anyhow::Result;
use pinhole_bundle::{ConditionalInfo, Head};
use pinhole_model::{PromptLearner, Tensor};
use pinhole_prompts::{Classes, Conditional, TextEncoder, Tokenizer};

use crate::progress::{ExportProgress, ExportStep};

/// Embeddings of calibration images that a bundle with a conditional head keeps, so that the head can be fitted to new
/// classes: each costs one run of the text encoder over all classes.
const MAX_KEPT_EMBEDDINGS: usize = 64;

/// The bundle's head.
pub(crate) struct HeadStage {
    pub head: Head,
    /// For a conditional head.
    pub info: Option<ConditionalInfo>,
    /// Computes the exact mode of a conditional head.
    exact: Option<(TextEncoder, Conditional)>,
}

/// What a conditional head is made of.
pub(crate) struct ConditionalParts<'a> {
    pub classes: &'a Classes,
    pub learner: &'a PromptLearner,
    /// As the bundle stores it.
    pub text_encoder: TextEncoder,
    pub logit_scale: f32,
    /// Whether the bundle keeps calibration embeddings.
    pub keep_embeddings: bool,
}

impl HeadStage {
    /// The head whose class embeddings do not depend on the image.
    pub(crate) fn fixed(head: Head) -> Self {
        Self {
            head,
            info: None,
            exact: None,
        }
    }

    /// A conditional head, its cheaper modes fitted to the `embeddings` of calibration images. The embeddings of the
    /// negative texts come from `fixed`.
    ///
    /// # Errors
    /// A learner that does not fit the text encoder; no images.
    pub(crate) fn conditional(
        parts: ConditionalParts,
        fixed: &Head,
        embeddings: &[Vec<f32>],
        progress: &mut ExportProgress,
    ) -> Result<Self> {
        let ConditionalParts {
            classes,
            learner,
            text_encoder,
            ..
        } = parts;
        let (mut head, info) = pinhole::internal::fit_conditional(
            &text_encoder,
            classes,
            learner,
            &embeddings.concat(),
            parts.logit_scale,
            &mut |done, total| progress(ExportStep::Conditional, done as u64, total as u64),
        )?;
        head.negative_embeddings = fixed.negative_embeddings.clone();
        if parts.keep_embeddings {
            let step = embeddings.len().div_ceil(MAX_KEPT_EMBEDDINGS);
            let kept: Vec<&[f32]> = embeddings.iter().step_by(step).map(|e| &e[..]).collect();
            let tensor = Tensor {
                shape: vec![kept.len(), head.embedding_size],
                data: kept.concat(),
            };
            head.learned.insert("calibration_embeddings".into(), tensor);
        }
        let conditional = Conditional::new(&text_encoder, &Tokenizer::new(), classes, learner)?;
        Ok(Self {
            head,
            info: Some(info),
            exact: Some((text_encoder, conditional)),
        })
    }

    /// Cosine similarity of a unit embedding with every class, `[C]`.
    pub(crate) fn similarities(&self, embedding: &[f32]) -> Result<Vec<f32>> {
        Ok(match &self.exact {
            Some((encoder, conditional)) => conditional.similarities(encoder, embedding, None)?,
            None => self.head.similarities(embedding),
        })
    }
}
