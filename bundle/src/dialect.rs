//! The model-local functions of `image_encoder.onnx`: their names, inputs and attributes.
//!
//! Export writes each as a FunctionProto with a body in standard operators, so that any runtime that
//! expands functions can run the file. Pinhole's runtime maps each by name to one operator of its own.

/// The functions' operator domain.
pub const DOMAIN: &str = "pinhole";
/// The domain's version.
pub const DOMAIN_VERSION: i64 = 1;
/// The version of the standard operator set in bodies and graph.
pub const OPSET: i64 = 17;
/// The supported versions in files of other programs, which use standard operators only.
pub const FOREIGN_OPSETS: std::ops::RangeInclusive<i64> = 13..=20;

/// One model-local function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its op_type.
    pub name: &'static str,
    /// Inputs that are computed.
    pub inputs: &'static [&'static str],
    /// Inputs that are initialisers, each used by one node only; they follow `inputs`.
    pub parameters: &'static [&'static str],
    /// Attributes, all required.
    pub attributes: &'static [&'static str],
}

/// `pixels` u8 `[N, S, S, 3]` to patch embeddings [N, (S/p)^2, W]:
/// `scale * (patches @ weight) + bias`, weight [p*p*3, W] with rows ordered (y, x, channel), `patch` = p
/// and `scale` = 1/255. Mean and std are folded into weight and bias.
pub const PATCH_EMBEDDING: Function = Function {
    name: "PatchEmbedding",
    inputs: &["pixels"],
    parameters: &["weight", "bias"],
    attributes: &["patch", "grid", "scale"],
};
/// [`PATCH_EMBEDDING`] in 8-bit integers: weight s8 [p*p*3, W] in -127 ..= 127, per-channel `scale`
/// `[W]`, which includes 1/255. Pixels are integers already: nothing is quantised at run time.
pub const QUANTIZED_PATCH_EMBEDDING: Function = Function {
    name: "QuantizedPatchEmbedding",
    parameters: &["weight", "scale", "bias"],
    attributes: &["patch", "grid"],
    ..PATCH_EMBEDDING
};
/// Patches `[N, P, W]` with the class token before them and positions added: [N, P + 1, W].
/// `class_embedding` [1, W] includes position 0; `positions` `[P, W]` are those of the patches.
pub const TOKEN_EMBEDDING: Function = Function {
    name: "TokenEmbedding",
    inputs: &["patches"],
    parameters: &["class_embedding", "positions"],
    attributes: &[],
};
/// Layer normalisation over the last axis with gain `[W]`, bias `[W]` and `epsilon`.
pub const LAYER_NORM: Function = Function {
    name: "LayerNorm",
    inputs: &["x"],
    parameters: &["gain", "bias"],
    attributes: &["epsilon"],
};
/// `x @ weight + bias`: x [.., K], weight `[K, M]`, bias `[M]`. A weight in f16 may be multiplied in f16 if the
/// bundle has [`crate::Manifest::f16_arithmetic`].
pub const LINEAR: Function = Function {
    name: "Linear",
    inputs: &["x"],
    parameters: &["weight", "bias"],
    attributes: &[],
};
/// [`LINEAR`] followed by `y * sigmoid(1.702 y)`.
pub const LINEAR_QUICK_GELU: Function = Function {
    name: "LinearQuickGelu",
    ..LINEAR
};
/// [`LINEAR`] followed by the exact GELU, `y / 2 * (1 + erf(y / sqrt 2))`.
pub const LINEAR_GELU: Function = Function {
    name: "LinearGelu",
    ..LINEAR
};
/// [`LINEAR`] plus `residual` [.., M].
pub const LINEAR_ADD: Function = Function {
    name: "LinearAdd",
    inputs: &["x", "residual"],
    ..LINEAR
};
/// `x @ weight + bias` in 8-bit integers: weight s8 `[K, M]` in -127 ..= 127, per-channel `scale` `[M]`.
/// Each row of x [.., K] is quantised symmetrically at run time: its scale is max|x| / 127, rounding is half to
/// even. Sums are i32; scales, bias and what follows are f32.
pub const QUANTIZED_LINEAR: Function = Function {
    name: "QuantizedLinear",
    parameters: &["weight", "scale", "bias"],
    ..LINEAR
};
/// [`QUANTIZED_LINEAR`] followed as [`LINEAR_QUICK_GELU`].
pub const QUANTIZED_LINEAR_QUICK_GELU: Function = Function {
    name: "QuantizedLinearQuickGelu",
    ..QUANTIZED_LINEAR
};
/// [`QUANTIZED_LINEAR`] followed as [`LINEAR_GELU`].
pub const QUANTIZED_LINEAR_GELU: Function = Function {
    name: "QuantizedLinearGelu",
    ..QUANTIZED_LINEAR
};
/// [`QUANTIZED_LINEAR`] followed as [`LINEAR_ADD`].
pub const QUANTIZED_LINEAR_ADD: Function = Function {
    name: "QuantizedLinearAdd",
    inputs: &["x", "residual"],
    ..QUANTIZED_LINEAR
};
/// `(x + offset) @ weight + bias` plus `residual` [.., M] in 8-bit integers, for rows without values below
/// `-offset`, which is negative: as [`QUANTIZED_LINEAR_ADD`], but each row of x + offset is quantised to u8 with
/// the scale (max|x| + offset) / 255; negative values become 0. `bias` compensates the offset.
pub const OFFSET_QUANTIZED_LINEAR_ADD: Function = Function {
    name: "OffsetQuantizedLinearAdd",
    attributes: &["offset"],
    ..QUANTIZED_LINEAR_ADD
};
/// [`LAYER_NORM`] by `gain`, `shift` and `epsilon`, followed by [`QUANTIZED_LINEAR`].
pub const LAYER_NORM_QUANTIZED_LINEAR: Function = Function {
    name: "LayerNormQuantizedLinear",
    inputs: &["x"],
    parameters: &["gain", "shift", "weight", "scale", "bias"],
    attributes: &["epsilon"],
};
/// [`LAYER_NORM_QUANTIZED_LINEAR`] followed as [`LINEAR_QUICK_GELU`].
pub const LAYER_NORM_QUANTIZED_LINEAR_QUICK_GELU: Function = Function {
    name: "LayerNormQuantizedLinearQuickGelu",
    ..LAYER_NORM_QUANTIZED_LINEAR
};
/// [`LAYER_NORM_QUANTIZED_LINEAR`] followed as [`LINEAR_GELU`].
pub const LAYER_NORM_QUANTIZED_LINEAR_GELU: Function = Function {
    name: "LayerNormQuantizedLinearGelu",
    ..LAYER_NORM_QUANTIZED_LINEAR
};
/// Multi-head attention without a mask: `query` `[N, T, W]`, `key_value` `[N, U, 2W]` (keys, then values),
/// `heads` dividing W; the scale 1/sqrt(W / heads) is folded into the query's weights.
pub const ATTENTION: Function = Function {
    name: "Attention",
    inputs: &["query", "key_value"],
    parameters: &[],
    attributes: &["heads"],
};
/// [`ATTENTION`] of every token to every other one: `query_key_value` `[N, T, 3W]` (queries, keys, then values).
pub const SELF_ATTENTION: Function = Function {
    name: "SelfAttention",
    inputs: &["query_key_value"],
    ..ATTENTION
};
/// Division by the Euclidean norm over the last axis.
pub const L2_NORMALIZE: Function = Function {
    name: "L2Normalize",
    inputs: &["x"],
    parameters: &[],
    attributes: &[],
};

/// Every function.
pub const FUNCTIONS: &[Function] = &[
    PATCH_EMBEDDING,
    QUANTIZED_PATCH_EMBEDDING,
    TOKEN_EMBEDDING,
    LAYER_NORM,
    LINEAR,
    LINEAR_QUICK_GELU,
    LINEAR_GELU,
    LINEAR_ADD,
    QUANTIZED_LINEAR,
    QUANTIZED_LINEAR_QUICK_GELU,
    QUANTIZED_LINEAR_GELU,
    QUANTIZED_LINEAR_ADD,
    OFFSET_QUANTIZED_LINEAR_ADD,
    LAYER_NORM_QUANTIZED_LINEAR,
    LAYER_NORM_QUANTIZED_LINEAR_QUICK_GELU,
    LAYER_NORM_QUANTIZED_LINEAR_GELU,
    ATTENTION,
    SELF_ATTENTION,
    L2_NORMALIZE,
];
