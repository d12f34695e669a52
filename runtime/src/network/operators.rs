//! Our operators inside tract's plan: one for each function of the dialect.

use std::fmt;
use std::sync::Arc;

use super::affine;
use pinhole_bundle::dialect;
use pinhole_kernels::{
    self as kernels, Activation, Before, Input, PackedLinear, PackedLinearInt8, Rows,
};
use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::{NodeProto, TensorProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// Makes tract build our operator for each function.
pub(super) fn register(onnx: &mut Onnx) {
    affine::register(onnx);
    let register = &mut onnx.op_register;
    register.insert(dialect::PATCH_EMBEDDING.name, patch_embedding);
    register.insert(
        dialect::QUANTIZED_PATCH_EMBEDDING.name,
        quantized_patch_embedding,
    );
    register.insert(dialect::TOKEN_EMBEDDING.name, token_embedding);
    register.insert(dialect::LAYER_NORM.name, layer_norm);
    for function in [
        dialect::LINEAR,
        dialect::LINEAR_QUICK_GELU,
        dialect::LINEAR_GELU,
        dialect::LINEAR_ADD,
    ] {
        register.insert(function.name, linear);
    }
    for function in [
        dialect::QUANTIZED_LINEAR,
        dialect::QUANTIZED_LINEAR_QUICK_GELU,
        dialect::QUANTIZED_LINEAR_GELU,
        dialect::QUANTIZED_LINEAR_ADD,
        dialect::LAYER_NORM_QUANTIZED_LINEAR,
        dialect::LAYER_NORM_QUANTIZED_LINEAR_QUICK_GELU,
        dialect::LAYER_NORM_QUANTIZED_LINEAR_GELU,
    ] {
        register.insert(function.name, quantized_linear);
    }
    register.insert(dialect::ATTENTION.name, attention);
    register.insert(dialect::SELF_ATTENTION.name, attention);
    register.insert(dialect::L2_NORMALIZE.name, |_, _| {
        operator("L2Normalize", L2Normalize)
    });
}

/// What an operator computes; [`Operator`] makes a tract operator of it.
pub(super) trait Compute: fmt::Debug + Send + Sync + 'static {
    /// The output's shape.
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>>;
    /// Fills `output`, whose shape is [`Compute::shape`]'s.
    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()>;
}

/// A tract operator with one f32 output around a [`Compute`].
#[derive(Clone, Debug)]
struct Operator {
    name: &'static str,
    compute: Arc<dyn Compute>,
}

impl PartialEq for Operator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.compute, &other.compute)
    }
}

impl Eq for Operator {}

impl Op for Operator {
    fn name(&self) -> StaticName {
        self.name.into()
    }

    op_as_typed_op!();
}

impl EvalOp for Operator {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shapes: TVec<&[usize]> = inputs.iter().map(|i| i.shape()).collect();
        let mut output = Tensor::zero::<f32>(&self.compute.shape(&shapes)?)?;
        self.compute.run(
            &inputs,
            output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
        )?;
        Ok(tvec![output.into()])
    }
}

impl TypedOp for Operator {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shapes = inputs
            .iter()
            .map(|f| {
                f.shape
                    .as_concrete()
                    .with_context(|| format!("{}: the shape {:?} is not fixed", self.name, f.shape))
            })
            .collect::<TractResult<TVec<&[usize]>>>()?;
        Ok(tvec![f32::fact(self.compute.shape(&shapes)?)])
    }

    as_op!();
}

/// tract infers shapes on its typed graph, where [`Operator::output_facts`] gives them; before that
/// only the type is known.
pub(super) fn operator(
    name: &'static str,
    compute: impl Compute,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let operator = Operator {
        name,
        compute: Arc::new(compute),
    };
    let rules =
        |_: &dyn Op,
         solver: &mut Solver,
         _: &[TensorProxy],
         outputs: &[TensorProxy]|
         -> InferenceResult { solver.equals(&outputs[0].datum_type, f32::datum_type()) };
    Ok((inference_wrap(operator, 1, rules), vec![]))
}

pub(super) fn attribute_tensor<'a>(
    node: &'a NodeProto,
    name: &str,
) -> TractResult<&'a TensorProto> {
    let mut attributes = node.attribute.iter();
    attributes
        .find(|a| a.name == name)
        .and_then(|a| a.t.as_ref())
        .with_context(|| format!("{name}: expected an initializer, found none"))
}

/// A parameter of `node` as f32 with its shape: an attribute, put there before parsing.
pub(super) fn parameter(
    context: &ParsingContext,
    node: &NodeProto,
    name: &str,
    rank: usize,
) -> TractResult<(Vec<f32>, Vec<usize>)> {
    let proto = attribute_tensor(node, name)?;
    let tensor = context.load_tensor(proto)?;
    ensure!(
        tensor.rank() == rank,
        "{name}: expected {rank} dimensions, found {:?}",
        tensor.shape()
    );
    let shape = tensor.shape().to_vec();
    let tensor = tensor.cast_to_dt(f32::datum_type())?.into_owned();
    let data = tensor.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
    ensure!(
        data.iter().all(|v| v.is_finite()),
        "{}: {name}: expected finite weights, found NaN or infinity",
        proto.name
    );
    Ok((data, shape))
}

/// A whole-number attribute, given as one int or a list of one.
fn positive(node: &NodeProto, name: &str) -> TractResult<usize> {
    let attribute = node
        .attribute
        .iter()
        .find(|a| a.name == name)
        .with_context(|| format!("{name}: missing"))?;
    let value = attribute.ints.first().copied().unwrap_or(attribute.i);
    ensure!(
        (1..=1 << 16).contains(&value),
        "{name}: expected 1 to 65536, found {value}"
    );
    Ok(value as usize)
}

fn float(node: &NodeProto, name: &str) -> TractResult<f32> {
    let attribute = node
        .attribute
        .iter()
        .find(|a| a.name == name)
        .with_context(|| format!("{name}: missing"))?;
    ensure!(
        attribute.f.is_finite() && attribute.f > 0.0,
        "{name}: expected a number above 0, found {}",
        attribute.f
    );
    Ok(attribute.f)
}

pub(super) fn plain(value: &TValue) -> TractResult<&[f32]> {
    value.try_as_plain_ram()?.as_slice::<f32>()
}

/// weight `[K, M]` and bias `[M]` packed; every weight is multiplied by `scale`.
fn pack(context: &ParsingContext, node: &NodeProto, scale: f32) -> TractResult<PackedLinear> {
    let (mut weight, shape) = parameter(context, node, "weight", 2)?;
    let (bias, bias_shape) = parameter(context, node, "bias", 1)?;
    ensure!(
        bias_shape[0] == shape[1],
        "bias: expected [{}], found {bias_shape:?}",
        shape[1]
    );
    if scale != 1.0 {
        weight.iter_mut().for_each(|w| *w *= scale);
    }
    Ok(PackedLinear::from_in_out(
        &weight,
        shape[0],
        shape[1],
        Some(&bias),
    ))
}

/// The dialect's name of a node's function.
fn name(node: &NodeProto) -> &'static str {
    let mut names = dialect::FUNCTIONS.iter().map(|f| f.name);
    names.find(|n| *n == node.op_type).unwrap_or("Linear")
}

/// The element-wise function in a linear function's name.
fn activation(node: &NodeProto) -> Activation {
    if node.op_type.ends_with("QuickGelu") {
        Activation::QuickGelu
    } else if node.op_type.ends_with("Gelu") {
        Activation::Gelu
    } else {
        Activation::None
    }
}

#[derive(Debug)]
struct Linear {
    weights: PackedLinear,
    activation: Activation,
}

fn linear(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    operator(
        name(node),
        Linear {
            weights: pack(context, node, 1.0)?,
            activation: activation(node),
        },
    )
}

impl Compute for Linear {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        linear_shape(inputs, self.weights.inputs(), self.weights.outputs())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let x = plain(&inputs[0])?;
        let residual = inputs.get(1).map(plain).transpose()?;
        self.weights.apply(
            x,
            x.len() / self.weights.inputs(),
            self.activation,
            residual,
            output,
        );
        Ok(())
    }
}

/// The shape of a linear layer's output.
pub(super) fn linear_shape(
    inputs: &[&[usize]],
    width: usize,
    outputs: usize,
) -> TractResult<TVec<usize>> {
    let mut shape: TVec<usize> = inputs[0].into();
    let last = shape
        .last_mut()
        .context("x: expected at least one dimension, found a scalar")?;
    ensure!(*last == width, "x: expected width {width}, found {last}");
    *last = outputs;
    if let Some(residual) = inputs.get(1) {
        ensure!(
            **residual == *shape,
            "residual: expected {shape:?}, found {residual:?}"
        );
    }
    Ok(shape)
}

struct QuantizedLinear {
    weights: PackedLinearInt8,
    /// Before the rows are quantised.
    norm: Option<LayerNorm>,
    activation: Activation,
}

impl fmt::Debug for QuantizedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuantizedLinear").finish_non_exhaustive()
    }
}

/// weight s8 `[K, M]`, scale `[M]` and bias `[M]` packed.
fn pack_quantized(context: &ParsingContext, node: &NodeProto) -> TractResult<PackedLinearInt8> {
    let proto = attribute_tensor(node, "weight")?;
    let tensor = context.load_tensor(proto)?;
    ensure!(
        tensor.rank() == 2 && tensor.datum_type() == i8::datum_type(),
        "weight: expected int8 [K, M], found {:?} {:?}",
        tensor.datum_type(),
        tensor.shape()
    );
    let (inputs, outputs) = (tensor.shape()[0], tensor.shape()[1]);
    let (scale, scale_shape) = parameter(context, node, "scale", 1)?;
    let (bias, bias_shape) = parameter(context, node, "bias", 1)?;
    for (name, shape) in [("scale", scale_shape), ("bias", bias_shape)] {
        ensure!(
            shape[0] == outputs,
            "{name}: expected [{outputs}], found {shape:?}"
        );
    }
    let weight = tensor.try_as_plain_ram()?.as_slice::<i8>()?;
    PackedLinearInt8::from_in_out(weight, &scale, inputs, outputs, Some(&bias))
        .map_err(|e| format_err!("{}: {e}", proto.name))
}

fn quantized_linear(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let weights = pack_quantized(context, node)?;
    let norm = match node.op_type.starts_with("LayerNorm") {
        true => Some(LayerNorm::read(context, node, "shift")?),
        false => None,
    };
    if let Some(norm) = &norm {
        ensure!(
            norm.gain.len() == weights.inputs(),
            "gain: expected [{}], found [{}]",
            weights.inputs(),
            norm.gain.len()
        );
    }
    operator(
        name(node),
        QuantizedLinear {
            weights,
            norm,
            activation: activation(node),
        },
    )
}

impl Compute for QuantizedLinear {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        linear_shape(inputs, self.weights.inputs(), self.weights.outputs())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let x = plain(&inputs[0])?;
        let residual = inputs.get(1).map(plain).transpose()?;
        let rows = x.len() / self.weights.inputs();
        let before = match &self.norm {
            None => Before::Nothing,
            Some(norm) => Before::LayerNorm {
                gain: &norm.gain,
                bias: &norm.bias,
                epsilon: norm.epsilon,
            },
        };
        let x = Input::F32 { x, before };
        (self.weights).apply(x, rows, self.activation, residual, output);
        Ok(())
    }
}

#[derive(Debug)]
struct PatchEmbedding {
    weights: PatchWeights,
    /// Side of a patch in pixels.
    patch: usize,
}

#[derive(Debug)]
enum PatchWeights {
    F32(PackedLinear),
    Int8(PackedLinearInt8),
}

fn patch_embedding(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let weights = pack(context, node, float(node, "scale")?)?;
    let inputs = weights.inputs();
    patches(node, PatchWeights::F32(weights), inputs)
}

fn quantized_patch_embedding(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let weights = pack_quantized(context, node)?;
    let inputs = weights.inputs();
    patches(node, PatchWeights::Int8(weights), inputs)
}

fn patches(
    node: &NodeProto,
    weights: PatchWeights,
    inputs: usize,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let patch = positive(node, "patch")?;
    let expected = patch * patch * 3;
    ensure!(
        inputs == expected,
        "weight: expected {expected} rows for patch {patch}, found {inputs}"
    );
    operator(name(node), PatchEmbedding { weights, patch })
}

impl Compute for PatchEmbedding {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[n, height, width, 3] = inputs[0] else {
            bail!("pixels: expected [N, S, S, 3], found {:?}", inputs[0]);
        };
        let p = self.patch;
        ensure!(
            height % p == 0 && width % p == 0,
            "pixels: expected sides divisible by {p}, found {height} x {width}"
        );
        let outputs = match &self.weights {
            PatchWeights::F32(weights) => weights.outputs(),
            PatchWeights::Int8(weights) => weights.outputs(),
        };
        Ok(tvec![n, (height / p) * (width / p), outputs])
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[_, height, width, _] = inputs[0].shape() else {
            bail!("pixels: expected 4 dimensions")
        };
        let (h, w, p) = (height, width, self.patch);
        let pixels = inputs[0].try_as_plain_ram()?.as_slice::<u8>()?;
        let images = pixels.chunks_exact(h * w * 3);
        let per_image = output.len() / images.len().max(1);
        for (image, out) in images.zip(output.chunks_exact_mut(per_image.max(1))) {
            match &self.weights {
                PatchWeights::F32(weights) => {
                    kernels::patch_embedding(image, h, w, p, weights, out)
                }
                PatchWeights::Int8(weights) => {
                    kernels::patch_embedding_int8(image, h, w, p, weights, 1.0, out);
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct TokenEmbedding {
    class_embedding: Vec<f32>,
    /// `[P, W]`
    positions: Vec<f32>,
}

fn token_embedding(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let (class_embedding, class_shape) = parameter(context, node, "class_embedding", 2)?;
    let (positions, shape) = parameter(context, node, "positions", 2)?;
    ensure!(
        class_shape == [1, shape[1]],
        "class_embedding: expected [1, {}], found {class_shape:?}",
        shape[1]
    );
    operator(
        "TokenEmbedding",
        TokenEmbedding {
            class_embedding,
            positions,
        },
    )
}

impl Compute for TokenEmbedding {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let width = self.class_embedding.len();
        let patches = self.positions.len() / width;
        let &[n, p, w] = inputs[0] else {
            bail!("patches: expected [N, P, W], found {:?}", inputs[0])
        };
        ensure!(
            p == patches && w == width,
            "patches: expected [N, {patches}, {width}], found {:?}",
            inputs[0]
        );
        Ok(tvec![n, patches + 1, width])
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let per_image = self.positions.len();
        let images = plain(&inputs[0])?.chunks_exact(per_image);
        for (image, out) in
            images.zip(output.chunks_exact_mut(per_image + self.class_embedding.len()))
        {
            let (class, rest) = out.split_at_mut(self.class_embedding.len());
            class.copy_from_slice(&self.class_embedding);
            for ((out, patch), position) in rest.iter_mut().zip(image).zip(&self.positions) {
                *out = patch + position;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct LayerNorm {
    gain: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

fn layer_norm(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    operator("LayerNorm", LayerNorm::read(context, node, "bias")?)
}

impl LayerNorm {
    /// `bias` is the bias's name in the node's function.
    fn read(context: &ParsingContext, node: &NodeProto, bias: &str) -> TractResult<Self> {
        let (gain, shape) = parameter(context, node, "gain", 1)?;
        let (values, found) = parameter(context, node, bias, 1)?;
        ensure!(
            shape == found,
            "{bias}: expected {shape:?}, found {found:?}"
        );
        Ok(LayerNorm {
            gain,
            bias: values,
            epsilon: float(node, "epsilon")?,
        })
    }
}

impl Compute for LayerNorm {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        ensure!(
            inputs[0].last() == Some(&self.gain.len()),
            "x: expected width {}, found {:?}",
            self.gain.len(),
            inputs[0]
        );
        Ok(inputs[0].into())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        kernels::layer_norm(
            plain(&inputs[0])?,
            self.gain.len(),
            &self.gain,
            &self.bias,
            self.epsilon,
            output,
        );
        Ok(())
    }
}

/// Of `query` to `key_value`, or of one input that holds all three.
#[derive(Debug)]
struct Attention {
    heads: usize,
}

fn attention(
    _: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let heads = positive(node, "heads")?;
    operator(name(node), Attention { heads })
}

impl Compute for Attention {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let heads = self.heads;
        match *inputs {
            [&[n, t, joint]] => {
                ensure!(
                    joint % (3 * heads) == 0,
                    "expected [N, T, 3W] with {heads} heads, found {:?}",
                    inputs[0]
                );
                Ok(tvec![n, t, joint / 3])
            }
            [&[n, t, width], &[m, _, both]] => {
                ensure!(
                    n == m && both == 2 * width && width % heads == 0,
                    "expected [N, T, W] and [N, U, 2W] with {heads} heads, found {inputs:?}"
                );
                Ok(tvec![n, t, width])
            }
            _ => bail!("expected values of 3 dimensions, found {inputs:?}"),
        }
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[.., tq, columns] = inputs[0].shape() else {
            bail!("expected 3 dimensions");
        };
        // The keys' and values' rows, and where in a row the keys begin.
        let (keys, first) = match inputs.len() {
            1 => (&inputs[0], columns / 3),
            _ => (&inputs[1], 0),
        };
        let &[.., tk, stride] = keys.shape() else {
            bail!("expected 3 dimensions");
        };
        let width = (stride - first) / 2;
        let queries = plain(&inputs[0])?.chunks_exact(tq * columns);
        let keys = plain(keys)?.chunks_exact(tk * stride);
        let outs = output.chunks_exact_mut(tq * width);
        for ((query, key), out) in queries.zip(keys).zip(outs) {
            let rows = |data, stride| Rows { data, stride };
            kernels::attention(
                rows(query, columns),
                tq,
                rows(&key[first..], stride),
                rows(&key[first + width..], stride),
                tk,
                self.heads,
                width / self.heads,
                false,
                1.0,
                out,
            );
        }
        Ok(())
    }
}

#[derive(Debug)]
struct L2Normalize;

impl Compute for L2Normalize {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        ensure!(
            inputs[0].last().is_some_and(|&w| w > 0),
            "x: expected a width, found {:?}",
            inputs[0]
        );
        Ok(inputs[0].into())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        output.copy_from_slice(plain(&inputs[0])?);
        let width = inputs[0].shape().last().copied().unwrap_or(1);
        output
            .chunks_exact_mut(width)
            .for_each(kernels::l2_normalize);
        Ok(())
    }
}
