//! CoCoOp's conditional head: class embeddings that depend on the image.

mod eigen;
mod fidelity;
mod fit;
mod linear;
mod reuse;
mod shortlist;

use std::borrow::Cow;

use pinhole_kernels::PackedLinear;
use pinhole_model::{ClassPosition, MetaNet, PromptLearner, PromptRow, Tensor, dot};

use crate::encoder::checked;
use crate::error::{Error, excerpt};
use crate::layout::{check_learner, prompt_rows};
use crate::{Classes, Prefix, SOT, TextEncoder, Tokenizer};

pub use fidelity::{ConditionalFidelity, fidelity};
pub use fit::{Fit, FitOptions, fit};
pub use linear::{LinearHead, LinearTerms};
pub use reuse::{Reuse, Reused};
pub use shortlist::{Auto, Costs, Plan, shortlist};

/// CoCoOp's text side (Zhou et al., 2022, "Conditional prompt learning") for a list of classes: each image shifts the
/// context vectors, and the text encoder computes class embeddings from the shifted prompts.
///
/// The context is before the name, so the keys and values of SOT are computed once, those of the shifted context once per
/// image, and only the name, the full stop and EOT once per class. The result equals that of the whole prompts up to f32
/// rounding.
///
/// Each call takes the text encoder; it must be the one passed to [`Conditional::new`].
pub struct Conditional {
    /// [n_ctx, width]
    context: Vec<f32>,
    hidden: Hidden,
    linear2: PackedLinear,
    /// The prefix of SOT alone.
    start: Prefix,
    /// The rows of each class after the context, [sum of lengths, width].
    rows: Vec<f32>,
    /// The first row of each class, and the total number of rows.
    starts: Vec<usize>,
    names: Vec<String>,
    token_ids: Vec<u32>,
}

impl Conditional {
    /// Lays out the prompts of `classes`.
    ///
    /// # Errors
    /// [`Error::PromptLearner`] for a learner without meta-net, with class-specific contexts, with the name elsewhere than
    /// after the context, or of other widths than the encoder's;
    /// [`Error::Shape`] and [`Error::NotFinite`] for its tensors; [`Error::ContextTooLong`];
    /// [`Error::UnknownToken`] or [`Error::TokenNotHere`] for an encoder without a name's tokens.
    pub fn new(
        encoder: &TextEncoder,
        tokenizer: &Tokenizer,
        classes: &Classes,
        learner: &PromptLearner,
    ) -> Result<Self, Error> {
        let (net, context) = checked_learner(encoder, classes, learner)?;
        let (width, n_ctx) = (learner.width(), learner.n_ctx());
        let hidden = Hidden::new(net)?;
        let hidden_len = hidden.len();
        let mut conditional = Conditional {
            context,
            hidden,
            linear2: PackedLinear::from_out_in(
                &net.linear2_weight.data,
                width,
                hidden_len,
                Some(&net.linear2_bias.data),
            ),
            start: encoder.prefix(&encoder.token_rows(&[SOT])?, None)?,
            rows: Vec::new(),
            starts: vec![0],
            names: classes.names().to_vec(),
            token_ids: vec![SOT],
        };
        for name in classes.names() {
            let context_length = encoder.config().context_length;
            let layout = prompt_rows(tokenizer, name, n_ctx, ClassPosition::End, context_length)?;
            let tokens = layout[1..].iter().filter_map(|row| match *row {
                PromptRow::Token(id) => Some(id),
                PromptRow::Context(_) => None,
            });
            let tokens: Vec<u32> = tokens.collect();
            conditional.rows.extend(encoder.token_rows(&tokens)?);
            conditional.starts.push(conditional.rows.len() / width);
            conditional.token_ids.extend(tokens);
        }
        conditional.token_ids.sort_unstable();
        conditional.token_ids.dedup();
        Ok(conditional)
    }

    /// The C class names.
    pub fn classes(&self) -> &[String] {
        &self.names
    }

    /// The ids, ascending, of the tokens that the prompts use. Their rows of the token embedding suffice to build the
    /// encoder and this head again ([`TextEncoder::with_token_ids`]).
    pub fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    /// H, the length of [`Conditional::hidden`].
    pub fn hidden_len(&self) -> usize {
        self.hidden.len()
    }

    /// D, the length of an embedding.
    pub fn embedding(&self) -> usize {
        self.hidden.linear1.inputs()
    }

    /// The meta-net's hidden vector `[H]` of an image: relu(W1 f + b1) for its L2-normalised embedding
    /// f `[D]`.
    ///
    /// # Errors
    /// [`Error::Input`] for an embedding of another length; [`Error::NotUnit`] for one that is not normalised, from which
    /// the meta-net would compute plausible but wrong values.
    pub fn hidden(&self, embedding: &[f32]) -> Result<Vec<f32>, Error> {
        self.hidden.of(embedding)
    }

    /// The shift pi `[width]` of every context vector: W2 h + b2.
    ///
    /// # Errors
    /// [`Error::Input`] for a hidden vector of another length than H.
    pub fn shift(&self, hidden: &[f32]) -> Result<Vec<f32>, Error> {
        check_len("values of a hidden vector", hidden.len(), self.hidden_len())?;
        let mut shift = vec![0.0; self.linear2.outputs()];
        self.linear2.apply(hidden, 1, None, None, &mut shift);
        Ok(shift)
    }

    /// The L2-normalised class embeddings for an image's L2-normalised embedding: [C, D] of all classes, or [k, D] of the
    /// classes with the given indices, in their order.
    ///
    /// # Errors
    /// Those of [`Conditional::hidden`]; [`Error::Input`] for an index of no class;
    /// [`Error::Prefix`] for another encoder; [`Error::Degenerate`].
    pub fn exact(
        &self,
        encoder: &TextEncoder,
        embedding: &[f32],
        classes: Option<&[usize]>,
    ) -> Result<Vec<f32>, Error> {
        let shift = self.shift(&self.hidden(embedding)?)?;
        self.exact_shifted(encoder, &shift, classes)
    }

    /// [`Conditional::exact`] for a given shift.
    ///
    /// # Errors
    /// Those of [`Conditional::exact`].
    pub fn exact_shifted(
        &self,
        encoder: &TextEncoder,
        shift: &[f32],
        classes: Option<&[usize]>,
    ) -> Result<Vec<f32>, Error> {
        check_len("values of a shift", shift.len(), self.linear2.outputs())?;
        let mut context = self.context.clone();
        for row in context.chunks_exact_mut(shift.len()) {
            row.iter_mut().zip(shift).for_each(|(x, s)| *x += s);
        }
        let (rows, lengths) = self.rows(classes)?;
        encoder
            .embed_branches(Some(&self.start), &context, &rows, &lengths)
            .map_err(|error| match error {
                Error::DegenerateText { text } => {
                    let class = classes.map_or(text, |classes| classes[text]);
                    Error::Degenerate {
                        text: format!("class {:?}", excerpt(&self.names[class])),
                    }
                }
                other => other,
            })
    }

    /// The cosine similarities of the image with the classes, `[C]` or `[k]`: the dot products of its embedding with those
    /// of [`Conditional::exact`].
    ///
    /// # Errors
    /// Those of [`Conditional::exact`].
    pub fn similarities(
        &self,
        encoder: &TextEncoder,
        embedding: &[f32],
        classes: Option<&[usize]>,
    ) -> Result<Vec<f32>, Error> {
        let class_embeddings = self.exact(encoder, embedding, classes)?;
        let rows = class_embeddings.chunks_exact(self.embedding());
        Ok(rows.map(|class| dot(class, embedding)).collect())
    }

    /// The rows of the classes after the context, and the number of rows of each.
    fn rows(&self, classes: Option<&[usize]>) -> Result<(Cow<'_, [f32]>, Vec<usize>), Error> {
        let (width, all) = (self.linear2.outputs(), self.names.len());
        let length = |class: usize| self.starts[class + 1] - self.starts[class];
        let Some(classes) = classes else {
            let lengths = (0..all).map(length).collect();
            return Ok((Cow::Borrowed(&self.rows), lengths));
        };
        let mut rows = Vec::new();
        for &class in classes {
            if class >= all {
                return Err(Error::Input {
                    what: "index of a class",
                    found: class,
                    expected: format!("less than {all}, the number of classes"),
                });
            }
            let range = self.starts[class] * width..self.starts[class + 1] * width;
            rows.extend_from_slice(&self.rows[range]);
        }
        let lengths = classes.iter().map(|&class| length(class)).collect();
        Ok((Cow::Owned(rows), lengths))
    }
}

/// The first layer of the meta-net, which is all that a [`LinearHead`] needs of it.
#[derive(Debug)]
pub struct Hidden {
    linear1: PackedLinear,
}

impl Hidden {
    /// Checks and packs the layer.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NotFinite`].
    pub fn new(net: &MetaNet) -> Result<Self, Error> {
        let size = |i: usize| net.linear1_weight.shape.get(i).copied().unwrap_or(0).max(1);
        let (hidden, embedding) = (size(0), size(1));
        let weight = &net.linear1_weight;
        checked("meta_net.linear1.weight", weight, &[hidden, embedding])?;
        checked("meta_net.linear1.bias", &net.linear1_bias, &[hidden])?;
        let (weight, bias) = (&weight.data, &net.linear1_bias.data);
        Ok(Self {
            linear1: PackedLinear::from_out_in(weight, hidden, embedding, Some(bias)),
        })
    }

    /// H, the length of the hidden vector.
    #[allow(clippy::len_without_is_empty, reason = "a layer has at least one unit")]
    pub fn len(&self) -> usize {
        self.linear1.outputs()
    }

    /// The hidden vector `[H]` of an image, as [`Conditional::hidden`].
    ///
    /// # Errors
    /// Those of [`Conditional::hidden`].
    pub fn of(&self, embedding: &[f32]) -> Result<Vec<f32>, Error> {
        check_embedding(embedding, self.linear1.inputs())?;
        let mut hidden = vec![0.0; self.len()];
        self.linear1.apply(embedding, 1, None, None, &mut hidden);
        hidden.iter_mut().for_each(|value| *value = value.max(0.0));
        Ok(hidden)
    }
}

impl std::fmt::Debug for Conditional {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conditional")
            .field("classes", &self.names.len())
            .field("hidden", &self.hidden_len())
            .finish_non_exhaustive()
    }
}

/// Checks that an image's embedding has this length and norm 1.
pub(crate) fn check_embedding(embedding: &[f32], len: usize) -> Result<(), Error> {
    check_len("values of an image's embedding", embedding.len(), len)?;
    let norm = dot(embedding, embedding).sqrt();
    // Written so that NaN fails.
    match (norm - 1.0).abs() < 1e-3 {
        true => Ok(()),
        false => Err(Error::NotUnit { norm }),
    }
}

pub(crate) fn check_len(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::Input {
            what,
            found,
            expected: expected.to_string(),
        }),
    }
}

/// The meta-net and the context of a CoCoOp learner that fits the encoder.
fn checked_learner<'a>(
    encoder: &TextEncoder,
    classes: &Classes,
    learner: &'a PromptLearner,
) -> Result<(&'a MetaNet, Vec<f32>), Error> {
    let wrong = |field, found: &dyn std::fmt::Display, expected: &str| {
        Err(Error::PromptLearner {
            field,
            found: found.to_string(),
            expected: expected.to_string(),
        })
    };
    let Some(net) = &learner.meta_net else {
        return wrong(
            "meta_net",
            &"none",
            "one, as CoCoOp has it: without it the class embeddings do not depend on the image",
        );
    };
    let shape = &learner.context.shape;
    if shape.len() != 2 || shape.contains(&0) {
        return wrong(
            "ctx",
            &format!("shape {shape:?}"),
            "[n_ctx, width]: CoCoOp has one context for all classes",
        );
    }
    let hidden = net.linear1_weight.shape.first().copied().unwrap_or(0);
    if hidden == 0 {
        let found = format!("shape {:?}", net.linear1_weight.shape);
        return wrong("meta_net.linear1.weight", &found, "[hidden, embedding]");
    }
    if let Some(position) = learner.class_position
        && position != ClassPosition::End
    {
        return wrong(
            "class_position",
            &position,
            "end: CoCoOp's names stand behind the context",
        );
    }
    check_learner(encoder, learner, classes.names().len())?;
    let (width, embedding) = (learner.width(), encoder.embedding());
    let tensors: [(_, &Tensor, &[usize]); 4] = [
        (
            "meta_net.linear1.weight",
            &net.linear1_weight,
            &[hidden, embedding],
        ),
        ("meta_net.linear1.bias", &net.linear1_bias, &[hidden]),
        (
            "meta_net.linear2.weight",
            &net.linear2_weight,
            &[width, hidden],
        ),
        ("meta_net.linear2.bias", &net.linear2_bias, &[width]),
    ];
    for (name, tensor, expected) in tensors {
        checked(name, tensor, expected)?;
    }
    checked("ctx", &learner.context, shape)?;
    Ok((net, learner.context.data.clone()))
}
