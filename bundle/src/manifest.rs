//! `manifest.json`: what a bundle is.

use std::path::Path;

use pinhole_model::{
    Activation, Agreement, ClassPosition, Precision, PreprocessConfig, TextEncoderConfig,
};
use serde::{Deserialize, Serialize};

use crate::{Calibration, Error};

/// The value of [`Manifest::format`].
pub const FORMAT: &str = "pinhole-bundle";
/// The version that this crate writes and reads.
pub const VERSION: u32 = 1;

/// The contents of `manifest.json`.
///
/// Unknown fields are refused: a bundle that asks for something this reader does not know would
/// otherwise be misread in silence.
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
    /// From an RGB image to the encoder's pixels. Mean and std are recorded for the reader; they are
    /// folded into the graph.
    pub preprocessing: PreprocessConfig,
    /// How the weights are stored and multiplied.
    pub precision: Precision,
    /// Factor from cosine similarity to logit, exp() applied (CLIP: about 100).
    pub logit_scale: f32,
    /// Divides the logits before softmax; 1 when it was not calibrated.
    pub temperature: f32,
    /// Class names, in the order of the head's rows.
    pub classes: Vec<String>,
    /// The prompt templates that the class embeddings were made with; none if they were learned.
    pub templates: Vec<String>,
    /// The learned prompts in the templates' place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_learner: Option<PromptLearnerInfo>,
    /// What `text_encoder.safetensors` holds, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<TextEncoderInfo>,
    /// When the answer is "unknown".
    pub unknown: UnknownPolicy,
    /// Which head `head.safetensors` holds.
    pub head: HeadKind,
    /// What the conditional head's cheaper modes cost against the exact one; for that head alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditional: Option<ConditionalInfo>,
    /// What the stored precision costs against f32, measured at export; absent for f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    /// The same where f16 weights are multiplied in f16, which a reader may do if this is there: it is absent where
    /// the fidelity was not good enough or not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f16_arithmetic: Option<Fidelity>,
    /// How far the probabilities can be trusted; absent where they were not calibrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Text for people: origin, intended use, limits.
    pub model_card: String,
    /// Every file of the bundle but the manifest.
    pub files: Vec<FileEntry>,
}

/// The image encoder's name and sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInfo {
    /// For people, such as "ViT-B/32".
    pub name: String,
    /// Side of the square input in pixels; equals `preprocessing.size`.
    pub image_size: u32,
    /// D, the length of an embedding.
    pub embedding_size: usize,
}

/// When the answer is "unknown": any condition that is set and not met.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnknownPolicy {
    /// Least cosine similarity of the best class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_similarity: Option<f32>,
    /// Least difference of similarity between the best class and the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_margin: Option<f32>,
    /// Texts for what is none of the classes; the answer is unknown where one of them is more similar
    /// than the best class. Their vectors are the head's `negative_embeddings`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub negatives: Vec<String>,
}

/// The form of the learned prompts (CoOp, CoCoOp).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptLearnerInfo {
    /// Number of context vectors of a prompt.
    pub n_ctx: usize,
    /// Where the class name stands: "end", "middle" or "front".
    pub class_position: ClassPosition,
    /// Whether each class has a context of its own.
    pub class_specific: bool,
}

/// The text encoder in `text_encoder.safetensors`: the tensors of CLIP's text tower under open_clip's
/// names. In [`Precision::Int8`] the weights of the blocks' linear layers are I8 [outputs, inputs], each in
/// -127 ..= 127, with F32 `[outputs]` under the same name and `_scale`: what an output's weights count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoderInfo {
    /// Its sizes.
    pub tower: TextEncoderConfig,
    /// "quickgelu" or "gelu".
    pub activation: Activation,
    /// How its weights are stored.
    pub precision: Precision,
    /// The tokens whose rows `token_embedding.weight` holds, ascending; all of the vocabulary where the
    /// list is empty, so that any class can be named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<u32>,
    /// What the stored precision costs against f32, measured at export; absent for f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<TextFidelity>,
}

/// Agreement of the stored text encoder with the same weights in f32, on the class embeddings of the
/// export; for a conditional head on those without an image.
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

/// Which head `head.safetensors` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// `class_embeddings`: one unit vector a class.
    Static,
    /// CoCoOp: the class embeddings depend on the image.
    Conditional,
}

/// The modes of a conditional head, measured at export against the text tower run for every class of
/// every image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionalInfo {
    /// Images that the first-order head was fitted to.
    pub fitted_images: usize,
    /// Images that the modes were compared on: others, where there were enough.
    pub compared_images: usize,
    /// The greatest |t_c(a) - t_c(b)| / |pi_a - pi_b| seen between two images a and b: how far a unit class
    /// embedding t_c moves with the shift pi of the context.
    pub movement: f32,
    /// The first-order head alone.
    pub linear: Agreement,
    /// How many classes the first-order head picks for the text tower in mode `shortlist`.
    pub shortlist_length: usize,
    /// Mode `shortlist` of that length.
    pub shortlist: Agreement,
}

/// Agreement of the stored encoder with the same weights in f32, on `images` images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fidelity {
    /// How many images were compared.
    pub images: usize,
    /// Mean cosine between the two embeddings.
    pub mean_cosine: f32,
    /// The lowest cosine.
    pub worst_cosine: f32,
    /// Share of images with the same best class, 0..1, among the classes of the export.
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
    /// Checks every field's range; `path` is the manifest's, for the messages.
    pub(crate) fn validate(&self, path: &Path) -> Result<(), Error> {
        let positive = |field: &str, value: f32| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(Error::field(path, field, "a finite number above 0", value))
            }
        };
        if self.format != FORMAT {
            return Err(Error::field(
                path,
                "format",
                format!("{FORMAT:?}"),
                format!("{:?}", self.format),
            ));
        }
        if self.version != VERSION {
            return Err(Error::field(
                path,
                "version",
                format!("{VERSION} (export the bundle again, or update pinhole)"),
                self.version,
            ));
        }
        positive("logit_scale", self.logit_scale)?;
        positive("temperature", self.temperature)?;
        self.preprocessing
            .validate()
            .map_err(|e| Error::field(path, "preprocessing", "a usable rule", e))?;
        if self.preprocessing.size != self.model.image_size {
            return Err(Error::field(
                path,
                "preprocessing.size",
                format!("{} as in model.image_size", self.model.image_size),
                self.preprocessing.size,
            ));
        }
        if !(1..=65_536).contains(&self.model.embedding_size) {
            return Err(Error::field(
                path,
                "model.embedding_size",
                "1 to 65536",
                self.model.embedding_size,
            ));
        }
        if self.classes.is_empty() {
            return Err(Error::field(path, "classes", "at least one class", "none"));
        }
        let mut seen = std::collections::HashMap::new();
        for (i, class) in self.classes.iter().enumerate() {
            if class.trim().is_empty() {
                return Err(Error::field(
                    path,
                    format!("classes[{i}]"),
                    "a name",
                    "an empty string",
                ));
            }
            if let Some(first) = seen.insert(class, i) {
                return Err(Error::field(
                    path,
                    format!("classes[{i}]"),
                    "distinct names",
                    format!("{class:?} again, as in classes[{first}]"),
                ));
            }
        }
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
        self.validate_texts(path)?;
        let mut paths = std::collections::HashSet::new();
        for (i, file) in self.files.iter().enumerate() {
            let field = |name: &str| format!("files[{i}].{name}");
            let plain = file.path.split('/').all(|part| {
                !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0'])
            });
            if !plain {
                return Err(Error::field(
                    path,
                    field("path"),
                    "a relative path inside the bundle",
                    format!("{:?}", file.path),
                ));
            }
            if !paths.insert(&file.path) {
                return Err(Error::field(
                    path,
                    field("path"),
                    "each file once",
                    format!("{:?} again", file.path),
                ));
            }
            let hex = file.sha256.len() == 64
                && file
                    .sha256
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if !hex {
                return Err(Error::field(
                    path,
                    field("sha256"),
                    "64 lower-case hexadecimal digits",
                    format!("{:?}", file.sha256),
                ));
            }
        }
        let text_encoder = self.text_encoder.as_ref().map(|_| crate::TEXT_ENCODER);
        let required = [crate::IMAGE_ENCODER, crate::HEAD, crate::GOLDEN];
        for required in required.into_iter().chain(text_encoder) {
            if !paths.iter().any(|p| *p == required) {
                return Err(Error::field(
                    path,
                    "files",
                    format!("an entry for {required}"),
                    "none",
                ));
            }
        }
        Ok(())
    }

    /// The fields about text and calibration.
    fn validate_texts(&self, path: &Path) -> Result<(), Error> {
        for (i, text) in self.unknown.negatives.iter().enumerate() {
            if text.trim().is_empty() {
                let field = format!("unknown.negatives[{i}]");
                return Err(Error::field(path, field, "a text", "an empty string"));
            }
        }
        if let Some(learner) = &self.prompt_learner
            && learner.n_ctx == 0
        {
            return Err(Error::field(path, "prompt_learner.n_ctx", "at least 1", 0));
        }
        if let Some(text) = &self.text_encoder {
            let tower = &text.tower;
            for (field, value, most) in [
                ("context_length", tower.context_length, 1 << 16),
                ("vocabulary", tower.vocabulary, 1 << 24),
                ("width", tower.width, 1 << 16),
                ("layers", tower.layers, 1 << 10),
                ("heads", tower.heads, tower.width),
            ] {
                if !(1..=most).contains(&value) {
                    let field = format!("text_encoder.tower.{field}");
                    return Err(Error::field(path, field, format!("1 to {most}"), value));
                }
            }
            let ascending = text.tokens.windows(2).all(|pair| pair[0] < pair[1]);
            let inside = text
                .tokens
                .last()
                .is_none_or(|&last| (last as usize) < text.tower.vocabulary);
            if !ascending || !inside {
                return Err(Error::field(
                    path,
                    "text_encoder.tokens",
                    format!("ascending ids below {}", text.tower.vocabulary),
                    "others",
                ));
            }
            if let Some(fidelity) = &text.fidelity {
                for (field, value) in [
                    ("mean_cosine", fidelity.mean_cosine),
                    ("worst_cosine", fidelity.worst_cosine),
                ] {
                    // Two unit vectors' product can be above 1 by its rounding.
                    if !(-1.001..=1.001).contains(&value) {
                        let field = format!("text_encoder.fidelity.{field}");
                        return Err(Error::field(path, field, "a cosine from -1 to 1", value));
                    }
                }
            }
        }
        let conditional = self.head == HeadKind::Conditional;
        for (field, there) in [
            ("conditional", self.conditional.is_some() == conditional),
            ("text_encoder", self.text_encoder.is_some() || !conditional),
            (
                "prompt_learner",
                self.prompt_learner.is_some() || !conditional,
            ),
        ] {
            if !there {
                let found = if conditional { "none" } else { "one" };
                return Err(Error::field(
                    path,
                    field,
                    "one if the head is conditional",
                    found,
                ));
            }
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
        if let Some(calibration) = &self.calibration {
            let shares = [
                ("calibration.accuracy", Some(calibration.accuracy)),
                ("calibration.ece_before", Some(calibration.ece_before)),
                ("calibration.ece_after", Some(calibration.ece_after)),
                ("calibration.kept", Some(calibration.kept)),
                ("calibration.wrong_rejected", calibration.wrong_rejected),
                (
                    "calibration.strangers_rejected",
                    calibration.strangers_rejected,
                ),
            ];
            for (field, value) in shares {
                if let Some(v) = value
                    && !(0.0..=1.0).contains(&v)
                {
                    return Err(Error::field(path, field, "a share from 0 to 1", v));
                }
            }
        }
        Ok(())
    }
}
