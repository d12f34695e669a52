//! CLIP's vision transformer.

use anyhow::Result;
use pinhole_bundle::dialect::{AttentionInput, AttentionScores, Linear, Op, Storage};
use pinhole_model::{Activation, Tensor, VitPooling};

use super::builder::{FusedLinear, GraphBuilder};
use super::proto::{float, int, ints};
use crate::quantization::{FloatLinear, InputOrigin, InputTransform, Int8Attention};

/// Sizes of the encoder.
pub(super) struct VitShape {
    pub(super) image_size: usize,
    pub(super) patch: usize,
    pub(super) width: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) input_norm: bool,
    pub(super) pooling: VitPooling,
}

/// The linear layer over patches of the image: its node's name.
pub(super) const PATCH_EMBEDDING: &str = "patch_embedding";

/// Weight and bias of ln_1, ln_2, in_proj, out_proj, c_fc and c_proj.
pub(super) const TENSORS_PER_BLOCK: u64 = 12;

/// What the patch convolution adds.
#[derive(Clone, Copy)]
pub(super) enum PatchBias {
    /// Nothing (CLIP).
    None,
    /// The tensor `visual.conv1.bias` (SigLIP).
    Tensor,
}

/// The tokens that are read after a block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tokens {
    All,
    /// Only the class token: everything but the keys and values is computed for it alone.
    Class,
}

/// Builds the whole encoder, down to `embedding`.
pub(super) fn build(
    graph: &mut GraphBuilder,
    shape: &VitShape,
    activation: Activation,
) -> Result<()> {
    graph.total = 8 + shape.layers as u64 * TENSORS_PER_BLOCK;
    let patches = patch_embedding(graph, shape, PatchBias::None)?;
    let tokens = token_embedding(graph, shape, &patches)?;
    let constant = graph.checkpoint.image_tokens();
    let tokens = match constant.first() {
        Some(first) => constant_tokens(graph, shape, "tokens.constant", &tokens, first)?,
        None => tokens,
    };
    let mut x = if shape.input_norm {
        let norm = graph.norm("visual.ln_pre")?;
        graph.layer_norm(&tokens, "ln_pre", &norm)?
    } else {
        tokens
    };
    for layer in 0..shape.layers {
        if let Some(tokens) = constant.get(layer).filter(|_| layer > 0) {
            let name = format!("block_{layer}.constant_tokens");
            x = constant_tokens(graph, shape, &name, &x, tokens)?;
        }
        let last = layer + 1 == shape.layers;
        let read = if last && shape.pooling == VitPooling::ClassToken {
            Tokens::Class
        } else {
            Tokens::All
        };
        x = block(graph, shape, activation, layer, &x, read)?;
    }
    let norm = graph.norm("visual.ln_post")?;
    let x = match shape.pooling {
        // The last block computed it alone.
        VitPooling::ClassToken => graph.layer_norm(&x, "ln_post", &norm)?,
        VitPooling::Average => {
            let x = graph.layer_norm(&x, "ln_post", &norm)?;
            patch_average(graph, shape, &x)?
        }
        VitPooling::AverageBeforeNorm => {
            let x = patch_average(graph, shape, &x)?;
            graph.layer_norm(&x, "ln_post", &norm)?
        }
    };
    let proj = graph.tensor("visual.proj")?;
    let embedding = proj.shape[1];
    let zeros = vec![0.0; embedding];
    let x = graph.linear_in_out(
        Linear::plain(Storage::Float),
        "proj",
        &[&x],
        &proj.data,
        &zeros,
    )?;
    let axes = graph.weights.i64("token_axis", &[1])?;
    let x = graph.standard("Squeeze", "pooled", &[&x, &axes], vec![]);
    graph.embedding(&x)
}

/// The patch convolution as a matrix over flattened patches. Normalisation is (v / 255 - mean) / std;
/// the division by std goes into the weight, the mean into the bias and 1/255 stays a scale of its own,
/// so that the weights keep a magnitude that f16 resolves.
pub(super) fn patch_embedding(
    graph: &mut GraphBuilder,
    shape: &VitShape,
    conv_bias: PatchBias,
) -> Result<String> {
    let conv = graph.tensor("visual.conv1.weight")?;
    let (p, width) = (shape.patch, shape.width);
    let mut weight = vec![0.0; conv.data.len()];
    let mut bias = match conv_bias {
        PatchBias::None => vec![0.0f64; width],
        PatchBias::Tensor => {
            let tensor = graph.tensor("visual.conv1.bias")?;
            tensor.data.into_iter().map(f64::from).collect()
        }
    };
    let preprocessing = &graph.checkpoint.config().preprocessing;
    for (o, filter) in conv.data.chunks_exact(3 * p * p).enumerate() {
        for c in 0..3 {
            let mean = f64::from(preprocessing.mean[c]);
            let std = f64::from(preprocessing.std[c]);
            for yx in 0..p * p {
                let w = f64::from(filter[c * p * p + yx]) / std;
                weight[(yx * 3 + c) * width + o] = w as f32;
                bias[o] -= w * mean;
            }
        }
    }
    let bias: Vec<f32> = bias.into_iter().map(|b| b as f32).collect();
    let name = PATCH_EMBEDDING;
    let shape_of_weight = [3 * p * p, width];
    let grid = shape.image_size / p;
    let mut attributes = vec![ints("patch", &[p as i64]), ints("grid", &[grid as i64])];
    let pixels = covered_pixels(graph, shape)?;
    let whole: Vec<f32> = weight.iter().map(|w| w / 255.0).collect();
    let exact = FloatLinear::new(&whole, &bias, None);
    if let Some(layer) = graph.quantized(name, &exact, InputOrigin::Pixels)? {
        let [weight, scale, bias] = graph.quantized_parameters(&layer)?;
        let inputs = [pixels.as_str(), &weight, &scale, &bias];
        let op = Op::PatchEmbedding(Storage::Int8);
        return Ok(graph.call(op, name, &inputs, attributes));
    }
    let bias = (graph.weights).f32(&format!("{name}.bias"), &[width], &bias)?;
    let weight = (graph.weights).matrix(&format!("{name}.weight"), &shape_of_weight, &weight)?;
    attributes.push(float("scale", 1.0 / 255.0));
    let inputs = [pixels.as_str(), &weight, &bias];
    let op = Op::PatchEmbedding(Storage::Float);
    Ok(graph.call(op, name, &inputs, attributes))
}

/// The pixels that whole patches cover; PyTorch's convolution leaves out the rest at the right and the bottom.
fn covered_pixels(graph: &mut GraphBuilder, shape: &VitShape) -> Result<String> {
    let pixels = "pixels";
    let covered = shape.image_size - shape.image_size % shape.patch;
    if covered == shape.image_size {
        return Ok(pixels.to_owned());
    }
    let start = graph.weights.i64("pixels.start", &[0, 0])?;
    let end = (graph.weights).i64("pixels.end", &[covered as i64; 2])?;
    let axes = graph.weights.i64("pixels.axes", &[1, 2])?;
    let inputs = [pixels, &start, &end, &axes];
    Ok(graph.standard("Slice", "pixels.covered", &inputs, vec![]))
}

fn token_embedding(graph: &mut GraphBuilder, shape: &VitShape, patches: &str) -> Result<String> {
    let class = graph.tensor("visual.class_embedding")?;
    let positions = graph.tensor("visual.positional_embedding")?;
    let (first, rest) = positions.data.split_at(shape.width);
    let class: Vec<f32> = class.data.iter().zip(first).map(|(c, p)| c + p).collect();
    let count = rest.len() / shape.width;
    let class = graph
        .weights
        .f32("tokens.class_embedding", &[1, shape.width], &class)?;
    let positions = graph
        .weights
        .f32("tokens.positions", &[count, shape.width], rest)?;
    Ok(graph.call(
        Op::TokenEmbedding,
        "tokens",
        &[patches, &class, &positions],
        vec![],
    ))
}

/// The class token and the patches' tokens of x, followed by tokens [n, W] of a learned method.
fn constant_tokens(
    graph: &mut GraphBuilder,
    shape: &VitShape,
    name: &str,
    x: &str,
    tokens: &Tensor,
) -> Result<String> {
    let kept = 1 + (shape.image_size / shape.patch).pow(2);
    let tokens = (graph.weights).f32(&format!("{name}.tokens"), &tokens.shape, &tokens.data)?;
    let attributes = vec![ints("kept", &[kept as i64])];
    Ok(graph.call(Op::ConstantTokens, name, &[x, &tokens], attributes))
}

/// x + attention(ln_1 x), then x + mlp(ln_2 x).
pub(super) fn block(
    graph: &mut GraphBuilder,
    shape: &VitShape,
    activation: Activation,
    layer: usize,
    x: &str,
    read: Tokens,
) -> Result<String> {
    let source = format!("visual.transformer.resblocks.{layer}");
    let name = |part: &str| format!("block_{layer}.{part}");
    let width = shape.width;

    let norm = graph.norm(&format!("{source}.ln_1"))?;
    let mut weight = graph.tensor(&format!("{source}.attn.in_proj_weight"))?.data;
    let mut bias = graph.tensor(&format!("{source}.attn.in_proj_bias"))?.data;
    let scale = ((width / shape.heads) as f32).sqrt().recip();
    let query = weight[..width * width].iter_mut();
    query
        .chain(&mut bias[..width])
        .for_each(|value| *value *= scale);
    // Attention takes a weighted mean of the values channel by channel, so the input transform of the output
    // projection can be applied to the values.
    let out_weight = graph.tensor(&format!("{source}.attn.out_proj.weight"))?;
    let out_bias = graph.tensor(&format!("{source}.attn.out_proj.bias"))?;
    let value_transform =
        graph.input_transform(&name("out_proj"), &out_weight.data, &out_bias.data)?;
    let unchanged = InputTransform::default();
    let projection = |range: std::ops::Range<usize>, output_transform| FusedLinear {
        weight: &weight[range.start * width..range.end * width],
        bias: &bias[range],
        activation: None,
        output_transform,
    };
    let (residual, mixed) = if read == Tokens::Class {
        let residual = class_token(graph, &name("class_token"), x)?;
        let query = projection(0..width, &unchanged);
        let query = graph.norm_linear(&name("query"), &residual, &norm, &query)?;
        let key_value = projection(width..3 * width, &value_transform);
        let key_value = graph.norm_linear(&name("key_value"), x, &norm, &key_value)?;
        let inputs = [query.as_str(), &key_value];
        let op = Op::Attention(AttentionInput::QueryKeyValue, AttentionScores::Exact);
        let heads = vec![ints("heads", &[shape.heads as i64])];
        let mixed = graph.call(op, &name("attention"), &inputs, heads);
        (residual, mixed)
    } else {
        let all = projection(0..3 * width, &value_transform);
        let all = graph.norm_linear(&name("query_key_value"), x, &norm, &all)?;
        let attention = Int8Attention {
            name: name("attention"),
            tokens: (shape.image_size / shape.patch).pow(2),
            heads: shape.heads,
            width,
            columns: [0, width, 2 * width],
            scale: 1.0,
            sensitivity: None,
        };
        let mixed = graph.self_attention(&all, attention);
        (x.to_owned(), mixed)
    };

    let x = graph.linear_add(
        &name("out_proj"),
        [&mixed, &residual],
        &out_weight.data,
        &out_bias.data,
        InputOrigin::Scalable,
    )?;

    let norm = graph.norm(&format!("{source}.ln_2"))?;
    let weight = graph.tensor(&format!("{source}.mlp.c_fc.weight"))?;
    let bias = graph.tensor(&format!("{source}.mlp.c_fc.bias"))?;
    let hidden = FusedLinear {
        weight: &weight.data,
        bias: &bias.data,
        activation: Some(activation),
        output_transform: &unchanged,
    };
    let hidden = graph.norm_linear(&name("c_fc"), &x, &norm, &hidden)?;
    let weight = graph.tensor(&format!("{source}.mlp.c_proj.weight"))?;
    let bias = graph.tensor(&format!("{source}.mlp.c_proj.bias"))?;
    graph.linear_add(
        &name("c_proj"),
        [&hidden, &x],
        &weight.data,
        &bias.data,
        InputOrigin::Activation,
    )
}

/// The mean of the patches' tokens, `[N, 1, W]`.
fn patch_average(graph: &mut GraphBuilder, shape: &VitShape, x: &str) -> Result<String> {
    let patches = (shape.image_size / shape.patch).pow(2) as i64;
    let patches = token_range(graph, "patches", x, [1, 1 + patches])?;
    let attributes = vec![ints("axes", &[1]), int("keepdims", 1)];
    Ok(graph.standard("ReduceMean", "average", &[&patches], attributes))
}

/// Row 0 of every image, `[N, 1, W]`.
fn class_token(graph: &mut GraphBuilder, name: &str, x: &str) -> Result<String> {
    token_range(graph, name, x, [0, 1])
}

/// Rows from `start` to `end` of every image, `[N, end - start, W]`.
fn token_range(
    graph: &mut GraphBuilder,
    name: &str,
    x: &str,
    [start, end]: [i64; 2],
) -> Result<String> {
    let start = graph.weights.i64(&format!("{name}.start"), &[start])?;
    let end = graph.weights.i64(&format!("{name}.end"), &[end])?;
    let axis = graph.weights.i64(&format!("{name}.axis"), &[1])?;
    Ok(graph.standard("Slice", name, &[x, &start, &end, &axis], vec![]))
}
