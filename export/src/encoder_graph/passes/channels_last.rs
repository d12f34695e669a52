//! The order of an image's axes: channels last through the convolutional part, so that a 1x1 convolution is a linear layer.

use std::collections::HashMap;

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{ChannelOrder, Convolution, Op, Storage};
use pinhole_kernels::Window;
use tract_onnx::pb::{NodeProto, TensorProto, tensor_proto::DataType};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{
    axis, float_tensor, int64_tensor, replacement, window_attributes, window_of,
};
use crate::graph::functions::op_of;
use crate::graph::proto::{int, ints, node};

/// Operators that compute each value from those at the same position.
const ELEMENTWISE: [&str; 21] = [
    "Abs",
    "Add",
    "Clip",
    "Div",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Relu",
    "Sigmoid",
    "Softplus",
    "Sqrt",
    "Sub",
    "Tanh",
];

const TO_CHANNELS_FIRST: [i64; 4] = [0, 3, 1, 2];
const TO_CHANNELS_LAST: [i64; 4] = [0, 2, 3, 1];

/// Most weights of average pooling, which the file does not hold: 7 x 7 for 2,048 channels are 100,352.
const MOST_POOLING_WEIGHTS: usize = 1 << 18;

impl EncoderGraph {
    /// Replaces convolutions and average pooling by functions with the channels last, and keeps the channels last in
    /// what follows, up to what needs another order.
    pub(super) fn move_channels_last(&mut self) -> Result<(), String> {
        let convolves = |node: &NodeProto| match op_of(node) {
            Some(op) => matches!(op, Op::AffineConvolution(..)),
            None => node.op_type == "Conv" && is_standard(node),
        };
        if !self.nodes.iter().any(convolves) {
            return Ok(());
        }
        let mut pass = Pass::default();
        for node in std::mem::take(&mut self.nodes) {
            if !pass.moved(self, &node)? {
                pass.nodes.push(node);
            }
        }
        self.nodes = pass.nodes;
        Ok(())
    }
}

#[derive(Default)]
struct Pass {
    /// The new nodes. Values of the old graph keep their names and order of axes; what nothing reads any more is removed by
    /// [`EncoderGraph::index`].
    nodes: Vec<NodeProto>,
    /// The name of the same value with the channels last.
    last: HashMap<String, String>,
    /// Values [N, C, H * W], and the value [N, C, H, W] that they are a shape of.
    flat: HashMap<String, String>,
    /// Values [N, C, T], and the value [N, T, C] that they are the transpose of.
    tokens: HashMap<String, String>,
    /// Constants per channel, and their shape with the channels last.
    constants: HashMap<String, String>,
}

impl Pass {
    /// Adds nodes that compute what `node` does; false if it is to be added as it is.
    fn moved(&mut self, graph: &mut EncoderGraph, node: &NodeProto) -> Result<bool, String> {
        let ([x, ..], [y]) = (&node.input[..], &node.output[..]) else {
            return Ok(false);
        };
        if op_of(node) == Some(Op::NormalizePixels(ChannelOrder::First)) {
            let op = Op::NormalizePixels(ChannelOrder::Last);
            let pixels = replacement(node, op, node.input.clone(), node.attribute.clone());
            self.computed(graph, y, pixels);
            return Ok(true);
        }
        match op_of(node) {
            Some(Op::Activate(_) | Op::FakeQuantize(_) | Op::QuantizedTable) => {
                return Ok(self.elementwise(graph, node));
            }
            Some(Op::AffineConvolution(range, ChannelOrder::First)) => {
                let Some(x) = self.channels_last(graph, x) else {
                    return Ok(false);
                };
                let op = Op::AffineConvolution(range, ChannelOrder::Last);
                let found = replacement(node, op, vec![x], node.attribute.clone());
                self.computed(graph, y, found);
                return Ok(true);
            }
            _ => {}
        }
        if !is_standard(node) {
            return Ok(false);
        }
        Ok(match &*node.op_type {
            "Conv" => self.convolution(graph, node),
            "Transpose" => self.transpose(graph, node),
            "Reshape" | "Flatten" => self.reshape(graph, node),
            "AveragePool" => self.average_pool(graph, node),
            "GlobalAveragePool" => self.mean(graph, node, x, true),
            "ReduceMean" => match reduced_axes(graph, node).as_deref() {
                Some([2, 3] | [-2, -1] | [-1, -2] | [3, 2]) => {
                    let keep = attributes::integer(node, "keepdims", 1) != 0;
                    self.mean(graph, node, x, keep)
                }
                _ => false,
            },
            "BatchNormalization" => self.batch_norm(graph, node),
            "Concat" => self.concat(graph, node),
            op if ELEMENTWISE.contains(&op) => self.elementwise(graph, node),
            _ => false,
        })
    }

    /// Adds `node`, which computes `y` with the channels last, and what computes `y` itself for those that need it.
    fn computed(&mut self, graph: &mut EncoderGraph, y: &str, node: NodeProto) {
        let name = graph.fresh(y, "channels_last");
        if let Some(shape) = graph.shape(y)
            && let &[n, channels, height, width] = shape
        {
            let shape = vec![n, height, width, channels];
            graph.set_shape(&name, shape);
        }
        self.nodes.push(NodeProto {
            name: name.clone(),
            output: vec![name.clone()],
            ..node
        });
        self.nodes.push(transposed(&name, y, &TO_CHANNELS_FIRST));
        self.last.insert(y.into(), name);
    }

    /// The value `x` of four dimensions with the channels last, which may need a transposition.
    fn channels_last(&mut self, graph: &mut EncoderGraph, x: &str) -> Option<String> {
        if let Some(name) = self.last.get(x) {
            return Some(name.clone());
        }
        let &[n, channels, height, width] = graph.shape(x)? else {
            return None;
        };
        let name = graph.fresh(x, "channels_last");
        self.nodes.push(transposed(x, &name, &TO_CHANNELS_LAST));
        let shape = vec![n, height, width, channels];
        graph.set_shape(&name, shape);
        self.last.insert(x.into(), name.clone());
        Some(name)
    }

    fn convolution(&mut self, graph: &mut EncoderGraph, node: &NodeProto) -> bool {
        let [x, weight, rest @ ..] = &node.input[..] else {
            return false;
        };
        let float = |t: &&TensorProto| t.data_type == DataType::Float as i32;
        let weight = graph.initializers.get(weight).filter(float).cloned();
        let Some(weight) = weight.filter(|w| graph.is_read_once(&w.name)) else {
            return false;
        };
        let &[outputs, _, height, width] = &weight.dims[..] else {
            return false;
        };
        let Some((window, group)) = window_of(node, [height, width]) else {
            return false;
        };
        let bias = match rest.first().filter(|name| !name.is_empty()) {
            None => vec![0.0; usize::try_from(outputs).unwrap_or(0)],
            Some(name) => match graph.initial_floats(name) {
                Some((values, dims)) if dims == [outputs] => values,
                _ => return false,
            },
        };
        let Some(x) = self.channels_last(graph, x) else {
            return false;
        };
        let bias = float_tensor("", &[outputs], &bias);
        let found = convolution(node, x, weight, bias, &window, group);
        self.computed(graph, &node.output[0], found);
        true
    }

    /// Average pooling as a depthwise convolution.
    fn average_pool(&mut self, graph: &mut EncoderGraph, node: &NodeProto) -> bool {
        let (x, y) = (&node.input[0], &node.output[0]);
        let &[height, width] = attributes::integers(node, "kernel_shape") else {
            return false;
        };
        let Some((window, _)) = window_of(node, [height, width]) else {
            return false;
        };
        // Values of padding would not count.
        let counted = attributes::integer(node, "count_include_pad", 0) != 0;
        let padded = window.padding.iter().any(|&p| p > 0);
        if attributes::integer(node, "ceil_mode", 0) != 0 || padded && !counted {
            return false;
        }
        let channels = graph.shape(x).and_then(|s| s.get(1).copied());
        let (Some(channels), Some(last)) = (channels, self.last.get(x).cloned()) else {
            return false;
        };
        if [height, width] == [1, 1] && window.stride == [1, 1] && !padded {
            self.last.insert(y.clone(), last.clone());
            self.nodes.push(transposed(&last, y, &TO_CHANNELS_FIRST));
            return true;
        }
        let taps = (height * width) as usize;
        if taps.saturating_mul(channels) > MOST_POOLING_WEIGHTS {
            return false;
        }
        let dims = [channels as i64, 1, height, width];
        let weight = float_tensor("", &dims, &vec![1.0 / taps as f32; taps * channels]);
        let bias = float_tensor("", &dims[..1], &vec![0.0; channels]);
        let found = convolution(node, last, weight, bias, &window, channels as i64);
        self.computed(graph, y, found);
        true
    }

    /// The mean over height and width.
    fn mean(&mut self, graph: &mut EncoderGraph, of: &NodeProto, x: &str, keep: bool) -> bool {
        let Some(last) = self.last.get(x).cloned() else {
            return false;
        };
        let y = &of.output[0];
        let mut mean = node(
            "",
            "ReduceMean",
            &[&last],
            y,
            vec![int("keepdims", keep.into())],
        );
        // Since version 18 the axes are an input.
        if of.input.len() > 1 || graph.opset >= 18 {
            let axes = graph.fresh(y, "axes");
            let tensor = int64_tensor(&axes, &[1, 2]);
            graph.initializers.insert(axes.clone(), tensor);
            mean.input.push(axes);
        } else {
            mean.attribute.push(ints("axes", &[1, 2]));
        }
        if keep {
            self.computed(graph, y, mean);
        } else {
            self.nodes.push(mean);
        }
        true
    }

    /// As a product and a sum per channel, which merge into a convolution before them.
    fn batch_norm(&mut self, graph: &mut EncoderGraph, of: &NodeProto) -> bool {
        let [x, parameters @ ..] = &of.input[..] else {
            return false;
        };
        let Some(last) = self.last.get(x).cloned() else {
            return false;
        };
        let values: Option<Vec<Vec<f32>>> = (parameters.iter())
            .map(|name| graph.initial_floats(name).map(|(values, _)| values))
            .collect();
        let Some([gain, offset, mean, variance]) = values.as_deref() else {
            return false;
        };
        let channels = gain.len();
        if [offset, mean, variance].iter().any(|v| v.len() != channels) {
            return false;
        }
        let epsilon = f64::from(attributes::float(of, "epsilon", 1e-5));
        let factor = |c: usize| f64::from(gain[c]) / (f64::from(variance[c]) + epsilon).sqrt();
        let shift = |c: usize| (f64::from(offset[c]) - f64::from(mean[c]) * factor(c)) as f32;
        let factors: Vec<f32> = (0..channels).map(|c| factor(c) as f32).collect();
        let shifts: Vec<f32> = (0..channels).map(shift).collect();
        let y = &of.output[0];
        let scaled = graph.fresh(y, "scaled");
        let mut constant = |part: &str, values: &[f32]| {
            let name = graph.fresh(y, part);
            let tensor = float_tensor(&name, &[channels as i64], values);
            graph.initializers.insert(name.clone(), tensor);
            name
        };
        let (gain, offset) = (constant("gain", &factors), constant("offset", &shifts));
        self.nodes
            .push(node("", "Mul", &[&last, &gain], &scaled, vec![]));
        let sum = node("", "Add", &[&scaled, &offset], y, vec![]);
        self.computed(graph, y, sum);
        true
    }

    fn concat(&mut self, graph: &mut EncoderGraph, of: &NodeProto) -> bool {
        let last: Option<Vec<String>> = (of.input.iter())
            .map(|x| self.last.get(x).cloned())
            .collect();
        let (Some(input), Some(1)) = (last, axis(of, 0, 4)) else {
            return false;
        };
        let found = NodeProto {
            input,
            attribute: vec![int("axis", 3)],
            ..of.clone()
        };
        self.computed(graph, &of.output[0], found);
        true
    }

    /// If one input has the channels last, and the others can.
    fn elementwise(&mut self, graph: &mut EncoderGraph, of: &NodeProto) -> bool {
        if !of.input.iter().any(|x| self.last.contains_key(x)) {
            return false;
        }
        let can = |x: &String| {
            let rank = || graph.shape(x).map(<[usize]>::len);
            match graph.initializers.get(x) {
                _ if x.is_empty() || self.last.contains_key(x) => true,
                Some(constant) => per_channel(&constant.dims).is_some(),
                None => rank() == Some(4),
            }
        };
        if !of.input.iter().all(can) {
            return false;
        }
        let mut input = vec![];
        for x in &of.input {
            if x.is_empty() {
                input.push(String::new());
                continue;
            }
            let constant = graph.initializers.get(x);
            let Some(constant) = constant.filter(|_| !self.last.contains_key(x)) else {
                input.extend(self.channels_last(graph, x));
                continue;
            };
            if let Some(name) = self.constants.get(x) {
                input.push(name.clone());
                continue;
            }
            match per_channel(&constant.dims) {
                Some([]) => input.push(x.clone()),
                dims => {
                    let tensor = TensorProto {
                        name: graph.fresh(x, "channels_last"),
                        dims: dims.unwrap_or_default().to_vec(),
                        ..constant.clone()
                    };
                    self.constants.insert(x.clone(), tensor.name.clone());
                    input.push(tensor.name.clone());
                    graph.initializers.insert(tensor.name.clone(), tensor);
                }
            }
        }
        let found = NodeProto {
            input,
            ..of.clone()
        };
        self.computed(graph, &of.output[0], found);
        true
    }

    fn transpose(&mut self, graph: &mut EncoderGraph, of: &NodeProto) -> bool {
        let (x, y) = (&of.input[0], &of.output[0]);
        match attributes::integers(of, "perm") {
            perm if *perm == TO_CHANNELS_FIRST => {
                self.last.insert(y.clone(), x.clone());
                false
            }
            // Pixels in a row after each other are a matrix with the channels last already.
            [0, 2, 1] => match self.flat.get(x).and_then(|image| self.last.get(image)) {
                Some(last) => {
                    let channels = graph.shape(x).map_or(0, |s| s[1] as i64);
                    let last = last.clone();
                    let found = reshaped(graph, &last, y, &[0, -1, channels]);
                    self.nodes.push(found);
                    true
                }
                None => {
                    self.tokens.insert(y.clone(), x.clone());
                    false
                }
            },
            _ => false,
        }
    }

    fn reshape(&mut self, graph: &mut EncoderGraph, of: &NodeProto) -> bool {
        let (x, y) = (&of.input[0], &of.output[0]);
        let (Some(from), Some(to)) = (graph.shape(x), graph.shape(y)) else {
            return false;
        };
        match (from, to) {
            (&[n, c, h, w], &[m, d, pixels]) if [n, c, h * w] == [m, d, pixels] => {
                self.flat.insert(y.clone(), x.clone());
                false
            }
            (&[n, c, t], &[m, d, h, w]) if [n, c, t] == [m, d, h * w] => {
                let Some(tokens) = self.tokens.get(x).cloned() else {
                    return false;
                };
                let shape = [0, h, w, c].map(|size| size as i64);
                let found = reshaped(graph, &tokens, y, &shape);
                self.computed(graph, y, found);
                true
            }
            // One pixel.
            (&[n, c, 1, 1], &[m, d]) if [n, c] == [m, d] => {
                let Some(last) = self.last.get(x).cloned() else {
                    return false;
                };
                let found = reshaped(graph, &last, y, &[0, c as i64]);
                self.nodes.push(found);
                true
            }
            _ => false,
        }
    }
}

fn transposed(x: &str, y: &str, perm: &[i64]) -> NodeProto {
    node("", "Transpose", &[x], y, vec![ints("perm", perm)])
}

/// x in another shape, in which 0 keeps a size.
fn reshaped(graph: &mut EncoderGraph, x: &str, y: &str, shape: &[i64]) -> NodeProto {
    let name = graph.fresh(y, "shape");
    let tensor = int64_tensor(&name, shape);
    graph.initializers.insert(name.clone(), tensor);
    node("", "Reshape", &[x, &name], y, vec![])
}

/// The axes of a reduction, by attribute or constant.
fn reduced_axes(graph: &EncoderGraph, node: &NodeProto) -> Option<Vec<i64>> {
    let Some(name) = node.input.get(1) else {
        return Some(attributes::integers(node, "axes").to_vec());
    };
    let tensor = graph.initializers.get(name)?;
    let values = tensor.raw_data.as_chunks().0.iter();
    (tensor.data_type == DataType::Int64 as i32)
        .then(|| values.map(|&bytes| i64::from_le_bytes(bytes)).collect())
}

/// The dimensions, with the channels last, of a constant that is the same for all pixels: none for one value.
fn per_channel(dims: &[i64]) -> Option<&[i64]> {
    match dims {
        dims if dims.len() <= 4 && dims.iter().all(|&d| d == 1) => Some(&[]),
        [c, 1, 1] | [1, c, 1, 1] => Some(std::slice::from_ref(c)),
        _ => None,
    }
}

/// The function with the output of `node`.
fn convolution(
    node: &NodeProto,
    x: String,
    weight: TensorProto,
    bias: TensorProto,
    window: &Window,
    group: i64,
) -> NodeProto {
    let mut attributes = window_attributes(window, group);
    attributes.push(attributes::of_tensor("weight", weight));
    attributes.push(attributes::of_tensor("bias", bias));
    let op = Op::Convolution(Convolution::plain(Storage::Float));
    replacement(node, op, vec![x], attributes)
}
