//! Stage 1: class embeddings from class names and prompts.

use std::collections::BTreeMap;

use anyhow::{Context, Error, Result, ensure};
use pinhole_bundle::{Head, PromptLearnerInfo};
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{
    ClassPosition, DeepPrompts, EmbeddedNames, ExampleCache, LinearClassifier, PromptLearner,
};
use pinhole_prompts::{
    ClassEmbeddings, Classes, Conditional, Templates, TextEncoder, TextTokenizer, Tokenizer,
    check_trained_names, class_embeddings, deep_embeddings, learned_embeddings,
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
    Learned {
        /// The context vectors.
        learner: &'a PromptLearner,
        /// Where the name stands.
        position: ClassPosition,
        /// What their file has of the training's CLIP and class names.
        names: Option<&'a EmbeddedNames>,
        /// What continues inside of the text encoder.
        deep: Option<&'a DeepPrompts>,
    },
    /// None: another program or a learned method computed the embeddings.
    Given(&'a GivenEmbeddings),
    /// None: a learned linear head.
    Linear(&'a LinearClassifier),
    /// Texts around the name, and a cache of labelled examples.
    Cache(&'a ExampleCache, &'a Templates),
}

impl<'a> ClassPrompts<'a> {
    /// The prompt learner of a conditional head (CoCoOp).
    pub(crate) fn conditional(&self) -> Option<&'a PromptLearner> {
        match self {
            Self::Learned { learner, .. } if learner.meta_net.is_some() => Some(learner),
            _ => None,
        }
    }

    /// The manifest's `templates` and `prompt_learner`.
    pub(crate) fn recorded(&self) -> (Vec<String>, Option<PromptLearnerInfo>) {
        match self {
            Self::Templates(templates) | Self::Cache(_, templates) => {
                (templates.as_slice().to_vec(), None)
            }
            Self::Given(_) | Self::Linear(_) => (vec![], None),
            Self::Learned {
                learner, position, ..
            } => {
                let info = PromptLearnerInfo {
                    n_ctx: learner.n_ctx(),
                    class_position: *position,
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
    /// Factor from similarity to logit, if it is the head's own.
    pub logit_scale: Option<f32>,
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
            return Self::given(given, checkpoint, options);
        }
        if let ClassPrompts::Linear(classifier) = options.prompts {
            return Self::linear(classifier, options);
        }
        let encoder = TextEncoder::load(text_checkpoint(checkpoint)?)?;
        if let ClassPrompts::Learned {
            learner,
            names: Some(names),
            ..
        } = options.prompts
        {
            check_trained_names(&encoder, &Tokenizer::new(), options.classes, learner, names)?;
        }
        let mut learned = BTreeMap::new();
        let mut prompt_tokens = vec![];
        match options.prompts {
            ClassPrompts::Learned {
                learner, position, ..
            } if learner.meta_net.is_some() => {
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
            ClassPrompts::Learned {
                position,
                deep: Some(_),
                ..
            } => {
                ensure!(
                    !options.include_text_encoder,
                    "--with-text: expected prompts of words and context vectors, found tokens inside of the text encoder \
                     (--learned), which bundles do not have; omit --with-text"
                );
                ensure!(
                    position == ClassPosition::End,
                    "--class-position: expected end, found {position}; the tokens inside of the text encoder replace the \
                     context vectors before the name"
                );
            }
            ClassPrompts::Learned { learner, .. } if options.include_text_encoder => {
                ensure!(
                    learner.class_specific().is_none(),
                    "--with-text: expected a prompt learner with one context for all classes, found class-specific \
                     contexts, which new classes lack; omit --with-text"
                );
                learned.insert("context".to_owned(), learner.context.clone());
            }
            ClassPrompts::Cache(cache, _) => {
                ensure!(
                    !options.include_text_encoder,
                    "--with-text: expected prompts alone, found a cache of examples (--learned), which new classes lack; \
                     omit --with-text"
                );
                check_cache(cache, options.classes.names().len(), encoder.embedding())?;
            }
            _ => {}
        }
        let embeddings = embed_classes(options, &encoder, progress)?;
        let negative_embeddings = negative_embeddings(options, &encoder)?;
        Ok(Self {
            head: Head {
                classes: embeddings.classes.len(),
                embedding_size: embeddings.dim,
                class_embeddings: embeddings.data,
                negative_embeddings,
                learned,
                ..Head::default()
            },
            prompt_tokens,
            logit_scale: None,
        })
    }

    /// Of a linear head: no text can be embedded beside it.
    fn linear(classifier: &LinearClassifier, options: &TextOptions) -> Result<Self> {
        ensure!(
            options.negatives.is_empty() && !options.include_text_encoder,
            "--learned: a linear head has no place for texts: expected no --negatives and no --with-text"
        );
        let (head, logit_scale) = Head::linear(classifier, options.classes.names().len())
            .map_err(Error::msg)
            .context("--learned")?;
        Ok(Self {
            head,
            prompt_tokens: vec![],
            logit_scale: Some(logit_scale),
        })
    }

    /// Of class embeddings that another program or a learned method computed.
    fn given(
        given: &GivenEmbeddings,
        checkpoint: Option<&Checkpoint>,
        options: &TextOptions,
    ) -> Result<Self> {
        given.check(options.classes.names().len())?;
        ensure!(
            !options.include_text_encoder,
            "--with-text: expected prompts, which new classes would have too, found class embeddings alone ({}); omit \
             --with-text",
            given.origin
        );
        let negative_embeddings = if options.negatives.is_empty() {
            vec![]
        } else {
            negative_embeddings(options, &TextEncoder::load(text_checkpoint(checkpoint)?)?)?
        };
        Ok(Self {
            head: Head {
                classes: given.classes,
                embedding_size: given.size,
                class_embeddings: given.data.clone(),
                negative_embeddings,
                ..Head::default()
            },
            prompt_tokens: vec![],
            logit_scale: None,
        })
    }
}

/// Checks that the examples are of these classes, and that their embeddings have this length.
fn check_cache(cache: &ExampleCache, classes: usize, size: usize) -> Result<()> {
    ensure!(
        cache.classes == classes,
        "--learned: expected examples of the {classes} classes, in their order, found {} columns of values",
        cache.classes
    );
    ensure!(
        cache.keys.shape == [cache.labels.len(), size],
        "--learned: expected keys of length {size}, this model's embeddings, found {:?}; pass the CLIP that they were \
         computed with",
        cache.keys.shape
    );
    Ok(())
}

/// The embeddings of the texts for none of the classes.
fn negative_embeddings(options: &TextOptions, encoder: &TextEncoder) -> Result<Vec<f32>> {
    let mut embeddings = vec![];
    for text in options.negatives {
        let tokens = (options.tokenizer).tokens(text, encoder.config().context_length)?;
        embeddings.extend(encoder.embed_tokens(&tokens)?);
    }
    Ok(embeddings)
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
        ClassPrompts::Templates(templates) | ClassPrompts::Cache(_, templates) => class_embeddings(
            encoder,
            options.tokenizer,
            classes,
            templates,
            &mut progress,
        )?,
        // Only text encoders are compared by the classes, and these have none.
        ClassPrompts::Given(_) | ClassPrompts::Linear(_) => ClassEmbeddings {
            dim: encoder.embedding(),
            classes: vec![],
            data: vec![],
        },
        ClassPrompts::Learned {
            learner,
            names,
            deep: Some(deep),
            ..
        } => deep_embeddings(
            encoder,
            &Tokenizer::new(),
            classes,
            learner,
            deep,
            names,
            &mut progress,
        )?,
        ClassPrompts::Learned {
            learner, position, ..
        } => {
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
