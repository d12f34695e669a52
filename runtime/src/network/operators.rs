//! Our operators inside tract's plan: one for each function of the dialect.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use half::f16;
use half::slice::HalfFloatSliceExt;
use pinhole_bundle::dialect;
use pinhole_kernels::{
    self as kernels, Int8Input, PackedLinear, PackedLinearF16, PackedLinearInt8, Pointwise,
    Prologue, StridedRows,
};
use pinhole_model::Activation;
use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::{NodeProto, TensorProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::{affine, initializer};

thread_local! {
    /// A weight's memory, for the next one while a network is built on this thread. Memory that is freed and asked
    /// for again would be touched anew each time, or leave holes between the packed weights.
    static SPARE: RefCell<Vec<i8>> = const { RefCell::new(Vec::new()) };
}

/// Frees what the building of a network on this thread has kept.
pub(super) fn free_spare() {
    SPARE.take();
}

/// Makes tract build our operator for each function. If `f16`, weights that are stored in f16 are multiplied in
/// f16; otherwise they are widened to f32.
pub(super) fn register(onnx: &mut Onnx, f16: bool) {
    affine::register(onnx);
    let register = &mut onnx.op_register;
    // tract takes functions without a state.
    let (patch_embedding, linear) = match f16 {
        true => (patch_embedding::<true> as Build, linear::<true> as Build),
        false => (patch_embedding::<false> as Build, linear::<false> as Build),
    };
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
        dialect::OFFSET_QUANTIZED_LINEAR_ADD,
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

type Build = fn(&ParsingContext, &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// What an operator computes; [`Operator`] makes a tract operator of it.
pub(super) trait Compute: fmt::Debug + Send + Sync + 'static {
    /// The output's shape.
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>>;
    /// Fills `output`, whose shape is [`Compute::shape`]'s.
    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()>;
    /// What it computes in and on which kernel: "int8 dotprod", say.
    fn kernel(&self) -> String {
        format!("f32 {}", kernels::chosen_f32())
    }
    /// If each value of the output depends on that of the input alone: how.
    fn pointwise(&self) -> Option<Pointwise> {
        None
    }
}

/// The kernel of one of the plan's operators, if it is ours.
pub(super) fn kernel(operator: &dyn TypedOp) -> Option<String> {
    let operator = operator.downcast_ref::<Operator>()?;
    Some(operator.compute.kernel())
}

/// What one of the plan's operators does to each value apart, if it is ours and does nothing else.
pub(super) fn pointwise(operator: &dyn TypedOp) -> Option<Pointwise> {
    operator.downcast_ref::<Operator>()?.compute.pointwise()
}

/// A tract operator with one f32 output around a [`Compute`].
#[derive(Clone, Debug)]
struct Operator {
    name: &'static str,
    compute: Arc<dyn Compute>,
    outputs: Arc<Outputs>,
    /// The output's, if it is another than [`Compute::shape`]; its values are the same, in the same order.
    shape: Option<TVec<usize>>,
}

impl Operator {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let shape = self.compute.shape(inputs)?;
        let Some(other) = &self.shape else {
            return Ok(shape);
        };
        ensure!(
            shape.iter().product::<usize>() == other.iter().product::<usize>(),
            "{}: expected {other:?}, found {shape:?}",
            self.name
        );
        Ok(other.clone())
    }
}

/// Outputs for use again: after the first images no operator asks for memory or has it zeroed.
#[derive(Debug, Default)]
struct Outputs(Mutex<Vec<Arc<Tensor>>>);

impl Outputs {
    /// Runs `fill` on an f32 tensor of `shape` whose content is arbitrary, and gives it back.
    fn fill(
        &self,
        shape: &[usize],
        fill: impl FnOnce(&mut [f32]) -> TractResult<()>,
    ) -> TractResult<Arc<Tensor>> {
        let lock = || self.0.lock().unwrap_or_else(|e| e.into_inner());
        let mut outputs = lock();
        // Nobody else holds it: tract drops an output after its last use.
        let free = outputs
            .iter()
            .position(|o| Arc::strong_count(o) == 1 && o.shape() == shape);
        let free = free.map(|i| outputs.swap_remove(i));
        drop(outputs);
        let mut output = match free {
            Some(output) => output,
            None => Arc::new(Tensor::zero::<f32>(shape)?),
        };
        let tensor = Arc::get_mut(&mut output).context("an output is still in use")?;
        fill(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
        lock().push(Arc::clone(&output));
        Ok(output)
    }
}

/// Makes the operators of `model` that are ours share their outputs' memory.
pub(super) fn share_outputs(model: &mut TypedModel) {
    let outputs = Arc::new(Outputs::default());
    for node in model.nodes_mut() {
        if let Some(operator) = node.op_as_mut::<Operator>() {
            operator.outputs = Arc::clone(&outputs);
        }
    }
}

impl PartialEq for Operator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.compute, &other.compute) && self.shape == other.shape
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
        let shape = self.shape(&shapes)?;
        let run = |output: &mut [f32]| self.compute.run(&inputs, output);
        Ok(tvec![TValue::from_const(self.outputs.fill(&shape, run)?)])
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
        Ok(tvec![f32::fact(self.shape(&shapes)?)])
    }

    as_op!();
}

/// For tract's typed graph.
pub(super) fn typed(name: &'static str, compute: impl Compute) -> Box<dyn TypedOp> {
    Box::new(Operator {
        name,
        compute: Arc::new(compute),
        outputs: Arc::default(),
        shape: None,
    })
}

/// `operator`, which is ours, with its output in the shape `shape`, its values in the same order.
pub(super) fn reshaped(operator: &dyn TypedOp, shape: &[usize]) -> Option<Box<dyn TypedOp>> {
    let mut operator = operator.downcast_ref::<Operator>()?.clone();
    operator.shape = Some(shape.into());
    Some(Box::new(operator))
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
        outputs: Arc::default(),
        shape: None,
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

/// Where external data lies.
pub(super) fn folder<'a>(context: &ParsingContext<'a>) -> &'a Path {
    Path::new(context.model_dir.unwrap_or("."))
}

/// The shape of `tensor`, whose dimensions have been checked; `name` is its role.
pub(super) fn shape(tensor: &TensorProto, name: &str, rank: usize) -> TractResult<Vec<usize>> {
    ensure!(
        tensor.dims.len() == rank,
        "{name}: expected {rank} dimensions, found {:?}",
        tensor.dims
    );
    Ok(tensor.dims.iter().map(|&d| d as usize).collect())
}

/// A parameter of `node` as f32 with its shape: an attribute, put there before parsing.
pub(super) fn parameter(
    context: &ParsingContext,
    node: &NodeProto,
    name: &str,
    rank: usize,
) -> TractResult<(Vec<f32>, Vec<usize>)> {
    let proto = attribute_tensor(node, name)?;
    let shape = shape(proto, name, rank)?;
    let data = initializer::floats(proto, folder(context))
        .with_context(|| format!("{name}: {}", proto.name))?;
    // By chunks, which are looked at in vectors.
    let finite = |values: &[f32]| values.iter().fold(true, |all, v| all & v.is_finite());
    ensure!(
        data.chunks(1024).all(finite),
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

/// Whether an operator of a plan is one of the dialect's.
pub(super) fn is_ours(op: &dyn Op) -> bool {
    op.downcast_ref::<Operator>().is_some()
}

pub(super) fn plain(value: &TValue) -> TractResult<&[f32]> {
    value.try_as_plain_ram()?.as_slice::<f32>()
}

/// Weights in floating point: in f16 if they are both stored and multiplied so, else in f32.
#[derive(Debug)]
enum Weights {
    F32(PackedLinear),
    F16(PackedLinearF16),
}

impl Weights {
    fn kernel(&self) -> String {
        match self {
            Weights::F32(weights) => format!("f32 {}", weights.kernel()),
            Weights::F16(weights) => format!("f16 {}", weights.kernel()),
        }
    }

    fn inputs(&self) -> usize {
        match self {
            Weights::F32(weights) => weights.inputs(),
            Weights::F16(weights) => weights.inputs(),
        }
    }

    fn outputs(&self) -> usize {
        match self {
            Weights::F32(weights) => weights.outputs(),
            Weights::F16(weights) => weights.outputs(),
        }
    }
}

/// weight `[K, M]` and bias `[M]` packed; in f32 every weight is multiplied by `scale`.
fn pack<const F16: bool>(
    context: &ParsingContext,
    node: &NodeProto,
    scale: f32,
) -> TractResult<Weights> {
    let (bias, bias_shape) = parameter(context, node, "bias", 1)?;
    let fits = |shape: &[usize]| {
        ensure!(
            bias_shape[0] == shape[1],
            "bias: expected [{}], found {bias_shape:?}",
            shape[1]
        );
        Ok(())
    };
    if F16 {
        let proto = attribute_tensor(node, "weight")?;
        let tensor = context.load_tensor(proto)?;
        if tensor.datum_type() == f16::datum_type() {
            let &[inputs, outputs] = tensor.shape() else {
                bail!("weight: expected 2 dimensions, found {:?}", tensor.shape());
            };
            fits(tensor.shape())?;
            let bits = tensor.try_as_plain_ram()?.as_slice::<f16>()?;
            return PackedLinearF16::from_in_out(
                bits.reinterpret_cast(),
                inputs,
                outputs,
                Some(&bias),
            )
            .map(Weights::F16)
            .map_err(|e| format_err!("{}: {e}", proto.name));
        }
    }
    let (mut weight, shape) = parameter(context, node, "weight", 2)?;
    fits(&shape)?;
    if scale != 1.0 {
        weight.iter_mut().for_each(|w| *w *= scale);
    }
    let weights = PackedLinear::from_in_out(&weight, shape[0], shape[1], Some(&bias));
    Ok(Weights::F32(weights))
}

/// The dialect's name of a node's function.
fn name(node: &NodeProto) -> &'static str {
    let mut names = dialect::FUNCTIONS.iter().map(|f| f.name);
    names.find(|n| *n == node.op_type).unwrap_or("Linear")
}

/// As [`name`] where the arithmetic is f16, so that nobody takes one for the other.
fn name_in_f16(node: &NodeProto) -> &'static str {
    match node.op_type.as_str() {
        "PatchEmbedding" => "PatchEmbeddingF16",
        "LinearQuickGelu" => "LinearQuickGeluF16",
        "LinearGelu" => "LinearGeluF16",
        "LinearAdd" => "LinearAddF16",
        _ => "LinearF16",
    }
}

/// The element-wise function in a linear function's name.
fn activation(node: &NodeProto) -> Option<Activation> {
    if node.op_type.ends_with("QuickGelu") {
        Some(Activation::QuickGelu)
    } else if node.op_type.ends_with("Gelu") {
        Some(Activation::Gelu)
    } else {
        None
    }
}

#[derive(Debug)]
struct Linear {
    weights: Weights,
    activation: Option<Activation>,
}

fn linear<const F16: bool>(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let weights = pack::<F16>(context, node, 1.0)?;
    let name = match weights {
        Weights::F32(_) => name(node),
        Weights::F16(_) => name_in_f16(node),
    };
    operator(
        name,
        Linear {
            weights,
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
        let (rows, activation) = (x.len() / self.weights.inputs(), self.activation);
        match &self.weights {
            Weights::F32(weights) => weights.apply(x, rows, activation, residual, output),
            Weights::F16(weights) => weights.apply(x, rows, activation, residual, output),
        }
        Ok(())
    }

    fn kernel(&self) -> String {
        self.weights.kernel()
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
    rows: QuantizedRows,
    activation: Option<Activation>,
}

/// How the rows of x are quantised.
enum QuantizedRows {
    Plain,
    Normed(LayerNorm),
    /// With this added to each value.
    Offset(f32),
}

impl fmt::Debug for QuantizedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuantizedLinear").finish_non_exhaustive()
    }
}

/// weight s8 `[K, M]`, scale `[M]` and bias `[M]` packed.
fn pack_quantized(context: &ParsingContext, node: &NodeProto) -> TractResult<PackedLinearInt8> {
    let proto = attribute_tensor(node, "weight")?;
    let shape = shape(proto, "weight", 2)?;
    let (inputs, outputs) = (shape[0], shape[1]);
    let weight = initializer::int8(proto, folder(context), SPARE.take())
        .with_context(|| format!("weight: {}", proto.name))?;
    let (scale, scale_shape) = parameter(context, node, "scale", 1)?;
    let (bias, bias_shape) = parameter(context, node, "bias", 1)?;
    for (name, shape) in [("scale", scale_shape), ("bias", bias_shape)] {
        ensure!(
            shape[0] == outputs,
            "{name}: expected [{outputs}], found {shape:?}"
        );
    }
    let packed = PackedLinearInt8::from_in_out(&weight, &scale, inputs, outputs, Some(&bias));
    SPARE.set(weight);
    packed.map_err(|e| format_err!("{}: {e}", proto.name))
}

fn quantized_linear(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let weights = pack_quantized(context, node)?;
    let rows = if node.op_type.starts_with("LayerNorm") {
        let norm = LayerNorm::read(context, node, "shift")?;
        ensure!(
            norm.gain.len() == weights.inputs(),
            "gain: expected [{}], found [{}]",
            weights.inputs(),
            norm.gain.len()
        );
        QuantizedRows::Normed(norm)
    } else if node.op_type.starts_with("Offset") {
        QuantizedRows::Offset(float(node, "offset")?)
    } else {
        QuantizedRows::Plain
    };
    operator(
        name(node),
        QuantizedLinear {
            weights,
            rows,
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
        let x = match &self.rows {
            QuantizedRows::Plain => Int8Input::F32 {
                x,
                prologue: Prologue::None,
            },
            QuantizedRows::Normed(norm) => Int8Input::F32 {
                x,
                prologue: Prologue::LayerNorm {
                    gain: &norm.gain,
                    bias: &norm.bias,
                    epsilon: norm.epsilon,
                },
            },
            QuantizedRows::Offset(offset) => Int8Input::Offset { x, offset: *offset },
        };
        (self.weights).apply(x, rows, self.activation, residual, output);
        Ok(())
    }

    fn kernel(&self) -> String {
        format!("int8 {}", self.weights.kernel())
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
    /// And what a pixel counts.
    F16(PackedLinearF16, f32),
    Int8(PackedLinearInt8),
}

fn patch_embedding<const F16: bool>(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let scale = float(node, "scale")?;
    let weights = pack::<F16>(context, node, scale)?;
    let inputs = weights.inputs();
    match weights {
        Weights::F32(weights) => patches(node, name(node), PatchWeights::F32(weights), inputs),
        Weights::F16(weights) => {
            let weights = PatchWeights::F16(weights, scale);
            patches(node, name_in_f16(node), weights, inputs)
        }
    }
}

fn quantized_patch_embedding(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let weights = pack_quantized(context, node)?;
    let inputs = weights.inputs();
    patches(node, name(node), PatchWeights::Int8(weights), inputs)
}

fn patches(
    node: &NodeProto,
    name: &'static str,
    weights: PatchWeights,
    inputs: usize,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let patch = positive(node, "patch")?;
    let expected = patch * patch * 3;
    ensure!(
        inputs == expected,
        "weight: expected {expected} rows for patch {patch}, found {inputs}"
    );
    operator(name, PatchEmbedding { weights, patch })
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
            PatchWeights::F16(weights, _) => weights.outputs(),
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
                PatchWeights::F16(weights, scale) => {
                    kernels::patch_embedding_f16(image, h, w, p, weights, *scale, out);
                }
                PatchWeights::Int8(weights) => {
                    kernels::patch_embedding_int8(image, h, w, p, weights, 1.0, out);
                }
            }
        }
        Ok(())
    }

    fn kernel(&self) -> String {
        match &self.weights {
            PatchWeights::F32(weights) => format!("f32 {}", weights.kernel()),
            PatchWeights::F16(weights, _) => format!("f16 {}", weights.kernel()),
            PatchWeights::Int8(weights) => format!("int8 {}", weights.kernel()),
        }
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

    fn kernel(&self) -> String {
        "f32 scalar".into()
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
            let rows = |data, stride| StridedRows { data, stride };
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

    fn kernel(&self) -> String {
        "f32 scalar".into()
    }
}
