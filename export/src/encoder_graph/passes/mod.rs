//! The passes: what each replaces is documented at its function.

mod activation;
mod attention;
mod channels_last;
mod constants;
mod convolution;
mod convolution_bias;
mod dequantize;
mod layer_norm;
mod linear;
mod motions;
mod no_ops;
mod pixels;
mod products;
mod quantize;
mod redundant;
mod self_attention;
mod single_token;
mod tables;
mod views;

use super::graph::EncoderGraph;

/// A pass over the graph. Errors name the node.
type Pass = fn(&mut EncoderGraph) -> Result<(), String>;

/// Every pass, in the order in which they run. The graph is indexed after each.
pub(super) const ALL: &[Pass] = &[
    EncoderGraph::fold_constants,
    EncoderGraph::fuse_quantize_dequantize,
    EncoderGraph::replace_quantized_products,
    EncoderGraph::remove_redundant_quantization,
    EncoderGraph::tabulate,
    EncoderGraph::dequantize_constants,
    EncoderGraph::merge_convolution_biases,
    EncoderGraph::remove_no_ops,
    EncoderGraph::replace_pixel_normalization,
    EncoderGraph::move_channels_last,
    EncoderGraph::remove_no_ops,
    EncoderGraph::replace_linear,
    EncoderGraph::replace_layer_norms,
    EncoderGraph::merge_into_convolutions,
    EncoderGraph::replace_activations,
    EncoderGraph::replace_pointwise_convolutions,
    EncoderGraph::replace_attention,
    // Twice, for a transposition and a reshape.
    EncoderGraph::sink_moves,
    EncoderGraph::remove_no_ops,
    EncoderGraph::sink_moves,
    EncoderGraph::remove_no_ops,
    EncoderGraph::join_projections,
    EncoderGraph::replace_self_attention,
    EncoderGraph::narrow_to_single_token,
];
