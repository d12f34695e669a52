//! Multi-head attention of the dialect.

use std::sync::Arc;

use pinhole_bundle::dialect::{AttentionInput, AttentionScores, Op};
use pinhole_kernels::{self as kernels, Affine, AttentionStages, Pointwise, StridedRows};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::affine::static_affine;
use super::elementwise::table;
use super::operator::{Built, Compute, build, floats};
use super::parameters::{integer, number, positive_integer};

/// Attention over `query` and `key_value`, or over one input that contains all three.
#[derive(Debug)]
struct Attention {
    heads: usize,
    products: Products,
}

/// What the products of queries, keys and values are computed in.
#[derive(Debug, PartialEq)]
enum Products {
    Float,
    Int8,
}

impl Products {
    fn of(scores: AttentionScores) -> Self {
        match scores {
            AttentionScores::Exact | AttentionScores::Quantized => Products::Float,
            AttentionScores::Int8 => Products::Int8,
        }
    }

    /// Attention without a mask: see [`kernels::attention`] and [`kernels::int8_attention`].
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        q: StridedRows,
        tq: usize,
        k: StridedRows,
        v: StridedRows,
        tk: usize,
        heads: usize,
        head: usize,
        scale: f32,
        out: &mut [f32],
    ) {
        match self {
            Products::Float => {
                kernels::attention(q, tq, k, v, tk, heads, head, false, scale, out);
            }
            Products::Int8 => kernels::int8_attention(q, tq, k, v, tk, heads, head, scale, out),
        }
    }
}

pub(super) fn attention(node: &NodeProto, input: AttentionInput, scores: AttentionScores) -> Built {
    let heads = positive_integer(node, "heads")?;
    let products = Products::of(scores);
    build(Op::Attention(input, scores), Attention { heads, products })
}

impl Compute for Attention {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let heads = self.heads;
        match *inputs {
            [&[n, t, joint]] => {
                ensure!(
                    joint % (3 * heads) == 0,
                    "expected [N, T, 3W] with {heads} heads, found {:?}",
                    inputs[0]
                );
                Ok(tvec![n, t, joint / 3])
            }
            [&[n, t, width], &[m, _, both]] => {
                ensure!(
                    n == m && both == 2 * width && width % heads == 0,
                    "expected [N, T, W] and [N, U, 2W] with {heads} heads, found {inputs:?}"
                );
                Ok(tvec![n, t, width])
            }
            _ => bail!("expected values of 3 dimensions, found {inputs:?}"),
        }
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[.., tq, columns] = inputs[0].shape() else {
            bail!("expected 3 dimensions");
        };
        // The tensor of keys and values, and the column of the first key.
        let (keys, first) = match inputs.len() {
            1 => (&inputs[0], columns / 3),
            _ => (&inputs[1], 0),
        };
        let &[.., tk, stride] = keys.shape() else {
            bail!("expected 3 dimensions");
        };
        let width = (stride - first) / 2;
        let queries = floats(&inputs[0])?.chunks_exact(tq * columns);
        let keys = floats(keys)?.chunks_exact(tk * stride);
        let outs = output.chunks_exact_mut(tq * width);
        for ((query, key), out) in queries.zip(keys).zip(outs) {
            let rows = |data, stride| StridedRows { data, stride };
            self.products.attention(
                rows(query, columns),
                tq,
                rows(&key[first..], stride),
                rows(&key[first + width..], stride),
                tk,
                self.heads,
                width / self.heads,
                1.0,
                out,
            );
        }
        Ok(())
    }
}

/// Attention over columns of three inputs.
#[derive(Debug)]
struct ColumnAttention {
    heads: usize,
    width: usize,
    /// The first column of the queries, keys and values.
    columns: [usize; 3],
    scale: f32,
    products: Products,
    /// What is done to the scores and the softmax's results; nothing, or `scale` too.
    stages: AttentionStages,
}

pub(super) fn column_attention(
    context: &ParsingContext,
    node: &NodeProto,
    scores: AttentionScores,
) -> Built {
    let scale = number(node, "scale")?;
    let stages = match scores {
        AttentionScores::Exact | AttentionScores::Int8 => AttentionStages::default(),
        AttentionScores::Quantized => {
            let affine = static_affine(context, node, "scores")?;
            let values = table(context, node, "scores_values")?;
            let shares = static_affine(context, node, "shares")?;
            AttentionStages {
                scores: vec![Pointwise::Scale(scale), quantization(affine, values)],
                weights: vec![Pointwise::FakeQuantize(shares)],
                ..AttentionStages::default()
            }
        }
    };
    let columns = ["query_column", "key_column", "value_column"];
    let [query, key, value] = columns.map(|name| integer(node, name));
    let attention = ColumnAttention {
        heads: positive_integer(node, "heads")?,
        width: positive_integer(node, "width")?,
        columns: [query?, key?, value?],
        scale,
        products: Products::of(scores),
        stages,
    };
    build(Op::Attention(AttentionInput::Columns, scores), attention)
}

/// A table of the quantised values themselves needs no look-up.
fn quantization(affine: Affine, values: [f32; 256]) -> Pointwise {
    let own = |q: i32| (q - i32::from(affine.zero_point)) as f32 * affine.scale;
    match (-128..128).map(own).eq(values) {
        true => Pointwise::FakeQuantize(affine),
        false => Pointwise::Table(affine, Arc::new(values)),
    }
}

impl Compute for ColumnAttention {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [&[n, t, a], &[m, u, b], &[o, v, c]] = *inputs else {
            bail!("expected three inputs of 3 dimensions, found {inputs:?}");
        };
        let (heads, width) = (self.heads, self.width);
        let inside = [a, b, c].into_iter().zip(self.columns);
        let inside = inside.map(|(all, first)| first + width <= all);
        ensure!(
            n == m
                && n == o
                && u == v
                && t > 0
                && u > 0
                && width % heads == 0
                && inside.min() == Some(true),
            "expected [N, T, A], [N, U, B] and [N, U, C] with {heads} heads in {width} columns from {:?}, found {inputs:?}",
            self.columns
        );
        Ok(tvec![n, t, width])
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let (heads, width) = (self.heads, self.width);
        let (mut all, mut rows) = (vec![], vec![]);
        for input in inputs {
            let &[_, count, columns] = input.shape() else {
                bail!("expected 3 dimensions");
            };
            rows.push(count);
            all.push((floats(input)?, count * columns, columns));
        }
        let (&[tq, tk, _], [q, k, v]) = (&rows[..], &all[..]) else {
            bail!("expected three inputs");
        };
        let images = output.chunks_exact_mut((tq * width).max(1));
        for (image, out) in images.enumerate() {
            let part = |&(data, len, stride): &(_, usize, usize), first: usize| -> StridedRows {
                let data: &[f32] = data;
                StridedRows {
                    data: &data[image * len..][first..len],
                    stride,
                }
            };
            let [first_q, first_k, first_v] = self.columns;
            let (q, k, v) = (part(q, first_q), part(k, first_k), part(v, first_v));
            let head = width / heads;
            if self.stages == AttentionStages::default() {
                (self.products).attention(q, tq, k, v, tk, heads, head, self.scale, out);
            } else {
                kernels::staged_attention(q, tq, k, v, tk, heads, head, &self.stages, out);
            }
        }
        Ok(())
    }
}
