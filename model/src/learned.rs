//! What learned methods make of a CLIP, as data: every method is a combination of a few forms.

use std::fmt;
use std::sync::Arc;

use crate::{PromptLearner, Tensor};

/// A form that a learned method takes on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnedForm {
    /// One vector per class, which costs what zero-shot costs.
    ClassEmbeddings,
    /// Changed weights of CLIP, which cost nothing.
    ChangedWeights,
    /// Tokens inside of the image encoder that are the same for every image.
    ImageTokens,
    /// Layers behind the image encoder.
    Tail,
    /// A row and a bias per class, whose norms are free.
    LinearHead,
    /// Class embeddings, and embeddings of labelled examples.
    CacheHead,
    /// Class embeddings that depend on the image (CoCoOp).
    ConditionalHead,
}

impl fmt::Display for LearnedForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClassEmbeddings => "class embeddings",
            Self::ChangedWeights => "changed weights",
            Self::ImageTokens => "constant tokens in the image encoder",
            Self::Tail => "layers behind the image encoder",
            Self::LinearHead => "a linear head",
            Self::CacheHead => "a cache of examples",
            Self::ConditionalHead => "class embeddings for each image",
        })
    }
}

/// What the files of a learned method hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// The method's name, such as "KgCoOp".
    pub method: &'static str,
    /// How images are classified.
    pub classes: LearnedClasses,
    /// How CLIP's weights change, in both encoders.
    pub weights: Vec<WeightUpdate>,
    /// Tensors of the training's own encoders, which replace CLIP's: each by a name of
    /// [`ClipConfig::tensors`](crate::ClipConfig::tensors).
    pub encoders: Vec<(String, Arc<Tensor>)>,
    /// Tokens of the image encoder, a vision transformer, that are the same for every image, each [n, width]. The first
    /// follow the patches' tokens with their positions, before the blocks and the norm before them. The others replace these
    /// n tokens on entry to block 1, 2 and so on, counted from 0; blocks behind those compute with what they find. Empty for
    /// methods without such tokens.
    pub image_tokens: Vec<Tensor>,
    /// What follows the image encoder.
    pub tail: Option<Tail>,
    /// What the prompts of the classes have beside context vectors.
    pub deep_prompts: Option<DeepPrompts>,
    /// Names of the training's classes, in the order of their labels; empty if the file does not record them.
    pub trained_classes: Vec<String>,
    /// What the user should know, one line each.
    pub notes: Vec<String>,
}

impl Learned {
    /// A method that changes nothing but how images are classified.
    pub fn new(method: &'static str, classes: LearnedClasses) -> Self {
        Self {
            method,
            classes,
            weights: vec![],
            encoders: vec![],
            image_tokens: vec![],
            tail: None,
            deep_prompts: None,
            trained_classes: vec![],
            notes: vec![],
        }
    }

    /// Whether tensors belong to the training's classes, such that no others can be classified.
    pub fn is_class_specific(&self) -> bool {
        match &self.classes {
            LearnedClasses::Templates => false,
            LearnedClasses::Prompts { learner, .. } => learner.class_specific().is_some(),
            LearnedClasses::Embeddings(_)
            | LearnedClasses::Linear(_)
            | LearnedClasses::Cache(_) => true,
        }
    }

    /// Compares the training's classes with those to classify, if tensors belong to them and the file records them. `_` and
    /// the case of letters do not matter, as in prompts.
    ///
    /// # Errors
    /// A text that names the first class that differs.
    pub fn check_classes(&self, classes: &[String]) -> Result<(), String> {
        let trained = &self.trained_classes;
        if trained.is_empty() || !self.is_class_specific() {
            return Ok(());
        }
        let words = |name: &str| name.replace('_', " ").to_lowercase();
        let mut pairs = trained.iter().zip(classes);
        if let Some(at) = pairs.position(|(trained, name)| words(trained) != words(name)) {
            let excerpt = |name: &str| name.chars().take(80).collect::<String>();
            return Err(format!(
                "{}: class {}: expected {:?}, as in the training, found {:?}; pass the {} classes of the training in their \
                 order",
                self.method,
                at + 1,
                excerpt(&trained[at]),
                excerpt(&classes[at]),
                trained.len()
            ));
        }
        if trained.len() != classes.len() {
            return Err(format!(
                "{}: expected the {} classes of the training in their order, found {}",
                self.method,
                trained.len(),
                classes.len()
            ));
        }
        Ok(())
    }

    /// Whether the image encoder is another one than that of the CLIP it was trained with.
    pub fn changes_image_encoder(&self) -> bool {
        let of_image = |name: &str| name.starts_with("visual.");
        self.tail.is_some()
            || !self.image_tokens.is_empty()
            || (self.weights.iter()).any(|update| of_image(&update.name))
            || (self.encoders.iter()).any(|(name, _)| of_image(name))
    }

    /// Whether the text encoder is another one.
    pub fn changes_text_encoder(&self) -> bool {
        let of_text = |name: &str| !name.starts_with("visual.");
        self.deep_prompts.is_some()
            || (self.weights.iter()).any(|update| of_text(&update.name))
            || (self.encoders.iter()).any(|(name, _)| of_text(name))
    }
}

/// Learned prompts that continue inside of the text encoder (MaPLe, Khattak et al., CVPR 2023): context vectors before the
/// class name, whose rows are replaced again in deeper blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct DeepPrompts {
    /// On entry to block 1, 2 and so on, counted from 0, the rows of the context become these, each [n_ctx, width].
    pub tokens: Vec<Tensor>,
    /// The words that the training began with. Those that the context vectors did not replace, its first tokens, remain
    /// between them and the class name.
    pub initial_words: &'static str,
    /// What follows the text encoder.
    pub tail: Option<Tail>,
}

/// How a learned method classifies the image embedding.
#[derive(Clone, Debug, PartialEq)]
pub enum LearnedClasses {
    /// By prompt templates, as zero-shot.
    Templates,
    /// By learned context vectors around the class names, which the text encoder turns into class embeddings.
    Prompts {
        /// The context vectors, and CoCoOp's network.
        learner: Box<PromptLearner>,
        /// What the file holds of the training's class names.
        names: Option<EmbeddedNames>,
    },
    /// By class embeddings [classes, D], not normalised.
    Embeddings(Tensor),
    /// By a linear head.
    Linear(LinearClassifier),
    /// By prompt templates and a cache of examples.
    Cache(ExampleCache),
}

/// Rows of the training CLIP's token embedding, which the trainers of CoOp and its followers save.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddedNames {
    /// `token_prefix` [classes, 1, width]: the start of text of each class.
    pub prefix: Tensor,
    /// `token_suffix` [classes, rows, width]: what follows the context vectors, which is the class name, a full stop, the
    /// end of text and padding.
    pub suffix: Tensor,
}

/// Logits W f + b of the L2-normalised image embedding f.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearClassifier {
    /// W, [classes, D]; [1, D] for two classes, as scikit-learn saves it: the logit of the second, that of the first being
    /// zero.
    pub weight: Tensor,
    /// b, one for each row of W; `None` for zeros.
    pub bias: Option<Tensor>,
}

/// Tip-Adapter's cache (Zhang et al., ECCV 2022): the logits of the class embeddings, plus
/// alpha exp(-beta (1 - k . f)) for the class of each key k.
#[derive(Clone, Debug, PartialEq)]
pub struct ExampleCache {
    /// The keys, [examples, D].
    pub keys: Tensor,
    /// The class of each key.
    pub labels: Vec<usize>,
    /// Number of classes.
    pub classes: usize,
    /// Weight of the cache, in logits; `None` to search it.
    pub alpha: Option<f32>,
    /// Sharpness; `None` to search it.
    pub beta: Option<f32>,
}

/// A change of rows of one of CLIP's matrices: W + scale B A (LoRA).
#[derive(Clone, Debug, PartialEq)]
pub struct WeightUpdate {
    /// The matrix, by a name of [`ClipConfig::tensors`](crate::ClipConfig::tensors).
    pub name: String,
    /// Its first changed row.
    pub first_row: usize,
    /// A, [rank, inputs].
    pub down: Tensor,
    /// B, [outputs, rank].
    pub up: Tensor,
    /// Factor of the product.
    pub scale: f32,
}

/// Layers behind an encoder: share g(f) + (1 - share) f of the embedding f that is not normalised yet, with
/// g(f) = relu(W2 relu(W1 f)).
#[derive(Clone, Debug, PartialEq)]
pub struct Tail {
    /// W1, [hidden, D].
    pub down: Tensor,
    /// W2, [D, hidden].
    pub up: Tensor,
    /// Above 0 and below 1.
    pub share: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_other_class_is_named() {
        let weight = Tensor {
            shape: vec![3, 1],
            data: vec![0.0; 3],
        };
        let head = LearnedClasses::Linear(LinearClassifier { weight, bias: None });
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let learned = |classes| Learned {
            trained_classes: names(&["a", "b b", "c"]),
            ..Learned::new("linear head", classes)
        };
        let check = |classes: &[&str]| learned(head.clone()).check_classes(&names(classes));
        assert_eq!(check(&["a", "B_b", "c"]), Ok(()));
        let order = check(&["a", "c", "b b"]).unwrap_err();
        assert!(
            order.contains("class 2: expected \"b b\"") && order.contains("found \"c\""),
            "{order}"
        );
        let fewer = check(&["a", "b b"]).unwrap_err();
        assert!(
            fewer.contains("the 3 classes") && fewer.contains("found 2"),
            "{fewer}"
        );
        // What is not recorded, or needs no classes.
        let unknown = Learned::new("linear head", head.clone());
        assert_eq!(unknown.check_classes(&names(&["x"])), Ok(()));
        let templates = learned(LearnedClasses::Templates);
        assert_eq!(templates.check_classes(&names(&["x"])), Ok(()));
    }
}
