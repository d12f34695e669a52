//! CLIP's text tower.

use pinhole_checkpoint::{Activation, Checkpoint, Tensor, TextTower as Config};
use pinhole_kernels::{self as kernels, PackedLinear, Rows, attention, l2_normalize, layer_norm};

use crate::error::Error;

/// CLIP's layer norms all have it (OpenAI's model.py).
const EPSILON: f32 = 1e-5;

/// The text tower of a CLIP model in f32: a causal transformer read at the end-of-text token.
///
/// Nothing behind that token has any effect, so nothing behind it is computed, and in the last
/// block only its own row goes on after the attention.
pub struct TextTower {
    config: Config,
    embedding: usize,
    activation: kernels::Activation,
    /// [vocabulary, width]
    token_embedding: Vec<f32>,
    /// [context_length, width]
    positional_embedding: Vec<f32>,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    text_projection: PackedLinear,
}

struct Block {
    ln_1: LayerNorm,
    /// Apart from keys and values, as the last block needs one query a text.
    query: PackedLinear,
    key_value: PackedLinear,
    out_proj: PackedLinear,
    ln_2: LayerNorm,
    c_fc: PackedLinear,
    c_proj: PackedLinear,
}

struct LayerNorm {
    gain: Vec<f32>,
    bias: Vec<f32>,
}

impl TextTower {
    /// Reads the text tower of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a tensor that cannot be read, and those of [`TextTower::new`].
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let config = checkpoint.config();
        let tensor = |name: &str| Ok(checkpoint.tensor(name)?);
        Self::new(
            config.text.clone(),
            config.embedding,
            config.activation,
            tensor,
        )
    }

    /// Builds the tower from the tensors that `tensor` returns by open_clip's names, such as
    /// `transformer.resblocks.0.ln_1.weight`. Each is asked for once, and dropped once packed.
    ///
    /// # Errors
    /// Those of `tensor`; [`Error::Shape`] for a tensor of another shape than the configuration
    /// says; [`Error::Configuration`].
    pub fn new(
        config: Config,
        embedding: usize,
        activation: Activation,
        mut tensor: impl FnMut(&str) -> Result<Tensor, Error>,
    ) -> Result<Self, Error> {
        check(&config, embedding)?;
        let w = config.width;
        let mut read = |name: &str, shape: &[usize]| {
            let Tensor { shape: found, data } = tensor(name)?;
            if found != shape || data.len() != shape.iter().product::<usize>() {
                let (tensor, expected) = (name.to_string(), shape.to_vec());
                let found = if found == shape {
                    vec![data.len()]
                } else {
                    found
                };
                return Err(Error::Shape {
                    tensor,
                    expected,
                    found,
                });
            }
            Ok(data)
        };
        let token_embedding = read("token_embedding.weight", &[config.vocabulary, w])?;
        let positional_embedding = read("positional_embedding", &[config.context_length, w])?;
        let blocks = (0..config.layers)
            .map(|i| Block::new(&format!("transformer.resblocks.{i}"), w, &mut read))
            .collect::<Result<_, _>>()?;
        let ln_final = LayerNorm::new("ln_final", w, &mut read)?;
        let text_projection = read("text_projection", &[w, embedding])?;
        Ok(TextTower {
            embedding,
            activation: match activation {
                Activation::QuickGelu => kernels::Activation::QuickGelu,
                Activation::Gelu => kernels::Activation::Gelu,
            },
            token_embedding,
            positional_embedding,
            blocks,
            ln_final,
            text_projection: PackedLinear::from_in_out(&text_projection, w, embedding, None),
            config,
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The length of an embedding, D.
    pub fn embedding(&self) -> usize {
        self.embedding
    }

    /// The embedding `[D]` of a text, L2-normalised. It is read, as in CLIP, at the first of the
    /// greatest ids, which is the end-of-text token; padding may follow it.
    ///
    /// # Errors
    /// Those of [`TextTower::embed_batch`].
    pub fn embed_tokens(&self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        self.embed_batch(&[tokens])
    }

    /// The embeddings [texts, D] of several texts, each as from [`TextTower::embed_tokens`]. Texts
    /// together take less time than one after the other.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty or too long text, [`Error::UnknownToken`],
    /// [`Error::Degenerate`].
    pub fn embed_batch<T: AsRef<[u32]>>(&self, texts: &[T]) -> Result<Vec<f32>, Error> {
        let mut rows = Vec::new();
        let mut lengths = Vec::with_capacity(texts.len());
        for text in texts {
            let text = until_end(text.as_ref());
            rows.extend(self.token_rows(text)?);
            lengths.push(text.len());
        }
        self.embed_row_batch(rows, &lengths)
    }

    /// The rows [tokens, width] of the token embedding, without positions.
    ///
    /// # Errors
    /// [`Error::UnknownToken`] for an id outside the vocabulary.
    pub fn token_rows(&self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let width = self.config.width;
        let mut rows = Vec::with_capacity(tokens.len() * width);
        for (position, &token) in tokens.iter().enumerate() {
            if token as usize >= self.config.vocabulary {
                let vocabulary = self.config.vocabulary;
                return Err(Error::UnknownToken {
                    token,
                    position,
                    vocabulary,
                });
            }
            rows.extend_from_slice(&self.token_embedding[token as usize * width..][..width]);
        }
        Ok(rows)
    }

    /// The embedding `[D]`, L2-normalised, of a text given as rows [length, width]: token embeddings,
    /// or learned context vectors in their place, without positions. The last row is the
    /// end-of-text token's.
    ///
    /// # Errors
    /// [`Error::Input`] unless these are 1 to `context_length` whole rows; [`Error::Degenerate`].
    pub fn embed_rows(&self, rows: &[f32]) -> Result<Vec<f32>, Error> {
        let width = self.config.width;
        if !rows.len().is_multiple_of(width) {
            let expected = format!("rows of {width}");
            return Err(Error::Input {
                what: "values of a text's rows",
                found: rows.len(),
                expected,
            });
        }
        self.embed_row_batch(rows.to_vec(), &[rows.len() / width])
    }

    /// The core: `rows` hold the texts one after the other, without positions, `lengths` their
    /// lengths. Everything but the attention runs over all rows at once.
    fn embed_row_batch(&self, mut rows: Vec<f32>, lengths: &[usize]) -> Result<Vec<f32>, Error> {
        let width = self.config.width;
        let mut rest = &mut rows[..];
        for &length in lengths {
            if length == 0 || length > self.config.context_length {
                let expected = format!("1 to {}", self.config.context_length);
                return Err(Error::Input {
                    what: "tokens of a text",
                    found: length,
                    expected,
                });
            }
            let (text, others) = rest.split_at_mut(length * width);
            text.iter_mut()
                .zip(&self.positional_embedding)
                .for_each(|(x, p)| *x += p);
            rest = others;
        }
        let mut x = rows;
        for (i, block) in self.blocks.iter().enumerate() {
            x = self.block(block, x, lengths, i + 1 == self.blocks.len());
        }
        let normed = self.ln_final.apply(&x, width);
        let mut embeddings = linear(&self.text_projection, &normed, width, self.embedding);
        for (i, embedding) in embeddings.chunks_exact_mut(self.embedding).enumerate() {
            l2_normalize(embedding);
            if !embedding.iter().all(|value| value.is_finite()) {
                return Err(Error::Degenerate {
                    text: format!("text {}", i + 1),
                });
            }
        }
        Ok(embeddings)
    }

    /// One residual block over x [rows, width]; the last one returns the last row of each text only.
    fn block(&self, block: &Block, mut x: Vec<f32>, lengths: &[usize], last: bool) -> Vec<f32> {
        let width = self.config.width;
        let head_width = width / self.config.heads;
        let mut normed = block.ln_1.apply(&x, width);
        let key_value = linear(&block.key_value, &normed, width, 2 * width);
        if last {
            x = last_rows(&x, width, lengths);
            normed = last_rows(&normed, width, lengths);
        }
        let query = linear(&block.query, &normed, width, width);
        let mut mixed = vec![0.0; query.len()];
        let (mut at, mut at_query) = (0, 0);
        for &length in lengths {
            let queries = if last { 1 } else { length };
            attention(
                Rows {
                    data: &query[at_query * width..],
                    stride: width,
                },
                queries,
                Rows {
                    data: &key_value[at * 2 * width..],
                    stride: 2 * width,
                },
                Rows {
                    data: &key_value[at * 2 * width + width..],
                    stride: 2 * width,
                },
                length,
                self.config.heads,
                head_width,
                true,
                (head_width as f32).sqrt().recip(),
                &mut mixed[at_query * width..][..queries * width],
            );
            at += length;
            at_query += queries;
        }
        let rows = x.len() / width;
        let none = kernels::Activation::None;
        let mut out = vec![0.0; x.len()];
        block.out_proj.apply(&mixed, rows, none, Some(&x), &mut out);
        let normed = block.ln_2.apply(&out, width);
        let mut hidden = vec![0.0; 4 * x.len()];
        block
            .c_fc
            .apply(&normed, rows, self.activation, None, &mut hidden);
        block.c_proj.apply(&hidden, rows, none, Some(&out), &mut x);
        x
    }
}

impl std::fmt::Debug for TextTower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextTower")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

type Read<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, Error> + 'a;

impl Block {
    fn new(name: &str, w: usize, read: &mut Read) -> Result<Self, Error> {
        let ln_1 = LayerNorm::new(&format!("{name}.ln_1"), w, read)?;
        let weight = read(&format!("{name}.attn.in_proj_weight"), &[3 * w, w])?;
        let bias = read(&format!("{name}.attn.in_proj_bias"), &[3 * w])?;
        // The rows of q, k and v lie one after the other.
        let (query, key_value) = weight.split_at(w * w);
        let (query_bias, key_value_bias) = bias.split_at(w);
        let query = PackedLinear::from_out_in(query, w, w, Some(query_bias));
        let key_value = PackedLinear::from_out_in(key_value, 2 * w, w, Some(key_value_bias));
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
    fn new(name: &str, w: usize, read: &mut Read) -> Result<Self, Error> {
        let gain = read(&format!("{name}.weight"), &[w])?;
        let bias = read(&format!("{name}.bias"), &[w])?;
        Ok(LayerNorm { gain, bias })
    }

    fn apply(&self, x: &[f32], width: usize) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        layer_norm(x, width, &self.gain, &self.bias, EPSILON, &mut out);
        out
    }
}

fn check(config: &Config, embedding: usize) -> Result<(), Error> {
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
    Ok(())
}

/// The tokens up to the first of the greatest ids.
pub(crate) fn until_end(tokens: &[u32]) -> &[u32] {
    let greatest = tokens.iter().max();
    let end = tokens.iter().position(|token| Some(token) == greatest);
    &tokens[..end.map_or(0, |end| end + 1)]
}

fn linear(layer: &PackedLinear, x: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len() / inputs;
    let mut out = vec![0.0; rows * outputs];
    layer.apply(x, rows, kernels::Activation::None, None, &mut out);
    out
}

/// The last row of each text.
fn last_rows(x: &[f32], width: usize, lengths: &[usize]) -> Vec<f32> {
    let mut out = Vec::with_capacity(lengths.len() * width);
    let mut end = 0;
    for length in lengths {
        end += length;
        out.extend_from_slice(&x[(end - 1) * width..end * width]);
    }
    out
}
