//! CoOp: context vectors that are equal for all images.

use pinhole_model::{ClassPosition, PromptLearner, Tensor};
use pinhole_prompts::{Classes, TextEncoder, Tokenizer, learned_embeddings};

use super::super::{
    method::{PromptForms, PromptGradients, PromptMethod, Recipe},
    text_model::TextModel,
    weight::Weight,
};
use crate::{Result, class_head::ClassHead, random::SeededRng};

pub(super) struct CoOp;

impl PromptMethod for CoOp {
    fn name(&self) -> &'static str {
        "CoOp"
    }

    fn key(&self) -> &'static str {
        "coop"
    }

    fn epochs_flag(&self) -> &'static str {
        "coop-epochs"
    }

    fn about(&self) -> &'static str {
        "Learn context vectors for class names (CoOp), with frozen encoders"
    }

    fn recipe(&self, shots: usize) -> Recipe {
        Recipe {
            n_ctx: 16,
            words: None,
            epochs: match shots {
                0..=1 => 50,
                2..=4 => 100,
                _ => 200,
            },
            batch_size: 32,
        }
    }

    fn prompt_forms(&self) -> PromptForms {
        PromptForms::All
    }

    fn extra_weights(&self, _: usize, _: usize, _: &dyn Fn(u64) -> SeededRng) -> Vec<Weight> {
        Vec::new()
    }

    fn loss_and_gradients(
        &self,
        text: &TextModel,
        weights: &[Weight],
        images: &[f32],
        labels: &[usize],
    ) -> Result<PromptGradients> {
        let found = text.loss_and_gradient(&weights[0].values, images, labels)?;
        Ok(PromptGradients {
            loss: found.loss,
            correct: found.correct,
            gradients: vec![found.gradient],
        })
    }

    fn trained(&self, learner: &PromptLearner) -> bool {
        learner.meta_net.is_none()
    }

    fn check_learner(&self, _: &PromptLearner, _: usize) -> std::result::Result<(), String> {
        Ok(())
    }

    fn to_weights(&self, learner: PromptLearner) -> Vec<Weight> {
        let context = learner.context;
        vec![Weight::new("ctx", &context.shape, context.data)]
    }

    fn to_learner(&self, weights: &[Weight]) -> PromptLearner {
        PromptLearner {
            context: Tensor {
                shape: weights[0].shape.clone(),
                data: weights[0].values.clone(),
            },
            meta_net: None,
            class_position: None,
        }
    }

    fn head(
        &self,
        encoder: &TextEncoder,
        tokenizer: &Tokenizer,
        classes: &Classes,
        learner: &PromptLearner,
        position: ClassPosition,
    ) -> Result<ClassHead> {
        let no_progress = &mut |_, _| {};
        let embeddings =
            learned_embeddings(encoder, tokenizer, classes, learner, position, no_progress)?;
        Ok(ClassHead::Static(embeddings.data))
    }
}
