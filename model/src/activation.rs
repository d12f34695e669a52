//! Activation functions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Activation function of a transformer's MLPs. It is a property of the weights that no tensor shape shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// x · sigmoid(1.702 x): the weights of OpenAI, MetaCLIP and open_clip's `*-quickgelu` models.
    QuickGelu,
    /// x Φ(x), Φ the normal distribution: GELU by the error function (Hendrycks and Gimpel, 2016), in
    /// the weights of LAION and DataComp.
    Gelu,
    /// x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³))): GELU's approximation by the hyperbolic tangent (the same source), in the
    /// weights of SigLIP2, and of SigLIP as transformers computes them.
    #[serde(rename = "gelu-tanh")]
    GeluTanh,
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QuickGelu => "quickgelu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu-tanh",
        })
    }
}

impl FromStr for Activation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "quickgelu" => Ok(Self::QuickGelu),
            "gelu" => Ok(Self::Gelu),
            "gelu-tanh" => Ok(Self::GeluTanh),
            _ => Err("expected quickgelu, gelu or gelu-tanh".to_owned()),
        }
    }
}
