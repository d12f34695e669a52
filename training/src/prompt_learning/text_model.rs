//! The frozen text side of a training: loss of context vectors, and its gradient.

use candle_core::{D, Device, Tensor, Var};
use pinhole_model::PromptRow;

use super::text_encoder::{ForwardPass, FrozenTextEncoder, Gradients, PromptBatch};
use crate::{Error, Result, model::normalise, ops::cross_entropies};

/// The prompts of some classes with a frozen text encoder.
pub(super) struct TextModel {
    encoder: FrozenTextEncoder,
    /// The classes in order, in one or several parts.
    parts: Vec<PromptBatch>,
    logit_scale: f32,
}

/// Loss of some images, and the gradient of the context vectors.
pub(super) struct ContextGradient {
    pub(super) loss: f32,
    /// Number of correct predictions.
    pub(super) correct: usize,
    /// [contexts, width]
    pub(super) gradient: Vec<f32>,
}

impl TextModel {
    /// The prompts of all classes, in as many parts as `memory` MiB of activations require. `context` gives
    /// the index, among all context vectors, of a class's context vector.
    pub(super) fn new(
        encoder: FrozenTextEncoder,
        prompts: &[Vec<PromptRow>],
        memory: usize,
        logit_scale: f32,
        context: impl Fn(usize, usize) -> usize,
    ) -> Result<Self> {
        let max_rows = (memory << 20) / encoder.bytes_per_row().max(1);
        Ok(Self {
            parts: split(&encoder, prompts, max_rows, context)?,
            encoder,
            logit_scale,
        })
    }

    /// The length of a class embedding.
    pub(super) fn embedding(&self) -> usize {
        self.encoder.embedding()
    }

    /// Scale of cosine similarities.
    pub(super) fn logit_scale(&self) -> f32 {
        self.logit_scale
    }

    /// Values that identify the model and the classes.
    pub(super) fn constants(&self) -> impl Iterator<Item = f32> {
        let parts = self.parts.iter().flat_map(PromptBatch::constants);
        std::iter::once(self.logit_scale).chain(parts)
    }

    /// Loss, correct predictions, and the gradient of the context vectors [contexts, width].
    pub(super) fn loss_and_gradient(
        &self,
        context: &[f32],
        images: &[f32],
        labels: &[usize],
    ) -> Result<ContextGradient> {
        // Several parts are run again for their gradients, one at a time, to limit memory.
        let first_pass = if self.parts.len() == 1 {
            Gradients::Enabled
        } else {
            Gradients::Disabled
        };
        let forward = |part: &PromptBatch| part.forward(&self.encoder, context, first_pass);
        let passes: Vec<ForwardPass> = self.parts.iter().map(forward).collect::<Result<_>>()?;
        let embeddings: Vec<&Tensor> = passes.iter().map(|pass| &pass.embeddings).collect();
        // The embeddings become a variable: the loss is differentiated up to it, then each part.
        let embeddings = Var::from_tensor(&Tensor::cat(&embeddings, 0)?.detach())?;
        let images = Tensor::from_slice(images, (labels.len(), self.embedding()), &Device::Cpu)?;
        let logits = images.matmul(&normalise(&embeddings)?.t()?)?;
        let logits = (logits * f64::from(self.logit_scale))?;
        let best = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let correct = best
            .iter()
            .zip(labels)
            .filter(|(b, l)| **b as usize == **l)
            .count();
        let loss = cross_entropies(&logits, labels)?.mean_all()?;
        let store = loss.backward()?;
        let Some(gradient) = store.get(&embeddings) else {
            return Err(Error::Config("the loss has no gradient".into()));
        };
        let mut sum = vec![0f32; context.len()];
        let mut start = 0;
        for (part, pass) in self.parts.iter().zip(passes) {
            let pass = match first_pass {
                Gradients::Enabled => pass,
                Gradients::Disabled => part.forward(&self.encoder, context, Gradients::Enabled)?,
            };
            let gradient = gradient.narrow(0, start, part.classes())?;
            part.backward(&pass, &gradient, &mut sum)?;
            start += part.classes();
        }
        Ok(ContextGradient {
            loss: loss.to_scalar()?,
            correct,
            gradient: sum,
        })
    }
}

/// Splits classes into parts of about `max_rows` rows.
fn split(
    encoder: &FrozenTextEncoder,
    prompts: &[Vec<PromptRow>],
    max_rows: usize,
    context: impl Fn(usize, usize) -> usize,
) -> Result<Vec<PromptBatch>> {
    let all = PromptBatch::new(encoder, prompts, &context)?;
    let count = all.rows().div_ceil(max_rows.max(1)).clamp(1, prompts.len());
    if count == 1 {
        return Ok(vec![all]);
    }
    let size = prompts.len().div_ceil(count);
    let chunks = prompts.chunks(size).enumerate();
    chunks
        .map(|(part, prompts)| {
            PromptBatch::new(encoder, prompts, |class, i| context(part * size + class, i))
        })
        .collect()
}
