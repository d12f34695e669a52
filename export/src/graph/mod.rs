//! The ONNX graph of an image tower: u8 pixels in, L2-normalised embedding out.

mod encoder;
mod flat;
mod functions;
mod resnet;
mod vit;
mod weights;

use anyhow::{Context, Result, bail, ensure};
use pinhole_bundle::dialect::{self, Function};
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{Activation, ImageEncoderConfig, Precision};
use prost::Message;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType,
    tensor_shape_proto, type_proto,
};

pub use encoder::{Encoder, precision};
pub use weights::WeightFile;

use crate::quantization::{Float, Layer, Preparation, Quantization, Source};

/// How to write the graph.
#[derive(Clone, Copy, Debug)]
pub struct GraphOptions {
    /// How matrices are stored; gains, biases and positions stay f32.
    pub precision: Precision,
    /// Standard operators alone, for runtimes that do not expand functions (OpenVINO, plain tract).
    pub flat: bool,
}

/// Writes `checkpoint`'s image tower to `folder` as `image_encoder.onnx`, with a weight file beside it
/// where the weights exceed [`WeightFile::INLINE_BYTES`]. `progress` is called with (done, total) tensors.
///
/// # Errors
/// What the checkpoint or the file system answers; a weight that does not fit f16 is named; a
/// ModifiedResNet in int8.
pub fn write(
    checkpoint: &Checkpoint,
    folder: &std::path::Path,
    options: GraphOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let quantization = &mut Quantization::default();
    write_quantized(checkpoint, folder, options, quantization, progress)
}

/// [`write`], in int8 with each layer as `quantization` chooses it, which remembers the choice.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_quantized(
    checkpoint: &Checkpoint,
    folder: &std::path::Path,
    options: GraphOptions,
    quantization: &mut Quantization,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let config = checkpoint.config();
    let weights = WeightFile::create(folder, options.precision != Precision::F32)?;
    let mut graph = Graph {
        nodes: vec![],
        weights,
        checkpoint,
        quantization: (options.precision == Precision::Int8).then_some(quantization),
        progress,
        done: 0,
        total: 0,
    };
    let image_size = match config.image {
        ImageEncoderConfig::VisionTransformer {
            image_size,
            patch_size,
            width,
            layers,
            heads,
        } => {
            let shape = vit::Shape {
                image_size: image_size as usize,
                patch: patch_size as usize,
                width,
                layers,
                heads,
            };
            vit::build(&mut graph, &shape, config.activation)?;
            image_size
        }
        ImageEncoderConfig::ModifiedResNet {
            image_size,
            layers,
            width,
            heads,
        } => {
            ensure!(
                options.precision != Precision::Int8,
                "precision int8: expected a vision transformer, found a ModifiedResNet, whose convolutions \
                 have no integer kernels; use --precision f16"
            );
            resnet::build(&mut graph, layers, width, heads)?;
            image_size
        }
    };
    let side = i64::from(image_size);
    let Graph { nodes, weights, .. } = graph;
    let initializer = weights.finish()?;
    let mut model = ModelProto {
        ir_version: 8,
        producer_name: "pinhole-export".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![
            opset("", dialect::OPSET),
            opset(dialect::DOMAIN, dialect::DOMAIN_VERSION),
        ],
        graph: Some(GraphProto {
            name: "image_encoder".into(),
            input: vec![value("pixels", DataType::Uint8, &[side, side, 3])],
            output: vec![value(
                "embedding",
                DataType::Float,
                &[config.embedding as i64],
            )],
            node: nodes,
            initializer,
            ..Default::default()
        }),
        functions: functions::all(),
        ..Default::default()
    };
    if options.flat {
        flat::inline(&mut model)?;
    } else {
        functions::keep_used(&mut model);
    }
    let path = folder.join(pinhole_bundle::IMAGE_ENCODER);
    std::fs::write(&path, model.encode_to_vec())
        .with_context(|| format!("{}: cannot write", path.display()))
}

/// A graph under construction; each method adds a node and gives back its output's name.
struct Graph<'a> {
    nodes: Vec<NodeProto>,
    weights: WeightFile,
    checkpoint: &'a Checkpoint,
    /// How linear layers are written in 8-bit integers, where they are.
    quantization: Option<&'a mut Quantization>,
    progress: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
}

impl Graph<'_> {
    /// A tensor of the checkpoint, f32 row-major.
    fn tensor(&mut self, name: &str) -> Result<pinhole_model::Tensor> {
        self.done += 1;
        (self.progress)(self.done, self.total.max(self.done));
        Ok(self.checkpoint.tensor(name)?)
    }

    /// One function node; `inputs` are its computed inputs and then its parameters.
    fn call(
        &mut self,
        function: &Function,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.node(dialect::DOMAIN, function.name, name, inputs, attributes)
    }

    /// One standard operator.
    fn standard(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.node("", op, name, inputs, attributes)
    }

    fn node(
        &mut self,
        domain: &str,
        op: &str,
        name: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> String {
        self.nodes.push(node(domain, op, inputs, name, attribute));
        name.to_owned()
    }

    /// The layer norm `source` of the checkpoint.
    fn norm(&mut self, source: &str) -> Result<Norm> {
        Ok(Norm {
            gain: self.tensor(&format!("{source}.weight"))?.data,
            bias: self.tensor(&format!("{source}.bias"))?.data,
        })
    }

    fn layer_norm(&mut self, x: &str, name: &str, norm: &Norm) -> Result<String> {
        let shape = [norm.gain.len()];
        let gain = (self.weights).f32(&format!("{name}.gain"), &shape, &norm.gain)?;
        let bias = (self.weights).f32(&format!("{name}.bias"), &shape, &norm.bias)?;
        let epsilon = vec![float("epsilon", EPSILON)];
        Ok(self.call(&dialect::LAYER_NORM, name, &[x, &gain, &bias], epsilon))
    }

    /// `function`, one of the linear ones, over `inputs` with `weight` [outputs, inputs] as PyTorch stores it; the
    /// file holds [inputs, outputs], as MatMul takes it.
    fn linear(
        &mut self,
        function: &Function,
        name: &str,
        inputs: &[&str],
        weight: &[f32],
        width: usize,
        bias: &[f32],
    ) -> Result<String> {
        let transposed = transpose(weight, bias.len(), width);
        self.linear_transposed(function, name, inputs, &transposed, width, bias)
    }

    /// [`Graph::linear`] over `x` plus `residual`, in 8-bit integers where the graph is to have them.
    fn linear_add(
        &mut self,
        name: &str,
        [x, residual]: [&str; 2],
        weight: &[f32],
        bias: &[f32],
        source: Source,
    ) -> Result<String> {
        let width = weight.len() / bias.len();
        let transposed = transpose(weight, bias.len(), width);
        let exact = float_layer(&dialect::LINEAR_ADD, &transposed, bias);
        let Some(layer) = self.layer(name, &exact, source)? else {
            let inputs = [x, residual];
            let function = &dialect::LINEAR_ADD;
            return self.linear_transposed(function, name, &inputs, &transposed, width, bias);
        };
        let (function, attributes) = match layer.offset {
            None => (&dialect::QUANTIZED_LINEAR_ADD, vec![]),
            Some(offset) => (
                &dialect::OFFSET_QUANTIZED_LINEAR_ADD,
                vec![float("offset", offset)],
            ),
        };
        let [weight, scale, bias] = self.quantized_parameters(&layer)?;
        let all = [x, residual, &weight, &scale, &bias];
        Ok(self.call(function, name, &all, attributes))
    }

    /// What [`Graph::linear_add`] with `weight` [outputs, inputs] wants done to its inputs by what stands before it;
    /// chosen here, before that is written, and known to it later.
    fn preparation(&mut self, name: &str, weight: &[f32], bias: &[f32]) -> Result<Preparation> {
        let transposed = transpose(weight, bias.len(), weight.len() / bias.len());
        let exact = float_layer(&dialect::LINEAR_ADD, &transposed, bias);
        let layer = self.layer(name, &exact, Source::Scalable)?;
        Ok(layer.map(|l| l.preparation).unwrap_or_default())
    }

    /// [`Graph::linear`] over `x` behind a layer norm, one function in 8-bit integers.
    fn norm_linear(
        &mut self,
        function: &Function,
        name: &str,
        x: &str,
        norm: &Norm,
        joint: &Joint,
    ) -> Result<String> {
        let width = norm.gain.len();
        let outputs = joint.bias.len();
        let mut transposed = transpose(joint.weight, outputs, width);
        let exact = float_layer(function, &transposed, joint.bias);
        let Some(quantized) = norm_quantized(function) else {
            bail!("{name}: {} behind a layer norm", function.name);
        };
        let Some(mut layer) = self.layer(name, &exact, Source::Scalable)? else {
            let mut bias = joint.bias.to_vec();
            transposed
                .chunks_exact_mut(outputs)
                .for_each(|row| joint.divide(row));
            joint.prepare(&mut bias);
            let normed = self.layer_norm(x, &format!("{name}.norm"), norm)?;
            return self.linear_transposed(function, name, &[&normed], &transposed, width, &bias);
        };
        joint.divide(&mut layer.scale);
        joint.prepare(&mut layer.bias);
        let (mut gain, mut shift) = (norm.gain.clone(), norm.bias.clone());
        layer.preparation.divide(&mut gain);
        layer.preparation.apply(&mut shift);
        let gain = (self.weights).f32(&format!("{name}.gain"), &[width], &gain)?;
        let shift = (self.weights).f32(&format!("{name}.shift"), &[width], &shift)?;
        let [weight, scale, bias] = self.quantized_parameters(&layer)?;
        let all = [x, &gain, &shift, &weight, &scale, &bias];
        Ok(self.call(quantized, name, &all, vec![float("epsilon", EPSILON)]))
    }

    /// Layer `name` in 8-bit integers, where it is to be in them.
    fn layer(&mut self, name: &str, exact: &Float, source: Source) -> Result<Option<Layer>> {
        match &mut self.quantization {
            Some(quantization) if !quantization.is_float(name) => {
                Ok(Some(quantization.layer(name, exact, source)?.clone()))
            }
            _ => Ok(None),
        }
    }

    /// The names of a layer's weight [inputs, outputs], scale and bias.
    fn quantized_parameters(&mut self, layer: &Layer) -> Result<[String; 3]> {
        let (name, outputs) = (&layer.name, layer.bias.len());
        let shape = [layer.weight.len() / outputs, outputs];
        let weights = &mut self.weights;
        let weight = weights.s8(&format!("{name}.weight"), &shape, &layer.weight)?;
        let scale = weights.f32(&format!("{name}.scale"), &[outputs], &layer.scale)?;
        let bias = weights.f32(&format!("{name}.bias"), &[outputs], &layer.offset_bias())?;
        Ok([weight, scale, bias])
    }

    /// As [`Graph::linear`] with `weight` [inputs, outputs].
    fn linear_transposed(
        &mut self,
        function: &Function,
        name: &str,
        inputs: &[&str],
        weight: &[f32],
        width: usize,
        bias: &[f32],
    ) -> Result<String> {
        let weight =
            self.weights
                .matrix(&format!("{name}.weight"), &[width, bias.len()], weight)?;
        let bias = self
            .weights
            .f32(&format!("{name}.bias"), &[bias.len()], bias)?;
        let mut all = inputs.to_vec();
        all.extend([weight.as_str(), bias.as_str()]);
        Ok(self.call(function, name, &all, vec![]))
    }
}

/// Linear layers over the same input as one.
struct Joint<'a> {
    /// [outputs, inputs]
    weight: &'a [f32],
    bias: &'a [f32],
    /// What the layer that reads the last outputs wants done to them.
    after: &'a Preparation,
}

impl Joint<'_> {
    /// The last of `values`, one an output, which the outputs are products of.
    fn divide(&self, values: &mut [f32]) {
        let first = values.len() - self.after.divisors.len();
        self.after.divide(&mut values[first..]);
    }

    /// The last of `values`, one an output, which are added to the outputs.
    fn prepare(&self, values: &mut [f32]) {
        let Preparation { centre, divisors } = self.after;
        let first = values.len() - centre.len().max(divisors.len());
        self.after.apply(&mut values[first..]);
    }
}

/// A linear layer of the checkpoint that is to be `function`, its weight [inputs, outputs].
fn float_layer<'a>(function: &Function, weight: &'a [f32], bias: &'a [f32]) -> Float<'a> {
    let activation = match *function {
        dialect::LINEAR_QUICK_GELU => Some(Activation::QuickGelu),
        dialect::LINEAR_GELU => Some(Activation::Gelu),
        _ => None,
    };
    Float {
        weight,
        bias,
        activation,
    }
}

/// A layer norm's gain and bias.
struct Norm {
    gain: Vec<f32>,
    bias: Vec<f32>,
}

/// Added to the variance, as all CLIPs have it.
const EPSILON: f32 = 1e-5;

/// A linear function in 8-bit integers with a layer norm before it.
fn norm_quantized(float: &Function) -> Option<&'static Function> {
    match *float {
        dialect::LINEAR => Some(&dialect::LAYER_NORM_QUANTIZED_LINEAR),
        dialect::LINEAR_QUICK_GELU => Some(&dialect::LAYER_NORM_QUANTIZED_LINEAR_QUICK_GELU),
        dialect::LINEAR_GELU => Some(&dialect::LAYER_NORM_QUANTIZED_LINEAR_GELU),
        _ => None,
    }
}

/// [rows, columns] to [columns, rows].
fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    for r in 0..rows {
        for c in 0..columns {
            out[c * rows + r] = data[r * columns + c];
        }
    }
    out
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto {
        domain: domain.into(),
        version,
    }
}

/// A value with the symbolic batch before `dims`.
fn value(name: &str, data_type: DataType, dims: &[i64]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dimension = |value| Dimension {
        denotation: String::new(),
        value: Some(value),
    };
    let mut dim = vec![dimension(Value::DimParam("N".into()))];
    dim.extend(dims.iter().map(|&d| dimension(Value::DimValue(d))));
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            denotation: String::new(),
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: data_type as i32,
                shape: Some(TensorShapeProto { dim }),
            })),
        }),
        doc_string: String::new(),
    }
}

fn node(
    domain: &str,
    op: &str,
    inputs: &[&str],
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        name: output.into(),
        op_type: op.into(),
        domain: domain.into(),
        attribute,
        doc_string: String::new(),
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: kind as i32,
        ..Default::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        i,
        ..attribute(name, AttributeType::Int)
    }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: ints.to_vec(),
        ..attribute(name, AttributeType::Ints)
    }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        f,
        ..attribute(name, AttributeType::Float)
    }
}
