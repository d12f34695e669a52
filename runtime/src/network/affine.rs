//! The operators that `foreign/` puts in the place of what other programs quantised, and of the float blocks
//! around it.

use pinhole_kernels::{
    self as kernels, Affine, PackedLinear, PackedLinearAffine, Pointwise, WeightError,
};
use pinhole_model::Activation;
use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::{NodeProto, TensorProto, tensor_proto::DataType};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::operators::{
    Compute, attribute_tensor, folder, linear_shape, operator, parameter, plain, shape,
};
use super::{foreign, initializer};

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

pub(super) fn register(onnx: &mut Onnx) {
    let register = &mut onnx.op_register;
    register.insert(foreign::LINEAR, linear);
    register.insert(foreign::PATCHES, patches);
    register.insert(foreign::FAKE_QUANTIZE, |_, node| {
        operator(foreign::FAKE_QUANTIZE, FakeQuantize(by(node)?))
    });
    register.insert(foreign::TABLE, table);
    register.insert(foreign::QUICK_GELU, |_, _| {
        operator(foreign::QUICK_GELU, Activate(Activation::QuickGelu))
    });
    register.insert(foreign::GELU, |_, _| {
        operator(foreign::GELU, Activate(Activation::Gelu))
    });
    register.insert(foreign::NORMALIZE_PIXELS, normalize_pixels);
}

/// The constants `x_scale` and `x_zero_point`, the latter as for s8; None where they are found at run time.
fn by(node: &NodeProto) -> TractResult<Option<Affine>> {
    let find = |name: &str| node.attribute.iter().find(|a| a.name == name);
    let (Some(scale), Some(zero)) = (find("x_scale"), find("x_zero_point")) else {
        return Ok(None);
    };
    ensure!(
        scale.f.is_finite() && scale.f > 0.0,
        "x_scale: expected a number above 0, found {}",
        scale.f
    );
    let zero_point = i8::try_from(zero.i)
        .map_err(|_| format_err!("x_zero_point: expected 8 bits, found {}", zero.i))?;
    Ok(Some(Affine {
        scale: scale.f,
        zero_point,
    }))
}

/// A layer's weights, in integers where the kernels can take them.
#[derive(Debug)]
enum Weights {
    Int8(PackedLinearAffine),
    /// What the integers stand for, for x after [`kernels::fake_quantize`].
    F32(PackedLinear),
}

#[derive(Debug)]
struct Quantized {
    weights: Weights,
    /// None: found at run time.
    by: Option<Affine>,
    activation: Option<Activation>,
}

impl Quantized {
    /// From a weight whose first axis is that of the outputs if `transposed`, and the last otherwise.
    fn read(context: &ParsingContext, node: &NodeProto, rank: usize) -> TractResult<Self> {
        let by = by(node)?;
        let tensor = attribute_tensor(node, "weight")?;
        let dims = shape(tensor, "weight", rank)?;
        let flag = node.attribute.iter().find(|a| a.name == "transposed");
        let transposed = flag.is_some_and(|a| a.i != 0);
        let (outputs, inputs) = match (transposed, &dims[..]) {
            (true, [outputs, inputs @ ..]) => (*outputs, inputs.iter().product()),
            (false, &[inputs, outputs]) => (outputs, inputs),
            _ => bail!("weight: expected 2 dimensions, found {dims:?}"),
        };
        let (weight, shift) = signed(context, tensor, "weight")?;
        let zero_points = match node.attribute.iter().any(|a| a.name == "zero_point") {
            true => {
                let zero = attribute_tensor(node, "zero_point")?;
                ensure!(
                    zero.data_type == tensor.data_type,
                    "zero_point: expected the weight's type {}, found {}",
                    tensor.data_type,
                    zero.data_type
                );
                signed(context, zero, "zero_point")?.0
            }
            false => vec![(-shift) as i8],
        };
        let (scale, _) = parameter(context, node, "scale", 1)?;
        // One value stands for all outputs.
        let spread = |name: &str, len: usize| {
            ensure!(
                len == 1 || len == outputs,
                "{name}: expected 1 or {outputs} values, found {len}"
            );
            Ok(())
        };
        spread("scale", scale.len())?;
        spread("zero_point", zero_points.len())?;
        let scale: Vec<f32> = (0..outputs).map(|i| scale[i % scale.len()]).collect();
        let zeros: Vec<i8> = (0..outputs)
            .map(|i| zero_points[i % zero_points.len()])
            .collect();
        let bias = match node.attribute.iter().any(|a| a.name == "bias") {
            true => {
                let (bias, shape) = parameter(context, node, "bias", 1)?;
                ensure!(
                    shape == [outputs],
                    "bias: expected [{outputs}], found {shape:?}"
                );
                Some(bias)
            }
            false => None,
        };
        let bias = bias.as_deref();
        let packed = match transposed {
            true => PackedLinearAffine::from_out_in(&weight, &scale, &zeros, outputs, inputs, bias),
            false => {
                PackedLinearAffine::from_in_out(&weight, &scale, &zeros, inputs, outputs, bias)
            }
        };
        let weights = match packed {
            Ok(packed) => Weights::Int8(packed),
            Err(WeightError::Span { .. } | WeightError::Range { .. }) => {
                let column = |at: usize| match transposed {
                    true => at / inputs,
                    false => at % outputs,
                };
                let real = |(at, w): (usize, &i8)| {
                    let output = column(at);
                    (f32::from(*w) - f32::from(zeros[output])) * scale[output]
                };
                let real: Vec<f32> = weight.iter().enumerate().map(real).collect();
                Weights::F32(match transposed {
                    true => PackedLinear::from_out_in(&real, outputs, inputs, bias),
                    false => PackedLinear::from_in_out(&real, inputs, outputs, bias),
                })
            }
            Err(error) => bail!("{error}"),
        };
        let activation = match &*foreign::text(node, "activation") {
            "" => None,
            foreign::QUICK_GELU => Some(Activation::QuickGelu),
            foreign::GELU => Some(Activation::Gelu),
            other => bail!("activation: expected a function of ours, found {other}"),
        };
        Ok(Quantized {
            weights,
            by,
            activation,
        })
    }

    fn inputs(&self) -> usize {
        match &self.weights {
            Weights::Int8(weights) => weights.inputs(),
            Weights::F32(weights) => weights.inputs(),
        }
    }

    fn outputs(&self) -> usize {
        match &self.weights {
            Weights::Int8(weights) => weights.outputs(),
            Weights::F32(weights) => weights.outputs(),
        }
    }

    fn kernel(&self) -> String {
        match &self.weights {
            Weights::Int8(weights) => format!("int8 {}", weights.kernel()),
            Weights::F32(weights) => format!("f32 {}", weights.kernel()),
        }
    }

    /// `name`, or what says that the products are not of integers.
    fn name(&self, name: &'static str, float: &'static str) -> &'static str {
        match &self.weights {
            Weights::Int8(_) => name,
            Weights::F32(_) => float,
        }
    }

    /// x [m, inputs] to out [m, outputs].
    fn apply(&self, x: &[f32], m: usize, out: &mut [f32]) {
        let by = self.by.unwrap_or_else(|| Affine::dynamic(x));
        match &self.weights {
            Weights::Int8(weights) => weights.apply(x, m, by, self.activation, None, out),
            Weights::F32(weights) => {
                let mut quantized = vec![0.0; x.len()];
                kernels::fake_quantize(x, by, &mut quantized);
                weights.apply(&quantized, m, self.activation, None, out);
            }
        }
    }
}

/// An 8-bit tensor as s8, and what its numbers lost; `name` is its role.
fn signed(
    context: &ParsingContext,
    tensor: &TensorProto,
    name: &str,
) -> TractResult<(Vec<i8>, i16)> {
    let folder = folder(context);
    let values = if tensor.data_type == DataType::Uint8 as i32 {
        initializer::uint8(tensor, folder).map(|values| {
            let values = values.into_iter().map(|v| (v ^ 0x80).cast_signed());
            (values.collect(), 128)
        })
    } else {
        initializer::int8(tensor, folder, Vec::new()).map(|values| (values, 0))
    };
    values.with_context(|| format!("{name}: {}", tensor.name))
}

#[derive(Debug)]
struct Linear(Quantized);

fn linear(context: &ParsingContext, node: &NodeProto) -> Built {
    let layer = Quantized::read(context, node, 2)?;
    let name = layer.name(foreign::LINEAR, "FakeQuantizedLinear");
    operator(name, Linear(layer))
}

impl Compute for Linear {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        linear_shape(inputs, self.0.inputs(), self.0.outputs())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let x = plain(&inputs[0])?;
        let rows = output.len() / self.0.outputs().max(1);
        self.0.apply(x, rows, output);
        Ok(())
    }

    fn kernel(&self) -> String {
        self.0.kernel()
    }
}

/// A convolution whose stride is its kernel's side.
#[derive(Debug)]
struct Patches {
    layer: Quantized,
    channels: usize,
    /// The side.
    patch: usize,
}

fn patches(context: &ParsingContext, node: &NodeProto) -> Built {
    let layer = Quantized::read(context, node, 4)?;
    let dims = &attribute_tensor(node, "weight")?.dims;
    let &[_, channels, patch, width] = &dims[..] else {
        bail!("weight: expected 4 dimensions, found {dims:?}");
    };
    ensure!(
        patch == width && patch > 0 && channels > 0,
        "weight: expected a square kernel, found {dims:?}"
    );
    let name = layer.name(foreign::PATCHES, "FakeQuantizedPatches");
    let (channels, patch) = (channels as usize, patch as usize);
    operator(
        name,
        Patches {
            layer,
            channels,
            patch,
        },
    )
}

impl Compute for Patches {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[n, channels, height, width] = inputs[0] else {
            bail!("x: expected [N, C, H, W], found {:?}", inputs[0]);
        };
        let (h, w) = (height / self.patch, width / self.patch);
        ensure!(
            channels == self.channels && h > 0 && w > 0,
            "x: expected [N, {}, H, W] of at least one patch of {}, found {:?}",
            self.channels,
            self.patch,
            inputs[0]
        );
        Ok(tvec![n, self.layer.outputs(), h, w])
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[n, channels, height, width] = inputs[0].shape() else {
            bail!("x: expected 4 dimensions")
        };
        let x = plain(&inputs[0])?;
        let (p, outputs) = (self.patch, self.layer.outputs());
        let (h, w) = (height / p, width / p);
        // What the scale is found from is all of x, behind the last patch too.
        let by = self.layer.by.unwrap_or_else(|| Affine::dynamic(x));
        let mut rows = Vec::with_capacity(n * h * w * channels * p * p);
        for image in x.chunks_exact(channels * height * width) {
            for at in 0..h * w {
                let corner = at / w * p * width + at % w * p;
                for channel in image.chunks_exact(height * width) {
                    for line in channel[corner..].chunks(width).take(p) {
                        rows.extend_from_slice(&line[..p]);
                    }
                }
            }
        }
        let mut found = vec![0.0; n * h * w * outputs];
        let layer = &self.layer;
        match &layer.weights {
            Weights::Int8(weights) => {
                weights.apply(&rows, n * h * w, by, layer.activation, None, &mut found);
            }
            Weights::F32(weights) => {
                let quantized = rows.clone();
                kernels::fake_quantize(&quantized, by, &mut rows);
                weights.apply(&rows, n * h * w, layer.activation, None, &mut found);
            }
        }
        let images = found.chunks_exact(h * w * outputs);
        for (found, output) in images.zip(output.chunks_exact_mut(outputs * h * w)) {
            for (i, row) in found.chunks_exact(outputs).enumerate() {
                for (j, v) in row.iter().enumerate() {
                    output[j * h * w + i] = *v;
                }
            }
        }
        Ok(())
    }

    fn kernel(&self) -> String {
        self.layer.kernel()
    }
}

#[derive(Debug)]
struct FakeQuantize(Option<Affine>);

impl Compute for FakeQuantize {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        Ok(inputs[0].into())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let x = plain(&inputs[0])?;
        kernels::fake_quantize(x, self.0.unwrap_or_else(|| Affine::dynamic(x)), output);
        Ok(())
    }

    fn pointwise(&self) -> Option<Pointwise> {
        self.0.map(Pointwise::FakeQuantize)
    }
}

#[derive(Debug)]
struct Table {
    by: Affine,
    values: Arc<[f32; 256]>,
}

fn table(context: &ParsingContext, node: &NodeProto) -> Built {
    let (values, shape) = parameter(context, node, "values", 1)?;
    let values: [f32; 256] = values
        .try_into()
        .map_err(|_| format_err!("values: expected [256], found {shape:?}"))?;
    let values = Arc::new(values);
    let by = by(node)?.context("x_scale: missing")?;
    operator(foreign::TABLE, Table { by, values })
}

impl Compute for Table {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        Ok(inputs[0].into())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        kernels::map_quantized(plain(&inputs[0])?, self.by, &self.values, output);
        Ok(())
    }

    fn pointwise(&self) -> Option<Pointwise> {
        Some(Pointwise::Table(self.by, Arc::clone(&self.values)))
    }
}

#[derive(Debug)]
struct Activate(Activation);

impl Compute for Activate {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        Ok(inputs[0].into())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        output.copy_from_slice(plain(&inputs[0])?);
        kernels::activate(output, self.0);
        Ok(())
    }
}

/// What a pixel of each channel becomes.
#[derive(Debug)]
struct NormalizePixels(Box<[[f32; 256]; 3]>);

fn normalize_pixels(context: &ParsingContext, node: &NodeProto) -> Built {
    let (scale, shape) = parameter(context, node, "scale", 1)?;
    let (offset, found) = parameter(context, node, "offset", 1)?;
    ensure!(
        shape == [3] && found == [3],
        "scale, offset: expected [3], found {shape:?}, {found:?}"
    );
    let mut values = Box::new([[0.0; 256]; 3]);
    for (channel, values) in values.iter_mut().enumerate() {
        for (pixel, value) in values.iter_mut().enumerate() {
            *value = pixel as f32 * scale[channel] + offset[channel];
        }
    }
    operator(foreign::NORMALIZE_PIXELS, NormalizePixels(values))
}

impl Compute for NormalizePixels {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[n, height, width, 3] = inputs[0] else {
            bail!("pixels: expected [N, H, W, 3], found {:?}", inputs[0]);
        };
        Ok(tvec![n, 3, height, width])
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[_, height, width, _] = inputs[0].shape() else {
            bail!("pixels: expected 4 dimensions")
        };
        let size = height * width;
        let pixels = inputs[0].try_as_plain_ram()?.as_slice::<u8>()?;
        let images = pixels.chunks_exact((3 * size).max(1));
        for (image, output) in images.zip(output.chunks_exact_mut((3 * size).max(1))) {
            for (channel, output) in output.chunks_exact_mut(size).enumerate() {
                let values = &self.0[channel];
                for (out, pixel) in output.iter_mut().zip(image.as_chunks::<3>().0) {
                    *out = values[usize::from(pixel[channel])];
                }
            }
        }
        Ok(())
    }

    fn kernel(&self) -> String {
        "f32 scalar".into()
    }
}
