//! CLIP's modified ResNet in standard operators: three-convolution stem, anti-aliased strides, attention pooling.

use anyhow::Result;
use pinhole_bundle::dialect;
use pinhole_checkpoint::Checkpoint;
use pinhole_model::Tensor;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, tensor_proto::DataType};

use super::builder::transpose;
use super::proto::{self, int, ints};
use super::standard_encoder::{Batch, PixelInput, PixelLayout, StandardEncoder};

/// PyTorch's BatchNorm2d default.
const BATCH_NORM_EPSILON: f64 = 1e-5;
/// A bottleneck's output is this many times its inner width.
const EXPANSION: usize = 4;

/// The sizes of a ModifiedResNet.
pub(super) struct ResNetShape {
    /// Blocks of each stage.
    pub layers: [usize; 4],
    /// Channels behind the stem.
    pub width: usize,
    /// Of the attention pooling.
    pub heads: usize,
}

/// The image encoder of `checkpoint`, which has this shape.
///
/// # Errors
/// A tensor that cannot be read.
pub(super) fn encoder(checkpoint: &Checkpoint, shape: &ResNetShape) -> Result<StandardEncoder> {
    let mut builder = Builder {
        checkpoint,
        nodes: vec![],
        initializers: vec![],
    };
    let output = builder.encoder(shape)?;
    let config = checkpoint.config();
    Ok(StandardEncoder {
        graph: GraphProto {
            node: builder.nodes,
            initializer: builder.initializers,
            ..Default::default()
        },
        opset_version: dialect::OPSET,
        input: PixelInput {
            name: INPUT.into(),
            layout: PixelLayout::ChannelsFirst,
            batch: Batch::Any,
        },
        output,
        image_size: config.image.image_size(),
        embedding_size: config.embedding,
    })
}

/// The name of the normalised pixels.
const INPUT: &str = "image";

/// A graph under construction. Each method that adds a node or a tensor returns its name.
struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}

impl Builder<'_> {
    fn encoder(&mut self, shape: &ResNetShape) -> Result<String> {
        let mut x = INPUT.to_owned();
        for (i, stride) in [(1, 2), (2, 1), (3, 1)] {
            let source = [format!("visual.conv{i}"), format!("visual.bn{i}")];
            x = self.convolution(&x, source, &format!("stem.conv{i}"), 3, stride)?;
            x = self.node("Relu", &format!("stem.relu{i}"), &[&x], vec![]);
        }
        x = self.average_pool(&x, "stem.pool", 2);
        let mut channels = shape.width;
        for (stage, &blocks) in shape.layers.iter().enumerate() {
            let outputs = (shape.width << stage) * EXPANSION;
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let widens = channels != outputs;
                x = self.bottleneck(&x, stage + 1, block, stride, widens)?;
                channels = outputs;
            }
        }
        let x = self.attention_pool(&x, channels, shape.heads)?;
        self.tail(x)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        Ok(self.checkpoint.tensor(name)?)
    }

    fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let node = proto::node("", op, inputs, name, attributes);
        self.nodes.push(node);
        name.to_owned()
    }

    fn f32(&mut self, name: &str, shape: &[usize], data: &[f32]) -> String {
        let raw_data = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializers.push(TensorProto {
            raw_data,
            ..proto::tensor(name, DataType::Float, shape)
        });
        name.to_owned()
    }

    fn i64(&mut self, name: &str, data: &[i64]) -> String {
        let raw_data = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializers.push(TensorProto {
            raw_data,
            ..proto::tensor(name, DataType::Int64, &[data.len()])
        });
        name.to_owned()
    }

    /// A convolution without bias and the batch norm behind it, both of `source`, as one convolution.
    fn convolution(
        &mut self,
        x: &str,
        [source, norm]: [String; 2],
        name: &str,
        kernel: i64,
        stride: i64,
    ) -> Result<String> {
        let weight = self.tensor(&format!("{source}.weight"))?;
        let gain = self.tensor(&format!("{norm}.weight"))?;
        let offset = self.tensor(&format!("{norm}.bias"))?;
        let mean = self.tensor(&format!("{norm}.running_mean"))?;
        let variance = self.tensor(&format!("{norm}.running_var"))?;
        let outputs = gain.data.len();
        let mut folded = weight.data;
        let mut bias = Vec::with_capacity(outputs);
        let per_output = folded.len() / outputs;
        for (o, filter) in folded.chunks_exact_mut(per_output).enumerate() {
            let factor =
                f64::from(gain.data[o]) / (f64::from(variance.data[o]) + BATCH_NORM_EPSILON).sqrt();
            filter
                .iter_mut()
                .for_each(|w| *w = (f64::from(*w) * factor) as f32);
            bias.push((f64::from(offset.data[o]) - f64::from(mean.data[o]) * factor) as f32);
        }
        let weight = self.f32(&format!("{name}.weight"), &weight.shape, &folded);
        let bias = self.f32(&format!("{name}.bias"), &[outputs], &bias);
        let attributes = vec![
            ints("kernel_shape", &[kernel, kernel]),
            ints("pads", &[kernel / 2; 4]),
            ints("strides", &[stride, stride]),
        ];
        Ok(self.node("Conv", name, &[x, &weight, &bias], attributes))
    }

    fn average_pool(&mut self, x: &str, name: &str, side: i64) -> String {
        let attributes = vec![
            ints("kernel_shape", &[side, side]),
            ints("strides", &[side, side]),
        ];
        self.node("AveragePool", name, &[x], attributes)
    }

    fn bottleneck(
        &mut self,
        x: &str,
        stage: usize,
        block: usize,
        stride: i64,
        widens: bool,
    ) -> Result<String> {
        let source = format!("visual.layer{stage}.{block}");
        let parts = |i: usize| [format!("{source}.conv{i}"), format!("{source}.bn{i}")];
        let name = |part: &str| format!("layer{stage}.{block}.{part}");
        let mut y = x.to_owned();
        for (i, kernel) in [(1, 1), (2, 3)] {
            y = self.convolution(&y, parts(i), &name(&format!("conv{i}")), kernel, 1)?;
            y = self.node("Relu", &name(&format!("relu{i}")), &[&y], vec![]);
        }
        if stride > 1 {
            y = self.average_pool(&y, &name("pool"), stride);
        }
        y = self.convolution(&y, parts(3), &name("conv3"), 1, 1)?;
        let mut shortcut = x.to_owned();
        if stride > 1 || widens {
            if stride > 1 {
                shortcut = self.average_pool(&shortcut, &name("shortcut_pool"), stride);
            }
            let parts = [0, 1].map(|i| format!("{source}.downsample.{i}"));
            shortcut = self.convolution(&shortcut, parts, &name("shortcut"), 1, 1)?;
        }
        let sum = self.node("Add", &name("sum"), &[&y, &shortcut], vec![]);
        Ok(self.node("Relu", &name("out"), &[&sum], vec![]))
    }

    /// The mean token attends to all positions and itself; its output is the embedding.
    fn attention_pool(&mut self, x: &str, channels: usize, heads: usize) -> Result<String> {
        let source = |part: &str| format!("visual.attnpool.{part}");
        let flat = self.i64("pool.flat_shape", &[0, 0, -1]);
        let x = self.node("Reshape", "pool.flat", &[x, &flat], vec![]);
        let perm = vec![ints("perm", &[0, 2, 1])];
        let x = self.node("Transpose", "pool.positions", &[&x], perm);
        let over = vec![ints("axes", &[1]), int("keepdims", 1)];
        let mean = self.node("ReduceMean", "pool.mean", &[&x], over);
        let tokens = self.node("Concat", "pool.tokens", &[&mean, &x], vec![int("axis", 1)]);
        let positions = self.tensor(&source("positional_embedding"))?;
        let positions = self.f32(
            "pool.positional_embedding",
            &positions.shape,
            &positions.data,
        );
        let tokens = self.node("Add", "pool.placed", &[&tokens, &positions], vec![]);
        let first = self.i64("pool.first", &[0]);
        let of_tokens = vec![int("axis", 1)];
        let query = self.node("Gather", "pool.query_token", &[&tokens, &first], of_tokens);

        let mut projected = |part: &str, x: &str, scale: f32| -> Result<String> {
            let mut weight = self.tensor(&source(&format!("{part}_proj.weight")))?.data;
            let mut bias = self.tensor(&source(&format!("{part}_proj.bias")))?.data;
            weight.iter_mut().chain(&mut bias).for_each(|v| *v *= scale);
            let name = format!("pool.{part}");
            let x = self.linear(&name, x, &weight, &bias);
            let by_head = [0, -1, heads as i64, (channels / heads) as i64];
            let by_head = self.i64(&format!("{name}_shape"), &by_head);
            Ok(self.node("Reshape", &format!("{name}_heads"), &[&x, &by_head], vec![]))
        };
        let query = projected("q", &query, ((channels / heads) as f32).sqrt().recip())?;
        let key = projected("k", &tokens, 1.0)?;
        let value = projected("v", &tokens, 1.0)?;
        let heads_first = || vec![ints("perm", &[0, 2, 1, 3])];
        let query = self.node("Transpose", "pool.query", &[&query], heads_first());
        let key = self.node(
            "Transpose",
            "pool.key",
            &[&key],
            vec![ints("perm", &[0, 2, 3, 1])],
        );
        let value = self.node("Transpose", "pool.value", &[&value], heads_first());
        let scores = self.node("MatMul", "pool.scores", &[&query, &key], vec![]);
        let shares = self.node("Softmax", "pool.shares", &[&scores], vec![int("axis", -1)]);
        let mixed = self.node("MatMul", "pool.mixed", &[&shares, &value], vec![]);
        let mixed = self.node("Transpose", "pool.mixed_heads", &[&mixed], heads_first());
        let row = self.i64("pool.row", &[-1, channels as i64]);
        let mixed = self.node("Reshape", "pool.mixed_row", &[&mixed, &row], vec![]);
        let weight = self.tensor(&source("c_proj.weight"))?;
        let bias = self.tensor(&source("c_proj.bias"))?;
        Ok(self.linear("pool.out", &mixed, &weight.data, &bias.data))
    }

    /// `x` `[N, D]` with the layers that a learned method adds.
    fn tail(&mut self, x: String) -> Result<String> {
        let Some(tail) = self.checkpoint.tail().cloned() else {
            return Ok(x);
        };
        let (hidden, size) = (tail.down.shape[0], tail.up.shape[0]);
        // Only the direction of share g(f) + (1 - share) f matters: f needs no factor.
        let factor = tail.share / (1.0 - tail.share);
        let up: Vec<f32> = tail.up.data.iter().map(|value| factor * value).collect();
        let inner = self.linear("tail.down", &x, &tail.down.data, &vec![0.0; hidden]);
        let inner = self.node("Relu", "tail.hidden", &[&inner], vec![]);
        let outer = self.linear("tail.up", &inner, &up, &vec![0.0; size]);
        let outer = self.node("Relu", "tail.out", &[&outer], vec![]);
        Ok(self.node("Add", "tail", &[&outer, &x], vec![]))
    }

    /// A linear layer over `x`; `weight` is `[outputs, inputs]`.
    fn linear(&mut self, name: &str, x: &str, weight: &[f32], bias: &[f32]) -> String {
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
        let weight = transpose(weight, outputs, inputs);
        let weight = self.f32(&format!("{name}.weight"), &[inputs, outputs], &weight);
        let bias = self.f32(&format!("{name}.bias"), &[outputs], bias);
        let product = self.node("MatMul", &format!("{name}.product"), &[x, &weight], vec![]);
        self.node("Add", name, &[&product, &bias], vec![])
    }
}
