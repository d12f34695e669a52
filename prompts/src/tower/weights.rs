//! The weights of a text tower: their names and shapes, and how they are read.

use pinhole_checkpoint::{Tensor, TextTower as Config};
use pinhole_kernels::{PackedLinear, layer_norm};

use crate::error::Error;

/// CLIP's layer norms all have it (OpenAI's model.py).
const EPSILON: f32 = 1e-5;

pub(super) struct Block {
    pub(super) ln_1: LayerNorm,
    /// Apart from keys and values, as the last block needs one query a text.
    pub(super) query: PackedLinear,
    pub(super) key_value: PackedLinear,
    pub(super) out_proj: PackedLinear,
    pub(super) ln_2: LayerNorm,
    pub(super) c_fc: PackedLinear,
    pub(super) c_proj: PackedLinear,
}

pub(super) struct LayerNorm {
    gain: Vec<f32>,
    bias: Vec<f32>,
}

/// Reads a tensor by name, of exactly this shape.
pub(super) type Read<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, Error> + 'a;

impl Block {
    pub(super) fn new(i: usize, w: usize, read: &mut Read) -> Result<Self, Error> {
        let name = block_name(i);
        let ln_1 = LayerNorm::new(&format!("{name}.ln_1"), w, read)?;
        let weight = read(&format!("{name}.attn.in_proj_weight"), &[3 * w, w])?;
        let bias = read(&format!("{name}.attn.in_proj_bias"), &[3 * w])?;
        // The rows of q, k and v lie one after the other.
        let (query, key_value) = weight.split_at(w * w);
        let (query_bias, key_value_bias) = bias.split_at(w);
        let query = PackedLinear::from_out_in(query, w, w, Some(query_bias));
        let key_value = PackedLinear::from_out_in(key_value, 2 * w, w, Some(key_value_bias));
        drop(weight);
        let mut packed = |layer: &str, outputs, inputs| {
            let weight = read(&format!("{name}.{layer}.weight"), &[outputs, inputs])?;
            let bias = read(&format!("{name}.{layer}.bias"), &[outputs])?;
            Ok::<_, Error>(PackedLinear::from_out_in(
                &weight,
                outputs,
                inputs,
                Some(&bias),
            ))
        };
        let out_proj = packed("attn.out_proj", w, w)?;
        let c_fc = packed("mlp.c_fc", 4 * w, w)?;
        let c_proj = packed("mlp.c_proj", w, 4 * w)?;
        let ln_2 = LayerNorm::new(&format!("{name}.ln_2"), w, read)?;
        Ok(Block {
            ln_1,
            query,
            key_value,
            out_proj,
            ln_2,
            c_fc,
            c_proj,
        })
    }
}

impl LayerNorm {
    pub(super) fn new(name: &str, w: usize, read: &mut Read) -> Result<Self, Error> {
        let gain = read(&format!("{name}.weight"), &[w])?;
        let bias = read(&format!("{name}.bias"), &[w])?;
        Ok(LayerNorm { gain, bias })
    }

    /// Each row of x, normalised, into `out`, which gets the length of x.
    pub(super) fn apply(&self, x: &[f32], out: &mut Vec<f32>) {
        out.resize(x.len(), 0.0);
        layer_norm(x, self.gain.len(), &self.gain, &self.bias, EPSILON, out);
    }
}

fn block_name(i: usize) -> String {
    format!("transformer.resblocks.{i}")
}

/// The names and shapes, open_clip's, of the tensors that `TextTower::new` asks for, the token
/// embedding with `token_rows` rows.
pub(super) fn tensors(
    config: &Config,
    embedding: usize,
    token_rows: usize,
) -> Vec<(String, Vec<usize>)> {
    let w = config.width;
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
            ("mlp.c_fc.weight", vec![4 * w, w]),
            ("mlp.c_fc.bias", vec![4 * w]),
            ("mlp.c_proj.weight", vec![w, 4 * w]),
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
    all
}

/// Checks that a tensor has this shape and nothing but numbers.
pub(crate) fn checked(name: &str, tensor: &Tensor, shape: &[usize]) -> Result<(), Error> {
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
    match tensor.data.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite {
            tensor: name.to_string(),
            index,
            value: tensor.data[index],
        }),
    }
}

/// That the sizes are those of a text tower.
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
    // The greatest of the shapes: nothing below can overflow.
    if config
        .width
        .checked_mul(4)
        .and_then(|n| n.checked_mul(config.width))
        .is_none()
    {
        return Err(Error::Configuration {
            field: "width",
            found: config.width,
            expected: "a width whose matrices fit memory".to_string(),
        });
    }
    Ok(())
}
