//! Linear layers and patch embeddings that other programs quantised: 8-bit operands with a scale and a zero point.
//!
//! Attributes of both: `weight` (s8 or u8), `scale`, `zero_point` and `bias` per output channel or one for all (the
//! last two optional), `transposed` (whether the first axis of the weight is that of the outputs), `activation`
//! (the name of an inserted operator, optional), and `x_scale` and `x_zero_point` as in [`static_affine`].

use pinhole_kernels::{self as kernels, Affine, PackedLinear, PackedLinearAffine, WeightError};
use pinhole_model::Activation;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{NodeProto, TensorProto, tensor_proto::DataType};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::linear::linear_shape;
use super::operator::{Built, Compute, build_inserted, floats};
use super::parameters::{folder, shape, tensor, weight};
use super::weights::Packed;
use crate::network::{attributes, initializer, inserted};

/// How x is quantised: the attributes `x_scale` and `x_zero_point` (as for s8). `None` if they are computed at run
/// time, by DynamicQuantizeLinear.
pub(super) fn static_affine(node: &NodeProto) -> TractResult<Option<Affine>> {
    let find = |name: &str| attributes::find(node, name);
    let (Some(scale), Some(zero)) = (find("x_scale"), find("x_zero_point")) else {
        return Ok(None);
    };
    ensure!(
        scale.f.is_finite() && scale.f > 0.0,
        "x_scale: expected a number above 0, found {}",
        scale.f
    );
    let zero_point = i8::try_from(zero.i)
        .map_err(|_| format_err!("x_zero_point: expected -128 to 127, found {}", zero.i))?;
    Ok(Some(Affine {
        scale: scale.f,
        zero_point,
    }))
}

/// Weights in integers if the kernels can represent them.
#[derive(Debug)]
enum Weights {
    Int8(PackedLinearAffine),
    /// The dequantised weights; multiplied with x after [`kernels::fake_quantize`].
    F32(PackedLinear),
}

/// A layer without its input layout.
#[derive(Debug)]
struct Layer {
    weights: Weights,
    /// `None`: computed at run time.
    x_affine: Option<Affine>,
    activation: Option<Activation>,
}

impl Layer {
    fn read(context: &ParsingContext, node: &NodeProto, rank: usize) -> TractResult<Self> {
        let x_affine = static_affine(node)?;
        let weight_proto = tensor(node, "weight")?;
        let dims = shape(weight_proto, "weight", rank)?;
        let transposed = attributes::integer(node, "transposed", 0) != 0;
        let (outputs, inputs) = match (transposed, &dims[..]) {
            (true, [outputs, inputs @ ..]) => (*outputs, inputs.iter().product()),
            (false, &[inputs, outputs]) => (outputs, inputs),
            _ => bail!("weight: expected 2 dimensions, found {dims:?}"),
        };
        let (values, shift) = signed(context, weight_proto, "weight")?;
        let zero_points = if attributes::find(node, "zero_point").is_some() {
            let zero = tensor(node, "zero_point")?;
            ensure!(
                zero.data_type == weight_proto.data_type,
                "zero_point: expected the weight's type {}, found {}",
                weight_proto.data_type,
                zero.data_type
            );
            signed(context, zero, "zero_point")?.0
        } else {
            vec![(-shift) as i8]
        };
        let (scale, _) = weight(context, node, "scale", 1)?;
        // One value applies to all outputs.
        let check_len = |name: &str, len: usize| {
            ensure!(
                len == 1 || len == outputs,
                "{name}: expected 1 or {outputs} values, found {len}"
            );
            Ok(())
        };
        check_len("scale", scale.len())?;
        check_len("zero_point", zero_points.len())?;
        let scale: Vec<f32> = (0..outputs).map(|i| scale[i % scale.len()]).collect();
        let zeros: Vec<i8> = (0..outputs)
            .map(|i| zero_points[i % zero_points.len()])
            .collect();
        let bias = if attributes::find(node, "bias").is_some() {
            let (bias, shape) = weight(context, node, "bias", 1)?;
            ensure!(
                shape == [outputs],
                "bias: expected [{outputs}], found {shape:?}"
            );
            Some(bias)
        } else {
            None
        };
        let bias = bias.as_deref();
        let packed = if transposed {
            PackedLinearAffine::from_out_in(&values, &scale, &zeros, outputs, inputs, bias)
        } else {
            PackedLinearAffine::from_in_out(&values, &scale, &zeros, inputs, outputs, bias)
        };
        let weights = match packed {
            Ok(packed) => Weights::Int8(packed),
            Err(WeightError::Span { .. } | WeightError::Range { .. }) => {
                let dequantize = |(at, w): (usize, &i8)| {
                    let output = if transposed {
                        at / inputs
                    } else {
                        at % outputs
                    };
                    (f32::from(*w) - f32::from(zeros[output])) * scale[output]
                };
                let values: Vec<f32> = values.iter().enumerate().map(dequantize).collect();
                Weights::F32(if transposed {
                    PackedLinear::from_out_in(&values, outputs, inputs, bias)
                } else {
                    PackedLinear::from_in_out(&values, inputs, outputs, bias)
                })
            }
            Err(error) => bail!("{error}"),
        };
        let activation = match &*attributes::text(node, "activation") {
            "" => None,
            inserted::QUICK_GELU => Some(Activation::QuickGelu),
            inserted::GELU => Some(Activation::Gelu),
            other => bail!("activation: expected an inserted operator, found {other}"),
        };
        Ok(Layer {
            weights,
            x_affine,
            activation,
        })
    }

    fn packed(&self) -> &dyn Packed {
        match &self.weights {
            Weights::Int8(weights) => weights,
            Weights::F32(weights) => weights,
        }
    }

    /// The operator's name, depending on the arithmetic.
    fn name(&self, integer: &'static str, float: &'static str) -> &'static str {
        match &self.weights {
            Weights::Int8(_) => integer,
            Weights::F32(_) => float,
        }
    }

    /// x [rows, inputs], quantised by `affine`, to out [rows, outputs].
    fn apply(&self, x: &[f32], rows: usize, affine: Affine, out: &mut [f32]) {
        match &self.weights {
            Weights::Int8(weights) => weights.apply(x, rows, affine, self.activation, None, out),
            Weights::F32(weights) => {
                let mut quantized = vec![0.0; x.len()];
                kernels::fake_quantize(x, affine, &mut quantized);
                weights.apply(&quantized, rows, self.activation, None, out);
            }
        }
    }
}

/// An 8-bit tensor as s8, and what was subtracted from its values (128 for u8). `name` is its role, for errors.
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
struct AffineLinear(Layer);

pub(super) fn linear(context: &ParsingContext, node: &NodeProto) -> Built {
    let layer = Layer::read(context, node, 2)?;
    let name = layer.name(inserted::AFFINE_LINEAR, "FakeQuantizedLinear");
    build_inserted(name, AffineLinear(layer))
}

impl Compute for AffineLinear {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let weights = self.0.packed();
        linear_shape(inputs, weights.inputs(), weights.outputs())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let x = floats(&inputs[0])?;
        let rows = output.len() / self.0.packed().outputs().max(1);
        let affine = self.0.x_affine.unwrap_or_else(|| Affine::dynamic(x));
        self.0.apply(x, rows, affine, output);
        Ok(())
    }

    fn kernel(&self) -> String {
        self.0.packed().kernel_name()
    }
}

/// A convolution whose stride equals its kernel size.
#[derive(Debug)]
struct AffinePatches {
    layer: Layer,
    channels: usize,
    /// Side of a patch in pixels.
    patch: usize,
}

pub(super) fn patches(context: &ParsingContext, node: &NodeProto) -> Built {
    let layer = Layer::read(context, node, 4)?;
    let dims = &tensor(node, "weight")?.dims;
    let &[_, channels, patch, width] = &dims[..] else {
        bail!("weight: expected 4 dimensions, found {dims:?}");
    };
    ensure!(
        patch == width && patch > 0 && channels > 0,
        "weight: expected a square kernel, found {dims:?}"
    );
    let name = layer.name(inserted::AFFINE_PATCHES, "FakeQuantizedPatches");
    let (channels, patch) = (channels as usize, patch as usize);
    build_inserted(
        name,
        AffinePatches {
            layer,
            channels,
            patch,
        },
    )
}

impl Compute for AffinePatches {
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
        Ok(tvec![n, self.layer.packed().outputs(), h, w])
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[n, channels, height, width] = inputs[0].shape() else {
            bail!("x: expected 4 dimensions")
        };
        let x = floats(&inputs[0])?;
        let (p, outputs) = (self.patch, self.layer.packed().outputs());
        let (h, w) = (height / p, width / p);
        // A dynamic scale depends on all of x, including pixels outside the patches.
        let affine = self.layer.x_affine.unwrap_or_else(|| Affine::dynamic(x));
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
        self.layer.apply(&rows, n * h * w, affine, &mut found);
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
        self.layer.packed().kernel_name()
    }
}
