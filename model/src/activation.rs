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
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QuickGelu => "quickgelu",
            Self::Gelu => "gelu",
        })
    }
}

impl FromStr for Activation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "quickgelu" => Ok(Self::QuickGelu),
            "gelu" => Ok(Self::Gelu),
            _ => Err("expected quickgelu or gelu".to_owned()),
        }
    }
}
