//! The weights of a text encoder: names, shapes, checks and packing.

use std::ops::Range;

use pinhole_kernels::{
    Int8Input, PackedLinear, PackedLinearInt8, Prologue, layer_norm, quantize_rows,
};
use pinhole_model::{Activation, Tensor, TextEncoderConfig as Config, TextForm};

use crate::error::Error;

/// The blocks' linear weights [outputs, inputs], which may be 8-bit integers.
const LINEAR: [&str; 4] = [
    "attn.in_proj_weight",
    "attn.out_proj.weight",
    "mlp.c_fc.weight",
    "mlp.c_proj.weight",
];

/// A tensor of a text encoder as stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Weight {
    /// Floats.
    F32(Tensor),
    /// A linear layer's weight in 8-bit integers, for the layers that [`TextEncoder::takes_int8`] accepts.
    ///
    /// [`TextEncoder::takes_int8`]: crate::TextEncoder::takes_int8
    Int8 {
        /// [outputs, inputs], each in -127 ..= 127.
        weight: Tensor<i8>,
        /// `[outputs]`: per-channel scales.
        scales: Tensor,
    },
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Weight::F32(tensor)
    }
}

impl Weight {
    /// A weight [outputs, inputs] quantised symmetrically per output channel: the largest magnitude becomes 127.
    ///
    /// # Errors
    /// [`Error::Weight`] unless it is a matrix.
    pub fn int8(name: &str, tensor: &Tensor) -> Result<Self, Error> {
        let Tensor { shape, data } = tensor;
        let &[outputs, inputs] = &shape[..] else {
            return Err(wrong(name, "a matrix".into(), format!("shape {shape:?}")));
        };
        if inputs == 0 || outputs.checked_mul(inputs) != Some(data.len()) {
            let found = format!("{} values", data.len());
            return Err(wrong(name, format!("a matrix {shape:?}"), found));
        }
        let (mut weight, mut scales) = (vec![0; data.len()], vec![0.0; outputs]);
        quantize_rows(data, inputs, Prologue::None, &mut weight, &mut scales);
        Ok(Weight::Int8 {
            weight: Tensor {
                shape: shape.clone(),
                data: weight,
            },
            scales: Tensor {
                shape: vec![outputs],
                data: scales,
            },
        })
    }
}

/// The bias of SigLIP's projection.
pub(super) const PROJECTION_BIAS: &str = "text_projection.bias";

/// Whether the tensor of this name is one of [`LINEAR`].
pub(super) fn takes_int8(name: &str) -> bool {
    let layer = name.strip_prefix("transformer.resblocks.");
    let layer = layer.and_then(|rest| rest.split_once('.'));
    layer.is_some_and(|(_, layer)| LINEAR.contains(&layer))
}

pub(super) struct Block {
    pub(super) ln_1: LayerNorm,
    pub(super) projections: Projections,
    pub(super) out_proj: Linear,
    pub(super) ln_2: LayerNorm,
    pub(super) c_fc: Linear,
    pub(super) c_proj: Linear,
}

/// The projections to queries, keys and values.
pub(super) enum Projections {
    /// One layer: query, key and value of a row, one after the other.
    Together(Linear),
    /// Two layers, in the last block, which needs one query per text.
    Apart {
        query: Linear,
        /// Key and value of a row, one after the other.
        key_value: Linear,
    },
}

/// A packed linear layer.
pub(super) enum Linear {
    F32(PackedLinear),
    /// Each input row is quantised before the product.
    Int8(PackedLinearInt8),
}

pub(super) struct LayerNorm {
    gain: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

/// Returns a tensor by its name.
pub(super) type Source<'a> = dyn FnMut(&str) -> Result<Weight, Error> + 'a;

impl Block {
    pub(super) fn new(i: usize, config: &Config, source: &mut Source) -> Result<Self, Error> {
        let (name, w, mlp) = (block_name(i), config.width, config.mlp());
        let (last, epsilon) = (i + 1 == config.layers, config.form.epsilon());
        let mut packed = |layer: &str, weight: &str, outputs, inputs, split| {
            let name = format!("{name}.{layer}");
            let (weight, bias) = (
                format!("{name}{weight}weight"),
                format!("{name}{weight}bias"),
            );
            Linear::new(&weight, &bias, outputs, inputs, split, source)
        };
        // The weight's rows of q, k and v follow one another.
        let split = if last { w } else { 0 };
        let (query, others) = packed("attn.in_proj", "_", 3 * w, w, split)?;
        let projections = match query {
            None => Projections::Together(others),
            Some(query) => Projections::Apart {
                query,
                key_value: others,
            },
        };
        let (_, out_proj) = packed("attn.out_proj", ".", w, w, 0)?;
        let (_, c_fc) = packed("mlp.c_fc", ".", mlp, w, 0)?;
        let (_, c_proj) = packed("mlp.c_proj", ".", w, mlp, 0)?;
        Ok(Block {
            ln_1: LayerNorm::new(&format!("{name}.ln_1"), w, epsilon, source)?,
            projections,
            out_proj,
            ln_2: LayerNorm::new(&format!("{name}.ln_2"), w, epsilon, source)?,
            c_fc,
            c_proj,
        })
    }
}

impl Projections {
    /// The offset of the key in a row (its value follows it), and the length of a row.
    pub(super) fn row(&self, width: usize) -> (usize, usize) {
        match self {
            Projections::Together(_) => (width, 3 * width),
            Projections::Apart { .. } => (0, 2 * width),
        }
    }
}

impl Linear {
    /// Packs a weight [outputs, inputs] and a bias `[outputs]`. With `split` > 0 the first `split` outputs become a separate
    /// layer, returned first.
    fn new(
        weight: &str,
        bias: &str,
        outputs: usize,
        inputs: usize,
        split: usize,
        source: &mut Source,
    ) -> Result<(Option<Self>, Self), Error> {
        let stored = source(weight)?;
        let shape = [outputs, inputs];
        match &stored {
            Weight::F32(tensor) => checked(weight, tensor, &shape)?,
            Weight::Int8 { weight: s8, scales } => checked_int8(weight, s8, scales, &shape)?,
        }
        let bias = floats(source, bias, &[outputs])?;
        let pack = |rows: Range<usize>| -> Result<Self, Error> {
            let bias = Some(&bias[rows.clone()]);
            let count = rows.len();
            let values = rows.start * inputs..rows.end * inputs;
            Ok(match &stored {
                Weight::F32(tensor) => {
                    let part = &tensor.data[values];
                    Linear::F32(PackedLinear::from_out_in(part, count, inputs, bias))
                }
                Weight::Int8 { weight: s8, scales } => {
                    let (part, scales) = (&s8.data[values], &scales.data[rows]);
                    let packed = PackedLinearInt8::from_out_in(part, scales, count, inputs, bias);
                    Linear::Int8(packed.map_err(|reason| Error::Int8 {
                        tensor: weight.to_owned(),
                        reason,
                    })?)
                }
            })
        };
        let first = match split {
            0 => None,
            _ => Some(pack(0..split)?),
        };
        Ok((first, pack(split..outputs)?))
    }

    /// out [rows, outputs] = activation(norm(x) W + b) + residual. `normed` is a buffer. No row of the result depends on
    /// another row.
    pub(super) fn apply(
        &self,
        x: &[f32],
        norm: Option<&LayerNorm>,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        normed: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) {
        match self {
            Linear::F32(layer) => {
                let rows = x.len() / layer.inputs();
                out.resize(rows * layer.outputs(), 0.0);
                let x = match norm {
                    None => x,
                    Some(norm) => {
                        norm.apply(x, normed);
                        normed
                    }
                };
                layer.apply(x, rows, activation, residual, out);
            }
            Linear::Int8(layer) => {
                let rows = x.len() / layer.inputs();
                out.resize(rows * layer.outputs(), 0.0);
                let prologue = norm.map_or(Prologue::None, LayerNorm::prologue);
                layer.apply(
                    Int8Input::F32 { x, prologue },
                    rows,
                    activation,
                    residual,
                    out,
                );
            }
        }
    }
}

impl LayerNorm {
    pub(super) fn new(
        name: &str,
        w: usize,
        epsilon: f32,
        source: &mut Source,
    ) -> Result<Self, Error> {
        let gain = floats(source, &format!("{name}.weight"), &[w])?;
        let bias = floats(source, &format!("{name}.bias"), &[w])?;
        Ok(LayerNorm {
            gain,
            bias,
            epsilon,
        })
    }

    /// Normalises each row of x into `out`, which is resized to the length of x.
    pub(super) fn apply(&self, x: &[f32], out: &mut Vec<f32>) {
        out.resize(x.len(), 0.0);
        layer_norm(
            x,
            self.gain.len(),
            &self.gain,
            &self.bias,
            self.epsilon,
            out,
        );
    }

    fn prologue(&self) -> Prologue<'_> {
        Prologue::LayerNorm {
            gain: &self.gain,
            bias: &self.bias,
            epsilon: self.epsilon,
        }
    }
}

/// Reads a float tensor of exactly this shape.
pub(super) fn floats(source: &mut Source, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
    match source(name)? {
        Weight::F32(tensor) => {
            checked(name, &tensor, shape)?;
            Ok(tensor.data)
        }
        Weight::Int8 { .. } => Err(wrong(name, "floats".into(), "8-bit integers".into())),
    }
}

fn block_name(i: usize) -> String {
    format!("transformer.resblocks.{i}")
}

/// Names (open_clip's) and shapes of the tensors that `TextEncoder::new` requests; the token embedding has `token_rows`
/// rows.
pub(super) fn tensors(
    config: &Config,
    embedding: usize,
    token_rows: usize,
) -> Vec<(String, Vec<usize>)> {
    let (w, mlp) = (config.width, config.mlp());
    let mut all = vec![
        ("token_embedding.weight".into(), vec![token_rows, w]),
        (
            "positional_embedding".into(),
            vec![config.context_length, w],
        ),
    ];
    for i in 0..config.layers {
        let block: [(&str, Vec<usize>); 12] = [
            ("ln_1.weight", vec![w]),
            ("ln_1.bias", vec![w]),
            ("attn.in_proj_weight", vec![3 * w, w]),
            ("attn.in_proj_bias", vec![3 * w]),
            ("attn.out_proj.weight", vec![w, w]),
            ("attn.out_proj.bias", vec![w]),
            ("ln_2.weight", vec![w]),
            ("ln_2.bias", vec![w]),
            ("mlp.c_fc.weight", vec![mlp, w]),
            ("mlp.c_fc.bias", vec![mlp]),
            ("mlp.c_proj.weight", vec![w, mlp]),
            ("mlp.c_proj.bias", vec![w]),
        ];
        let name = block_name(i);
        all.extend(
            block
                .into_iter()
                .map(|(layer, shape)| (format!("{name}.{layer}"), shape)),
        );
    }
    all.push(("ln_final.weight".into(), vec![w]));
    all.push(("ln_final.bias".into(), vec![w]));
    all.push(("text_projection".into(), vec![w, embedding]));
    if matches!(config.form, TextForm::SigLip { .. }) {
        all.push((PROJECTION_BIAS.into(), vec![embedding]));
    }
    all
}

/// Checks that a tensor has this shape and finite values.
pub(crate) fn checked(name: &str, tensor: &Tensor, shape: &[usize]) -> Result<(), Error> {
    checked_shape(name, tensor, shape)?;
    match tensor.data.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite {
            tensor: name.to_string(),
            index,
            value: tensor.data[index],
        }),
    }
}

/// Checks an 8-bit weight and its scales.
fn checked_int8(
    name: &str,
    weight: &Tensor<i8>,
    scales: &Tensor,
    shape: &[usize; 2],
) -> Result<(), Error> {
    checked_shape(name, weight, shape)?;
    let named = scales_name(name);
    checked(&named, scales, &shape[..1])?;
    match scales.data.iter().position(|&scale| scale <= 0.0) {
        None => Ok(()),
        Some(index) => {
            let found = format!("{} at {index}", scales.data[index]);
            Err(wrong(&named, "positive numbers".into(), found))
        }
    }
}

/// The name of the scales of an 8-bit weight.
pub(super) fn scales_name(weight: &str) -> String {
    format!("{weight}_scale")
}

fn checked_shape<T>(name: &str, tensor: &Tensor<T>, shape: &[usize]) -> Result<(), Error> {
    let len = shape
        .iter()
        .try_fold(1usize, |product, &n| product.checked_mul(n));
    if tensor.shape != shape || Some(tensor.data.len()) != len {
        let found = match tensor.shape == shape {
            true => vec![tensor.data.len()],
            false => tensor.shape.clone(),
        };
        return Err(Error::Shape {
            tensor: name.to_string(),
            expected: shape.to_vec(),
            found,
        });
    }
    Ok(())
}

fn wrong(tensor: &str, expected: String, found: String) -> Error {
    Error::Weight {
        tensor: tensor.to_owned(),
        expected,
        found,
    }
}

/// Checks the sizes.
pub(super) fn check(config: &Config, embedding: usize) -> Result<(), Error> {
    let sizes = [
        ("embedding", embedding),
        ("context_length", config.context_length),
        ("vocabulary", config.vocabulary),
        ("width", config.width),
        ("layers", config.layers),
        ("heads", config.heads),
    ];
    if let Some(&(field, found)) = sizes.iter().find(|&&(_, size)| size == 0) {
        return Err(Error::Configuration {
            field,
            found,
            expected: "at least 1".to_string(),
        });
    }
    if !config.width.is_multiple_of(config.heads) {
        let (found, expected) = (
            config.heads,
            format!("a divisor of the width {}", config.width),
        );
        return Err(Error::Configuration {
            field: "heads",
            found,
            expected,
        });
    }
    // The largest shape; no smaller product can overflow.
    if config
        .width
        .checked_mul(4)
        .and_then(|n| n.checked_mul(config.width))
        .is_none()
    {
        return Err(Error::Configuration {
            field: "width",
            found: config.width,
            expected: "a width whose matrices fit into memory".to_string(),
        });
    }
    Ok(())
}
