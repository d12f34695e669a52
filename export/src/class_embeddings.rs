//! Stage 1: class embeddings from class names and prompts.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use pinhole_bundle::{Head, PromptLearnerInfo};
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{ClassPosition, PromptLearner};
use pinhole_prompts::{
    ClassEmbeddings, Classes, Conditional, Templates, TextEncoder, TextTokenizer, Tokenizer,
    class_embeddings, learned_embeddings,
};

use crate::given_embeddings::GivenEmbeddings;
use crate::progress::{ExportProgress, ExportStep};

/// The classes and what is known of them as text.
pub struct TextOptions<'a> {
    /// The tokenizer of the model ([`model_tokenizer`](crate::model_tokenizer)).
    pub tokenizer: &'a dyn TextTokenizer,
    /// The classes to rank.
    pub classes: &'a Classes,
    /// The prompts of a class.
    pub prompts: ClassPrompts<'a>,
    /// Texts for images of none of the classes.
    pub negatives: &'a [String],
    /// Whether to include the text encoder, so that `pinhole classes` can name new classes.
    pub include_text_encoder: bool,
}

/// What turns a class name into a class embedding.
#[derive(Clone, Copy, Debug)]
pub enum ClassPrompts<'a> {
    /// Texts around the name.
    Templates(&'a Templates),
    /// Learned context vectors around the name.
    Learned(&'a PromptLearner, ClassPosition),
    /// None: another program computed the embeddings.
    Given(&'a GivenEmbeddings),
}

impl<'a> ClassPrompts<'a> {
    /// The prompt learner of a conditional head (CoCoOp).
    pub(crate) fn conditional(&self) -> Option<&'a PromptLearner> {
        match self {
            Self::Learned(learner, _) if learner.meta_net.is_some() => Some(learner),
            _ => None,
        }
    }

    /// The manifest's `templates` and `prompt_learner`.
    pub(crate) fn recorded(&self) -> (Vec<String>, Option<PromptLearnerInfo>) {
        match self {
            Self::Templates(templates) => (templates.as_slice().to_vec(), None),
            Self::Given(_) => (vec![], None),
            Self::Learned(learner, class_position) => {
                let info = PromptLearnerInfo {
                    n_ctx: learner.n_ctx(),
                    class_position: *class_position,
                    class_specific: learner.class_specific().is_some(),
                };
                (vec![], Some(info))
            }
        }
    }
}

/// The checkpoint, for what needs a text encoder.
pub(crate) fn text_checkpoint(checkpoint: Option<&Checkpoint>) -> Result<&Checkpoint> {
    checkpoint
        .context("expected --clip with the checkpoint of a text encoder, or --class-embeddings")
}

/// The text side of a bundle.
pub(crate) struct TextStage {
    /// The static head; for a conditional head its class embeddings are those without an image.
    pub head: Head,
    /// The tokens that a conditional head's prompts use, ascending; empty for other heads.
    pub prompt_tokens: Vec<u32>,
}

impl TextStage {
    /// Computes the embeddings with the checkpoint's text encoder in f32.
    ///
    /// # Errors
    /// A class name or prompt that does not fit; a prompt learner of another model, or that the other options exclude.
    pub(crate) fn run(
        checkpoint: Option<&Checkpoint>,
        options: &TextOptions,
        has_calibration_images: bool,
        progress: &mut ExportProgress,
    ) -> Result<Self> {
        if let ClassPrompts::Given(given) = options.prompts {
            return Self::given(given, options);
        }
        let encoder = TextEncoder::load(text_checkpoint(checkpoint)?)?;
        let mut learned = BTreeMap::new();
        let mut prompt_tokens = vec![];
        match options.prompts {
            ClassPrompts::Learned(learner, position) if learner.meta_net.is_some() => {
                ensure!(
                    position == ClassPosition::End,
                    "prompt learner with a meta-net (CoCoOp): --class-position: expected end, found {position}; the \
                     text encoder is causal, and the conditional head shares what precedes the name"
                );
                // Built here so that a learner that does not fit is reported before the long steps.
                let prompts =
                    Conditional::new(&encoder, &Tokenizer::new(), options.classes, learner)?;
                prompt_tokens = prompts.token_ids().to_vec();
                ensure!(
                    has_calibration_images,
                    "prompt learner with a meta-net (CoCoOp): expected --calibration with a folder of images, found \
                     none; the head's cheaper modes are fitted to a few hundred images like the camera's"
                );
            }
            ClassPrompts::Learned(learner, _) if options.include_text_encoder => {
                ensure!(
                    learner.class_specific().is_none(),
                    "--with-text: expected a prompt learner with one context for all classes, found class-specific \
                     contexts, which new classes lack; omit --with-text"
                );
                learned.insert("context".to_owned(), learner.context.clone());
            }
            _ => {}
        }
        let embeddings = embed_classes(options, &encoder, progress)?;
        let mut negative_embeddings = vec![];
        for text in options.negatives {
            let tokens = (options.tokenizer).tokens(text, encoder.config().context_length)?;
            negative_embeddings.extend(encoder.embed_tokens(&tokens)?);
        }
        Ok(Self {
            head: Head {
                classes: embeddings.classes.len(),
                embedding_size: embeddings.dim,
                class_embeddings: embeddings.data,
                negative_embeddings,
                learned,
            },
            prompt_tokens,
        })
    }

    /// Of class embeddings that another program computed: no text can be embedded beside them.
    fn given(given: &GivenEmbeddings, options: &TextOptions) -> Result<Self> {
        given.check(options.classes.names().len())?;
        ensure!(
            options.negatives.is_empty() && !options.include_text_encoder,
            "--class-embeddings: expected no --negatives and no --with-text, which need a text encoder"
        );
        Ok(Self {
            head: Head {
                classes: given.classes,
                embedding_size: given.size,
                class_embeddings: given.data.clone(),
                ..Head::default()
            },
            prompt_tokens: vec![],
        })
    }
}

/// The class embeddings by `encoder`; for prompts that depend on the image, those without an image.
pub(crate) fn embed_classes(
    options: &TextOptions,
    encoder: &TextEncoder,
    progress: &mut ExportProgress,
) -> Result<ClassEmbeddings> {
    let classes = options.classes;
    let mut progress =
        |done: usize, total: usize| progress(ExportStep::Text, done as u64, total as u64);
    Ok(match options.prompts {
        ClassPrompts::Templates(templates) => class_embeddings(
            encoder,
            options.tokenizer,
            classes,
            templates,
            &mut progress,
        )?,
        ClassPrompts::Given(given) => ClassEmbeddings {
            dim: given.size,
            classes: options.classes.names().to_vec(),
            data: given.data.clone(),
        },
        ClassPrompts::Learned(learner, position) => {
            let learner = PromptLearner {
                meta_net: None,
                ..learner.clone()
            };
            learned_embeddings(
                encoder,
                &Tokenizer::new(),
                classes,
                &learner,
                position,
                &mut progress,
            )?
        }
    })
}
