//! Attention as other programs write it, some thirty operators, as one function.
//!
//! Each operand of its two products is traced back through operators that only move values to columns of the tensor that
//! contains them, such as a joint projection, so that nothing is copied. Where that is not possible, heads are moved
//! behind tokens by operators of their own. Factors become the function's scale; quantisations of queries, keys, values and
//! the result become functions of their own.

use std::collections::HashMap;

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{AttentionInput, AttentionScores, Op};
use tract_onnx::pb::NodeProto;

use super::motions::{MAX_MOTIONS, Motion, Step};
use super::views::{Axis, View};
use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{
    AffineParams, axis, float_tensor, int8_tensor, int64_tensor, new_node,
};
use crate::graph::proto::{float, ints, node};

impl EncoderGraph {
    /// Replaces products with a softmax between them by attention.
    pub(super) fn replace_attention(&mut self) -> Result<(), String> {
        let mut readers: HashMap<String, usize> = HashMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            readers.extend(node.input.iter().map(|name| (name.clone(), i)));
        }
        for i in 0..self.nodes.len() {
            if let Some(block) = self.attention_block(i, &readers) {
                self.emit_attention(i, &block);
            }
        }
        Ok(())
    }
}

/// A product of matrices per head.
struct Product<'a> {
    operands: [&'a str; 2],
    /// The axis of the heads, counted from the end, and their number. `None` of a single head.
    heads: Option<(usize, usize)>,
    /// Rows, columns of the first factor, and columns of the second.
    sizes: [usize; 3],
}

/// What attention reads as queries, keys or values.
struct Operand {
    base: String,
    /// How `base` `[N, .., .., ..]` is transposed to images, rows, heads and columns of a head, if it must be.
    perm: Option<[i64; 4]>,
    /// First column of `base`.
    column: usize,
    /// Before a scale.
    steps: Vec<Step>,
}

/// How the shares of the values are computed.
enum Shares {
    Exact,
    Quantized {
        scores: (AffineParams, Vec<f32>),
        shares: AffineParams,
    },
}

/// Attention in the graph.
struct Block {
    /// Queries, keys and values.
    operands: [Operand; 3],
    queries: usize,
    heads: usize,
    /// Of all heads.
    width: usize,
    scale: f32,
    shares: Shares,
    /// Of the result.
    steps: Vec<Step>,
    /// Index of the last node that it replaces.
    last: usize,
    /// How `[N, T, heads, columns]` is transposed to that node's result, if it must be.
    perm: Option<[i64; 4]>,
}

impl EncoderGraph {
    /// The matrix product that `node` is.
    fn product<'a>(&self, node: &'a NodeProto) -> Option<Product<'a>> {
        let ("MatMul", true, [a, b]) = (&*node.op_type, is_standard(node), &node.input[..]) else {
            return None;
        };
        let ([batch_a @ .., rows, depth], [batch_b @ .., again, columns]) =
            (self.shape(a)?, self.shape(b)?)
        else {
            return None;
        };
        let mut heads = None;
        for from_end in 0..batch_a.len().max(batch_b.len()) {
            let len = |batch: &[usize]| batch.iter().rev().nth(from_end).copied().unwrap_or(1);
            let len = (len(batch_a) == len(batch_b)).then_some(len(batch_a))?;
            if len != 1 && heads.replace((from_end + 3, len)).is_some() {
                return None;
            }
        }
        (depth == again).then_some(Product {
            operands: [a, b],
            heads,
            sizes: [*rows, *depth, *columns],
        })
    }

    /// The attention whose second product is the node at `i`.
    fn attention_block(&self, i: usize, readers: &HashMap<String, usize>) -> Option<Block> {
        let mixing = self.product(&self.nodes[i])?;
        let [w, v] = [[0, 1], [1, 0]]
            .into_iter()
            .find(|&[w, _]| self.softmax_before(mixing.operands[w]).is_some())?;
        let (softmax, shares_steps) = self.softmax_before(mixing.operands[w])?;
        // Counted from the end: the axis of shares and scores that is summed over, which the keys have.
        let keys = [1, 2][w];
        let rank = self.shape(&softmax.output[0])?.len();
        if axis(softmax, -1, rank)? + keys != rank {
            return None;
        }
        let (scores, scores_steps) = self.steps_before(softmax.input.first()?);
        let scoring = self.product(&self.nodes[*self.producers.get(scores)?])?;
        if scoring.heads != mixing.heads {
            return None;
        }
        // The second factor has the last axis.
        let k = [1, 0][w];
        let q = 1 - k;
        let (heads_axis, heads) = scoring.heads.unwrap_or((3, 1));
        let width = heads.checked_mul(scoring.sizes[1])?;
        let value_axes = [[1, 2], [2, 1]][v];
        // Counted from the end: rows and columns of each operand.
        let query_axes = [[2, 1], [1, 2]][q];
        let key_axes = [[2, 1], [1, 2]][k];
        let queries = [scoring.sizes[0], scoring.sizes[2]][q];
        let value_width = [mixing.sizes[0], mixing.sizes[2]][v];
        if value_width != scoring.sizes[1] {
            return None;
        }
        let operand =
            |name: &str, axes: [usize; 2]| self.operand(name, [heads_axis, axes[0], axes[1]]);
        let (query, query_scale) = operand(scoring.operands[q], query_axes)?;
        let (key, key_scale) = operand(scoring.operands[k], key_axes)?;
        let (value, value_scale) = operand(mixing.operands[v], value_axes)?;
        let (shares, scores_scale) = shares(&scores_steps, &shares_steps)?;
        if value_scale != 1.0 {
            return None;
        }

        // The positions of the product's values in [queries, heads, width].
        let shape = self.shape(&self.nodes[i].output[0])?;
        let mut axes = vec![Axis::ONE; shape.len()];
        let head_width = scoring.sizes[1];
        let (query_axis, width_axis) = ([2, 1][w], [1, 2][w]);
        for (from_end, len, stride) in [
            (heads_axis, heads, head_width),
            (query_axis, queries, width),
            (width_axis, head_width, 1),
        ] {
            if len != 1 {
                let at = shape.len().checked_sub(from_end)?;
                axes[at] = Axis { len, stride };
            }
        }
        let view = View { axes, offset: 0 };
        let (last, steps, perm) = match self.contiguous_successor(i, view, readers) {
            Some((last, steps)) => (last, steps, None),
            None if shape.len() == 4 && heads_axis == 3 => {
                let perm = [[0, 2, 1, 3], [0, 2, 3, 1]][w];
                (i, vec![], Some(perm))
            }
            None => return None,
        };
        Some(Block {
            operands: [query, key, value],
            queries,
            heads,
            width,
            scale: query_scale * key_scale * scores_scale,
            shares,
            steps,
            last,
            perm,
        })
    }

    /// The softmax before `value`, and the functions of each value between.
    fn softmax_before(&self, value: &str) -> Option<(&NodeProto, Vec<Step>)> {
        let (before, steps) = self.steps_before(value);
        let softmax = self.producer(before, "Softmax")?;
        is_standard(softmax).then_some((softmax, steps))
    }

    /// What an operand of a product is read from, and its scale. `axes` counts from the end: the axes of heads, rows and
    /// columns.
    fn operand(&self, value: &str, axes: [usize; 3]) -> Option<(Operand, f32)> {
        let mut values = vec![value];
        let mut motions = vec![];
        while motions.len() < MAX_MOTIONS
            && let Some((from, motion)) = self.motion(values[motions.len()])
        {
            values.push(from);
            motions.push(motion);
        }
        // From the earliest value that the operand is a view of.
        let view = (0..values.len()).rev().find_map(|first| {
            let shape = self.shape(values[first])?;
            let (mut view, mut steps) = (View::of(shape)?, vec![]);
            for motion in motions[..first].iter().rev() {
                motion.apply(&mut view)?;
                if let Motion::Step(step) = motion {
                    steps.push(step.clone());
                }
            }
            let column = column(shape, &view, axes)?;
            let (steps, scale) = without_scales(steps);
            let base = values[first].to_owned();
            let operand = Operand {
                base,
                perm: None,
                column,
                steps,
            };
            Some((operand, scale))
        });
        view.or_else(|| {
            let [_, _, _, _] = self.shape(value)? else {
                return None;
            };
            let [3, rows, columns] = axes else {
                return None;
            };
            let operand = Operand {
                base: value.to_owned(),
                perm: Some([0, 4 - rows as i64, 1, 4 - columns as i64]),
                column: 0,
                steps: vec![],
            };
            Some((operand, 1.0))
        })
    }

    /// The last node after the one at `at` in whose result `view` is contiguous in row-major order, and the functions of
    /// each value up to it.
    fn contiguous_successor(
        &self,
        mut at: usize,
        mut view: View,
        readers: &HashMap<String, usize>,
    ) -> Option<(usize, Vec<Step>)> {
        let mut steps = vec![];
        let mut last = None;
        loop {
            if view.is_contiguous() {
                last = Some(at);
            } else if last.is_some() {
                break;
            }
            let value = &self.nodes[at].output[0];
            if !self.is_read_once(value) || self.outputs.contains(value) {
                break;
            }
            let Some(&next) = readers.get(value) else {
                break;
            };
            let [output] = &self.nodes[next].output[..] else {
                break;
            };
            match self.motion(output) {
                Some((from, Motion::Step(step))) if last.is_none() && from == value => {
                    steps.push(step);
                }
                Some((from, motion @ (Motion::Transpose(_) | Motion::Reshape(_))))
                    if from == value && motion.apply(&mut view).is_some() => {}
                _ => break,
            }
            at = next;
        }
        let (steps, scale) = without_scales(steps);
        last.filter(|_| scale == 1.0).map(|last| (last, steps))
    }

    /// Puts `block` in the place of its last node; the node at `at` is its second product.
    fn emit_attention(&mut self, at: usize, block: &Block) {
        let output = self.nodes[block.last].output[0].clone();
        let mut ready: Vec<(&Operand, String)> = vec![];
        let mut columns = [0; 3];
        let mut inputs: Vec<String> = vec![];
        // Where the tokens are the first axis, the images are the second.
        let mut tokens_first = false;
        for (operand, first) in block.operands.iter().zip(&mut columns) {
            let shape = self.shape(&operand.base).unwrap_or_default();
            tokens_first = matches!(*shape, [tokens, 1, _] if tokens != 1);
            let width = *shape.last().unwrap_or(&0);
            let partial = !operand.steps.is_empty() && width != block.width;
            *first = if partial { 0 } else { operand.column };
            let same = |(other, _): &&(&Operand, String)| {
                let column = !partial || other.column == operand.column;
                let source = other.base == operand.base && other.perm == operand.perm;
                source && other.steps == operand.steps && column
            };
            if let Some((_, name)) = ready.iter().find(same) {
                inputs.push(name.clone());
                continue;
            }
            let mut name = match operand.perm {
                None => self.tokens(at, &operand.base),
                Some(perm) => self.arranged(at, &operand.base, perm),
            };
            if partial {
                name = self.insert_slice(at, &name, operand.column, block.width);
            }
            for step in &operand.steps {
                let quantized = self.fresh(&output, "quantized");
                let node = step.node(&name, &quantized);
                node.into_iter().for_each(|node| self.insert(at, node));
                name = quantized;
            }
            ready.push((operand, name.clone()));
            inputs.push(name);
        }

        let mut attribute = vec![
            ints("heads", &[block.heads as i64]),
            ints("width", &[block.width as i64]),
        ];
        let names = ["query_column", "key_column", "value_column"];
        let columns = names.into_iter().zip(columns);
        attribute.extend(columns.map(|(name, column)| ints(name, &[column as i64])));
        attribute.push(float("scale", block.scale));
        let scores = match &block.shares {
            Shares::Exact => AttentionScores::Exact,
            Shares::Quantized { scores, shares } => {
                let scale = |affine: &AffineParams| float_tensor("", &[], &[affine.scale]);
                let zero = |affine: &AffineParams| int8_tensor("", &[], &[affine.zero_point]);
                let (affine, values) = scores;
                let tensors = [
                    ("scores_scale", scale(affine)),
                    ("scores_zero_point", zero(affine)),
                    ("scores_values", float_tensor("", &[256], values)),
                    ("shares_scale", scale(shares)),
                    ("shares_zero_point", zero(shares)),
                ];
                let tensors = tensors.into_iter();
                attribute.extend(tensors.map(|(name, t)| attributes::of_tensor(name, t)));
                AttentionScores::Quantized
            }
        };
        let op = Op::Attention(AttentionInput::Columns, scores);

        // The attention, functions of its result, and its shape; the last of them takes the place of the last node.
        let shape = self.shape(&output).unwrap_or_default().to_vec();
        let mixed = self.fresh(&output, "mixed");
        let inputs: Vec<&str> = inputs.iter().map(|name| &**name).collect();
        let mut nodes = vec![new_node(op, &inputs, &mixed, attribute)];
        self.set_shape(&mixed, vec![1, block.queries, block.width]);
        let mut name = mixed;
        for (i, step) in block.steps.iter().enumerate() {
            let quantized = self.fresh(&output, &format!("mixed/{i}"));
            nodes.extend(step.node(&name, &quantized));
            self.set_shape(&quantized, vec![1, block.queries, block.width]);
            name = quantized;
        }
        let turned = |name: &str, output: &str| {
            let perm = vec![ints("perm", &[1, 0, 2])];
            node("", "Transpose", &[name], output, perm)
        };
        if let Some(perm) = block.perm {
            let head = block.width / block.heads;
            let sizes = [-1, block.queries as i64, block.heads as i64, head as i64];
            let [target, heads] = ["shape", "heads"].map(|part| self.fresh(&output, part));
            let tensor = int64_tensor(&target, &sizes);
            self.initializers.insert(target.clone(), tensor);
            nodes.push(node("", "Reshape", &[&name, &target], &heads, vec![]));
            let perm = vec![ints("perm", &perm)];
            nodes.push(node("", "Transpose", &[&heads], &output, perm));
        } else if shape[..] == [block.queries, 1, block.width] && block.queries != 1 {
            nodes.push(turned(&name, &output));
        } else if shape[..] != [1, block.queries, block.width] {
            if tokens_first {
                let other = self.fresh(&output, "turned");
                nodes.push(turned(&name, &other));
                self.set_shape(&other, vec![block.queries, 1, block.width]);
                name = other;
            }
            let mut sizes: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
            if let Some(first) = sizes.first_mut() {
                *first = -1;
            }
            let target = self.fresh(&output, "shape");
            let tensor = int64_tensor(&target, &sizes);
            self.initializers.insert(target.clone(), tensor);
            nodes.push(node("", "Reshape", &[&name, &target], &output, vec![]));
        }
        if let Some(mut end) = nodes.pop() {
            let replaced = &self.nodes[block.last];
            (end.name, end.output) = (replaced.name.clone(), replaced.output.clone());
            for node in nodes {
                self.insert(block.last, node);
            }
            self.nodes[block.last] = end;
        }
    }

    /// `base` as `[N, T, columns]`; nodes are inserted before the one at `at`.
    fn tokens(&mut self, at: usize, base: &str) -> String {
        let shape = self.shape(base).unwrap_or_default().to_vec();
        let name = match shape[..] {
            [1, _, _] => return base.to_owned(),
            _ => self.fresh(base, "tokens"),
        };
        let columns = *shape.last().unwrap_or(&1);
        let rows = shape.iter().product::<usize>() / columns.max(1);
        let node = match shape[..] {
            [_, 1, _] => {
                let perm = vec![ints("perm", &[1, 0, 2])];
                node("", "Transpose", &[base], &name, perm)
            }
            _ => {
                let target = self.fresh(base, "shape");
                let tensor = int64_tensor(&target, &[-1, rows as i64, columns as i64]);
                self.initializers.insert(target.clone(), tensor);
                node("", "Reshape", &[base, &target], &name, vec![])
            }
        };
        self.insert(at, node);
        self.set_shape(&name, vec![1, rows, columns]);
        name
    }

    /// `base`, transposed by `perm` to `[N, T, heads, columns]`, as `[N, T, W]`; nodes are inserted before the one at `at`.
    fn arranged(&mut self, at: usize, base: &str, perm: [i64; 4]) -> String {
        let shape = self.shape(base).unwrap_or_default();
        let size = |axis: i64| shape.get(axis as usize).copied().unwrap_or(1);
        let (rows, columns) = (size(perm[1]), size(perm[2]) * size(perm[3]));
        let turned = self.fresh(base, "heads_last");
        let perm = vec![ints("perm", &perm)];
        self.insert(at, node("", "Transpose", &[base], &turned, perm));
        self.set_shape(&turned, vec![rows, 1, 1, columns]);
        self.tokens(at, &turned)
    }

    /// Columns of `x`; nodes are inserted before the one at `at`.
    fn insert_slice(&mut self, at: usize, x: &str, first: usize, count: usize) -> String {
        let name = self.fresh(x, "columns");
        let mut inputs = vec![x.to_owned()];
        let end = first + count;
        for (part, value) in [("first", first as i64), ("end", end as i64), ("axis", -1)] {
            let part = self.fresh(&name, part);
            let tensor = int64_tensor(&part, &[value]);
            self.initializers.insert(part.clone(), tensor);
            inputs.push(part);
        }
        let inputs: Vec<&str> = inputs.iter().map(|name| &**name).collect();
        self.insert(at, node("", "Slice", &inputs, &name, vec![]));
        name
    }
}

/// The first of the columns of a tensor of `shape` that `view` consists of: all rows, and adjacent heads. `axes` are those of
/// heads, rows and columns in the view, counted from the end. `None` if it does not.
fn column(shape: &[usize], view: &View, axes: [usize; 3]) -> Option<usize> {
    let [heads, rows, width] = axes.map(|from_end| {
        let at = view.axes.len().checked_sub(from_end);
        at.map_or(Axis::ONE, |at| view.axes[at])
    });
    let columns = *shape.last()?;
    let all_rows = shape.iter().product::<usize>() / columns.max(1);
    let adjacent = (width.len == 1 || width.stride == 1)
        && (heads.len == 1 || heads.stride == width.len)
        && (rows.len == 1 || rows.stride == columns);
    let end = view.offset + heads.len * width.len;
    (adjacent && rows.len == all_rows && end <= columns).then_some(view.offset)
}

/// `steps` as quantisations, and a factor behind them.
fn without_scales(steps: Vec<Step>) -> (Vec<Step>, f32) {
    let (mut scale, mut moved) = (1.0, vec![]);
    for step in steps {
        // q(s x) with the step d is s q(x) with the step d / s.
        let before = |affine: AffineParams| AffineParams {
            scale: affine.scale / scale,
            ..affine
        };
        match step {
            Step::Scale(factor) => scale *= factor,
            Step::Quantize(affine) => moved.push(Step::Quantize(before(affine))),
            Step::Table(affine, values) => {
                moved.push(Step::Table(before(affine), values));
                scale = 1.0;
            }
        }
    }
    (moved, scale)
}

/// The functions of scores and shares as those of one attention, and a factor before them.
fn shares(scores: &[Step], shares: &[Step]) -> Option<(Shares, f32)> {
    let scales = scores.iter().map_while(|step| match step {
        Step::Scale(factor) => Some(*factor),
        _ => None,
    });
    let (count, scale) = scales.fold((0, 1.0), |(count, all), factor| (count + 1, all * factor));
    match (&scores[count..], shares) {
        ([], []) => Some((Shares::Exact, scale)),
        ([first, rest @ ..], [Step::Quantize(shares)]) => {
            let (Step::Quantize(affine) | Step::Table(affine, _)) = *first else {
                return None;
            };
            let quantized = (-128..128).map(|q| (q - i32::from(affine.zero_point)) as f32);
            let values = quantized.map(|steps| {
                let value = first.apply(steps * affine.scale);
                rest.iter().fold(value, |value, step| step.apply(value))
            });
            let scores = (affine, values.collect());
            let shares = *shares;
            Some((Shares::Quantized { scores, shares }, scale))
        }
        _ => None,
    }
}
