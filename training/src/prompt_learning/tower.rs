//! CLIP's text tower with its weights held: from a context to class embeddings, and back to the
//! context's gradient.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use candle_core::{Device, Tensor, Var};
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{Activation, PromptRow, TextEncoderConfig as Config};

use crate::{
    Error, Result,
    ops::{
        frozen::{FrozenLinear, FrozenNorm, activate},
        read,
        tree::{Paths, tree_attention},
    },
    prompt_learning::tree::{Node, Row, Tree},
};

/// A frozen text tower.
pub(super) struct Tower {
    config: Config,
    embedding: usize,
    activation: Activation,
    /// The rows [width] of the tokens in use.
    tokens: HashMap<u32, Vec<f32>>,
    /// [context_length, width]
    positions: Vec<f32>,
    blocks: Vec<Block>,
    ln_final: FrozenNorm,
    projection: FrozenLinear,
}

struct Block {
    ln_1: FrozenNorm,
    /// Apart from keys and values, as the last block has one query a text.
    query: FrozenLinear,
    key_value: FrozenLinear,
    out_proj: FrozenLinear,
    ln_2: FrozenNorm,
    c_fc: FrozenLinear,
    c_proj: FrozenLinear,
}

impl Tower {
    /// The text tower of a checkpoint, with the embeddings of some tokens.
    pub(super) fn load(clip: &Checkpoint, tokens: &BTreeSet<u32>) -> Result<Self> {
        let config = clip.config().text.clone();
        let (w, embedding) = (config.width, clip.config().embedding);
        let table = clip.tensor("token_embedding.weight")?.data;
        let row = |&id: &u32| match table.get(id as usize * w..(id as usize + 1) * w) {
            Some(row) => Ok((id, row.to_vec())),
            None => Err(Error::Config(format!(
                "token {id} is beyond the {} tokens of the model's vocabulary",
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
            // The rows of q, k and v lie one after the other.
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
            activation: clip.config().activation,
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

    /// The embedding row of a token in use.
    pub(super) fn token(&self, id: u32) -> Result<&[f32]> {
        let row = self.tokens.get(&id).map(Vec::as_slice);
        row.ok_or_else(|| Error::Config(format!("the row of token {id} was not loaded")))
    }

    /// The block's input [rows, width] to its output; only the rows `ends` go on where they are given.
    /// Also its keys and values [rows, 2 * width].
    fn block(
        &self,
        block: &Block,
        mut x: Tensor,
        fixed: &Arc<Vec<f32>>,
        paths: &Arc<Paths>,
        ends: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let mut normed = block.ln_1.forward(&x)?;
        let key_value = block.key_value.forward(&normed)?;
        if let Some(ends) = ends {
            x = x.index_select(ends, 0)?;
            normed = normed.index_select(ends, 0)?;
        }
        let query = block.query.forward(&normed)?;
        let mixed = tree_attention(&query, &key_value, fixed, paths, self.config.heads)?;
        let x = block.out_proj.forward_onto(&mixed, &x)?;
        let hidden = block.c_fc.forward(&block.ln_2.forward(&x)?)?;
        let hidden = activate(&hidden, self.activation)?;
        Ok((block.c_proj.forward_onto(&hidden, &x)?, key_value))
    }

    /// The rows [nodes, width] of nodes with their positions; those of context vectors are left 0 but
    /// for the position.
    fn rows(&self, nodes: &[Node]) -> Result<Vec<f32>> {
        let width = self.config.width;
        let mut rows = Vec::with_capacity(nodes.len() * width);
        for node in nodes {
            let place = self.positions.get(node.position * width..);
            let Some(place) = place.and_then(|p| p.get(..width)) else {
                return Err(Error::Config(format!(
                    "position {} of a text tower with {}",
                    node.position, self.config.context_length
                )));
            };
            match node.row {
                Row::Token(id) => {
                    rows.extend(self.token(id)?.iter().zip(place).map(|(t, p)| t + p));
                }
                Row::Context(_) => rows.extend(place),
            }
        }
        Ok(rows)
    }
}

/// The prompts of some classes, ready to be run with one context after another.
pub(super) struct Prompts {
    tree: Tree,
    /// [live nodes, width]; context vectors are to be added.
    rows: Vec<f32>,
    /// Keys and values of the fixed nodes, [fixed nodes, 2 * width] a block.
    fixed: Vec<Arc<Vec<f32>>>,
    live_paths: Arc<Paths>,
    end_paths: Arc<Paths>,
    ends: Tensor,
}

/// A run of the tower.
pub(super) struct Run {
    rows: Tensor,
    /// [classes, embedding], not normalised.
    pub(super) embeddings: Tensor,
}

impl Prompts {
    /// Joins the prompts of some classes into a tree and computes what is constant of it. `context`
    /// gives the number of a class's context vector among all.
    pub(super) fn new(
        tower: &Tower,
        prompts: &[Vec<PromptRow>],
        context: impl Fn(usize, usize) -> usize,
    ) -> Result<Self> {
        let tree = Tree::new(prompts, context);
        let nodes = tree.fixed.len();
        let mut x = Tensor::from_vec(
            tower.rows(&tree.fixed)?,
            (nodes, tower.width()),
            &Device::Cpu,
        )?;
        let (none, paths) = (Arc::new(Vec::new()), Arc::new(tree.fixed_paths()));
        let mut fixed = Vec::with_capacity(tower.blocks.len());
        for block in &tower.blocks {
            let (next, key_value) = tower.block(block, x, &none, &paths, None)?;
            fixed.push(Arc::new(read(&key_value, <[f32]>::to_vec)?));
            x = next;
        }
        let ends = tree.ends.iter().map(|&end| end as u32).collect();
        Ok(Self {
            rows: tower.rows(&tree.live)?,
            fixed,
            live_paths: Arc::new(tree.live_paths()),
            end_paths: Arc::new(tree.end_paths()),
            ends: Tensor::from_vec(ends, tree.ends.len(), &Device::Cpu)?,
            tree,
        })
    }

    /// Rows, and keys and values in every block, that stay the same.
    pub(super) fn constants(&self) -> impl Iterator<Item = f32> {
        let fixed = self.fixed.iter().flat_map(|block| block.iter());
        self.rows.iter().chain(fixed).copied()
    }

    /// The number of rows that a run computes.
    pub(super) fn rows(&self) -> usize {
        self.tree.live.len()
    }

    /// The number of classes.
    pub(super) fn classes(&self) -> usize {
        self.tree.ends.len()
    }

    /// The class embeddings for the context vectors [contexts, width]. With `gradient` what
    /// [`Prompts::backward`] needs is kept.
    pub(super) fn forward(&self, tower: &Tower, context: &[f32], gradient: bool) -> Result<Run> {
        let width = tower.width();
        let mut rows = self.rows.clone();
        for (row, node) in rows.chunks_exact_mut(width).zip(&self.tree.live) {
            if let Row::Context(i) = node.row {
                let Some(vector) = context.get(i * width..(i + 1) * width) else {
                    return Err(Error::Config(format!("there is no context vector {i}")));
                };
                row.iter_mut().zip(vector).for_each(|(row, v)| *row += v);
            }
        }
        let rows = Tensor::from_vec(rows, (self.tree.live.len(), width), &Device::Cpu)?;
        let rows = match gradient {
            true => Var::from_tensor(&rows)?.into_inner(),
            false => rows,
        };
        let mut x = rows.clone();
        for (i, block) in tower.blocks.iter().enumerate() {
            let (paths, ends) = match i + 1 == tower.blocks.len() {
                true => (&self.end_paths, Some(&self.ends)),
                false => (&self.live_paths, None),
            };
            (x, _) = tower.block(block, x, &self.fixed[i], paths, ends)?;
        }
        let embeddings = tower.projection.forward(&tower.ln_final.forward(&x)?)?;
        Ok(Run { rows, embeddings })
    }

    /// Adds to `sum` [contexts, width] the gradient of the context, from that of the embeddings
    /// [classes, embedding] of a run that kept what it takes.
    pub(super) fn backward(&self, run: &Run, gradient: &Tensor, sum: &mut [f32]) -> Result<()> {
        let store = (&run.embeddings * gradient)?.sum_all()?.backward()?;
        let Some(rows) = store.get(&run.rows) else {
            return Err(Error::Config("a run without its gradient".into()));
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
