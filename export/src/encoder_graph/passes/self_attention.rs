//! Projections to queries, keys and values as one layer, and attention without a scale.

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{AttentionInput, AttentionScores, Linear, LinearInput, Op, Residual};
use tract_onnx::pb::{NodeProto, TensorProto};

use crate::encoder_graph::graph::EncoderGraph;
use crate::encoder_graph::node::{float_tensor, replacement};
use crate::graph::functions::op_of;
use crate::graph::proto::ints;

/// Attention over columns without quantisation.
const COLUMNS: Op = Op::Attention(AttentionInput::Columns, AttentionScores::Exact);
/// The columns that attention reads, in the order of its inputs.
const FIRST_COLUMNS: [&str; 3] = ["query_column", "key_column", "value_column"];

impl EncoderGraph {
    /// Joins the layers that project one value to queries, keys and values.
    pub(super) fn join_projections(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            if let Some((at, joint)) = self.joint_projection(&self.nodes[i]) {
                let width = attributes::integers(&self.nodes[i], "width")[0];
                let output = joint.output[0].clone();
                self.insert(at, joint);
                let attention = &mut self.nodes[i];
                attention.input = vec![output; 3];
                for (name, part) in FIRST_COLUMNS.into_iter().zip(0..) {
                    attention.attribute.retain(|a| a.name != name);
                    attention.attribute.push(ints(name, &[part * width]));
                }
            }
        }
        Ok(())
    }

    /// One layer in place of the three that the attention `node` reads, and the index of the node that it precedes.
    fn joint_projection(&self, node: &NodeProto) -> Option<(usize, NodeProto)> {
        if op_of(node) != Some(COLUMNS) {
            return None;
        }
        let mut layers = vec![];
        for (input, column) in node.input.iter().zip(FIRST_COLUMNS) {
            let (op, layer) = self.function(input)?;
            let alone = self.is_read_once(input) && attributes::integers(node, column) == [0];
            if !alone || !is_projection(op) || outputs(layer)? != width(node)? {
                return None;
            }
            layers.push((op, layer));
        }
        let (op, first) = layers[0];
        let same = |(other, layer): &(Op, &NodeProto)| {
            let parameters = ["x_scale", "x_zero_point"].iter();
            let mut parameters = parameters.map(|name| (data(layer, name), data(first, name)));
            *other == op && layer.input == first.input && parameters.all(|(a, b)| a == b)
        };
        if !layers.iter().all(same) {
            return None;
        }
        let mut attribute = vec![];
        for one in &first.attribute {
            let tensor = one.t.as_ref()?;
            let joined = match &*one.name {
                "x_scale" | "x_zero_point" => tensor.clone(),
                name => {
                    let all = layers.iter().map(|(_, layer)| parameter(layer, name));
                    beside_one_another(&all.collect::<Option<Vec<_>>>()?)?
                }
            };
            attribute.push(attributes::of_tensor(&one.name, joined));
        }
        let joint = replacement(first, op, first.input.clone(), attribute);
        let name = self.fresh(&first.output[0], "joint");
        let places = layers.iter().filter_map(|(_, layer)| {
            let output = layer.output.first()?;
            self.producers.get(output).copied()
        });
        let joint = NodeProto {
            output: vec![name.clone()],
            name,
            ..joint
        };
        Some((places.max()?, joint))
    }

    /// Replaces attention over columns that are all of one projection by that of the whole, with its scale in the
    /// projection's weights.
    pub(super) fn replace_self_attention(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let Some(projection) = self.scalable_projection(&self.nodes[i]) else {
                continue;
            };
            let node = &self.nodes[i];
            let (scale, count) = (
                attributes::float(node, "scale", 1.0),
                width(node).unwrap_or(0) as usize,
            );
            let heads = ints("heads", attributes::integers(node, "heads"));
            let op = Op::Attention(AttentionInput::Joint, AttentionScores::Exact);
            let joint = replacement(node, op, vec![node.input[0].clone()], vec![heads]);
            self.nodes[i] = joint;
            if scale == 1.0 {
                continue;
            }
            let integers = matches!(op_of(&self.nodes[projection]), Some(Op::AffineLinear(..)));
            // In integers, the scale of each output multiplies its sum.
            let names = match integers {
                true => ["scale", "bias"],
                false => ["weight", "bias"],
            };
            for attribute in &mut self.nodes[projection].attribute {
                let tensor = attribute.t.as_mut();
                if let Some(tensor) = tensor.filter(|_| names.contains(&&*attribute.name)) {
                    scale_columns(tensor, count, scale);
                }
            }
        }
        Ok(())
    }

    /// The projection that only the attention `node` reads, all of it.
    fn scalable_projection(&self, node: &NodeProto) -> Option<usize> {
        if op_of(node) != Some(COLUMNS) {
            return None;
        }
        let [query, key, value] = &node.input[..] else {
            return None;
        };
        let width = width(node)?;
        let columns = FIRST_COLUMNS.map(|name| attributes::integers(node, name));
        let all = columns == [&[0], &[width], &[2 * width]];
        let (op, projection) = self.function(query)?;
        // By this node, three times.
        let only = query == key && query == value && self.uses.get(query) == Some(&3);
        let whole = is_projection(op) && outputs(projection) == Some(3 * width);
        (all && only && whole).then(|| self.producers[query])
    }
}

/// Whether the outputs of `op` are columns of its weights with nothing behind them.
fn is_projection(op: Op) -> bool {
    match op {
        Op::Linear(Linear {
            input: LinearInput::Plain,
            activation: None,
            residual: Residual::None,
            ..
        }) => true,
        Op::AffineLinear(_, activation) => activation.is_none(),
        _ => false,
    }
}

/// The attribute `width` of attention.
fn width(node: &NodeProto) -> Option<i64> {
    attributes::integers(node, "width").first().copied()
}

fn parameter<'a>(node: &'a NodeProto, name: &str) -> Option<&'a TensorProto> {
    attributes::find(node, name)?.t.as_ref()
}

fn data<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [u8]> {
    parameter(node, name).map(|tensor| &*tensor.raw_data)
}

fn outputs(node: &NodeProto) -> Option<i64> {
    parameter(node, "weight")?.dims.last().copied()
}

/// Tensors of one type whose last axes are joined.
fn beside_one_another(all: &[&TensorProto]) -> Option<TensorProto> {
    let (first, others) = all.split_first()?;
    let (_, rows) = first.dims.split_last()?;
    let fits = |t: &&TensorProto| {
        let (_, dims) = t.dims.split_last()?;
        (t.data_type == first.data_type && dims == rows).then_some(())
    };
    others.iter().try_for_each(fits)?;
    let count = rows.iter().product::<i64>() as usize;
    let mut raw_data = vec![];
    for row in 0..count {
        for tensor in all {
            let bytes = tensor.raw_data.len() / count.max(1);
            raw_data.extend_from_slice(&tensor.raw_data[row * bytes..][..bytes]);
        }
    }
    let mut dims = rows.to_vec();
    dims.push(all.iter().filter_map(|t| t.dims.last()).sum());
    Some(TensorProto {
        dims,
        raw_data,
        ..(*first).clone()
    })
}

/// Multiplies the first `count` columns of an f32 tensor by `factor`.
fn scale_columns(tensor: &mut TensorProto, count: usize, factor: f32) {
    let columns = tensor.dims.last().map_or(0, |&d| d as usize);
    let values = tensor.raw_data.as_chunks().0.iter().enumerate();
    let scaled = values.map(|(i, &bytes)| {
        let value = f32::from_le_bytes(bytes);
        match i % columns.max(1) < count {
            true => value * factor,
            false => value,
        }
    });
    let scaled: Vec<f32> = scaled.collect();
    let dims = std::mem::take(&mut tensor.dims);
    *tensor = float_tensor(&tensor.name, &dims, &scaled);
}
