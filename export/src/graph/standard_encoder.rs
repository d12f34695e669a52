//! An image encoder in standard operators, from another program or a checkpoint: wrapped with nodes before it that normalise
//! pixels, and nodes behind it that normalise the embedding; compiled into the dialect; and written.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pinhole::internal::check_imported;
use pinhole_bundle::IMAGE_ENCODER;
use pinhole_bundle::dialect::{Op, Storage};
use pinhole_model::{Precision, PreprocessConfig};
use prost::Message;
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType,
    tensor_shape_proto, type_proto,
};

use super::flat;
use super::functions::op_of;
use super::options::GraphOptions;
use super::proto::{int, ints, node, opset, tensor, value};
use super::weights::WeightFile;
use crate::encoder_graph;
use crate::quantization::QuantizationPlan;

/// Smaller tensors stay inside the ONNX file: shapes, scales and biases, which readers inspect.
const INLINE_BYTES: usize = 1 << 16;

/// An image encoder in standard operators: normalised pixels f32 to an embedding f32 `[N, D]`.
pub(super) struct StandardEncoder {
    /// What the embedding is computed from, with all values in it and no other floats than f32.
    pub graph: GraphProto,
    /// Version of the standard operator set.
    pub opset_version: i64,
    pub input: PixelInput,
    /// Name of the embedding.
    pub output: String,
    /// S.
    pub image_size: u32,
    /// D.
    pub embedding_size: usize,
}

/// The input for pixels.
#[derive(Clone, Debug)]
pub(super) struct PixelInput {
    pub name: String,
    pub layout: PixelLayout,
    pub batch: Batch,
}

/// The order of an image's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PixelLayout {
    /// `[N, 3, S, S]`.
    ChannelsFirst,
    /// `[N, S, S, 3]`.
    ChannelsLast,
}

/// How many images the graph takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batch {
    One,
    Any,
}

impl StandardEncoder {
    /// The encoder in the dialect, as far as the passes of `encoder_graph` recognise it, with all weights in it: in f32 where it
    /// is, and in int8 the float linear layers and convolutions in the form that `plan` chooses for them and records.
    ///
    /// # Errors
    /// A graph that no board could run, or a node that is quantised in a way that it would compute incorrectly; a reduced
    /// precision of a graph without float linear layers and convolutions.
    pub(super) fn compiled(
        &self,
        preprocessing: &PreprocessConfig,
        precision: Precision,
        plan: &mut QuantizationPlan,
    ) -> Result<ModelProto> {
        let mut model = self.wrapped(preprocessing);
        let (side, size) = (self.image_size as usize, self.embedding_size);
        let plan = (precision == Precision::Int8).then_some(plan);
        check_imported(&model, side, size)
            .and_then(|values| encoder_graph::compile(&mut model, values, plan))
            .map_err(anyhow::Error::msg)?;
        let mut nodes = model.graph.iter().flat_map(|graph| &graph.node);
        ensure!(
            precision == Precision::F32 || nodes.any(|n| storage_of(n).is_some()),
            "precision {precision}: expected linear layers or convolutions in floating point, found none; with \
             --precision f32 a quantised file keeps its integers"
        );
        Ok(model)
    }

    /// The graph before the passes, in standard operators: with nodes before it that normalise the pixels by mean and
    /// standard deviation, and nodes behind it that normalise the embedding.
    pub(super) fn wrapped(&self, preprocessing: &PreprocessConfig) -> ModelProto {
        let mut graph = self.graph.clone();
        let names: HashSet<&str> = (self.graph.node.iter())
            .flat_map(|node| node.input.iter().chain(&node.output))
            .chain(self.graph.initializer.iter().map(|t| &t.name))
            .map(|name| &**name)
            .collect();
        let fresh = |name: &str| {
            let mut name = format!("pinhole.{name}");
            while names.contains(&*name) {
                name.push('_');
            }
            name
        };
        // `pixels` and `embedding` are the names in the bundle.
        let inner = |name: &str| match name {
            "pixels" | "embedding" => fresh(name),
            other => other.to_owned(),
        };
        for tensor in &mut graph.initializer {
            tensor.name = inner(&tensor.name);
        }
        let mut node_names: HashSet<String> = HashSet::new();
        for (i, node) in graph.node.iter_mut().enumerate() {
            // ONNX does not ask for names, nor that they differ; the runtime's library does.
            while node.name.is_empty() || !node_names.insert(node.name.clone()) {
                node.name = format!("{}#{i}", node.name);
            }
            for name in node.input.iter_mut().chain(&mut node.output) {
                *name = inner(name);
            }
        }
        let (scale, offset, axis) = (fresh("scale"), fresh("offset"), fresh("axis"));
        let scales: Vec<f32> = preprocessing
            .std
            .iter()
            .map(|std| 1.0 / (255.0 * std))
            .collect();
        let offsets = preprocessing.mean.iter().zip(&preprocessing.std);
        let offsets: Vec<f32> = offsets.map(|(mean, std)| -mean / std).collect();
        for (name, data_type, count, raw_data) in [
            (&scale, DataType::Float, 3, floats(&scales)),
            (&offset, DataType::Float, 3, floats(&offsets)),
            (&axis, DataType::Int64, 1, (-1i64).to_le_bytes().to_vec()),
        ] {
            graph.initializer.push(TensorProto {
                raw_data,
                ..tensor(name, data_type, &[count])
            });
        }
        let step = |op: &str, inputs: &[&str], output: &str| node("", op, inputs, output, vec![]);
        let with = |mut node: NodeProto, attribute| {
            node.attribute.push(attribute);
            node
        };
        let names = ["float", "scaled", "normalized", "squares", "sum", "norm"].map(fresh);
        let [float, scaled, normalized, squares, sum, norm] = &names;
        let (first, last) = (inner(&self.input.name), inner(&self.output));
        let shifted = match self.input.layout {
            PixelLayout::ChannelsFirst => normalized,
            PixelLayout::ChannelsLast => &first,
        };
        let mut before = vec![
            with(
                step("Cast", &["pixels"], float),
                int("to", DataType::Float as i64),
            ),
            step("Mul", &[float, &scale], scaled),
            step("Add", &[scaled, &offset], shifted),
        ];
        if self.input.layout == PixelLayout::ChannelsFirst {
            before.push(with(
                step("Transpose", &[normalized], &first),
                ints("perm", &[0, 3, 1, 2]),
            ));
        }
        let after = [
            step("Mul", &[&last, &last], squares),
            with(
                step("ReduceSum", &[squares, &axis], sum),
                int("keepdims", 1),
            ),
            step("Sqrt", &[sum], norm),
            step("Div", &[&last, norm], "embedding"),
        ];
        let nodes = std::mem::take(&mut graph.node);
        let side = i64::from(self.image_size);
        let mut input = value("pixels", DataType::Uint8, &[side, side, 3]);
        let size = self.embedding_size as i64;
        let mut output = value("embedding", DataType::Float, &[size]);
        if self.input.batch == Batch::One {
            set_batch_to_1(&mut input);
            set_batch_to_1(&mut output);
        }
        let mut imports = vec![opset("", self.opset_version)];
        if nodes.iter().any(|n| n.domain == "com.microsoft") {
            imports.push(opset("com.microsoft", 1));
        }
        ModelProto {
            ir_version: ir_version(self.opset_version),
            producer_name: "pinhole-export".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            opset_import: imports,
            graph: Some(GraphProto {
                name: "image_encoder".into(),
                input: vec![input],
                output: vec![output],
                node: before.into_iter().chain(nodes).chain(after).collect(),
                initializer: graph.initializer,
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// Writes the compiled `model` to `folder` as `image_encoder.onnx`, weights in f16 where `options` ask for a reduced precision.
///
/// # Errors
/// A weight that does not fit f16; a file that cannot be written.
pub(super) fn write_compiled(
    mut model: ModelProto,
    folder: &Path,
    options: GraphOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let precision = options.precision;
    if let Some(graph) = &mut model.graph {
        // In int8, the layers that the gate keeps.
        let half: HashSet<String> = (graph.node.iter())
            .filter(|node| storage_of(node) == Some(Storage::Float))
            .filter_map(weight_of)
            .filter(|_| precision != Precision::F32)
            .collect();
        let mut weights = WeightFile::create(folder, precision)?;
        let total = graph.initializer.len() as u64;
        for (i, t) in graph.initializer.drain(..).enumerate() {
            let shape: Vec<usize> = t.dims.iter().map(|&d| d as usize).collect();
            let data_type = DataType::try_from(t.data_type)?;
            if half.contains(&t.name) {
                let values = t.raw_data.as_chunks().0.iter();
                let values: Vec<f32> = values.map(|&b| f32::from_le_bytes(b)).collect();
                weights.matrix(&t.name, &shape, &values)?;
            } else if t.raw_data.len() < INLINE_BYTES {
                weights.inline(&t.name, data_type, &shape, t.raw_data);
            } else {
                weights.write(&t.name, data_type, &shape, &t.raw_data)?;
            }
            progress(i as u64 + 1, total);
        }
        graph.initializer = weights.finish()?;
    }
    if options.flat {
        flat::inline(&mut model)?;
    }
    let path = folder.join(IMAGE_ENCODER);
    std::fs::write(&path, model.encode_to_vec())
        .with_context(|| format!("{}: cannot write", path.display()))
}

/// How the weight of a linear layer or convolution is stored; `None` for other nodes.
fn storage_of(node: &NodeProto) -> Option<Storage> {
    match op_of(node)? {
        Op::Linear(linear) => Some(linear.storage),
        Op::Convolution(convolution) => Some(convolution.storage),
        _ => None,
    }
}

/// The name of the parameter `weight` of a function.
fn weight_of(node: &NodeProto) -> Option<String> {
    let op = op_of(node)?;
    let position = op.parameters().iter().position(|p| *p == "weight")?;
    node.input.get(op.inputs().len() + position).cloned()
}

/// The first version of the file format that knows the operator set.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=20 => 8,
        21 | 22 => 10,
        23 => 11,
        _ => 12,
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn set_batch_to_1(value: &mut ValueInfoProto) {
    if let Some(type_proto::Value::TensorType(tensor)) =
        value.r#type.as_mut().and_then(|t| t.value.as_mut())
        && let Some(dim) = tensor.shape.as_mut().and_then(|s| s.dim.first_mut())
    {
        dim.value = Some(tensor_shape_proto::dimension::Value::DimValue(1));
    }
}
