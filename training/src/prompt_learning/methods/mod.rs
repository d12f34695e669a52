//! The registry of prompt-learning methods.

mod cocoop;
mod coop;

use std::fmt;

use pinhole_model::{ClassPosition, PromptLearner};
use pinhole_prompts::{Classes, TextEncoder, Tokenizer};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::method::{PromptForms, PromptMethod, Recipe};
use crate::class_head::ClassHead;

/// All methods.
static METHODS: [Method; 2] = [Method::COOP, Method::COCOOP];

/// A prompt-learning method.
#[derive(Clone, Copy)]
pub struct Method(&'static dyn PromptMethod);

impl Method {
    /// CoOp (Zhou et al., "Learning to prompt for vision-language models", IJCV 2022).
    pub const COOP: Self = Self(&coop::CoOp);
    /// CoCoOp (Zhou et al., "Conditional prompt learning for vision-language models", CVPR 2022).
    pub const COCOOP: Self = Self(&cocoop::CoCoOp);

    /// All methods.
    pub fn all() -> &'static [Self] {
        &METHODS
    }

    /// The method with a key, such as "coop".
    pub fn by_key(key: &str) -> Option<Self> {
        METHODS.iter().copied().find(|method| method.key() == key)
    }

    /// The method that trained a prompt learner.
    pub fn of(learner: &PromptLearner) -> Option<Self> {
        let mut methods = METHODS.iter().copied();
        methods.find(|method| method.0.trained(learner))
    }

    /// Name in reports, such as "CoOp".
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Name of the command, the output folder and the option, such as "coop".
    pub fn key(self) -> &'static str {
        self.0.key()
    }

    /// The option of the base-to-new command for the method's epochs.
    pub fn epochs_flag(self) -> &'static str {
        self.0.epochs_flag()
    }

    /// One line of help.
    pub fn about(self) -> &'static str {
        self.0.about()
    }

    /// Default hyper-parameters for a number of shots.
    pub fn recipe(self, shots: usize) -> Recipe {
        self.0.recipe(shots)
    }

    /// The prompts that the method supports.
    pub fn prompt_forms(self) -> PromptForms {
        self.0.prompt_forms()
    }

    /// The classification head of a prompt learner for some classes.
    pub(crate) fn head(
        self,
        encoder: &TextEncoder,
        tokenizer: &Tokenizer,
        classes: &Classes,
        learner: &PromptLearner,
        position: ClassPosition,
    ) -> crate::Result<ClassHead> {
        let method = self.0;
        method.head(encoder, tokenizer, classes, learner, position)
    }

    /// The method's implementation.
    pub(in crate::prompt_learning) fn implementation(self) -> &'static dyn PromptMethod {
        self.0
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Method {}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// As its key.
impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = String::deserialize(deserializer)?;
        Self::by_key(&key).ok_or_else(|| de::Error::custom(format!("unknown method {key:?}")))
    }
}
