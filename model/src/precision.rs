//! How weights are stored, and how an approximation is measured.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How an encoder's weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, multiplied as such or in f32.
    F16,
    /// 8-bit integers with one scale per output channel in the linear layers of the blocks; the rest as
    /// [`Self::F16`].
    Int8,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

/// Agreement of approximate similarities with exact ones, over some images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Top-1 agreement: share of images with the same best class, 0..1.
    pub top1: f32,
    /// Largest difference of a logit, over all images and classes.
    pub largest_logit_difference: f32,
    /// Mean difference of a logit.
    pub mean_logit_difference: f32,
}
