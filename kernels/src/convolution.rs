//! Two-dimensional convolutions in 8-bit integers, channels last.
//!
//! A dense convolution gathers the values under the window into rows, a block of outputs at a time, and multiplies them as a
//! linear layer does. Where the window is one pixel, they are such rows already. A depthwise one has a kernel of its own.
//!
//! What it reads, adds and writes may be bytes with one scale, so that convolutions behind each other exchange bytes: f32
//! take four times the memory, and would have to be quantised.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::dispatch::{
    DepthwiseBlock, Int8Group, Int8Kernels, Kernels, Offsets, Order, Residual, Target,
};
use crate::int8::WeightError;
use crate::int8::affine::without_minimum;
use crate::int8::pack::{self, Layout, Lines, MOST_TILE_ROWS, Operand};
use crate::int8::taps::{CHANNELS, STEP};
use crate::linear::layer::{MOST_ROWS, for_each_group};
use crate::linear::pack::{Weight, blocks};
use crate::reference;
use crate::scratch::{self, Aligned};
use crate::select::kernels;
use crate::threads::{self, Shared};
use crate::transpose::{interleaved, transposed};
use crate::types::{
    Affine, ConvolutionInput, ConvolutionOutput, ConvolutionWeights, ImageLayout, Nonlinearity,
    Window,
};

/// A convolution packed for the chosen variant: y = activation(sum of (x - zero point) (W - zero points) + b + residual). W
/// is s8 with one scale and zero point per output channel; x is quantised to 8 bits by an [`Affine`].
#[derive(Clone)]
pub struct PackedConvolution {
    window: Window,
    inputs: usize,
    outputs: usize,
    groups: usize,
    kernels: Kernels,
    packed: Packed,
}

#[derive(Clone)]
enum Packed {
    Reference(Weights),
    Dense(&'static dyn Int8Kernels, Dense),
    Depthwise(&'static dyn Int8Kernels, Depthwise),
}

/// As the scalar reference reads them: [`ConvolutionWeights`].
#[derive(Clone)]
struct Weights {
    values: Vec<i8>,
    scales: Vec<f32>,
    zero_points: Vec<i8>,
    bias: Option<Vec<f32>>,
}

/// Weights in panels, multiplied by gathered rows.
#[derive(Clone)]
struct Dense {
    /// The panels of each group.
    panels: Aligned<u8>,
    /// Values under the window in a group.
    k: usize,
    /// How many times a row repeats these values: 2 if weights are the sums of two.
    parts: usize,
    /// [outputs]: sums of each output's weights.
    sums: Vec<i32>,
    /// [outputs], or empty if all are zero.
    zero_points: Vec<i32>,
}

/// Weights in blocks of [`CHANNELS`] outputs: [block][part][kernel row][group of taps][`STEP`].
#[derive(Clone)]
struct Depthwise {
    weights: Aligned<u8>,
    /// Terms that the difference of a weight and its zero point is split into, each in -127 ..= 127: 1 to 3.
    parts: usize,
    /// [outputs]: sums of each output's weights minus zero points.
    sums: Vec<i32>,
    scales: Vec<f32>,
    bias: Vec<f32>,
}

/// Bytes of gathered rows that stay in the second-level cache together with a panel.
const MOST_GATHERED: usize = 128 << 10;

/// Values that are quantised at a time.
const QUANTIZED: usize = 1 << 14;

impl PackedConvolution {
    /// Most values under the window: the sum of 32,768 products of at most 255 · 255 fits an i32.
    pub const MOST_INPUTS: usize = 1 << 15;

    /// Any weights are possible; an error only if too many values are under the window.
    pub fn new(weights: ConvolutionWeights, window: Window) -> Result<Self, WeightError> {
        Self::pack(kernels(), weights, window)
    }

    pub(crate) fn pack(
        kernels: Kernels,
        weights: ConvolutionWeights,
        window: Window,
    ) -> Result<Self, WeightError> {
        weights.check(&window);
        let [rows, columns] = window.kernel;
        let found = weights.group_inputs() * rows * columns;
        if found > Self::MOST_INPUTS {
            return Err(WeightError::Inputs {
                most: Self::MOST_INPUTS,
                found,
            });
        }
        let packed = match kernels.int8 {
            None => Packed::Reference(Weights {
                values: weights.values.to_vec(),
                scales: weights.scales.to_vec(),
                zero_points: weights.zero_points.to_vec(),
                bias: weights.bias.map(<[f32]>::to_vec),
            }),
            Some(vector) if weights.group_inputs() == 1 => {
                let operand = vector.layout().operand;
                Packed::Depthwise(vector, Depthwise::pack(operand, &weights, &window))
            }
            Some(vector) => Packed::Dense(vector, Dense::pack(vector, &weights, &window)),
        };
        Ok(PackedConvolution {
            window,
            inputs: weights.inputs,
            outputs: weights.outputs,
            groups: weights.groups,
            kernels,
            packed,
        })
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
            Packed::Reference(_) => "scalar",
            Packed::Dense(vector, _) | Packed::Depthwise(vector, _) => vector.name(),
        }
    }

    /// Each image of out [output height, output width, outputs] = activation(sum · (scale of x · output scale) + bias +
    /// residual), of an image of x [height, width, inputs] with `image` its height and width. The output's size is that of
    /// [`Window::output`]; x is ordered as `layouts[0]` says, out and the residual as `layouts[1]`. Where bytes are read or
    /// written, both are channels last.
    ///
    /// The sum is exact and padding adds nothing to it. The scales' product is rounded; its product with the sum plus the
    /// bias is rounded once. So all variants are bit-identical, apart from the bits of a NaN, the sign of a zero, and the
    /// activation functions with an exponential. An image of f32 with a NaN gives NaN. An image's result does not depend on
    /// the others.
    pub fn apply(
        &self,
        x: ConvolutionInput,
        image: [usize; 2],
        layouts: [ImageLayout; 2],
        activation: Option<Nonlinearity>,
        residual: Option<&[f32]>,
        mut out: ConvolutionOutput,
    ) {
        let [height, width] = image;
        let (name, len, images) = match x {
            ConvolutionInput::F32(x, by) => ("f32", x.len(), by.len()),
            ConvolutionInput::Bytes(x, images, _) => ("u8", x.len(), images),
        };
        let size = height * width * self.inputs;
        assert_eq!(
            len,
            images * size,
            "x: {name} [{images}, {height}, {width}, {}]",
            self.inputs
        );
        let [out_height, out_width] = self.window.output(image).unwrap_or([0, 0]);
        let pixels = out_height * out_width;
        let out_size = pixels * self.outputs;
        assert_eq!(
            out.len(),
            images * out_size,
            "out: [{images}, {out_height}, {out_width}, {}]",
            self.outputs
        );
        assert!(
            residual.is_none_or(|r| r.len() == out.len()),
            "residual: [{images}, {out_height}, {out_width}, {}]",
            self.outputs
        );
        let floats = matches!(
            (&x, &out),
            (ConvolutionInput::F32(..), ConvolutionOutput::F32(_))
        );
        assert!(
            floats || layouts == [ImageLayout::ChannelsLast; 2],
            "layouts: expected bytes with the channels last, found {layouts:?}"
        );
        if out_size == 0 {
            return;
        }
        for i in 0..images {
            let residual = residual.map(|r| &r[i * out_size..][..out_size]);
            let out = out.part(i * out_size, out_size);
            let call = |bytes: &[u8], by: Affine| {
                let x = Image {
                    bytes,
                    height,
                    width,
                    channels: self.inputs,
                    by,
                };
                let run = |residual: Option<&[f32]>, out: ConvolutionOutput| {
                    let call = Call {
                        layer: self,
                        x: &x,
                        out_width,
                        activation,
                        residual,
                    };
                    call.run(out);
                };
                let out = match (out, layouts[1]) {
                    (ConvolutionOutput::F32(out), ImageLayout::ChannelsFirst) => out,
                    (out, _) => return run(residual, out),
                };
                scratch::with(out_size, |last: &mut [f32]| {
                    match residual {
                        None => run(None, ConvolutionOutput::F32(last)),
                        Some(residual) => scratch::with(out_size, |moved: &mut [f32]| {
                            transpose(residual, self.outputs, pixels, moved);
                            run(Some(moved), ConvolutionOutput::F32(last));
                        }),
                    }
                    transpose(last, pixels, self.outputs, out);
                });
            };
            match x {
                ConvolutionInput::Bytes(x, _, by) => call(&x[i * size..][..size], by),
                ConvolutionInput::F32(x, by) => scratch::with(size, |bytes: &mut [u8]| {
                    let (x, by) = (&x[i * size..][..size], by[i]);
                    let finite = match layouts[0] {
                        ImageLayout::ChannelsLast => self.quantize(x, by, bytes),
                        ImageLayout::ChannelsFirst => scratch::with(size, |first: &mut [u8]| {
                            let finite = self.quantize(x, by, first);
                            channels_last(first, self.inputs, bytes);
                            finite
                        }),
                    };
                    let scale = if finite { by.scale } else { f32::NAN };
                    call(bytes, Affine { scale, ..by });
                }),
            }
        }
    }

    /// Quantises an image to bytes; returns whether no value is NaN.
    fn quantize(&self, x: &[f32], by: Affine, out: &mut [u8]) -> bool {
        let finite = AtomicBool::new(true);
        let threads = threads::count(x.len().saturating_mul(4));
        threads::for_each_chunk(threads, out, QUANTIZED, |i, out| {
            let x = &x[i * QUANTIZED..][..out.len()];
            scratch::with(x.len(), |quantized: &mut [i8]| {
                let all = match self.kernels.float {
                    None => reference::quantize_affine(x, by, quantized),
                    Some(vector) => vector.quantize_affine(x, by, quantized),
                };
                if !all {
                    finite.store(false, Ordering::Relaxed);
                }
                for (to, from) in out.iter_mut().zip(&*quantized) {
                    *to = from.cast_unsigned() ^ 0x80;
                }
            });
        });
        finite.into_inner()
    }
}

impl ConvolutionOutput<'_> {
    fn len(&self) -> usize {
        match self {
            ConvolutionOutput::F32(out) => out.len(),
            ConvolutionOutput::Bytes(out, _) => out.len(),
        }
    }

    /// The `count` values from `first` on.
    fn part(&mut self, first: usize, count: usize) -> ConvolutionOutput<'_> {
        match self {
            ConvolutionOutput::F32(out) => ConvolutionOutput::F32(&mut out[first..][..count]),
            ConvolutionOutput::Bytes(out, by) => {
                ConvolutionOutput::Bytes(&mut out[first..][..count], *by)
            }
        }
    }
}

/// A [`ConvolutionOutput`] that several threads write parts of.
#[derive(Clone, Copy)]
enum SharedOutput {
    F32(Shared<f32>),
    Bytes(Shared<u8>, Affine),
}

impl SharedOutput {
    /// # Safety
    /// As of [`Shared::new`].
    unsafe fn new(out: &mut ConvolutionOutput) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            match out {
                ConvolutionOutput::F32(out) => SharedOutput::F32(Shared::new(out)),
                ConvolutionOutput::Bytes(out, by) => SharedOutput::Bytes(Shared::new(out), *by),
            }
        }
    }

    /// From value `start` on.
    fn from(self, start: usize) -> Target {
        match self {
            SharedOutput::F32(out) => Target::F32(out.pointer().wrapping_add(start)),
            SharedOutput::Bytes(out, by) => Target::Bytes(out.pointer().wrapping_add(start), by),
        }
    }
}

/// The convolution of one image, with the channels of the output and the residual last.
struct Call<'a> {
    layer: &'a PackedConvolution,
    x: &'a Image<'a>,
    out_width: usize,
    activation: Option<Nonlinearity>,
    /// As large as the output.
    residual: Option<&'a [f32]>,
}

impl Call<'_> {
    fn run(&self, out: ConvolutionOutput) {
        match &self.layer.packed {
            Packed::Reference(weights) => weights.apply(self, out),
            Packed::Dense(vector, weights) => weights.apply(*vector, self, out),
            Packed::Depthwise(vector, weights) => weights.apply(*vector, self, out),
        }
    }
}

/// Bytes x [channels, pixels] as [pixels, channels].
fn channels_last(x: &[u8], channels: usize, to: &mut [u8]) {
    let pixels = x.len() / channels.max(1);
    // Of four channels, 16 pixels at a time.
    let (fours, blocks) = (channels - channels % 4, pixels - pixels % 16);
    let one = |c: usize, p: usize, to: &mut [u8]| to[p * channels + c] = x[c * pixels + p];
    for p in (0..blocks).step_by(16) {
        for c in (0..fours).step_by(4) {
            let rows = std::array::from_fn(|i| {
                let from = &x[(c + i) * pixels + p..][..16];
                std::array::from_fn(|j| from[j])
            });
            let words = interleaved(rows);
            for (i, word) in words.as_chunks::<4>().0.iter().enumerate() {
                to[(p + i) * channels + c..][..4].copy_from_slice(word);
            }
        }
        for c in fours..channels {
            (p..p + 16).for_each(|p| one(c, p, to));
        }
    }
    for c in 0..channels {
        (blocks..pixels).for_each(|p| one(c, p, to));
    }
}

/// x [rows, columns] as [columns, rows].
fn transpose(x: &[f32], rows: usize, columns: usize, to: &mut [f32]) {
    let (most_rows, most_columns) = (rows - rows % 4, columns - columns % 4);
    for r in (0..most_rows).step_by(4) {
        for c in (0..most_columns).step_by(4) {
            let square = [0, 1, 2, 3].map(|i| {
                let from = &x[(r + i) * columns + c..][..4];
                [from[0], from[1], from[2], from[3]]
            });
            for (i, column) in transposed(square).iter().enumerate() {
                to[(c + i) * rows + r..][..4].copy_from_slice(column);
            }
        }
    }
    for r in 0..rows {
        let first = if r < most_rows { most_columns } else { 0 };
        for c in first..columns {
            to[c * rows + r] = x[r * columns + c];
        }
    }
}

impl Weights {
    fn apply(&self, call: &Call, out: ConvolutionOutput) {
        let &Call { layer, x, .. } = call;
        let weights = ConvolutionWeights {
            values: &self.values,
            scales: &self.scales,
            zero_points: &self.zero_points,
            bias: self.bias.as_deref(),
            outputs: layer.outputs,
            inputs: layer.inputs,
            groups: layer.groups,
        };
        let run = |out: &mut [f32]| {
            reference::convolution(
                x.bytes,
                [x.height, x.width],
                x.by,
                &weights,
                &layer.window,
                call.activation,
                call.residual,
                out,
            );
        };
        match out {
            ConvolutionOutput::F32(out) => run(out),
            ConvolutionOutput::Bytes(out, by) => {
                scratch::with(out.len(), |values: &mut [f32]| {
                    run(values);
                    reference::quantize_bytes(values, by, out);
                })
            }
        }
    }
}

/// A quantised image [height, width, channels].
struct Image<'a> {
    /// As [`ImageValues::Bytes`].
    bytes: &'a [u8],
    height: usize,
    width: usize,
    channels: usize,
    by: Affine,
}

impl Image<'_> {
    /// The byte of a value that adds nothing.
    fn padding(&self) -> u8 {
        self.by.zero_byte()
    }
}

impl Dense {
    fn pack(vector: &dyn Int8Kernels, weights: &ConvolutionWeights, window: &Window) -> Self {
        let [rows, columns] = window.kernel;
        let taps = rows * columns;
        let (inputs, n) = (weights.group_inputs(), weights.group_outputs());
        let k = inputs * taps;
        let mut zero_points: Vec<i32> = weights.zero_points.iter().map(|&z| z.into()).collect();
        zero_points.resize(weights.outputs, 0);
        let moved = without_minimum(weights.values, |at| at / k, &mut zero_points);
        let (values, parts) = match &moved {
            Ok(Some(moved)) => (&moved[..], 1),
            Ok(None) => (weights.values, 1),
            // -128 is the sum of -127 and -1.
            Err(_) => (weights.values, 2),
        };
        if zero_points.iter().all(|&z| z == 0) {
            zero_points.clear();
        }
        // [outputs][part][tap][input]
        let mut rows = vec![0; weights.outputs * parts * k];
        for (row, values) in rows
            .chunks_exact_mut((parts * k).max(1))
            .zip(values.chunks_exact(k.max(1)))
        {
            for (i, &w) in values.iter().enumerate() {
                let at = i % taps * inputs + i / taps;
                row[at] = w.max(-127);
                if parts == 2 {
                    row[k + at] = w - w.max(-127);
                }
            }
        }
        let layout = vector.layout();
        let size = layout.panel_size(parts * k);
        let each = n.div_ceil(layout.columns);
        let mut panels = Aligned::zeros(weights.groups * each * size);
        threads::for_each_chunk(threads::count(rows.len()), &mut panels, size, |i, panel| {
            let (group, i) = (i / each, i % each);
            let of_group = |all: usize| group * all..(group + 1) * all;
            pack::pack_panel(
                layout,
                Weight::OutIn(&rows[of_group(n * parts * k)]),
                parts * k,
                n,
                i * layout.columns..n.min((i + 1) * layout.columns),
                &weights.scales[of_group(n)],
                weights.bias.map(|b| &b[of_group(n)]),
                panel,
            );
        });
        let sum = |o: usize| {
            let row = &rows[o * parts * k..][..parts * k];
            row.iter().map(|&w| i32::from(w)).sum()
        };
        Dense {
            panels,
            k,
            parts,
            sums: (0..weights.outputs).map(sum).collect(),
            zero_points,
        }
    }

    /// Whether the rows under the windows are those of the image, and nothing but them is needed.
    fn reads_rows(&self, layer: &PackedConvolution) -> bool {
        let one_pixel = Window {
            kernel: [1, 1],
            stride: [1, 1],
            padding: [0; 4],
            ..layer.window
        };
        let all = layer.groups == 1 && self.parts == 1 && self.zero_points.is_empty();
        all && layer.window == one_pixel
    }

    /// Whether the kernels read the image's rows where they are.
    fn reads_in_place(&self, layout: Layout, layer: &PackedConvolution) -> bool {
        // The distance of packed rows avoids those that would evict each other from the cache.
        let fits = self.k == layout.row_size(self.k);
        let bytes = layout.whole_rows && layout.operand == Operand::Unsigned;
        bytes && fits && self.reads_rows(layer)
    }

    /// The outputs `pixels`.
    fn block(
        &self,
        vector: &dyn Int8Kernels,
        call: &Call,
        pixels: Range<usize>,
        threads: usize,
        offsets: &[i32],
        out: SharedOutput,
    ) {
        let &Call { layer, x, .. } = call;
        let layout = vector.layout();
        let k = self.parts * self.k;
        let (rows, n) = (pixels.len(), layer.outputs / layer.groups);
        let size = layout.panel_size(k);
        let panels = n.div_ceil(layout.columns);
        let start = pixels.start * layer.outputs;
        scratch::with(rows, |scales: &mut [f32]| {
            scales.fill(x.by.scale);
            let scales = &*scales;
            // The rows x of a group; `sums` are its [`Offsets::rows`].
            let multiply = |group: usize, x: &[u8], in_place: Option<usize>, sums: &[i32]| {
                let columns = group * n..(group + 1) * n;
                let offsets = Offsets {
                    columns: &offsets[columns.clone()],
                    rows: sums,
                    zero_points: self.zero_points.get(columns.clone()).unwrap_or(&[]),
                };
                let start = start + columns.start;
                let residual = call.residual.map(|r| Residual {
                    values: &r[start..],
                    order: Order::BeforeActivation,
                });
                let of_group = &self.panels[group * panels * size..][..panels * size];
                for_each_group(threads, n, layout.columns, rows, |columns, sums| {
                    let job = Int8Group {
                        x,
                        in_place,
                        rows,
                        scales,
                        steps: k.div_ceil(layout.step),
                        shifted: layout.shifted(true),
                        offsets: Some(offsets),
                        panels: &of_group[columns.panels.start * size..columns.panels.end * size],
                        columns: columns.range,
                        activation: call.activation,
                        residual,
                        width: layer.outputs,
                        out: out.from(start),
                    };
                    // SAFETY: `out` has these rows, and the jobs' columns do not overlap.
                    unsafe { vector.group(&job, sums) };
                });
            };
            if self.reads_in_place(layout, layer) {
                let of_block = &x.bytes[pixels.start * k..pixels.end * k];
                return scratch::with(rows, |sums: &mut [i32]| {
                    multiply(0, of_block, Some(k), sums);
                });
            }
            let block_size = layout.block_size(rows, k);
            scratch::with(layout.rows_size(rows, k), |packed: &mut [u8]| {
                scratch::with(rows, |sums: &mut [i32]| {
                    for group in 0..layer.groups {
                        let gather = Gather {
                            x,
                            window: &layer.window,
                            out_width: call.out_width,
                            channels: self.k / (layer.window.kernel[0] * layer.window.kernel[1]),
                            first_channel: group * (layer.inputs / layer.groups),
                            whole_rows: self.reads_rows(layer),
                            dense: self,
                        };
                        // SAFETY: each block of rows writes its own bytes and its own sums.
                        let (bytes, row_sums) = unsafe { (Shared::new(packed), Shared::new(sums)) };
                        threads::for_each(threads, rows.div_ceil(layout.rows), |i| {
                            let Some((first, count)) = blocks(rows, layout.rows).nth(i) else {
                                return;
                            };
                            // SAFETY: the block has `block_size` bytes, and its rows have sums, which only this job
                            // accesses.
                            let (bytes, row_sums) = unsafe {
                                (
                                    std::slice::from_raw_parts_mut(
                                        bytes.pointer().add(i * block_size),
                                        block_size,
                                    ),
                                    std::slice::from_raw_parts_mut(
                                        row_sums.pointer().add(first),
                                        count,
                                    ),
                                )
                            };
                            gather.pack(layout, pixels.start + first, count, bytes, row_sums);
                        });
                        multiply(group, packed, None, sums);
                    }
                });
            });
        });
    }

    fn apply(&self, vector: &dyn Int8Kernels, call: &Call, mut out: ConvolutionOutput) {
        let &Call { layer, x, .. } = call;
        let k = self.parts * self.k;
        let pixels = out.len() / layer.outputs;
        let z = i32::from(x.by.zero_byte());
        // Four products of bytes take as long as one in f32.
        let threads = threads::count(out.len() / 4 * k);
        let most = (MOST_GATHERED / k.max(1)).clamp(vector.layout().rows, MOST_ROWS);
        // Two blocks per thread balance the load.
        let most = match threads {
            1 => most,
            _ => most.min(pixels.div_ceil(2 * threads).max(vector.layout().rows)),
        };
        let count = pixels.div_ceil(most);
        // Blocks in parallel, or the parts of one block.
        let (outer, inner) = if count >= threads {
            (threads, 1)
        } else {
            (1, threads)
        };
        // SAFETY: each block writes outputs of its own.
        let out = unsafe { SharedOutput::new(&mut out) };
        scratch::with(layer.outputs, |offsets: &mut [i32]| {
            for (to, sum) in offsets.iter_mut().zip(&self.sums) {
                *to = sum.wrapping_mul(-z);
            }
            let offsets = &*offsets;
            threads::for_each(outer, count, |i| {
                let Some((first, rows)) = blocks(pixels, most).nth(i) else {
                    return;
                };
                let range = first..first + rows;
                self.block(vector, call, range, inner, offsets, out);
            });
        });
    }
}

/// Gathers the values under the window into rows [part][kernel row][kernel column][channel].
struct Gather<'a> {
    x: &'a Image<'a>,
    window: &'a Window,
    out_width: usize,
    first_channel: usize,
    /// Channels of the group.
    channels: usize,
    /// [`Dense::reads_rows`]
    whole_rows: bool,
    dense: &'a Dense,
}

impl Gather<'_> {
    /// Packs the rows of `count` outputs from `first` on as one block, and writes what their zero point contributes to a sum
    /// for each unit of a weight's zero point: see [`Offsets::rows`].
    fn pack(&self, layout: Layout, first: usize, count: usize, to: &mut [u8], sums: &mut [i32]) {
        let (k, parts) = (self.dense.k, self.dense.parts);
        let whole = parts * k;
        let repeat = |row: &mut [u8]| {
            if parts == 2 {
                row.copy_within(..k, k);
            }
        };
        let sum = |row: &[u8], sum: &mut i32| {
            if !self.dense.zero_points.is_empty() {
                let x: i32 = row[..k].iter().map(|&b| i32::from(b)).sum();
                *sum = i32::from(self.x.by.zero_byte()) * k as i32 - x;
            }
        };
        if self.whole_rows {
            let rows = &self.x.bytes[first * k..][..count * k];
            return pack::pack_rows(layout, rows, k, count, to);
        }
        if layout.whole_rows && layout.operand == Operand::Unsigned {
            let rows = to.chunks_exact_mut(layout.row_size(whole).max(1));
            for (i, (row, row_sum)) in rows.zip(sums).enumerate() {
                self.row(first + i, &mut row[..k]);
                repeat(row);
                row[whole..].fill(0);
                sum(row, row_sum);
            }
            return;
        }
        let [kernel_rows, columns] = self.window.kernel;
        let line = columns * self.channels;
        if parts == 1 && self.dense.zero_points.is_empty() && layout.packs_lines(line) {
            return scratch::with(count * k, |gathered: &mut [u8]| {
                let none = Lines {
                    values: &[][..],
                    pitch: 0,
                };
                let mut rows = [none; MOST_TILE_ROWS];
                let rows = &mut rows[..count];
                for (i, (row, to)) in rows
                    .iter_mut()
                    .zip(gathered.chunks_exact_mut(k))
                    .enumerate()
                {
                    *row = self.inside(first + i).unwrap_or_else(|| {
                        self.row(first + i, to);
                        Lines {
                            values: to,
                            pitch: line,
                        }
                    });
                }
                pack::pack_lines(layout, rows, kernel_rows, line, to);
            });
        }
        scratch::with(count * whole, |gathered: &mut [u8]| {
            let rows = gathered.chunks_exact_mut(whole.max(1));
            for (i, (row, row_sum)) in rows.zip(sums).enumerate() {
                self.row(first + i, &mut row[..k]);
                repeat(row);
                sum(row, row_sum);
            }
            pack::pack_rows(layout, gathered, whole, count, to);
        });
    }

    /// The lines of the image that are the values of one output: none if there are other values between them, or padding.
    fn inside(&self, pixel: usize) -> Option<Lines<'_, u8>> {
        let Window {
            kernel,
            stride,
            dilation,
            padding,
            ..
        } = *self.window;
        let x = self.x;
        if dilation[1] != 1 || self.channels != x.channels {
            return None;
        }
        let row = (pixel / self.out_width * stride[0]).checked_sub(padding[0])?;
        let column = (pixel % self.out_width * stride[1]).checked_sub(padding[1])?;
        let last = row + (kernel[0] - 1) * dilation[0];
        let inside = last < x.height && column + kernel[1] <= x.width;
        inside.then(|| Lines {
            values: &x.bytes[(row * x.width + column) * x.channels..],
            pitch: dilation[0] * x.width * x.channels,
        })
    }

    /// The values of one output.
    fn row(&self, pixel: usize, to: &mut [u8]) {
        let Window {
            kernel: [_, columns],
            stride,
            dilation,
            padding,
            ..
        } = *self.window;
        let (x, channels) = (self.x, self.channels);
        let line = columns * channels;
        if let Some(lines) = self.inside(pixel) {
            for (i, to) in to.chunks_exact_mut(line.max(1)).enumerate() {
                to.copy_from_slice(&lines.values[i * lines.pitch..][..line]);
            }
            return;
        }
        let top = pixel / self.out_width * stride[0];
        let left = pixel % self.out_width * stride[1];
        // The columns that are neither left nor right of the image.
        let inside = {
            let first = padding[1].saturating_sub(left).div_ceil(dilation[1]);
            let end = (padding[1] + x.width).saturating_sub(left);
            let end = end.div_ceil(dilation[1]).min(columns);
            first.min(end)..end
        };
        for (ky, to) in to.chunks_exact_mut(line.max(1)).enumerate() {
            let row = (top + ky * dilation[0]).checked_sub(padding[0]);
            let Some(row) = row.filter(|&r| r < x.height && !inside.is_empty()) else {
                to.fill(x.padding());
                continue;
            };
            let (before, rest) = to.split_at_mut(inside.start * channels);
            let (middle, behind) = rest.split_at_mut(inside.len() * channels);
            before.fill(x.padding());
            behind.fill(x.padding());
            let column = left + inside.start * dilation[1] - padding[1];
            let at = (row * x.width + column) * x.channels + self.first_channel;
            let from = &x.bytes[at..];
            if dilation[1] == 1 && channels == x.channels {
                middle.copy_from_slice(&from[..middle.len()]);
            } else {
                let step = dilation[1] * x.channels;
                for (i, to) in middle.chunks_exact_mut(channels).enumerate() {
                    to.copy_from_slice(&from[i * step..][..channels]);
                }
            }
        }
    }
}

impl Depthwise {
    fn pack(operand: Operand, weights: &ConvolutionWeights, window: &Window) -> Self {
        let [rows, columns] = window.kernel;
        let k = rows * columns;
        let taps = operand.taps();
        let groups = columns.div_ceil(taps);
        let zero = |o: usize| i32::from(weights.zero_points.get(o).copied().unwrap_or(0));
        let difference = |o: usize, tap: usize| i32::from(weights.values[o * k + tap]) - zero(o);
        let differences = (0..weights.outputs * k).map(|i| difference(i / k, i % k).unsigned_abs());
        let parts = differences.max().unwrap_or(0).div_ceil(127).max(1) as usize;
        let block_size = parts * rows * groups * STEP;
        let count = weights.outputs.div_ceil(CHANNELS);
        let mut packed = Aligned::zeros(count * block_size);
        let mut sums = vec![0; weights.outputs];
        for (o, sum) in sums.iter_mut().enumerate() {
            let block = &mut packed[o / CHANNELS * block_size..][..block_size];
            for tap in 0..k {
                let (row, column) = (tap / columns, tap % columns);
                let mut rest = difference(o, tap);
                *sum += rest;
                for part in 0..parts {
                    let value = rest.clamp(-127, 127) as i8;
                    rest -= i32::from(value);
                    let step = (part * rows + row) * groups + column / taps;
                    let lane = &mut block[step * STEP + o % CHANNELS * 4..][..4];
                    let at = column % taps;
                    match operand {
                        Operand::Wide => {
                            lane[2 * at..][..2].copy_from_slice(&i16::from(value).to_le_bytes());
                        }
                        Operand::Signed | Operand::Unsigned => lane[at] = value.cast_unsigned(),
                    }
                }
            }
        }
        Depthwise {
            weights: packed,
            parts,
            sums,
            scales: weights.scales.to_vec(),
            bias: weights
                .bias
                .map_or_else(|| vec![0.0; weights.outputs], <[f32]>::to_vec),
        }
    }

    fn apply(&self, vector: &dyn Int8Kernels, call: &Call, mut out: ConvolutionOutput) {
        let &Call {
            layer,
            x,
            out_width,
            ..
        } = call;
        let out_height = out.len() / (out_width * layer.outputs);
        let count = layer.outputs.div_ceil(CHANNELS);
        let block_size = self.weights.len() / count;
        let [rows, columns] = layer.window.kernel;
        // The kernel's vectors have fewer products than those of f32 matrices.
        let threads = threads::count(out.len() / 2 * rows * columns);
        // Few blocks are split into bands of rows, which interleave some rows twice.
        let bands = match threads {
            1 => 1,
            _ => (2 * threads).div_ceil(count).min(out_height.div_ceil(8)),
        };
        let band = out_height.div_ceil(bands);
        // SAFETY: each block writes channels or rows of its own.
        let out = unsafe { SharedOutput::new(&mut out) };
        let (turn, zero) = match vector.layout().operand {
            Operand::Unsigned => (0, i32::from(x.by.zero_byte())),
            // Subtracting 128 from a byte flips the highest bit.
            Operand::Signed | Operand::Wide => (0x80, i32::from(x.by.zero_point)),
        };
        threads::for_each(threads, count * bands, |i| {
            let (i, part) = (i / bands, i % bands);
            let first = i * CHANNELS;
            let channels = first..layer.outputs.min(first + CHANNELS);
            let padded = |values: &[f32]| {
                let mut all = [0.0; CHANNELS];
                all[..channels.len()].copy_from_slice(&values[channels.clone()]);
                all
            };
            let mut from = [0; CHANNELS];
            for (from, sum) in from.iter_mut().zip(&self.sums[channels.clone()]) {
                *from = sum.wrapping_mul(-zero);
            }
            let block = DepthwiseBlock {
                x: x.bytes,
                turn,
                height: x.height,
                width: x.width,
                inputs: x.channels,
                padding: x.padding() ^ turn,
                window: layer.window,
                multiplier: layer.outputs / layer.groups,
                outputs: layer.outputs,
                first,
                weights: &self.weights[i * block_size..][..block_size],
                parts: self.parts,
                from,
                scales: padded(&self.scales).map(|scale| x.by.scale * scale),
                bias: padded(&self.bias),
                activation: call.activation,
                residual: call.residual,
                rows: (part * band).min(out_height)..((part + 1) * band).min(out_height),
                out_width,
                out: out.from(0),
            };
            // SAFETY: `out` has all outputs; each block and band writes its own.
            unsafe { vector.depthwise(&block) };
        });
    }
}

impl fmt::Debug for PackedConvolution {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [rows, columns] = self.window.kernel;
        write!(
            f,
            "PackedConvolution({} -> {}, {rows} x {columns}, {} groups, {})",
            self.inputs,
            self.outputs,
            self.groups,
            self.kernel()
        )
    }
}
