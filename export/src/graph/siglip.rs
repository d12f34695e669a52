//! SigLIP's vision transformer, read by attention pooling.

use anyhow::Result;
use pinhole_bundle::dialect::{AttentionInput, AttentionScores, Op};
use pinhole_model::Activation;

use super::builder::{FusedLinear, GraphBuilder};
use super::proto::{int, ints};
use super::vit::{self, PatchBias, TENSORS_PER_BLOCK, Tokens, VitShape};
use crate::quantization::{InputOrigin, InputTransform};

/// Builds the whole encoder, down to `embedding`.
pub(super) fn build(
    graph: &mut GraphBuilder,
    shape: &VitShape,
    activation: Activation,
) -> Result<()> {
    graph.total = 16 + shape.layers as u64 * TENSORS_PER_BLOCK;
    let patches = vit::patch_embedding(graph, shape, PatchBias::Tensor)?;
    let positions = graph.tensor("visual.positional_embedding")?;
    let count = positions.data.len() / shape.width;
    let positions = (graph.weights).f32(
        "tokens.positions",
        &[1, count, shape.width],
        &positions.data,
    )?;
    let mut x = graph.standard("Add", "tokens", &[&patches, &positions], vec![]);
    for layer in 0..shape.layers {
        x = vit::block(graph, shape, activation, layer, &x, Tokens::All)?;
    }
    let x = attention_pool(graph, shape, activation, &x)?;
    let axes = graph.weights.i64("token_axis", &[1])?;
    let x = graph.standard("Squeeze", "pooled", &[&x, &axes], vec![]);
    graph.embedding(&x)
}

/// x `[N, T, W]` to `[N, 1, W]`: the attention of one learned query to the normalised tokens, y = out_proj(attention), then
/// y + mlp(ln y).
fn attention_pool(
    graph: &mut GraphBuilder,
    shape: &VitShape,
    activation: Activation,
    x: &str,
) -> Result<String> {
    let width = shape.width;
    let source = |part: &str| format!("visual.attn_pool.{part}");
    let name = |part: &str| format!("attn_pool.{part}");
    let unchanged = InputTransform::default();

    let weight = graph.tensor(&source("in_proj_weight"))?.data;
    let bias = graph.tensor(&source("in_proj_bias"))?.data;
    let probe = graph.tensor(&source("probe"))?.data;
    let query = pooling_query(
        &weight[..width * width],
        &bias[..width],
        &probe,
        shape.heads,
    );
    let query = (graph.weights).f32(&name("query"), &[1, 1, width], &query)?;
    let query = for_each_image(graph, &query, x, width)?;

    let norm = graph.norm("visual.ln_post")?;
    let key_value = FusedLinear {
        weight: &weight[width * width..],
        bias: &bias[width..],
        activation: None,
        output_transform: &unchanged,
    };
    let key_value = graph.norm_linear(&name("key_value"), x, &norm, &key_value)?;
    let mixed = graph.call(
        Op::Attention(AttentionInput::QueryKeyValue, AttentionScores::Exact),
        &name("attention"),
        &[&query, &key_value],
        vec![ints("heads", &[shape.heads as i64])],
    );
    let weight = graph.tensor(&source("out_proj.weight"))?.data;
    let bias = graph.tensor(&source("out_proj.bias"))?.data;
    let y = graph.linear(&name("out_proj"), &mixed, &weight, &bias)?;

    let norm = graph.norm(&source("ln"))?;
    let weight = graph.tensor(&source("mlp.c_fc.weight"))?.data;
    let bias = graph.tensor(&source("mlp.c_fc.bias"))?.data;
    let hidden = FusedLinear {
        weight: &weight,
        bias: &bias,
        activation: Some(activation),
        output_transform: &unchanged,
    };
    let hidden = graph.norm_linear(&name("c_fc"), &y, &norm, &hidden)?;
    let weight = graph.tensor(&source("mlp.c_proj.weight"))?.data;
    let bias = graph.tensor(&source("mlp.c_proj.bias"))?.data;
    let inputs = [hidden.as_str(), &y];
    graph.linear_add(
        &name("c_proj"),
        inputs,
        &weight,
        &bias,
        InputOrigin::Activation,
    )
}

/// (weight @ probe + bias) / sqrt(head width): the query does not depend on the image.
fn pooling_query(weight: &[f32], bias: &[f32], probe: &[f32], heads: usize) -> Vec<f32> {
    let width = probe.len();
    let scale = ((width / heads) as f64).sqrt().recip();
    let rows = weight.chunks_exact(width).zip(bias);
    rows.map(|(row, &bias)| {
        let products = row
            .iter()
            .zip(probe)
            .map(|(w, p)| f64::from(*w) * f64::from(*p));
        ((products.sum::<f64>() + f64::from(bias)) * scale) as f32
    })
    .collect()
}

/// `query` `[1, 1, W]` for each image of x `[N, T, W]`: `[N, 1, W]`.
fn for_each_image(graph: &mut GraphBuilder, query: &str, x: &str, width: usize) -> Result<String> {
    let name = |part: &str| format!("attn_pool.query_{part}");
    let rest = graph.weights.i64(&name("rest"), &[1, width as i64])?;
    let first = vec![int("start", 0), int("end", 1)];
    let batch = graph.standard("Shape", &name("batch"), &[x], first);
    let axis = vec![int("axis", 0)];
    let shape = graph.standard("Concat", &name("shape"), &[&batch, &rest], axis);
    Ok(graph.standard("Expand", &name("expanded"), &[query, &shape], vec![]))
}
