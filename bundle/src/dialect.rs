//! The model-local functions of `image_encoder.onnx`: their names, inputs and attributes.
//!
//! A function is an [`Op`], which is data: its name, parameters, body and operator follow from its fields. Export writes
//! each as a FunctionProto with a body in standard operators, so that any runtime that expands functions can run the
//! file. Pinhole's runtime maps each by name to one operator of its own.

use std::collections::HashMap;
use std::sync::LazyLock;

use pinhole_model::Activation;

/// The functions' operator domain.
pub const DOMAIN: &str = "pinhole";
/// The domain's newest version. A file imports the oldest one that has all its functions ([`Op::since`]), so that older
/// programs can read it; a reader accepts all from 1 to this one.
pub const DOMAIN_VERSION: i64 = 4;
/// The version of the standard operator set in bodies and graph.
pub const OPSET: i64 = 17;
/// The supported versions in files of other programs, which use standard operators only.
pub const FOREIGN_OPSETS: std::ops::RangeInclusive<i64> = 13..=24;

/// One model-local function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `PatchEmbedding`, `QuantizedPatchEmbedding`: `pixels` u8 `[N, S, S, 3]` to patch embeddings [N, (S/p)^2, W].
    ///
    /// In floating point `scale * (patches @ weight) + bias`, weight [p*p*3, W] with rows ordered (y, x, channel),
    /// `patch` = p and `scale` = 1/255; mean and std are folded into weight and bias. In int8 the weight is s8
    /// [p*p*3, W] in -127 ..= 127 with a per-channel `scale` `[W]`, which includes 1/255. Pixels are integers already:
    /// nothing is quantised at run time.
    PatchEmbedding(Storage),
    /// Patches `[N, P, W]` with the class token before them and positions added: [N, P + 1, W].
    /// `class_embedding` [1, W] includes position 0; `positions` `[P, W]` are those of the patches.
    TokenEmbedding,
    /// The first `kept` tokens of x [N, T, W], followed by `tokens` [n, W], which are the same for every image:
    /// [N, kept + n, W], `kept` being T or less.
    ConstantTokens,
    /// Layer normalisation over the last axis with gain `[W]`, bias `[W]` and `epsilon`.
    LayerNorm,
    /// A linear layer with its neighbours.
    Linear(Linear),
    /// Multi-head attention without a mask, `heads` dividing W. Unless there is an attribute `scale`, the scale
    /// 1/sqrt(W / heads) is folded into the query's weights.
    Attention(AttentionInput, AttentionScores),
    /// Division by the Euclidean norm over the last axis.
    L2Normalize,
    /// `ActivateQuickGelu`, `ActivateGelu`: an activation function. Not "Gelu": that is a standard operator, which also
    /// has an approximation.
    Activate(Activation),
    /// `NormalizePixels[ChannelsLast]`: `pixels` u8 `[N, H, W, 3]` to f32 of this order: times `scale` `[3]` plus `offset`
    /// `[3]`.
    NormalizePixels(ChannelOrder),
    /// A convolution with its neighbours, channels last.
    Convolution(Convolution),
    /// `[Dynamic]FakeQuantize`: QuantizeLinear followed by DequantizeLinear.
    FakeQuantize(Range),
    /// A function of a value quantised by `x_scale` and `x_zero_point`, as a table: `values` `[256]` are its results for
    /// the quantised values -128 to 127.
    QuantizedTable,
    /// `[Dynamic]AffineLinear[QuickGelu|Gelu]`: a linear layer as other programs quantise it,
    /// `activation(x @ weight + bias)`. All of x is quantised by one scale and zero point; weight s8 `[K, M]` with
    /// `scale` `[M]` and `zero_point` s8 `[M]` per channel, no channel with both -128 and 127. Sums are i32.
    AffineLinear(Range, Option<Activation>),
    /// `[Dynamic]AffineConvolution[ChannelsLast]`: a convolution of x in this order with the attributes `strides` and `dilations`
    /// (height, width), `pads` (top, left, bottom, right) and `group` of ONNX's Conv. Operands as of
    /// [`Op::AffineLinear`], but the weight is any s8 [M, C / group, p, q] with p and q up to 64. Padding, and the
    /// distance between the first and the last tap, are at most 128.
    AffineConvolution(Range, ChannelOrder),
}

/// The order of an image's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelOrder {
    /// `[N, C, H, W]`
    First,
    /// `[N, H, W, C]`
    Last,
}

/// `activation(convolution of x + bias + residual)`: x `[N, H, W, C]`, weight [M, C / group, p, q], bias `[M]`, the result
/// and `residual` `[N, H', W', M]`, with the attributes `strides` and `dilations` (height, width), `pads` (top, left, bottom,
/// right) and `group` of ONNX's Conv. p and q are at most 64; padding, and the distance between the first and the last tap, at
/// most 128.
///
/// In int8 the weight is s8 with a per-channel `scale` `[M]`. Sums are i32; scales, bias and what follows are f32. Each image
/// of an x in f32 is quantised at run time to 255 steps from the smallest to the largest of its values and 0, as by
/// DynamicQuantizeLinear. x and result may be [`Element::U8`], so that convolutions behind each other exchange bytes. The name
/// is `[U8][Quantized]Convolution[Add][QuickGelu|Gelu|GeluTanh|Relu|Silu|HardSwish][ToU8]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Arithmetic of the product.
    pub storage: Storage,
    /// The type of x.
    pub x: Element,
    /// Whether something is added to the product with its bias.
    pub residual: Residual,
    /// Applied last.
    pub activation: Option<ConvolutionActivation>,
    /// The type of the result.
    pub y: Element,
}

/// The type of the values between convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// f32.
    F32,
    /// u8 with a scale and a zero point that were chosen at export, of x the parameters `x_scale` f32 and `x_zero_point` u8,
    /// scalars: x is (q - zero point) · scale. Only convolutions in int8 have it. What they write is round(y / scale + zero
    /// point), half to even, saturated.
    U8,
}

impl Element {
    /// Both.
    const ALL: [Self; 2] = [Self::F32, Self::U8];
}

impl Convolution {
    /// Without activation function and residual.
    pub const fn plain(storage: Storage) -> Self {
        Convolution {
            storage,
            x: Element::F32,
            residual: Residual::None,
            activation: None,
            y: Element::F32,
        }
    }

    /// Whether it reads or writes bytes.
    pub const fn has_bytes(self) -> bool {
        matches!(self.x, Element::U8) || matches!(self.y, Element::U8)
    }

    const fn parameters(self) -> &'static [&'static str] {
        use Element::{F32, U8};
        if matches!(self.storage, Storage::Float) {
            return self.storage.parameters();
        }
        macro_rules! with {
            ($($name:literal),*) => {
                &["weight", "scale", "bias", $($name),*]
            };
        }
        match (self.x, self.y) {
            (F32, F32) => self.storage.parameters(),
            (F32, U8) => with!("y_scale", "y_zero_point"),
            (U8, F32) => with!("x_scale", "x_zero_point"),
            (U8, U8) => with!("x_scale", "x_zero_point", "y_scale", "y_zero_point"),
        }
    }
}

/// The activation functions of convolutional networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvolutionActivation {
    /// That of a transformer's MLP.
    Mlp(Activation),
    /// max(0, x)
    Relu,
    /// x · sigmoid(x), also called swish.
    Silu,
    /// x · max(0, min(1, x / 6 + 1/2))
    HardSwish,
}

impl ConvolutionActivation {
    /// Every function.
    const ALL: [Self; 6] = [
        Self::Mlp(Activation::QuickGelu),
        Self::Mlp(Activation::Gelu),
        Self::Mlp(Activation::GeluTanh),
        Self::Relu,
        Self::Silu,
        Self::HardSwish,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Mlp(activation) => activation_name(activation),
            Self::Relu => "Relu",
            Self::Silu => "Silu",
            Self::HardSwish => "HardSwish",
        }
    }
}

/// Where the scale and the zero point that quantise a whole x to s8 come from: q = round(x / scale) + zero point, half to
/// even, saturated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// The parameters `x_scale` f32 and `x_zero_point` s8, scalars.
    Static,
    /// x itself, as in DynamicQuantizeLinear.
    Dynamic,
}

/// How the weights of a product are stored, and what it is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// f32 or f16. A weight in f16 may be multiplied in f16 if the bundle has [`crate::Manifest::f16_arithmetic`].
    Float,
    /// s8 in -127 ..= 127 with a per-channel `scale`. Sums are i32; scales, bias and what follows are f32.
    Int8,
}

/// `activation(x @ weight + bias)`, plus `residual` [.., M] if there is one: x [.., K], weight `[K, M]`, bias `[M]`.
///
/// In int8 each row of x [.., K] is quantised symmetrically at run time: its scale is max|x| / 127, rounding is half to
/// even. The name is `[LayerNorm|Offset][Quantized]Linear[QuickGelu|Gelu|GeluTanh][Add]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// What happens to x first.
    pub input: LinearInput,
    /// Arithmetic of the product.
    pub storage: Storage,
    /// Applied to the product with its bias.
    pub activation: Option<Activation>,
    /// Whether something is added last.
    pub residual: Residual,
}

/// What happens to the rows of x before the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearInput {
    /// Nothing.
    Plain,
    /// Layer normalisation by `gain`, `shift` and `epsilon`, as [`Op::LayerNorm`].
    LayerNorm,
    /// `offset` is added. For rows without values below `-offset`, which is negative: each row of x + offset is
    /// quantised to u8 with the scale (max|x| + offset) / 255; negative values become 0. `bias` compensates the offset.
    Offset,
}

/// What a linear layer adds last, a convolution before its activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// Nothing.
    None,
    /// The input `residual` [.., M].
    Add,
}

impl Residual {
    const fn name(self) -> &'static str {
        match self {
            Residual::None => "",
            Residual::Add => "Add",
        }
    }

    const fn inputs(self) -> &'static [&'static str] {
        match self {
            Residual::None => &["x"],
            Residual::Add => &["x", "residual"],
        }
    }
}

/// The inputs of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionInput {
    /// `Attention`: `query` `[N, T, W]`, `key_value` `[N, U, 2W]` (keys, then values).
    QueryKeyValue,
    /// `SelfAttention`, of every token to every other one: `query_key_value` `[N, T, 3W]` (queries, keys, then values).
    Joint,
    /// `ColumnAttention`: `query` `[N, T, A]`, `key` `[N, U, B]` and `value` `[N, U, C]`, which may be one tensor. Of each, the
    /// columns from `query_column`, `key_column` and `value_column` on are read, as many as `width` = W says. The products of
    /// queries and keys are multiplied by `scale`.
    Columns,
}

/// How attention computes the shares of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionScores {
    /// In floating point.
    Exact,
    /// `Int8SelfAttention`, `Int8ColumnAttention`: both products in 8-bit integers, for each head. Of keys and values the means
    /// over the U tokens are subtracted first; the values' are added to the result. Each query and each key is quantised
    /// symmetrically to s8 (largest magnitude 127), as is each column of the values. The weights of a query are quantised to
    /// 255 steps of their largest one. Sums are i32.
    Int8,
    /// `QuantizedColumnAttention`, as other programs quantise it: the scores through a table, as [`Op::QuantizedTable`] with
    /// `scores_scale`, `scores_zero_point` and `scores_values`; the softmax's results as [`Op::FakeQuantize`] with
    /// `shares_scale` and `shares_zero_point`.
    Quantized,
}

impl Linear {
    /// `x @ weight + bias`.
    pub const fn plain(storage: Storage) -> Self {
        Linear {
            input: LinearInput::Plain,
            storage,
            activation: None,
            residual: Residual::None,
        }
    }

    /// Whether the dialect has it.
    const fn exists(self) -> bool {
        use LinearInput::{LayerNorm, Offset, Plain};
        matches!(
            (self.input, self.storage, self.activation, self.residual),
            (Plain, _, _, Residual::None)
                | (Plain, _, None, Residual::Add)
                | (Offset, Storage::Int8, None, _)
                | (LayerNorm, Storage::Int8, _, Residual::None)
        )
    }
}

impl Op {
    /// Every function.
    pub fn all() -> impl Iterator<Item = Op> {
        use Activation::{Gelu, GeluTanh, QuickGelu};
        use Storage::{Float, Int8};
        let first = [
            Op::PatchEmbedding(Float),
            Op::PatchEmbedding(Int8),
            Op::TokenEmbedding,
            Op::LayerNorm,
        ];
        let imported = [
            Op::Activate(Activation::QuickGelu),
            Op::Activate(Activation::Gelu),
            Op::Activate(Activation::GeluTanh),
            Op::NormalizePixels(ChannelOrder::First),
            Op::QuantizedTable,
        ];
        let quantized = [Range::Static, Range::Dynamic]
            .into_iter()
            .flat_map(|range| {
                let activations = [None, Some(QuickGelu), Some(Gelu), Some(GeluTanh)];
                let linear = activations.map(|activation| Op::AffineLinear(range, activation));
                let convolution = Op::AffineConvolution(range, ChannelOrder::First);
                let others = [Op::FakeQuantize(range), convolution];
                linear.into_iter().chain(others)
            });
        let last = [
            Op::Attention(AttentionInput::QueryKeyValue, AttentionScores::Exact),
            Op::Attention(AttentionInput::Joint, AttentionScores::Exact),
            Op::L2Normalize,
        ];
        let columns = [AttentionScores::Exact, AttentionScores::Quantized];
        let columns = columns.map(|scores| Op::Attention(AttentionInput::Columns, scores));
        let int8_attention = [AttentionInput::Joint, AttentionInput::Columns];
        let int8_attention =
            int8_attention.map(|input| Op::Attention(input, AttentionScores::Int8));
        let products = [
            (LinearInput::Plain, Float),
            (LinearInput::Plain, Int8),
            (LinearInput::Offset, Int8),
            (LinearInput::LayerNorm, Int8),
        ];
        let rest = [
            (None, Residual::None),
            (Some(Activation::QuickGelu), Residual::None),
            (Some(Activation::Gelu), Residual::None),
            (Some(Activation::GeluTanh), Residual::None),
            (None, Residual::Add),
        ];
        let linear = products.into_iter().flat_map(move |(input, storage)| {
            rest.into_iter().map(move |(activation, residual)| Linear {
                input,
                storage,
                activation,
                residual,
            })
        });
        let linear = linear.filter(|linear| linear.exists()).map(Op::Linear);
        let version_1 = first.into_iter().chain(linear).chain(last);
        let version_2 = imported.into_iter().chain(quantized).chain(columns);
        version_1
            .chain(version_2)
            .chain(Self::of_convolutional_networks())
            .chain([Op::ConstantTokens])
            .chain(int8_attention)
    }

    /// Those of version 3, and of version 4.
    fn of_convolutional_networks() -> impl Iterator<Item = Op> {
        let residuals = [Residual::None, Residual::Add];
        let types = Element::ALL.into_iter().flat_map(move |x| {
            let of_x = move |y| residuals.map(|residual| (x, residual, y));
            Element::ALL.into_iter().flat_map(of_x)
        });
        let kinds = [Storage::Float, Storage::Int8].into_iter();
        let kinds = kinds.flat_map(move |storage| {
            types.clone().map(move |(x, residual, y)| Convolution {
                storage,
                x,
                residual,
                activation: None,
                y,
            })
        });
        let kinds = kinds.filter(|kind| kind.storage == Storage::Int8 || !kind.has_bytes());
        let convolutions = kinds.flat_map(|kind| {
            let activations = ConvolutionActivation::ALL.map(Some);
            let all = [None].into_iter().chain(activations);
            all.map(move |activation| Op::Convolution(Convolution { activation, ..kind }))
        });
        let last = ChannelOrder::Last;
        [
            Op::NormalizePixels(last),
            Op::AffineConvolution(Range::Static, last),
            Op::AffineConvolution(Range::Dynamic, last),
        ]
        .into_iter()
        .chain(convolutions)
    }

    /// A linear layer or convolution with another activation function; `None` for what is neither, or adds a residual last.
    pub fn with_activation(self, activation: Option<Activation>) -> Option<Op> {
        match self {
            Op::Linear(linear) if linear.residual == Residual::None => Some(Op::Linear(Linear {
                activation,
                ..linear
            })),
            Op::AffineLinear(range, _) => Some(Op::AffineLinear(range, activation)),
            Op::Convolution(convolution) => Some(Op::Convolution(Convolution {
                activation: activation.map(ConvolutionActivation::Mlp),
                ..convolution
            })),
            _ => None,
        }
    }

    /// The first version of the domain that has it.
    pub const fn since(self) -> i64 {
        match self {
            Op::Linear(Linear {
                activation: Some(Activation::GeluTanh),
                ..
            }) => 2,
            Op::Linear(Linear {
                input: LinearInput::Offset,
                residual: Residual::None,
                ..
            }) => 2,
            Op::Attention(_, AttentionScores::Int8) => 4,
            Op::Attention(AttentionInput::Columns, _) => 2,
            Op::PatchEmbedding(_)
            | Op::TokenEmbedding
            | Op::LayerNorm
            | Op::Linear(_)
            | Op::Attention(..)
            | Op::L2Normalize => 1,
            Op::Activate(_)
            | Op::NormalizePixels(ChannelOrder::First)
            | Op::FakeQuantize(_)
            | Op::QuantizedTable
            | Op::AffineLinear(..)
            | Op::AffineConvolution(_, ChannelOrder::First) => 2,
            Op::Convolution(convolution) if convolution.has_bytes() => 4,
            Op::NormalizePixels(ChannelOrder::Last)
            | Op::AffineConvolution(_, ChannelOrder::Last)
            | Op::Convolution(_)
            | Op::ConstantTokens => 3,
        }
    }

    /// The function called `name`.
    pub fn named(name: &str) -> Option<Op> {
        // There are some hundred, and every node of a graph is looked up several times.
        static NAMED: LazyLock<HashMap<String, Op>> =
            LazyLock::new(|| Op::all().map(|op| (op.name(), op)).collect());
        NAMED.get(name).copied()
    }

    /// Its op_type.
    pub fn name(self) -> String {
        match self {
            Op::PatchEmbedding(storage) => format!("{}PatchEmbedding", storage.prefix()),
            Op::TokenEmbedding => "TokenEmbedding".into(),
            Op::ConstantTokens => "ConstantTokens".into(),
            Op::LayerNorm => "LayerNorm".into(),
            Op::Linear(linear) => {
                let input = match linear.input {
                    LinearInput::Plain => "",
                    LinearInput::LayerNorm => "LayerNorm",
                    LinearInput::Offset => "Offset",
                };
                let activation = linear.activation.map_or("", activation_name);
                let residual = linear.residual.name();
                let storage = linear.storage.prefix();
                format!("{input}{storage}Linear{activation}{residual}")
            }
            Op::Attention(input, scores) => {
                let scores = match scores {
                    AttentionScores::Exact => "",
                    AttentionScores::Int8 => "Int8",
                    AttentionScores::Quantized => "Quantized",
                };
                let input = match input {
                    AttentionInput::QueryKeyValue => "",
                    AttentionInput::Joint => "Self",
                    AttentionInput::Columns => "Column",
                };
                format!("{scores}{input}Attention")
            }
            Op::L2Normalize => "L2Normalize".into(),
            Op::Activate(activation) => format!("Activate{}", activation_name(activation)),
            Op::NormalizePixels(ChannelOrder::First) => "NormalizePixels".into(),
            Op::NormalizePixels(ChannelOrder::Last) => "NormalizePixelsChannelsLast".into(),
            Op::Convolution(convolution) => {
                let x = match convolution.x {
                    Element::F32 => "",
                    Element::U8 => "U8",
                };
                let storage = convolution.storage.prefix();
                let residual = convolution.residual.name();
                let activation = convolution
                    .activation
                    .map_or("", ConvolutionActivation::name);
                let y = match convolution.y {
                    Element::F32 => "",
                    Element::U8 => "ToU8",
                };
                format!("{x}{storage}Convolution{residual}{activation}{y}")
            }
            Op::FakeQuantize(range) => format!("{}FakeQuantize", range.prefix()),
            Op::QuantizedTable => "QuantizedTable".into(),
            Op::AffineLinear(range, activation) => {
                let activation = activation.map_or("", activation_name);
                format!("{}AffineLinear{activation}", range.prefix())
            }
            Op::AffineConvolution(range, order) => {
                let order = match order {
                    ChannelOrder::First => "",
                    ChannelOrder::Last => "ChannelsLast",
                };
                format!("{}AffineConvolution{order}", range.prefix())
            }
        }
    }

    /// Inputs that are computed.
    pub const fn inputs(self) -> &'static [&'static str] {
        match self {
            Op::PatchEmbedding(_) | Op::NormalizePixels(_) => &["pixels"],
            Op::TokenEmbedding => &["patches"],
            Op::ConstantTokens
            | Op::LayerNorm
            | Op::L2Normalize
            | Op::Activate(_)
            | Op::FakeQuantize(_)
            | Op::QuantizedTable
            | Op::AffineLinear(..)
            | Op::AffineConvolution(..) => &["x"],
            Op::Linear(linear) => linear.residual.inputs(),
            Op::Convolution(convolution) => convolution.residual.inputs(),
            Op::Attention(AttentionInput::QueryKeyValue, _) => &["query", "key_value"],
            Op::Attention(AttentionInput::Joint, _) => &["query_key_value"],
            Op::Attention(AttentionInput::Columns, _) => &["query", "key", "value"],
        }
    }

    /// Inputs that are initialisers, each used by one node only; they follow [`Op::inputs`].
    pub const fn parameters(self) -> &'static [&'static str] {
        match self {
            Op::TokenEmbedding => &["class_embedding", "positions"],
            Op::ConstantTokens => &["tokens"],
            Op::LayerNorm => &["gain", "bias"],
            Op::PatchEmbedding(storage) => storage.parameters(),
            Op::Linear(linear) => match (linear.input, linear.storage) {
                (LinearInput::LayerNorm, Storage::Float) => &["gain", "shift", "weight", "bias"],
                (LinearInput::LayerNorm, Storage::Int8) => {
                    &["gain", "shift", "weight", "scale", "bias"]
                }
                (_, storage) => storage.parameters(),
            },
            Op::NormalizePixels(_) => &["scale", "offset"],
            Op::Convolution(convolution) => convolution.parameters(),
            Op::FakeQuantize(Range::Static) => &["x_scale", "x_zero_point"],
            Op::QuantizedTable => &["x_scale", "x_zero_point", "values"],
            Op::AffineLinear(Range::Static, _) | Op::AffineConvolution(Range::Static, _) => &[
                "x_scale",
                "x_zero_point",
                "weight",
                "scale",
                "zero_point",
                "bias",
            ],
            Op::AffineLinear(Range::Dynamic, _) | Op::AffineConvolution(Range::Dynamic, _) => {
                &["weight", "scale", "zero_point", "bias"]
            }
            Op::Attention(_, AttentionScores::Quantized) => &[
                "scores_scale",
                "scores_zero_point",
                "scores_values",
                "shares_scale",
                "shares_zero_point",
            ],
            Op::Attention(..)
            | Op::L2Normalize
            | Op::Activate(_)
            | Op::FakeQuantize(Range::Dynamic) => &[],
        }
    }

    /// Attributes, all required.
    pub const fn attributes(self) -> &'static [&'static str] {
        match self {
            Op::PatchEmbedding(Storage::Float) => &["patch", "grid", "scale"],
            Op::PatchEmbedding(Storage::Int8) => &["patch", "grid"],
            Op::ConstantTokens => &["kept"],
            Op::LayerNorm => &["epsilon"],
            Op::Linear(linear) => match linear.input {
                LinearInput::Plain => &[],
                LinearInput::LayerNorm => &["epsilon"],
                LinearInput::Offset => &["offset"],
            },
            Op::Attention(AttentionInput::Columns, _) => &[
                "heads",
                "width",
                "query_column",
                "key_column",
                "value_column",
                "scale",
            ],
            Op::Attention(..) => &["heads"],
            Op::AffineConvolution(..) | Op::Convolution(_) => {
                &["strides", "pads", "dilations", "group"]
            }
            Op::TokenEmbedding
            | Op::L2Normalize
            | Op::Activate(_)
            | Op::NormalizePixels(_)
            | Op::FakeQuantize(_)
            | Op::QuantizedTable
            | Op::AffineLinear(..) => &[],
        }
    }
}

impl Storage {
    const fn prefix(self) -> &'static str {
        match self {
            Storage::Float => "",
            Storage::Int8 => "Quantized",
        }
    }

    const fn parameters(self) -> &'static [&'static str] {
        match self {
            Storage::Float => &["weight", "bias"],
            Storage::Int8 => &["weight", "scale", "bias"],
        }
    }
}

impl Range {
    const fn prefix(self) -> &'static str {
        match self {
            Range::Static => "",
            Range::Dynamic => "Dynamic",
        }
    }
}

const fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::QuickGelu => "QuickGelu",
        Activation::Gelu => "Gelu",
        Activation::GeluTanh => "GeluTanh",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bundles that exist contain these names.
    #[test]
    fn the_functions_of_version_1_keep_their_names() {
        let first = Op::all().filter(|op| op.since() == 1);
        let names: Vec<String> = first.map(Op::name).collect();
        let expected = "PatchEmbedding QuantizedPatchEmbedding TokenEmbedding LayerNorm Linear LinearQuickGelu \
                        LinearGelu LinearAdd QuantizedLinear QuantizedLinearQuickGelu QuantizedLinearGelu \
                        QuantizedLinearAdd OffsetQuantizedLinearAdd LayerNormQuantizedLinear \
                        LayerNormQuantizedLinearQuickGelu LayerNormQuantizedLinearGelu Attention SelfAttention \
                        L2Normalize";
        assert_eq!(names.join(" "), expected);
        for op in Op::all() {
            assert!((1..=DOMAIN_VERSION).contains(&op.since()));
            assert_eq!(Op::named(&op.name()), Some(op));
        }
        assert_eq!(Op::named("LinearGeluAdd"), None);
        let newer = Op::named("LayerNormQuantizedLinearGeluTanh");
        assert_eq!(newer.map(Op::since), Some(2));
        let newest = Op::named("QuantizedConvolutionAddRelu");
        assert_eq!(newest.map(Op::since), Some(3));
        let newest = Op::named("U8QuantizedConvolutionAddReluToU8");
        assert_eq!(newest.map(Op::since), Some(4));
        assert_eq!(Op::named("U8Convolution"), None);
        let newest = Op::named("Int8ColumnAttention");
        assert_eq!(newest.map(Op::since), Some(4));
    }
}
