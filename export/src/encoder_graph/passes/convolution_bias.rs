//! Constants that are added behind a convolution.

use pinhole::internal::attributes;
use tract_onnx::pb::NodeProto;

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{both_orders, float_tensor};
use crate::encoder_graph::values::MAX_OUTPUTS;

/// A constant that is added to the channels of a convolution's result.
struct ChannelSum {
    /// Index of the convolution.
    convolution: usize,
    /// The result that the constant is added to: of the convolution, or of transpositions of it.
    sum_of: String,
    /// One value per channel.
    values: Vec<f32>,
}

/// Most transpositions between a convolution and its bias.
const MAX_TRANSPOSES: usize = 4;

impl EncoderGraph {
    /// Makes a constant `[C, 1, 1]` that is added to the result of a convolution its bias, also where the result is
    /// transposed first.
    pub(super) fn merge_convolution_biases(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let Some(found) = self.channel_sum(&self.nodes[i])? else {
                continue;
            };
            let (convolution, last) = (found.convolution, self.producers[&found.sum_of]);
            let name = self.fresh(&self.nodes[i].output[0], "bias");
            let count = found.values.len() as i64;
            self.initializers
                .insert(name.clone(), float_tensor(&name, &[count], &found.values));
            let node = &mut self.nodes[convolution];
            node.input.truncate(2);
            node.input.push(name);
            let sum = &self.nodes[i];
            self.nodes[i] = NodeProto {
                output: sum.output.clone(),
                name: sum.name.clone(),
                ..self.nodes[last].clone()
            };
            // The next sum may follow this one.
            self.producers.insert(self.nodes[i].output[0].clone(), i);
        }
        Ok(())
    }

    fn channel_sum(&self, node: &NodeProto) -> Result<Option<ChannelSum>, String> {
        if node.op_type != "Add" || !is_standard(node) {
            return Ok(None);
        }
        for (value, constant) in both_orders(node) {
            let dims = self.initializers.get(constant).map(|t| &t.dims);
            let Some((convolution, axis, rank)) = self.convolution_before(value) else {
                continue;
            };
            let (Some(dims), Some(outputs)) = (dims, self.outputs_of(convolution)) else {
                continue;
            };
            let before = rank.checked_sub(dims.len());
            let only_channels = before.is_some_and(|before| {
                let sizes = dims.iter().enumerate();
                let mut sizes = sizes.map(|(i, &size)| (i + before, size));
                sizes.all(|(i, size)| size == if i == axis { outputs } else { 1 })
            });
            // Where the axis of the channels is left out, the constant is one number.
            if !only_channels || before.is_some_and(|before| before > axis) {
                continue;
            }
            let convolution_node = &self.nodes[convolution];
            let own = convolution_node.input.get(2).filter(|b| !b.is_empty());
            let own = match own {
                None => Some(vec![0.0; outputs as usize]),
                Some(own) => self.bias(own)?,
            };
            let (Some(own), Some((values, _))) = (own, self.floats(constant)?) else {
                continue;
            };
            return Ok(Some(ChannelSum {
                convolution,
                sum_of: value.into(),
                values: own.iter().zip(values).map(|(a, b)| a + b).collect(),
            }));
        }
        Ok(None)
    }

    /// The convolution that only `value` is computed from, directly or by transpositions: its index, the axis of `value`
    /// with its channels, and the number of axes.
    fn convolution_before(&self, value: &str) -> Option<(usize, usize, usize)> {
        let (mut value, mut permutations) = (value, vec![]);
        for _ in 0..=MAX_TRANSPOSES {
            if !self.is_read_once(value) {
                return None;
            }
            let at = *self.producers.get(value)?;
            let node = &self.nodes[at];
            match &*node.op_type {
                _ if !is_standard(node) => return None,
                "Conv" => {
                    let weight = self.initializers.get(node.input.get(1)?)?;
                    let rank = weight.dims.len();
                    let axis = permutations
                        .iter()
                        .rev()
                        .try_fold(1, |axis, perm: &&[i64]| {
                            let moved = perm.iter().position(|&from| from == axis as i64);
                            moved.filter(|_| perm.len() == rank)
                        })?;
                    return Some((at, axis, rank));
                }
                "Transpose" => {
                    permutations.push(attributes::integers(node, "perm"));
                    value = node.input.first()?;
                }
                _ => return None,
            }
        }
        None
    }

    /// The number of channels that a convolution computes.
    fn outputs_of(&self, convolution: usize) -> Option<i64> {
        let weight = self.nodes[convolution].input.get(1)?;
        let outputs = *self.initializers.get(weight)?.dims.first()?;
        (1..=MAX_OUTPUTS as i64)
            .contains(&outputs)
            .then_some(outputs)
    }
}
