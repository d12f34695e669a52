//! Two-dimensional convolutions in f32, channels last.
//!
//! The rows that a dense convolution multiplies, the values under the window, are packed directly from the image. Those of
//! 3 x 3 kernels are multiplied less often by minimal filtering where that is faster (`winograd.rs`). A depthwise one has a
//! kernel of its own.

use std::fmt;
use std::ops::Range;

use crate::dispatch::{Filter, FloatDepthwiseBlock, FloatKernels, Kernels, Order, Residual};
use crate::int8::taps::CHANNELS;
use crate::linear::layer::MOST_ROWS;
use crate::linear::pack::blocks;
use crate::linear::{Panels, Rows};
use crate::reference;
use crate::scratch::{self, Aligned};
use crate::select::kernels;
use crate::threads::{self, Shared};
use crate::types::{FloatConvolutionWeights, Nonlinearity, StridedRows, Window};
use crate::winograd::{self, Winograd};

/// A convolution packed for the chosen variant: y = activation(sum of x W + b + residual).
#[derive(Clone)]
pub struct PackedFloatConvolution {
    window: Window,
    inputs: usize,
    outputs: usize,
    groups: usize,
    packed: Packed,
}

#[derive(Clone)]
enum Packed {
    /// As [`FloatConvolutionWeights`].
    Reference {
        values: Vec<f32>,
        bias: Vec<f32>,
    },
    /// The weights of each group, [kernel height, kernel width, inputs of a group] to its outputs.
    Dense(Vec<Panels>),
    Depthwise(Depthwise),
    Winograd(Winograd),
}

/// Weights in blocks of [`CHANNELS`] outputs.
#[derive(Clone)]
struct Depthwise {
    vector: &'static dyn FloatKernels,
    /// [block][kernel height][kernel width][`CHANNELS`]
    weights: Aligned<f32>,
    bias: Vec<f32>,
}

/// Values of packed rows that stay in the second-level cache together with a panel.
const MOST_PACKED: usize = 128 << 10;

/// Fewer rows would read the weights too often.
const FEWEST_ROWS: usize = 48;

impl PackedFloatConvolution {
    /// Packs the weights for images of a height and width `image`. Those of other sizes are computed as well, but another form
    /// of the weights might be faster.
    pub fn new(weights: FloatConvolutionWeights, window: Window, image: [usize; 2]) -> Self {
        weights.check(&window);
        let filter = winograd::choose(&weights, &window, image);
        Self::pack(kernels(), weights, window, filter)
    }

    /// `filter` is for convolutions that [`winograd::applies`] to.
    pub(crate) fn pack(
        kernels: Kernels,
        weights: FloatConvolutionWeights,
        window: Window,
        filter: Option<Filter>,
    ) -> Self {
        weights.check(&window);
        let packed = match kernels.float {
            None => Packed::Reference {
                values: weights.values.to_vec(),
                bias: weights.bias.unwrap_or(&[]).to_vec(),
            },
            Some(vector) if weights.group_inputs() == 1 => {
                Packed::Depthwise(Depthwise::pack(vector, &weights, &window))
            }
            Some(vector) => match filter {
                Some(filter) => Packed::Winograd(Winograd::pack(vector, filter, &weights)),
                None => Packed::Dense(dense(vector, &weights, &window)),
            },
        };
        PackedFloatConvolution {
            window,
            inputs: weights.inputs,
            outputs: weights.outputs,
            groups: weights.groups,
            packed,
        }
    }

    /// Channels of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Channels of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// How the convolution moves over an image.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The name of the kernels that [`Self::apply`] runs.
    pub fn kernel(&self) -> &'static str {
        match &self.packed {
            Packed::Reference { .. } => "scalar",
            Packed::Dense(panels) => panels.first().map_or("scalar", Panels::kernel),
            Packed::Depthwise(packed) => packed.vector.name(),
            Packed::Winograd(packed) => packed.kernel(),
        }
    }

    /// out [images, output height, output width, outputs] = activation(sum + bias + residual), of x
    /// [images, height, width, inputs] with `image` its height and width; the residual has out's shape. The output's size is
    /// that of [`Window::output`]; padding adds nothing.
    ///
    /// An image's result does not depend on the others, nor on the number of threads.
    pub fn apply(
        &self,
        x: &[f32],
        images: usize,
        image: [usize; 2],
        activation: Option<Nonlinearity>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let [height, width] = image;
        let size = height * width * self.inputs;
        assert_eq!(
            x.len(),
            images * size,
            "x: [{images}, {height}, {width}, {}]",
            self.inputs
        );
        let [out_height, out_width] = self.window.output(image).unwrap_or([0, 0]);
        let out_size = out_height * out_width * self.outputs;
        let shape = [images, out_height, out_width, self.outputs];
        assert_eq!(out.len(), images * out_size, "out: {shape:?}");
        assert!(
            residual.is_none_or(|r| r.len() == out.len()),
            "residual: {shape:?}"
        );
        if out_size == 0 {
            return;
        }
        for (i, out) in out.chunks_exact_mut(out_size).enumerate() {
            let x = Image {
                values: &x[i * size..][..size],
                height,
                width,
                channels: self.inputs,
                out_width,
            };
            let values = residual.map(|r| &r[i * out_size..][..out_size]);
            let residual = values.map(|values| Residual {
                values,
                order: Order::BeforeActivation,
            });
            match &self.packed {
                Packed::Reference { values: w, bias } => {
                    let weights = FloatConvolutionWeights {
                        values: w,
                        bias: (!bias.is_empty()).then_some(bias),
                        outputs: self.outputs,
                        inputs: self.inputs,
                        groups: self.groups,
                    };
                    reference::float_convolution(
                        x.values,
                        image,
                        &weights,
                        &self.window,
                        activation,
                        values,
                        out,
                    );
                }
                Packed::Dense(panels) => self.dense(panels, &x, activation, residual, out),
                Packed::Depthwise(packed) => packed.apply(self, &x, activation, residual, out),
                Packed::Winograd(packed) => {
                    let padding = self.window.padding;
                    packed.apply(x.values, image, padding, activation, values, out);
                }
            }
        }
    }

    fn dense(
        &self,
        panels: &[Panels],
        x: &Image,
        activation: Option<Nonlinearity>,
        residual: Option<Residual>,
        out: &mut [f32],
    ) {
        let channels = self.inputs / self.groups;
        let n = self.outputs / self.groups;
        let [rows, columns] = self.window.kernel;
        let most = MOST_PACKED / (rows * columns * channels).max(1);
        let most = most.clamp(FEWEST_ROWS, MOST_ROWS);
        for (group, panels) in panels.iter().enumerate() {
            let residual = residual.map(|r| Residual {
                values: &r.values[group * n..],
                ..r
            });
            let out = &mut out[group * n..];
            if self.groups == 1 && self.window.keeps_pixels() {
                let rows = StridedRows {
                    data: x.values,
                    stride: channels,
                };
                panels.apply(&rows, most, activation, residual, self.outputs, out);
            } else {
                let rows = UnderWindow {
                    x,
                    window: &self.window,
                    first_channel: group * channels,
                    channels,
                };
                panels.apply(&rows, most, activation, residual, self.outputs, out);
            }
        }
    }
}

impl Window {
    /// Whether each output is computed from the pixel at its place alone.
    fn keeps_pixels(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0; 4]
    }
}

/// An image [height, width, channels].
struct Image<'a> {
    values: &'a [f32],
    height: usize,
    width: usize,
    channels: usize,
    out_width: usize,
}

/// The panels of each group.
fn dense(
    vector: &'static dyn FloatKernels,
    weights: &FloatConvolutionWeights,
    window: &Window,
) -> Vec<Panels> {
    let taps = window.kernel[0] * window.kernel[1];
    let (inputs, n) = (weights.group_inputs(), weights.group_outputs());
    let of_group = |group: usize| {
        let first = group * n;
        let weight = |p: usize, j: usize| {
            let (tap, channel) = (p / inputs, p % inputs);
            weights.values[((first + j) * inputs + channel) * taps + tap]
        };
        let bias = weights.bias.map(|b| &b[first..][..n]);
        Panels::pack(vector, taps * inputs, n, bias, weight)
    };
    (0..weights.groups).map(of_group).collect()
}

/// For each output, the values under the window: [kernel row][kernel column][channel of the group].
struct UnderWindow<'a> {
    x: &'a Image<'a>,
    window: &'a Window,
    first_channel: usize,
    /// Channels of the group.
    channels: usize,
}

impl UnderWindow<'_> {
    /// The values under a tap of the window of an output; `None` in the padding.
    fn under(&self, pixel: usize, tap: usize) -> Option<&[f32]> {
        let (x, w) = (self.x, self.window);
        let row = pixel / x.out_width * w.stride[0] + tap / w.kernel[1] * w.dilation[0];
        let column = pixel % x.out_width * w.stride[1] + tap % w.kernel[1] * w.dilation[1];
        let row = row.checked_sub(w.padding[0]).filter(|&r| r < x.height)?;
        let column = column.checked_sub(w.padding[1]).filter(|&c| c < x.width)?;
        let at = (row * x.width + column) * x.channels + self.first_channel;
        Some(&x.values[at..][..self.channels])
    }
}

impl Rows for UnderWindow<'_> {
    fn pack(&self, rows: Range<usize>, columns: Range<usize>, most: usize, to: &mut [f32]) {
        let depth = columns.len().next_multiple_of(4);
        for (first, count) in blocks(rows.len(), most) {
            let to = &mut to[first * depth..][..count * depth];
            for i in 0..count {
                let pixel = rows.start + first + i;
                let slots = &mut to.as_chunks_mut::<4>().0[i..];
                if self.channels.is_multiple_of(4) {
                    self.quads(pixel, columns.clone(), count, slots);
                } else {
                    self.values(pixel, columns.clone(), count, slots);
                }
            }
        }
    }
}

impl UnderWindow<'_> {
    /// Writes the columns of one row to every `step`th slot, channels being a multiple of 4.
    fn quads(&self, pixel: usize, columns: Range<usize>, step: usize, slots: &mut [[f32; 4]]) {
        let mut slots = slots.iter_mut().step_by(step);
        let mut at = columns.start;
        while at < columns.end {
            let (tap, from) = (at / self.channels, at % self.channels);
            let count = (self.channels - from).min(columns.end - at);
            let slots = slots.by_ref().take(count / 4);
            match self.under(pixel, tap) {
                Some(values) => {
                    let quads = values[from..][..count].as_chunks::<4>().0;
                    slots.zip(quads).for_each(|(slot, quad)| *slot = *quad);
                }
                None => slots.for_each(|slot| *slot = [0.0; 4]),
            }
            at += count;
        }
    }

    /// As [`Self::quads`], for any number of channels; the last slot is padded with zeros.
    fn values(&self, pixel: usize, columns: Range<usize>, step: usize, slots: &mut [[f32; 4]]) {
        let depth = columns.len().next_multiple_of(4);
        scratch::with(depth, |row: &mut [f32]| {
            row[columns.len()..].fill(0.0);
            let mut at = columns.start;
            while at < columns.end {
                let (tap, from) = (at / self.channels, at % self.channels);
                let count = (self.channels - from).min(columns.end - at);
                let to = &mut row[at - columns.start..][..count];
                match self.under(pixel, tap) {
                    Some(values) => to.copy_from_slice(&values[from..][..count]),
                    None => to.fill(0.0),
                }
                at += count;
            }
            let quads = row.as_chunks::<4>().0;
            for (slot, quad) in slots.iter_mut().step_by(step).zip(quads) {
                *slot = *quad;
            }
        });
    }
}

impl Depthwise {
    fn pack(
        vector: &'static dyn FloatKernels,
        weights: &FloatConvolutionWeights,
        window: &Window,
    ) -> Self {
        let taps = window.kernel[0] * window.kernel[1];
        let n = weights.outputs;
        let mut packed = Aligned::zeros(n.div_ceil(CHANNELS) * taps * CHANNELS);
        for (i, &value) in weights.values.iter().enumerate() {
            let (o, tap) = (i / taps, i % taps);
            packed[(o / CHANNELS * taps + tap) * CHANNELS + o % CHANNELS] = value;
        }
        Depthwise {
            vector,
            weights: packed,
            bias: weights.bias.map_or_else(|| vec![0.0; n], <[f32]>::to_vec),
        }
    }

    fn apply(
        &self,
        layer: &PackedFloatConvolution,
        x: &Image,
        activation: Option<Nonlinearity>,
        residual: Option<Residual>,
        out: &mut [f32],
    ) {
        let out_height = out.len() / (x.out_width * layer.outputs);
        let count = layer.outputs.div_ceil(CHANNELS);
        let size = self.weights.len() / count;
        let [rows, columns] = layer.window.kernel;
        let threads = threads::count(out.len() * rows * columns);
        // Few blocks are split into bands of rows, which copy some rows twice.
        let bands = match threads {
            1 => 1,
            _ => (2 * threads).div_ceil(count).min(out_height.div_ceil(8)),
        };
        let band = out_height.div_ceil(bands);
        // SAFETY: each block writes channels or rows of its own.
        let out = unsafe { Shared::new(out) };
        threads::for_each(threads, count * bands, |i| {
            let (i, part) = (i / bands, i % bands);
            let first = i * CHANNELS;
            let channels = first..layer.outputs.min(first + CHANNELS);
            let mut bias = [0.0; CHANNELS];
            bias[..channels.len()].copy_from_slice(&self.bias[channels]);
            let block = FloatDepthwiseBlock {
                x: x.values,
                height: x.height,
                width: x.width,
                inputs: x.channels,
                window: layer.window,
                multiplier: layer.outputs / layer.groups,
                outputs: layer.outputs,
                first,
                weights: &self.weights[i * size..][..size],
                bias,
                activation,
                residual,
                rows: (part * band).min(out_height)..((part + 1) * band).min(out_height),
                out_width: x.out_width,
                out: out.pointer(),
            };
            // SAFETY: `out` has all outputs; each block and band writes its own.
            unsafe { self.vector.depthwise(&block) };
        });
    }
}

impl fmt::Debug for PackedFloatConvolution {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [rows, columns] = self.window.kernel;
        write!(
            f,
            "PackedFloatConvolution({} -> {}, {rows} x {columns}, {} groups, {})",
            self.inputs,
            self.outputs,
            self.groups,
            self.kernel()
        )
    }
}
