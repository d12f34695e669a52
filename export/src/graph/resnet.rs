//! CLIP's modified ResNet: three-convolution stem, anti-aliased strides, attention pooling.

use anyhow::Result;
use pinhole_bundle::dialect::{AttentionInput, Op};
use tract_onnx::pb::tensor_proto::DataType;

use super::builder::GraphBuilder;
use super::proto::{int, ints};

/// PyTorch's BatchNorm2d default.
const BATCH_NORM_EPSILON: f64 = 1e-5;
/// A bottleneck's output is this many times its inner width.
const EXPANSION: usize = 4;

/// Builds the whole encoder, down to `embedding`.
pub(super) fn build(
    graph: &mut GraphBuilder,
    layers: [usize; 4],
    width: usize,
    heads: usize,
) -> Result<()> {
    // A convolution and its batch norm are five tensors.
    let convolutions = 3 + layers.iter().map(|n| 3 * n + 1).sum::<usize>();
    graph.total = 5 * convolutions as u64 + 9;

    let mut x = normalise(graph)?;
    for (i, stride) in [(1, 2), (2, 1), (3, 1)] {
        let name = format!("stem.conv{i}");
        x = convolution(
            graph,
            &x,
            &format!("visual.conv{i}"),
            &format!("visual.bn{i}"),
            &name,
            3,
            stride,
        )?;
        x = graph.standard("Relu", &format!("stem.relu{i}"), &[&x], vec![]);
    }
    x = average_pool(graph, &x, "stem.pool", 2);
    let mut channels = width;
    for (stage, &blocks) in layers.iter().enumerate() {
        let planes = width << stage;
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = bottleneck(
                graph,
                &x,
                stage + 1,
                block,
                stride,
                channels != planes * EXPANSION,
            )?;
            channels = planes * EXPANSION;
        }
    }
    attention_pool(graph, &x, channels, heads)
}

/// u8 `[N, S, S, 3]` to normalised f32 `[N, 3, S, S]`. The stem pads with zeros after normalisation, so the
/// normalisation cannot be folded into its convolution.
fn normalise(graph: &mut GraphBuilder) -> Result<String> {
    let preprocessing = graph.checkpoint.config().preprocessing.clone();
    let scale = preprocessing
        .std
        .map(|std| (1.0 / (255.0 * f64::from(std))) as f32);
    let shift: Vec<f32> = (0..3)
        .map(|c| (-f64::from(preprocessing.mean[c]) / f64::from(preprocessing.std[c])) as f32)
        .collect();
    let x = graph.standard(
        "Cast",
        "pixels_f32",
        &["pixels"],
        vec![int("to", DataType::Float as i64)],
    );
    let x = graph.standard(
        "Transpose",
        "pixels_nchw",
        &[&x],
        vec![ints("perm", &[0, 3, 1, 2])],
    );
    let scale = graph
        .weights
        .f32("normalise.scale", &[1, 3, 1, 1], &scale)?;
    let shift = graph
        .weights
        .f32("normalise.shift", &[1, 3, 1, 1], &shift)?;
    let x = graph.standard("Mul", "scaled", &[&x, &scale], vec![]);
    Ok(graph.standard("Add", "normalised", &[&x, &shift], vec![]))
}

/// A convolution without bias, its batch norm folded in.
fn convolution(
    graph: &mut GraphBuilder,
    x: &str,
    source: &str,
    norm: &str,
    name: &str,
    kernel: i64,
    stride: i64,
) -> Result<String> {
    let weight = graph.tensor(&format!("{source}.weight"))?;
    let gain = graph.tensor(&format!("{norm}.weight"))?;
    let offset = graph.tensor(&format!("{norm}.bias"))?;
    let mean = graph.tensor(&format!("{norm}.running_mean"))?;
    let variance = graph.tensor(&format!("{norm}.running_var"))?;
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
    let stored = graph
        .weights
        .matrix(&format!("{name}.weight"), &weight.shape, &folded)?;
    let widened = graph.standard(
        "Cast",
        &format!("{name}.weight_f32"),
        &[&stored],
        vec![int("to", DataType::Float as i64)],
    );
    let bias = graph
        .weights
        .f32(&format!("{name}.bias"), &[outputs], &bias)?;
    let padding = kernel / 2;
    let attributes = vec![
        ints("kernel_shape", &[kernel, kernel]),
        ints("pads", &[padding; 4]),
        ints("strides", &[stride, stride]),
    ];
    Ok(graph.standard("Conv", name, &[x, &widened, &bias], attributes))
}

fn average_pool(graph: &mut GraphBuilder, x: &str, name: &str, side: i64) -> String {
    let attributes = vec![
        ints("kernel_shape", &[side, side]),
        ints("strides", &[side, side]),
    ];
    graph.standard("AveragePool", name, &[x], attributes)
}

fn bottleneck(
    graph: &mut GraphBuilder,
    x: &str,
    stage: usize,
    block: usize,
    stride: i64,
    widens: bool,
) -> Result<String> {
    let source = format!("visual.layer{stage}.{block}");
    let name = |part: &str| format!("layer{stage}.{block}.{part}");
    let mut y = x.to_owned();
    for (i, kernel) in [(1, 1), (2, 3)] {
        let (conv, norm) = (format!("{source}.conv{i}"), format!("{source}.bn{i}"));
        y = convolution(
            graph,
            &y,
            &conv,
            &norm,
            &name(&format!("conv{i}")),
            kernel,
            1,
        )?;
        y = graph.standard("Relu", &name(&format!("relu{i}")), &[&y], vec![]);
    }
    if stride > 1 {
        y = average_pool(graph, &y, &name("pool"), stride);
    }
    y = convolution(
        graph,
        &y,
        &format!("{source}.conv3"),
        &format!("{source}.bn3"),
        &name("conv3"),
        1,
        1,
    )?;
    let mut shortcut = x.to_owned();
    if stride > 1 || widens {
        if stride > 1 {
            shortcut = average_pool(graph, &shortcut, &name("shortcut_pool"), stride);
        }
        let (conv, norm) = (
            format!("{source}.downsample.0"),
            format!("{source}.downsample.1"),
        );
        shortcut = convolution(graph, &shortcut, &conv, &norm, &name("shortcut"), 1, 1)?;
    }
    let sum = graph.standard("Add", &name("sum"), &[&y, &shortcut], vec![]);
    Ok(graph.standard("Relu", &name("out"), &[&sum], vec![]))
}

/// The mean token attends to all positions and itself; its output is the embedding.
fn attention_pool(graph: &mut GraphBuilder, x: &str, channels: usize, heads: usize) -> Result<()> {
    let source = "visual.attnpool";
    let flat = graph.weights.i64("pool.flat_shape", &[0, 0, -1])?;
    let x = graph.standard("Reshape", "pool.flat", &[x, &flat], vec![]);
    let x = graph.standard(
        "Transpose",
        "pool.positions",
        &[&x],
        vec![ints("perm", &[0, 2, 1])],
    );
    let mean = graph.standard(
        "ReduceMean",
        "pool.mean",
        &[&x],
        vec![ints("axes", &[1]), int("keepdims", 1)],
    );
    let tokens = graph.standard("Concat", "pool.tokens", &[&mean, &x], vec![int("axis", 1)]);
    let positions = graph.tensor(&format!("{source}.positional_embedding"))?;
    let positions = graph.weights.f32(
        "pool.positional_embedding",
        &positions.shape,
        &positions.data,
    )?;
    let tokens = graph.standard("Add", "pool.placed", &[&tokens, &positions], vec![]);
    let bounds: Vec<String> = [("start", 0), ("end", 1), ("axis", 1)]
        .iter()
        .map(|(part, value)| graph.weights.i64(&format!("pool.{part}"), &[*value]))
        .collect::<Result<_>>()?;
    let first = graph.standard(
        "Slice",
        "pool.query_token",
        &[&tokens, &bounds[0], &bounds[1], &bounds[2]],
        vec![],
    );

    let scale = ((channels / heads) as f32).sqrt().recip();
    let mut weight = graph.tensor(&format!("{source}.q_proj.weight"))?.data;
    let mut bias = graph.tensor(&format!("{source}.q_proj.bias"))?.data;
    weight.iter_mut().chain(&mut bias).for_each(|v| *v *= scale);
    let query = graph.linear("pool.query", &first, &weight, &bias)?;
    let mut weight = graph.tensor(&format!("{source}.k_proj.weight"))?.data;
    let mut bias = graph.tensor(&format!("{source}.k_proj.bias"))?.data;
    weight.extend(graph.tensor(&format!("{source}.v_proj.weight"))?.data);
    bias.extend(graph.tensor(&format!("{source}.v_proj.bias"))?.data);
    let key_value = graph.linear("pool.key_value", &tokens, &weight, &bias)?;
    let heads = vec![ints("heads", &[heads as i64])];
    let mixed = graph.call(
        Op::Attention(AttentionInput::QueryKeyValue),
        "pool.attention",
        &[&query, &key_value],
        heads,
    );
    let weight = graph.tensor(&format!("{source}.c_proj.weight"))?;
    let bias = graph.tensor(&format!("{source}.c_proj.bias"))?;
    let x = graph.linear("pool.out", &mixed, &weight.data, &bias.data)?;
    let x = graph.standard("Squeeze", "pooled", &[&x, &bounds[2]], vec![]);
    graph.embedding(&x)
}
