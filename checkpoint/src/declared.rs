//! The sizes of a model as a configuration file states them.

use std::path::PathBuf;

use pinhole_model::{Activation, TextForm, VitPooling};
use serde_json::Value;

use crate::Error;
use crate::json::Object;

/// A size that a configuration file may state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantity {
    Embedding,
    ImageSize,
    PatchSize,
    ImageWidth,
    ImageLayers,
    /// Blocks in one stage of a ModifiedResNet.
    Stage(usize),
    ImageHeads,
    /// Width of the hidden layer of a vision transformer's MLPs.
    ImageMlp,
    ContextLength,
    Vocabulary,
    TextWidth,
    TextLayers,
    TextHeads,
    /// Width of the hidden layer of the text encoder's MLPs.
    TextMlp,
}

/// What a configuration file states about the model.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) path: PathBuf,
    pub(crate) name: Option<String>,
    /// Of the image encoder.
    pub(crate) activation: Activation,
    pub(crate) vit: VitForm,
    pub(crate) text_activation: Activation,
    pub(crate) text_form: TextForm,
    /// Field and name of an image encoder of timm, except SigLIP's.
    pub(crate) timm: Option<(String, String)>,
    pub(crate) sizes: Sizes,
}

/// What a configuration file states about a vision transformer beside its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VitForm {
    pub(crate) input_norm: bool,
    pub(crate) pooling: VitPooling,
}

impl VitForm {
    /// CLIP's.
    pub(crate) const CLIP: VitForm = VitForm {
        input_norm: true,
        pooling: VitPooling::ClassToken,
    };
}

/// open_clip's default.
pub(crate) const MLP_RATIO: f64 = 4.0;

/// Width of the hidden layer, as `ResidualAttentionBlock` (open_clip's transformer.py) computes it.
pub(crate) fn hidden(width: usize, ratio: f64) -> usize {
    (width as f64 * ratio) as usize
}

/// Sizes, each with its field in the file.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Vec<(Quantity, String, usize)>);

impl Sizes {
    /// The sizes of the embedding and of the text encoder in open_clip's `model_cfg` and `text_cfg`.
    pub(crate) fn of_open_clip_text(model: &Object, text: &Object) -> Result<Sizes, Error> {
        let mut sizes = Sizes::default();
        sizes.add(Quantity::Embedding, model, "embed_dim")?;
        sizes.add(Quantity::ContextLength, text, "context_length")?;
        sizes.add(Quantity::Vocabulary, text, "vocab_size")?;
        sizes.add(Quantity::TextWidth, text, "width")?;
        sizes.add(Quantity::TextLayers, text, "layers")?;
        sizes.add_or(Quantity::TextHeads, text, "heads", 8)?;
        Ok(sizes)
    }

    /// A size and its field.
    pub(crate) fn get(&self, quantity: Quantity) -> Option<(&str, usize)> {
        self.iter()
            .find(|(which, ..)| *which == quantity)
            .map(|(_, field, value)| (field, value))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Quantity, &str, usize)> {
        self.0
            .iter()
            .map(|(which, field, value)| (*which, field.as_str(), *value))
    }

    pub(crate) fn push(&mut self, quantity: Quantity, field: String, value: usize) {
        self.0.push((quantity, field, value));
    }

    /// A number, if the object has it.
    pub(crate) fn add(
        &mut self,
        quantity: Quantity,
        object: &Object,
        field: &str,
    ) -> Result<(), Error> {
        if let Some(value) = object.number(field)? {
            self.push(quantity, object.dotted(field), value);
        }
        Ok(())
    }

    /// A number, or the default of the format.
    pub(crate) fn add_or(
        &mut self,
        quantity: Quantity,
        object: &Object,
        field: &str,
        default: usize,
    ) -> Result<(), Error> {
        let value = object.number(field)?.unwrap_or(default);
        self.push(quantity, object.dotted(field), value);
        Ok(())
    }

    /// The width of the hidden layer of open_clip's MLPs in a transformer of this width.
    pub(crate) fn add_mlp(
        &mut self,
        quantity: Quantity,
        object: &Object,
        width: usize,
    ) -> Result<(), Error> {
        let ratio = match object.get("mlp_ratio") {
            None | Some(Value::Null) => MLP_RATIO,
            Some(value) => (value
                .as_f64()
                .filter(|ratio| ratio.is_finite() && *ratio > 0.0))
            .ok_or_else(|| object.wrong("mlp_ratio", "a number above zero"))?,
        };
        self.push(quantity, object.dotted("mlp_ratio"), hidden(width, ratio));
        Ok(())
    }

    /// The side of a square, if the object has it.
    pub(crate) fn add_square(
        &mut self,
        quantity: Quantity,
        object: &Object,
        field: &str,
    ) -> Result<(), Error> {
        if let Some(value) = object.square(field)? {
            self.push(quantity, object.dotted(field), value);
        }
        Ok(())
    }
}
