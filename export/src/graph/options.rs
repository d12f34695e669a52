//! How a graph is written.

use pinhole_model::Precision;

/// How to write the graph.
#[derive(Clone, Copy, Debug)]
pub struct GraphOptions {
    /// How matrices are stored; gains, biases and positions stay f32.
    pub precision: Precision,
    /// Standard operators only, for runtimes that do not expand functions (OpenVINO, plain tract).
    pub flat: bool,
}

impl GraphOptions {
    /// f32, in functions of the dialect: what other precisions are compared with.
    pub const F32: GraphOptions = GraphOptions {
        precision: Precision::F32,
        flat: false,
    };
}
