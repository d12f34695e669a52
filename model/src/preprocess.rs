//! The preprocessing configuration: how an image becomes the pixels that the encoder was trained on.

use serde::{Deserialize, Serialize};

/// How an RGB image becomes the square of pixels that a CLIP image encoder takes.
///
/// The fields are those of open_clip's `preprocess_cfg` and transformers'
/// `preprocessor_config.json`, under one name each. `mean` and `std` are per channel (R, G, B) on
/// the scale 0..1; export folds them into the encoder's graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessConfig {
    /// Side of the square output, in pixels.
    pub size: u32,
    /// Which side is scaled.
    pub resize: Resize,
    /// Length in pixels that it is scaled to, at least `size`; the rest is cropped. `size` if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize_to: Option<u32>,
    /// Resampling filter, antialiased as Pillow's.
    pub filter: Filter,
    /// How the offset of the centre crop is rounded.
    pub crop: CropRounding,
    /// Colour of the padding that [`Resize::Longest`] leaves, 0..255.
    pub fill: [u8; 3],
    /// Mean per channel on the scale 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel on the scale 0..1.
    pub std: [f32; 3],
}

/// Which side of the image is scaled to the target size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// The short side, with the aspect ratio; the long side is truncated (OpenAI).
    Shortest,
    /// The long side, with the aspect ratio; what is then missing is padded with `fill` (open_clip `longest`).
    Longest,
    /// Both sides; the aspect ratio is lost (SigLIP, open_clip `squash`).
    Squash,
}

/// Pillow's resampling filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Nearest neighbour.
    Nearest,
    /// Box average.
    Box,
    /// Triangle.
    Bilinear,
    /// Hamming-windowed.
    Hamming,
    /// Keys' cubic, a = -0.5.
    Bicubic,
    /// Three-lobed windowed sinc.
    Lanczos,
}

/// How `(side - size) / 2` is rounded to whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CropRounding {
    /// Half to even, as Python's `round` (OpenAI, open_clip, torchvision).
    HalfEven,
    /// Rounded down (transformers' image processors).
    Floor,
}

/// A field of a preprocessing configuration is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("preprocessing.{field}: expected {expected}, found {found}")]
pub struct InvalidPreprocessing {
    /// The field.
    pub field: &'static str,
    /// Its range.
    pub expected: String,
    /// Its value.
    pub found: String,
}

/// Largest [`PreprocessConfig::size`].
const MAX_SIZE: u32 = 4096;

impl PreprocessConfig {
    /// OpenAI's mean per channel, used by most CLIP models.
    pub const OPENAI_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
    /// OpenAI's standard deviation per channel.
    #[expect(clippy::excessive_precision, reason = "the published digits")]
    pub const OPENAI_STD: [f32; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

    /// OpenAI's configuration at `size` pixels: short side, bicubic, centre crop rounded half to even.
    pub fn openai(size: u32) -> Self {
        Self {
            size,
            resize: Resize::Shortest,
            resize_to: None,
            filter: Filter::Bicubic,
            crop: CropRounding::HalfEven,
            fill: [0; 3],
            mean: Self::OPENAI_MEAN,
            std: Self::OPENAI_STD,
        }
    }

    /// The same part of an image at another [`PreprocessConfig::size`], to show what the encoder sees.
    #[must_use]
    pub fn at_size(&self, size: u32) -> Self {
        let resize_to = self.resize_to.map(|scaled| {
            let scaled = u64::from(scaled) * u64::from(size) / u64::from(self.size.max(1));
            u32::try_from(scaled).unwrap_or(u32::MAX).max(size)
        });
        Self {
            size,
            resize_to,
            ..self.clone()
        }
    }

    /// As this one, for an encoder that takes pixels 0..1, because it normalises them itself.
    pub fn unnormalised(&self) -> Self {
        Self {
            mean: [0.0; 3],
            std: [1.0; 3],
            ..self.clone()
        }
    }

    /// Length in pixels that [`PreprocessConfig::resize`] scales to.
    pub fn scaled(&self) -> u32 {
        self.resize_to.unwrap_or(self.size)
    }

    /// SigLIP's configuration at `size` pixels: both sides scaled, bicubic, mean and standard deviation 0.5.
    pub fn siglip(size: u32) -> Self {
        Self {
            resize: Resize::Squash,
            mean: [0.5; 3],
            std: [0.5; 3],
            ..Self::openai(size)
        }
    }

    /// Checks the values of a configuration that was read from a file.
    ///
    /// # Errors
    /// `size` is not in 1..=4096, `resize_to` is not in `size`..=4096, a mean is not finite, or a standard deviation is not finite and positive.
    pub fn validate(&self) -> Result<(), InvalidPreprocessing> {
        let wrong = |field, expected: &str, found: String| {
            Err(InvalidPreprocessing {
                field,
                expected: expected.into(),
                found,
            })
        };
        if !(1..=MAX_SIZE).contains(&self.size) {
            return wrong("size", &format!("1..={MAX_SIZE}"), self.size.to_string());
        }
        if !(self.size..=MAX_SIZE).contains(&self.scaled()) {
            let expected = format!("size to {MAX_SIZE}, {}..={MAX_SIZE}", self.size);
            return wrong("resize_to", &expected, self.scaled().to_string());
        }
        if self.mean.iter().any(|m| !m.is_finite()) {
            return wrong("mean", "finite numbers", format!("{:?}", self.mean));
        }
        if self.std.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            return wrong("std", "finite numbers above 0", format!("{:?}", self.std));
        }
        Ok(())
    }
}
