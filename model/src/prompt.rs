//! Learned prompts as data: CoOp's and CoCoOp's weights, and the layout of a prompt.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Tensor;

/// One row of a learned prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptRow {
    /// The embedding of a token.
    Token(u32),
    /// A context vector, counted from 0.
    Context(usize),
}

/// Position of the class name in a learned prompt (CoOp, section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassPosition {
    /// After the context.
    #[default]
    End,
    /// Between the halves of the context, of which the first is the smaller one if they differ.
    Middle,
    /// Before the context.
    Front,
}

impl fmt::Display for ClassPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::End => "end",
            Self::Middle => "middle",
            Self::Front => "front",
        })
    }
}

impl FromStr for ClassPosition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "end" => Ok(Self::End),
            "middle" => Ok(Self::Middle),
            "front" => Ok(Self::Front),
            _ => Err("expected end, middle or front".to_owned()),
        }
    }
}

/// The weights of a prompt learner: CoOp's (Zhou et al., 2022) or, with a meta-net, CoCoOp's (Zhou
/// et al., 2022, "Conditional prompt learning").
#[derive(Clone, Debug, PartialEq)]
pub struct PromptLearner {
    /// Context vectors [n_ctx, width], or class-specific ones [classes, n_ctx, width], width being
    /// the text encoder's.
    pub context: Tensor,
    /// CoCoOp's network.
    pub meta_net: Option<MetaNet>,
    /// Position of the class name; the reference's files do not have it.
    pub class_position: Option<ClassPosition>,
}

/// CoCoOp's meta-net: W2 relu(W1 f + b1) + b2 of the L2-normalised image embedding f.
#[derive(Clone, Debug, PartialEq)]
pub struct MetaNet {
    /// W1, [hidden, embedding]; the reference has one hidden unit for 16 of the embedding.
    pub linear1_weight: Tensor,
    /// b1, `[hidden]`
    pub linear1_bias: Tensor,
    /// W2, [width, hidden]
    pub linear2_weight: Tensor,
    /// b2, `[width]`
    pub linear2_bias: Tensor,
}

impl PromptLearner {
    /// Number of context vectors of a prompt.
    pub fn n_ctx(&self) -> usize {
        self.context.shape[self.context.shape.len() - 2]
    }

    /// Length of a context vector, which is the width of the text encoder.
    pub fn width(&self) -> usize {
        self.context.shape[self.context.shape.len() - 1]
    }

    /// Number of classes that have a context of their own; `None` for a unified context.
    pub fn class_specific(&self) -> Option<usize> {
        (self.context.shape.len() == 3).then(|| self.context.shape[0])
    }
}
