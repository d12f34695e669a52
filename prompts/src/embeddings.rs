//! Class embeddings from prompt templates.

use pinhole_kernels::l2_normalize;

use crate::error::{Error, excerpt};
use crate::{Classes, Templates, TextEncoder, TextTokenizer};

/// One embedding per class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassEmbeddings {
    /// The C class names.
    pub classes: Vec<String>,
    /// D, the length of an embedding.
    pub dim: usize,
    /// `[C, D]`, each row L2-normalised.
    pub data: Vec<f32>,
}

/// Rows per batch: enough to reuse the encoder's weights, few enough to show progress.
const BATCH_ROWS: usize = 256;

/// The embedding of each class: the mean of the L2-normalised embeddings of its prompts, one per template, normalised
/// again (CLIP, section 3.1.4). `progress` is called with the number of prompts done and their total, first with 0.
/// Runs on rayon's current thread pool.
///
/// # Errors
/// [`Error::TooLong`] for a prompt that does not fit, before anything is computed; [`Error::UnknownToken`] for an
/// encoder of another vocabulary; [`Error::Degenerate`].
pub fn class_embeddings(
    encoder: &TextEncoder,
    tokenizer: &dyn TextTokenizer,
    classes: &Classes,
    templates: &Templates,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ClassEmbeddings, Error> {
    let context_length = encoder.config().context_length;
    classes.check(tokenizer, templates, context_length)?;
    let (names, dim) = (classes.names(), encoder.embedding());
    let total = names.len() * templates.as_slice().len();
    let mut data = vec![0.0; names.len() * dim];
    let mut done = 0;
    let mut batch: Vec<Vec<u32>> = Vec::new();
    let mut owners = Vec::new();
    progress(0, total);
    for (class, name) in names.iter().enumerate() {
        for prompt in templates.prompts(name) {
            batch.push(tokenizer.tokens(&prompt, context_length)?);
            owners.push(class);
            let rows: usize = batch.iter().map(Vec::len).sum();
            if rows < BATCH_ROWS && done + batch.len() < total {
                continue;
            }
            for (embedding, &owner) in encoder.embed_batch(&batch)?.chunks_exact(dim).zip(&owners) {
                let sum = &mut data[owner * dim..][..dim];
                sum.iter_mut()
                    .zip(embedding)
                    .for_each(|(sum, value)| *sum += value);
            }
            done += batch.len();
            progress(done, total);
            batch.clear();
            owners.clear();
        }
    }
    for (embedding, name) in data.chunks_exact_mut(dim).zip(names) {
        l2_normalize(embedding);
        if !embedding.iter().all(|value| value.is_finite()) {
            return Err(Error::Degenerate {
                text: format!("class {:?}", excerpt(name)),
            });
        }
    }
    Ok(ClassEmbeddings {
        classes: names.to_vec(),
        dim,
        data,
    })
}
