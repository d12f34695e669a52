//! CLIP's text encoder with frozen weights: from context vectors to class embeddings, and back to the
//! gradient of the context vectors.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use candle_core::{Device, Tensor, Var};
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{Activation, PromptRow, TextEncoderConfig as Config};

use super::prompt_tree::{Node, PromptTree, Row};
use crate::{
    Error, Result,
    ops::{
        frozen::{FrozenLinear, FrozenNorm, activate},
        read,
        tree_attention::{TreeMask, tree_attention},
    },
};

/// A frozen text encoder.
pub(super) struct FrozenTextEncoder {
    config: Config,
    embedding: usize,
    activation: Activation,
    /// The embeddings [width] of the tokens in use.
    tokens: HashMap<u32, Vec<f32>>,
    /// [context_length, width]
    positions: Vec<f32>,
    blocks: Vec<Block>,
    ln_final: FrozenNorm,
    projection: FrozenLinear,
}

struct Block {
    ln_1: FrozenNorm,
    /// Separate from keys and values: the last block needs one query per text.
    query: FrozenLinear,
    key_value: FrozenLinear,
    out_proj: FrozenLinear,
    ln_2: FrozenNorm,
    c_fc: FrozenLinear,
    c_proj: FrozenLinear,
}

impl FrozenTextEncoder {
    /// The text encoder of a checkpoint, with the embeddings of some tokens.
    pub(super) fn load(clip: &Checkpoint, tokens: &BTreeSet<u32>) -> Result<Self> {
        let config = clip.config().text.clone();
        let (w, embedding) = (config.width, clip.config().embedding);
        let table = clip.tensor("token_embedding.weight")?.data;
        let row = |&id: &u32| match table.get(id as usize * w..(id as usize + 1) * w) {
            Some(row) => Ok((id, row.to_vec())),
            None => Err(Error::Config(format!(
                "token {id}: expected one of the {} tokens of the model's vocabulary",
                config.vocabulary
            ))),
        };
        let tokens = tokens.iter().map(row).collect::<Result<_>>()?;
        drop(table);
        let norm = |name: &str| -> Result<FrozenNorm> {
            let gain = clip.tensor(&format!("{name}.weight"))?.data;
            Ok(FrozenNorm::new(
                gain,
                clip.tensor(&format!("{name}.bias"))?.data,
            )?)
        };
        let linear = |name: &str, outputs: usize, inputs: usize| -> Result<FrozenLinear> {
            let weight = clip.tensor(&format!("{name}.weight"))?.data;
            let bias = clip.tensor(&format!("{name}.bias"))?.data;
            Ok(FrozenLinear::new(&weight, outputs, inputs, Some(&bias))?)
        };
        let block = |layer: usize| -> Result<Block> {
            let name = |part: &str| format!("transformer.resblocks.{layer}.{part}");
            let weight = clip.tensor(&name("attn.in_proj_weight"))?.data;
            let bias = clip.tensor(&name("attn.in_proj_bias"))?.data;
            // The rows of q, then those of k and v.
            let (q, kv) = weight.split_at(w * w);
            let (q_bias, kv_bias) = bias.split_at(w);
            Ok(Block {
                ln_1: norm(&name("ln_1"))?,
                query: FrozenLinear::new(q, w, w, Some(q_bias))?,
                key_value: FrozenLinear::new(kv, 2 * w, w, Some(kv_bias))?,
                out_proj: linear(&name("attn.out_proj"), w, w)?,
                ln_2: norm(&name("ln_2"))?,
                c_fc: linear(&name("mlp.c_fc"), 4 * w, w)?,
                c_proj: linear(&name("mlp.c_proj"), w, 4 * w)?,
            })
        };
        let projection = clip.tensor("text_projection")?.data;
        let projection = Tensor::from_vec(projection, (w, embedding), &Device::Cpu)?;
        let projection = read(&projection.t()?, |weight| {
            FrozenLinear::new(weight, embedding, w, None)
        })??;
        Ok(Self {
            embedding,
            activation: clip.config().text_activation,
            tokens,
            positions: clip.tensor("positional_embedding")?.data,
            blocks: (0..config.layers).map(block).collect::<Result<_>>()?,
            ln_final: norm("ln_final")?,
            projection,
            config,
        })
    }

    /// The width of a row.
    pub(super) fn width(&self) -> usize {
        self.config.width
    }

    /// The length of a class embedding.
    pub(super) fn embedding(&self) -> usize {
        self.embedding
    }

    /// Memory for a row's activations: a block keeps about 16 times the width (norms, query, keys and values,
    /// attention, both residuals, and the MLP's hidden layer before and after the activation function).
    pub(super) fn bytes_per_row(&self) -> usize {
        self.config.layers * 16 * self.config.width * size_of::<f32>()
    }

    /// The embedding of a token in use.
    pub(super) fn token(&self, id: u32) -> Result<&[f32]> {
        let row = self.tokens.get(&id).map(Vec::as_slice);
        row.ok_or_else(|| Error::Config(format!("token {id}: its embedding was not loaded")))
    }

    /// The output of a block for the input [rows, width], and its keys and values [rows, 2 * width]. The
    /// output has only the rows `ends`, if given.
    fn block(
        &self,
        block: &Block,
        mut x: Tensor,
        constant: &Arc<Vec<f32>>,
        mask: &Arc<TreeMask>,
        ends: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let mut normed = block.ln_1.forward(&x)?;
        let key_value = block.key_value.forward(&normed)?;
        if let Some(ends) = ends {
            x = x.index_select(ends, 0)?;
            normed = normed.index_select(ends, 0)?;
        }
        let query = block.query.forward(&normed)?;
        let attended = tree_attention(&query, &key_value, constant, mask, self.config.heads)?;
        let x = block.out_proj.forward_add(&attended, &x)?;
        let hidden = block.c_fc.forward(&block.ln_2.forward(&x)?)?;
        let hidden = activate(&hidden, self.activation)?;
        Ok((block.c_proj.forward_add(&hidden, &x)?, key_value))
    }

    /// Input rows [nodes, width]: token and position embeddings; for context vectors only the position
    /// embeddings.
    fn rows(&self, nodes: &[Node]) -> Result<Vec<f32>> {
        let width = self.config.width;
        let mut rows = Vec::with_capacity(nodes.len() * width);
        for node in nodes {
            let position = self.positions.get(node.position * width..);
            let Some(position) = position.and_then(|p| p.get(..width)) else {
                return Err(Error::Config(format!(
                    "position {}: the text encoder has {}",
                    node.position, self.config.context_length
                )));
            };
            match node.row {
                Row::Token(id) => {
                    rows.extend(self.token(id)?.iter().zip(position).map(|(t, p)| t + p));
                }
                Row::Context(_) => rows.extend(position),
            }
        }
        Ok(rows)
    }
}

/// The prompts of some classes, with everything that does not depend on the context precomputed.
pub(super) struct PromptBatch {
    tree: PromptTree,
    /// [live nodes, width], without the context vectors.
    rows: Vec<f32>,
    /// For each block, keys and values [constant nodes, 2 * width] of the constant nodes.
    constant: Vec<Arc<Vec<f32>>>,
    live_mask: Arc<TreeMask>,
    end_mask: Arc<TreeMask>,
    ends: Tensor,
}

/// Whether a forward pass keeps what the backward pass needs.
#[derive(Clone, Copy)]
pub(super) enum Gradients {
    Enabled,
    Disabled,
}

/// The result of a forward pass.
pub(super) struct ForwardPass {
    rows: Tensor,
    /// [classes, embedding], not normalised.
    pub(super) embeddings: Tensor,
}

impl PromptBatch {
    /// Builds the tree of some classes' prompts and computes its constant rows. `context` gives the index,
    /// among all context vectors, of a class's context vector.
    pub(super) fn new(
        encoder: &FrozenTextEncoder,
        prompts: &[Vec<PromptRow>],
        context: impl Fn(usize, usize) -> usize,
    ) -> Result<Self> {
        let tree = PromptTree::new(prompts, context);
        let nodes = tree.constant.len();
        let mut x = Tensor::from_vec(
            encoder.rows(&tree.constant)?,
            (nodes, encoder.width()),
            &Device::Cpu,
        )?;
        let (none, mask) = (Arc::new(Vec::new()), Arc::new(tree.constant_mask()));
        let mut constant = Vec::with_capacity(encoder.blocks.len());
        for block in &encoder.blocks {
            let (next, key_value) = encoder.block(block, x, &none, &mask, None)?;
            constant.push(Arc::new(read(&key_value, <[f32]>::to_vec)?));
            x = next;
        }
        let ends = tree.ends.iter().map(|&end| end as u32).collect();
        Ok(Self {
            rows: encoder.rows(&tree.live)?,
            constant,
            live_mask: Arc::new(tree.live_mask()),
            end_mask: Arc::new(tree.end_mask()),
            ends: Tensor::from_vec(ends, tree.ends.len(), &Device::Cpu)?,
            tree,
        })
    }

    /// Rows, keys and values that do not depend on the context.
    pub(super) fn constants(&self) -> impl Iterator<Item = f32> {
        let constant = self.constant.iter().flat_map(|block| block.iter());
        self.rows.iter().chain(constant).copied()
    }

    /// The number of rows of a forward pass.
    pub(super) fn rows(&self) -> usize {
        self.tree.live.len()
    }

    /// The number of classes.
    pub(super) fn classes(&self) -> usize {
        self.tree.ends.len()
    }

    /// The class embeddings for the context vectors [contexts, width]. [`PromptBatch::backward`] requires
    /// [`Gradients::Enabled`].
    pub(super) fn forward(
        &self,
        encoder: &FrozenTextEncoder,
        context: &[f32],
        gradients: Gradients,
    ) -> Result<ForwardPass> {
        let width = encoder.width();
        let mut rows = self.rows.clone();
        for (row, node) in rows.chunks_exact_mut(width).zip(&self.tree.live) {
            if let Row::Context(i) = node.row {
                let Some(vector) = context.get(i * width..(i + 1) * width) else {
                    return Err(Error::Config(format!("context vector {i} is missing")));
                };
                row.iter_mut().zip(vector).for_each(|(row, v)| *row += v);
            }
        }
        let rows = Tensor::from_vec(rows, (self.tree.live.len(), width), &Device::Cpu)?;
        let rows = match gradients {
            Gradients::Enabled => Var::from_tensor(&rows)?.into_inner(),
            Gradients::Disabled => rows,
        };
        let mut x = rows.clone();
        for (i, block) in encoder.blocks.iter().enumerate() {
            let (mask, ends) = if i + 1 == encoder.blocks.len() {
                (&self.end_mask, Some(&self.ends))
            } else {
                (&self.live_mask, None)
            };
            (x, _) = encoder.block(block, x, &self.constant[i], mask, ends)?;
        }
        let embeddings = encoder.projection.forward(&encoder.ln_final.forward(&x)?)?;
        Ok(ForwardPass { rows, embeddings })
    }

    /// Adds to `sum` [contexts, width] the gradient of the context vectors, given that of the embeddings
    /// [classes, embedding].
    pub(super) fn backward(
        &self,
        pass: &ForwardPass,
        gradient: &Tensor,
        sum: &mut [f32],
    ) -> Result<()> {
        let store = (&pass.embeddings * gradient)?.sum_all()?.backward()?;
        let Some(rows) = store.get(&pass.rows) else {
            return Err(Error::Config(
                "backward pass after a forward pass without gradients".into(),
            ));
        };
        let width = rows.dim(1)?;
        read(rows, |rows| {
            for (row, node) in rows.chunks_exact(width).zip(&self.tree.live) {
                if let Row::Context(i) = node.row {
                    let sum = sum.iter_mut().skip(i * width);
                    sum.zip(row).for_each(|(sum, g)| *sum += g);
                }
            }
        })?;
        Ok(())
    }
}
