//! Elementwise operators.

use pinhole_bundle::dialect::{ChannelOrder, Op, Range};
use pinhole_kernels::{self as kernels, Affine};
use pinhole_model::Activation;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::affine::{affine_of, static_affine};
use super::operator::{Built, Compute, build, floats};
use super::parameters::weight;

/// Quantisation followed by dequantisation; with a dynamic scale if `None`.
#[derive(Debug)]
struct FakeQuantize(Option<Affine>);

pub(super) fn fake_quantize(context: &ParsingContext, node: &NodeProto, range: Range) -> Built {
    let affine = affine_of(context, node, range)?;
    build(Op::FakeQuantize(range), FakeQuantize(affine))
}

impl Compute for FakeQuantize {
    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let x = floats(&inputs[0])?;
        kernels::fake_quantize(x, self.0.unwrap_or_else(|| Affine::dynamic(x)), output);
        Ok(())
    }
}

/// A function of the quantised input, tabulated.
#[derive(Debug)]
struct LookupTable {
    affine: Affine,
    values: Box<[f32; 256]>,
}

/// The parameter `name`, of 256 values.
pub(super) fn table(
    context: &ParsingContext,
    node: &NodeProto,
    name: &str,
) -> TractResult<[f32; 256]> {
    let (values, shape) = weight(context, node, name, 1)?;
    let values = values.try_into();
    values.map_err(|_| format_err!("{name}: expected [256], found {shape:?}"))
}

pub(super) fn lookup_table(context: &ParsingContext, node: &NodeProto) -> Built {
    let values = Box::new(table(context, node, "values")?);
    let affine = static_affine(context, node, "x")?;
    build(Op::QuantizedTable, LookupTable { affine, values })
}

impl Compute for LookupTable {
    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        kernels::map_quantized(floats(&inputs[0])?, self.affine, &self.values, output);
        Ok(())
    }
}

/// An activation function.
#[derive(Debug)]
pub(super) struct Activate(pub(super) Activation);

impl Compute for Activate {
    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        output.copy_from_slice(floats(&inputs[0])?);
        kernels::activate(output, self.0);
        Ok(())
    }
}

#[derive(Debug)]
struct NormalizePixels {
    /// The normalised value of each pixel value, per channel.
    values: Box<[[f32; 256]; 3]>,
    order: ChannelOrder,
}

pub(super) fn normalize_pixels(
    context: &ParsingContext,
    node: &NodeProto,
    order: ChannelOrder,
) -> Built {
    let (scale, shape) = weight(context, node, "scale", 1)?;
    let (offset, found) = weight(context, node, "offset", 1)?;
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
    build(
        Op::NormalizePixels(order),
        NormalizePixels { values, order },
    )
}

impl Compute for NormalizePixels {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[n, height, width, 3] = inputs[0] else {
            bail!("pixels: expected [N, H, W, 3], found {:?}", inputs[0]);
        };
        Ok(match self.order {
            ChannelOrder::First => tvec![n, 3, height, width],
            ChannelOrder::Last => tvec![n, height, width, 3],
        })
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[_, height, width, _] = inputs[0].shape() else {
            bail!("pixels: expected 4 dimensions")
        };
        let size = height * width;
        let pixels = inputs[0].try_as_plain_ram()?.as_slice::<u8>()?;
        if self.order == ChannelOrder::Last {
            let [red, green, blue] = &*self.values;
            let pixels = pixels.as_chunks::<3>().0;
            for (out, pixel) in output.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
                let [r, g, b] = pixel.map(usize::from);
                *out = [red[r], green[g], blue[b]];
            }
            return Ok(());
        }
        let images = pixels.chunks_exact((3 * size).max(1));
        for (image, output) in images.zip(output.chunks_exact_mut((3 * size).max(1))) {
            for (channel, output) in output.chunks_exact_mut(size).enumerate() {
                let values = &self.values[channel];
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
