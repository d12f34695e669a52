//! `manifest.json`.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use pinhole_model::{
    Activation, Agreement, ClassPosition, Precision, PreprocessConfig, Score, TextEncoderConfig,
};
use serde::{Deserialize, Serialize};

use crate::{Calibration, Error};

/// The value of [`Manifest::format`].
pub const FORMAT: &str = "pinhole-bundle";
/// The version that this crate writes and reads.
pub const VERSION: u32 = 1;

/// The contents of `manifest.json`.
///
/// Unknown fields are refused: otherwise a bundle with features that this reader does not know would be
/// misread in silence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: String,
    /// [`VERSION`]; another one is refused.
    pub version: u32,
    /// The program and version that wrote the bundle.
    pub created_by: String,
    /// The image encoder.
    pub model: ModelInfo,
    /// From an RGB image to the encoder's pixels. Mean and std are for information; they are folded into
    /// the graph.
    pub preprocessing: PreprocessConfig,
    /// How the weights are stored and multiplied.
    pub precision: Precision,
    /// Factor from cosine similarity to logit, after exp (CLIP: about 100).
    pub logit_scale: f32,
    /// Divides the logits; 1 if it was not calibrated.
    pub temperature: f32,
    /// What the probabilities are: "softmax" (also if it is absent), or `{"sigmoid": {"logit_bias": ...}}`.
    #[serde(default, skip_serializing_if = "Score::is_softmax")]
    pub score: Score,
    /// Class names, in the order of the head's rows. A class is its index here: names may occur several times.
    pub classes: Vec<String>,
    /// The prompt templates of the class embeddings; none if the prompts were learned.
    pub templates: Vec<String>,
    /// The learned method that the classes come from, such as "KgCoOp"; absent for templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The learned prompts, instead of templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_learner: Option<PromptLearnerInfo>,
    /// The contents of `text_encoder.safetensors`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<TextEncoderInfo>,
    /// Conditions for the answer "unknown".
    pub unknown: UnknownPolicy,
    /// The kind of head in `head.safetensors`.
    pub head: HeadKind,
    /// The numbers of a cache head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheInfo>,
    /// Agreement of the approximate modes with the exact one; only for a conditional head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditional: Option<ConditionalInfo>,
    /// Fidelity of the stored precision against f32, measured at export; absent for f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    /// The same with f16 weights multiplied in f16. A reader may do so only if this is present; it is absent if
    /// the fidelity was not sufficient or not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f16_arithmetic: Option<Fidelity>,
    /// Quality of the probabilities; absent if they were not calibrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Text for users: origin, intended use, limits.
    pub model_card: String,
    /// Every file of the bundle but the manifest.
    pub files: Vec<FileEntry>,
}

/// The image encoder's name and sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInfo {
    /// For display, such as "ViT-B/32".
    pub name: String,
    /// Side of the square input in pixels; equals `preprocessing.size`.
    pub image_size: u32,
    /// D, the length of an embedding.
    pub embedding_size: usize,
}

/// Conditions for a known class. The answer is "unknown" if any that is set is not met.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnknownPolicy {
    /// Least cosine similarity of the best class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_similarity: Option<f32>,
    /// Least difference of similarity between the best class and the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_margin: Option<f32>,
    /// Texts for anything but the classes. The answer is unknown if one of them is more similar than the best
    /// class. Their embeddings are the head's `negative_embeddings`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub negatives: Vec<String>,
    /// Index of the class that stands for none of the others: the answer is unknown if it is the best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<usize>,
}

/// The form of the learned prompts (CoOp, CoCoOp).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptLearnerInfo {
    /// Number of context vectors of a prompt.
    pub n_ctx: usize,
    /// Position of the class name: "end", "middle" or "front".
    pub class_position: ClassPosition,
    /// Whether each class has a context of its own.
    pub class_specific: bool,
}

/// The text encoder in `text_encoder.safetensors`: its tensors under open_clip's names. In
/// [`Precision::Int8`] the weights of the linear layers in the blocks are I8 [outputs, inputs], each in
/// -127 ..= 127, with per-channel scales F32 `[outputs]` under the same name and `_scale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoderInfo {
    /// Its sizes.
    #[serde(rename = "tower")]
    pub config: TextEncoderConfig,
    /// "quickgelu" or "gelu".
    pub activation: Activation,
    /// How its weights are stored.
    pub precision: Precision,
    /// The tokens whose rows `token_embedding.weight` has, ascending. Empty: the whole vocabulary, so that
    /// any class can be named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<u32>,
    /// Fidelity of the stored precision against f32, measured at export; absent for f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<TextFidelity>,
}

/// Fidelity of the stored text encoder to the same weights in f32, on the class embeddings of the export
/// (of a conditional head: those without an image).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextFidelity {
    /// How many classes were compared.
    pub classes: usize,
    /// Mean cosine between the two embeddings.
    pub mean_cosine: f32,
    /// The lowest cosine.
    pub worst_cosine: f32,
}

/// The kinds of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// `class_embeddings`: one unit vector per class.
    Static,
    /// CoCoOp: the class embeddings depend on the image.
    Conditional,
    /// A row and a bias per class, of any norm: `linear_head.weight` and `linear_head.bias`. Its similarities are logits
    /// divided by `logit_scale`.
    Linear,
    /// `class_embeddings`, and a cache of labelled examples: `cache.keys` and `cache.labels`.
    Cache,
}

/// As in the manifest.
impl fmt::Display for HeadKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Static => "static",
            Self::Conditional => "conditional",
            Self::Linear => "linear",
            Self::Cache => "cache",
        })
    }
}

/// The numbers of a cache head (Tip-Adapter): alpha exp(-beta (1 - k . f)) is added to the logit of each key's class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheInfo {
    /// Weight of the cache, in logits.
    pub alpha: f32,
    /// Sharpness.
    pub beta: f32,
}

/// The approximate modes of a conditional head, measured at export against the exact one, which runs the text
/// encoder for every class and image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionalInfo {
    /// Images that the first-order head was fitted to.
    pub fitted_images: usize,
    /// Images that the modes were compared on: held-out ones, if there were enough.
    pub compared_images: usize,
    /// The greatest |t_c(a) - t_c(b)| / |pi_a - pi_b| seen between two images a and b: how far a unit class
    /// embedding t_c moves with the shift pi of the context.
    pub movement: f32,
    /// The first-order head alone.
    pub linear: Agreement,
    /// How many classes the first-order head selects for the text encoder in mode `shortlist`.
    pub shortlist_length: usize,
    /// Mode `shortlist` of that length.
    pub shortlist: Agreement,
}

/// Fidelity of the stored image encoder to the same weights in f32, on `images` images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fidelity {
    /// How many images were compared.
    pub images: usize,
    /// Mean cosine between the two embeddings.
    pub mean_cosine: f32,
    /// The lowest cosine.
    pub worst_cosine: f32,
    /// Top-1 agreement: share of images with the same best class, 0..1, among the classes of the export.
    pub top1_agreement: f32,
}

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path inside the bundle, `/` between folders.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Checks the range of every field; `path` is the manifest's, for errors.
    pub(crate) fn validate(&self, path: &Path) -> Result<(), Error> {
        self.validate_model(path)?;
        self.validate_classes(path)?;
        self.validate_unknown(path)?;
        if let Some(text) = &self.text_encoder {
            text.validate(path)?;
        }
        self.validate_conditional(path)?;
        if let Some(calibration) = &self.calibration {
            calibration.validate(path)?;
        }
        self.validate_files(path)
    }

    fn validate_model(&self, path: &Path) -> Result<(), Error> {
        if self.format != FORMAT {
            let found = format!("{:?}", self.format);
            return Err(Error::field(path, "format", format!("{FORMAT:?}"), found));
        }
        if self.version != VERSION {
            let expected = format!("{VERSION} (export the bundle again, or update pinhole)");
            return Err(Error::field(path, "version", expected, self.version));
        }
        for (field, value) in [
            ("logit_scale", self.logit_scale),
            ("temperature", self.temperature),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::field(path, field, "a finite number above 0", value));
            }
        }
        if let Score::Sigmoid {
            logit_bias,
            calibrated_bias,
        } = self.score
        {
            for (field, value) in [
                ("score.sigmoid.logit_bias", Some(logit_bias)),
                ("score.sigmoid.calibrated_bias", calibrated_bias),
            ] {
                if let Some(v) = value
                    && !v.is_finite()
                {
                    return Err(Error::field(path, field, "a finite number", v));
                }
            }
        }
        self.preprocessing
            .validate()
            .map_err(|e| Error::field(path, "preprocessing", "a valid configuration", e))?;
        if self.preprocessing.size != self.model.image_size {
            return Err(Error::field(
                path,
                "preprocessing.size",
                format!("{} as in model.image_size", self.model.image_size),
                self.preprocessing.size,
            ));
        }
        let size = self.model.embedding_size;
        if !(1..=65_536).contains(&size) {
            return Err(Error::field(
                path,
                "model.embedding_size",
                "1 to 65536",
                size,
            ));
        }
        Ok(())
    }

    fn validate_classes(&self, path: &Path) -> Result<(), Error> {
        if self.classes.is_empty() {
            return Err(Error::field(path, "classes", "at least one class", "none"));
        }
        for (i, class) in self.classes.iter().enumerate() {
            let field = format!("classes[{i}]");
            if class.trim().is_empty() {
                return Err(Error::field(path, field, "a name", "an empty string"));
            }
        }
        Ok(())
    }

    fn validate_unknown(&self, path: &Path) -> Result<(), Error> {
        for (field, value) in [
            ("unknown.min_similarity", self.unknown.min_similarity),
            ("unknown.min_margin", self.unknown.min_margin),
        ] {
            if let Some(v) = value
                && !v.is_finite()
            {
                return Err(Error::field(path, field, "a finite number", v));
            }
        }
        if let Some(class) = self.unknown.class
            && class >= self.classes.len()
        {
            let expected = format!("a class below {}", self.classes.len());
            return Err(Error::field(path, "unknown.class", expected, class));
        }
        for (i, text) in self.unknown.negatives.iter().enumerate() {
            if text.trim().is_empty() {
                let field = format!("unknown.negatives[{i}]");
                return Err(Error::field(path, field, "a text", "an empty string"));
            }
        }
        Ok(())
    }

    /// Checks the fields of learned prompts, which a conditional head needs.
    fn validate_conditional(&self, path: &Path) -> Result<(), Error> {
        if let Some(learner) = &self.prompt_learner
            && learner.n_ctx == 0
        {
            return Err(Error::field(path, "prompt_learner.n_ctx", "at least 1", 0));
        }
        let conditional = self.head == HeadKind::Conditional;
        let (text, learner) = (&self.text_encoder, &self.prompt_learner);
        for (field, valid) in [
            ("conditional", self.conditional.is_some() == conditional),
            ("text_encoder", text.is_some() || !conditional),
            ("prompt_learner", learner.is_some() || !conditional),
        ] {
            if !valid {
                let found = if conditional { "none" } else { "one" };
                return Err(Error::field(
                    path,
                    field,
                    "one if the head is conditional",
                    found,
                ));
            }
        }
        match (self.head, &self.cache) {
            (HeadKind::Cache, Some(CacheInfo { alpha, beta })) => {
                for (field, value) in [("cache.alpha", *alpha), ("cache.beta", *beta)] {
                    if !(value.is_finite() && value >= 0.0) {
                        return Err(Error::field(path, field, "a finite number from 0", value));
                    }
                }
            }
            (HeadKind::Cache, None) => {
                return Err(Error::field(path, "cache", "one for a cache head", "none"));
            }
            (_, Some(_)) => {
                let expected = "none, as the head has no cache";
                return Err(Error::field(path, "cache", expected, "one"));
            }
            (_, None) => {}
        }
        if let Some(c) = &self.conditional {
            let figures = [c.linear, c.shortlist].into_iter().flat_map(|agreement| {
                [
                    agreement.top1,
                    agreement.largest_logit_difference,
                    agreement.mean_logit_difference,
                ]
            });
            if figures
                .chain([c.movement])
                .any(|v| !v.is_finite() || v < 0.0)
            {
                let found = format!("{c:?}");
                return Err(Error::field(path, "conditional", "numbers from 0", found));
            }
        }
        Ok(())
    }

    fn validate_files(&self, path: &Path) -> Result<(), Error> {
        let mut paths = HashSet::new();
        for (i, file) in self.files.iter().enumerate() {
            let field = |name: &str| format!("files[{i}].{name}");
            let plain = file.path.split('/').all(|part| {
                !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0'])
            });
            if !plain {
                let found = format!("{:?}", file.path);
                let expected = "a relative path inside the bundle";
                return Err(Error::field(path, field("path"), expected, found));
            }
            if !paths.insert(file.path.as_str()) {
                let found = format!("{:?} again", file.path);
                return Err(Error::field(path, field("path"), "each file once", found));
            }
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if file.sha256.len() != 64 || !file.sha256.bytes().all(hex) {
                let found = format!("{:?}", file.sha256);
                let expected = "64 lower-case hexadecimal digits";
                return Err(Error::field(path, field("sha256"), expected, found));
            }
        }
        let text_encoder = self.text_encoder.as_ref().map(|_| crate::TEXT_ENCODER);
        let required = [crate::IMAGE_ENCODER, crate::HEAD, crate::GOLDEN];
        for required in required.into_iter().chain(text_encoder) {
            if !paths.contains(required) {
                let expected = format!("an entry for {required}");
                return Err(Error::field(path, "files", expected, "none"));
            }
        }
        Ok(())
    }
}

impl TextEncoderInfo {
    fn validate(&self, path: &Path) -> Result<(), Error> {
        let config = &self.config;
        for (field, value, most) in [
            ("context_length", config.context_length, 1 << 16),
            ("vocabulary", config.vocabulary, 1 << 24),
            ("width", config.width, 1 << 16),
            ("layers", config.layers, 1 << 10),
            ("heads", config.heads, config.width),
        ] {
            if !(1..=most).contains(&value) {
                let field = format!("text_encoder.tower.{field}");
                return Err(Error::field(path, field, format!("1 to {most}"), value));
            }
        }
        let ascending = self.tokens.windows(2).all(|pair| pair[0] < pair[1]);
        let last = self.tokens.last();
        if !ascending || last.is_some_and(|&last| last as usize >= config.vocabulary) {
            return Err(Error::field(
                path,
                "text_encoder.tokens",
                format!("ascending ids below {}", config.vocabulary),
                "others",
            ));
        }
        if let Some(fidelity) = &self.fidelity {
            for (field, value) in [
                ("mean_cosine", fidelity.mean_cosine),
                ("worst_cosine", fidelity.worst_cosine),
            ] {
                // Rounding can bring the product of two unit vectors above 1.
                if !(-1.001..=1.001).contains(&value) {
                    let field = format!("text_encoder.fidelity.{field}");
                    return Err(Error::field(path, field, "a cosine from -1 to 1", value));
                }
            }
        }
        Ok(())
    }
}
