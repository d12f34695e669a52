//! What a variant consists of: kernels for f32, 8-bit integers and f16, and their operands.

use std::fmt::Debug;
use std::ops::Range;

use pinhole_model::Activation;

use crate::int8::pack::Layout;
use crate::int8::taps::CHANNELS;
use crate::resample::{FilteredLines, LINES, LineFilter};
use crate::types::{Affine, AttentionStages, CentredRows, Nonlinearity, StridedRows, Window};
use crate::yuv::YuvMatrix;

/// A variant: its name, and the kernels for f32, 8-bit integers and f16. Without kernels the scalar reference runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    pub(crate) name: &'static str,
    pub(crate) float: Option<&'static dyn FloatKernels>,
    pub(crate) int8: Option<&'static dyn Int8Kernels>,
    pub(crate) half: Option<&'static dyn F16Kernels>,
}

/// The scalar reference.
pub(crate) const SCALAR: Kernels = Kernels {
    name: "scalar",
    float: None,
    int8: None,
    half: None,
};

/// A tile: its size is [`crate::simd::Simd::ROWS`], `COLUMNS` and `DEPTH`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    /// [`crate::simd::Simd::IN_PLACE`]
    pub(crate) in_place: bool,
}

/// The f32 kernels of a SIMD variant. They run on the calling thread; the caller splits the work.
pub(crate) trait FloatKernels: PixelKernels {
    fn name(&self) -> &'static str;
    fn shape(&self) -> Shape;
    /// # Safety
    /// As [`crate::linear::tile::group`].
    unsafe fn group(&self, group: &LinearGroup, sums: &mut [f32]);
    /// # Safety
    /// As [`crate::attention::head`].
    unsafe fn head(&self, head: &AttentionHead, memory: &mut [f32]);
    fn layer_norm(
        &self,
        x: &[f32],
        width: usize,
        gain: &[f32],
        bias: &[f32],
        epsilon: f32,
        out: &mut [f32],
    );
    fn activate(&self, x: &mut [f32], function: Option<Nonlinearity>);
    /// # Safety
    /// As [`FloatDepthwiseBlock::out`] states.
    unsafe fn depthwise(&self, block: &FloatDepthwiseBlock);
    /// As [`crate::winograd::input`].
    fn winograd_input(&self, image: &WinogradImage, tiles: Range<usize>, to: &mut [f32]);
    /// # Safety
    /// As [`crate::winograd::panel`].
    unsafe fn winograd_panel(&self, panel: &WinogradPanel, products: &mut [f32]);
    /// Quantises one row to s8 and returns its scale.
    fn quantize(&self, x: &[f32], out: &mut [i8]) -> f32;
    /// Quantises one row plus an offset to u8 and returns its scale.
    fn quantize_offset(&self, x: &[f32], offset: f32, out: &mut [u8]) -> f32;
    /// As [`crate::reference::quantize_affine`].
    fn quantize_affine(&self, x: &[f32], by: Affine, out: &mut [i8]) -> bool;
    fn fake_quantize(&self, x: &[f32], by: Affine, out: &mut [f32]);
    /// As [`crate::int8::attention::column_means`].
    fn column_means(&self, rows: StridedRows, count: usize, means: &mut [f32]);
    /// As [`crate::int8::attention::quantize_rows`].
    fn quantize_rows(&self, x: CentredRows, out: &mut [i8], scales: &mut [f32]);
    /// As [`crate::int8::attention::quantize_columns`].
    fn quantize_columns(
        &self,
        x: CentredRows,
        scales: &mut [f32],
        factors: &mut [f32],
        out: &mut [i8],
    );
    /// As [`crate::int8::attention::shares`].
    fn shares(
        &self,
        scores: &[f32],
        stride: usize,
        seen: usize,
        scale: f32,
        out: &mut [u8],
        scales: &mut [f32],
    );
    /// As [`crate::reference::range`].
    fn range(&self, x: &[f32]) -> [f32; 3];
    /// [`crate::activation::exp2`] of each value.
    #[cfg(test)]
    fn exp2(&self, x: &mut [f32]);
}

/// The kernels for images of a SIMD variant, on the calling thread. All equal the reference bit for bit.
pub(crate) trait PixelKernels: Debug + Send + Sync {
    /// As [`crate::filter_lines`].
    fn filter_lines(
        &self,
        lines: &[&[u8]; LINES],
        first: usize,
        filter: &LineFilter,
        strip: Range<usize>,
        out: &mut FilteredLines,
    );
    /// As [`crate::add_lines`].
    fn add_lines(&self, sums: &mut [i32], lines: &FilteredLines, weights: &[i32; LINES]);
    /// As [`crate::mix_rows`].
    fn mix_rows(&self, near: &[u8], far: &[u8], sums: &mut [u16]);
    /// As [`crate::double_row`].
    fn double_row(&self, sums: &[u16], biases: [u16; 2], shift: u32, pixels: &mut [u8]);
    /// As [`crate::yuv_to_rgb`].
    fn yuv_to_rgb(&self, matrix: &YuvMatrix, luma: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]);
}

/// The 8-bit integer kernels of a SIMD variant, on the calling thread.
pub(crate) trait Int8Kernels: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn layout(&self) -> Layout;
    /// [`crate::int8::group::Int8Simd::DEPTH`]
    #[cfg(test)]
    fn depth(&self) -> usize;
    /// As [`Self::group`] applies it to its outputs.
    #[cfg(test)]
    fn activate(&self, x: &mut [f32], function: Option<Nonlinearity>);
    /// # Safety
    /// As [`crate::int8::group::group`].
    unsafe fn group(&self, group: &Int8Group, sums: &mut [i32]);
    /// # Safety
    /// As [`DepthwiseBlock::out`] states.
    unsafe fn depthwise(&self, block: &DepthwiseBlock);
}

/// The f16 kernels of a SIMD variant, on the calling thread.
pub(crate) trait F16Kernels: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    /// Packed rows are padded to `rows`.
    fn shape(&self) -> Shape;
    /// [`crate::reference::row_f16`] of each row of x [scales.len(), k], at most a tile's rows, into `to`
    /// [steps of k][rows of a tile], padded with zeros.
    fn pack_rows(&self, x: &[f32], k: usize, exponent: i32, scales: &mut [f32], to: &mut [u16]);
    /// # Safety
    /// As [`F16Group::out`] states.
    unsafe fn group(&self, group: &F16Group, sums: &mut [f32]);
}

/// Rows that panels are multiplied by.
#[derive(Clone, Copy)]
pub(crate) enum GroupRows<'a> {
    /// In blocks of k, as by [`crate::linear::pack::pack_rows`].
    Packed(&'a [f32]),
    /// Of `depth` values.
    InPlace(StridedRows<'a>),
}

/// Panels that are computed together.
pub(crate) struct LinearGroup<'a> {
    pub(crate) x: GroupRows<'a>,
    /// Rows of x.
    pub(crate) rows: usize,
    /// k rounded up to a multiple of 4.
    pub(crate) depth: usize,
    /// Whole panels.
    pub(crate) panels: &'a [f32],
    /// The columns of `out` that the panels compute.
    pub(crate) columns: Range<usize>,
    pub(crate) activation: Option<Nonlinearity>,
    /// Rows `width` apart, the last one at least up to the end of `columns`.
    pub(crate) residual: Option<Residual<'a>>,
    /// Values between the starts of two rows of `out` and `residual`.
    pub(crate) width: usize,
    /// Rows `width` apart. The group writes `columns`, which nothing else accesses meanwhile.
    pub(crate) out: *mut f32,
}

/// The operands of one attention head: rows of `width` values.
pub(crate) struct AttentionHead<'a> {
    pub(crate) q: StridedRows<'a>,
    pub(crate) tq: usize,
    pub(crate) k: StridedRows<'a>,
    pub(crate) v: StridedRows<'a>,
    pub(crate) tk: usize,
    pub(crate) width: usize,
    pub(crate) causal: bool,
    pub(crate) scale: f32,
    /// Those of the scores apply before `scale`.
    pub(crate) stages: &'a AttentionStages,
    /// tq rows of `width` values, `stride` apart, which nothing else accesses meanwhile.
    pub(crate) out: *mut f32,
    pub(crate) stride: usize,
}

/// Panels that are computed together.
pub(crate) struct Int8Group<'a> {
    /// Blocks of packed rows, [`Layout::block_size`] apart; or, for a layout of whole rows, rows this many bytes apart.
    pub(crate) x: &'a [u8],
    pub(crate) in_place: Option<usize>,
    pub(crate) rows: usize,
    /// [rows]
    pub(crate) scales: &'a [f32],
    /// Steps of k.
    pub(crate) steps: usize,
    /// Whether 128 was added to or subtracted from the packed values.
    pub(crate) shifted: bool,
    /// The zero points' contribution to the sums.
    pub(crate) offsets: Option<Offsets<'a>>,
    /// Whole panels.
    pub(crate) panels: &'a [u8],
    /// The columns of `out` that the panels compute.
    pub(crate) columns: Range<usize>,
    pub(crate) activation: Option<Nonlinearity>,
    /// Rows `width` apart, the last one at least up to the end of `columns`.
    pub(crate) residual: Option<Residual<'a>>,
    /// Values between the starts of two rows of `out` and `residual`.
    pub(crate) width: usize,
    /// Rows `width` apart. The group writes `columns`, which nothing else accesses meanwhile.
    pub(crate) out: Target,
}

/// Where an 8-bit kernel writes its outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    F32(*mut f32),
    /// As [`crate::ConvolutionOutput::Bytes`].
    Bytes(*mut u8, Affine),
}

impl Target {
    /// The factor and the summand that make bytes of values, before they are rounded.
    pub(crate) fn to_bytes(self) -> [f32; 2] {
        match self {
            Target::F32(_) => [1.0, 0.0],
            Target::Bytes(_, by) => [1.0 / by.scale, by.zero_byte().into()],
        }
    }
}

/// What is added to the outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Residual<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) order: Order,
}

impl<'a> Residual<'a> {
    /// The `count` values from `first` on.
    #[inline(always)]
    pub(crate) fn part(self, first: usize, count: usize) -> Residual<'a> {
        Residual {
            values: &self.values[first..][..count],
            ..self
        }
    }
}

/// When the residual is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// To the activation function's result, as in a transformer's linear layers.
    AfterActivation,
    /// To its argument, as in convolutional networks.
    BeforeActivation,
}

/// A block of channels of one image.
pub(crate) struct DepthwiseBlock<'a> {
    /// [height, width, inputs]
    pub(crate) x: &'a [u8],
    /// What makes the variant's operand of a byte, by xor.
    pub(crate) turn: u8,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) inputs: usize,
    /// The operand of padding.
    pub(crate) padding: u8,
    pub(crate) window: Window,
    /// Output channels per input channel.
    pub(crate) multiplier: usize,
    /// n: all output channels.
    pub(crate) outputs: usize,
    /// The block's first output channel.
    pub(crate) first: usize,
    /// [parts of a weight][rows of the kernel][groups of taps][STEP]
    pub(crate) weights: &'a [u8],
    pub(crate) parts: usize,
    /// What the sums start with.
    pub(crate) from: [i32; CHANNELS],
    /// Scale of x times scale of the weights.
    pub(crate) scales: [f32; CHANNELS],
    pub(crate) bias: [f32; CHANNELS],
    pub(crate) activation: Option<Nonlinearity>,
    /// [output height, output width, outputs], added before the activation function.
    pub(crate) residual: Option<&'a [f32]>,
    /// The output rows to compute.
    pub(crate) rows: Range<usize>,
    pub(crate) out_width: usize,
    /// [output height, output width, outputs]. The block writes its channels of its rows, which nothing else accesses
    /// meanwhile.
    pub(crate) out: Target,
}

/// A block of channels of one image, in f32.
pub(crate) struct FloatDepthwiseBlock<'a> {
    /// [height, width, inputs]
    pub(crate) x: &'a [f32],
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) inputs: usize,
    pub(crate) window: Window,
    /// Output channels per input channel.
    pub(crate) multiplier: usize,
    /// n: all output channels.
    pub(crate) outputs: usize,
    /// The block's first output channel.
    pub(crate) first: usize,
    /// [kernel height, kernel width, CHANNELS]
    pub(crate) weights: &'a [f32],
    pub(crate) bias: [f32; CHANNELS],
    pub(crate) activation: Option<Nonlinearity>,
    /// [output height, output width, outputs]
    pub(crate) residual: Option<Residual<'a>>,
    /// The output rows to compute.
    pub(crate) rows: Range<usize>,
    pub(crate) out_width: usize,
    /// [output height, output width, outputs]. The block writes its channels of its rows, which nothing else accesses
    /// meanwhile.
    pub(crate) out: *mut f32,
}

/// A minimal filtering of 3 x 3 kernels by tiles of outputs (Lavin and Gray, 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// F(2 x 2, 3 x 3), of the points 0, 1, -1 and infinity: 16 products instead of 36, and 1.78 times the weights.
    Two,
    /// F(4 x 4, 3 x 3), of the points 0, ±1/√2, ±√2 and infinity: 36 products instead of 144, and 4 times the weights. Its
    /// rounding errors are a third of those of the points 0, ±1, ±2 and infinity.
    Four,
}

/// An image [height, width, channels], and the outputs' height and width.
#[derive(Clone, Copy)]
pub(crate) struct WinogradImage<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    /// Pixels of zeros at the top and the left.
    pub(crate) padding: [usize; 2],
    pub(crate) out: [usize; 2],
    pub(crate) filter: Filter,
    /// At least `channels` zeros: a pixel of padding.
    pub(crate) zeros: &'a [f32],
}

/// What is computed of some tiles for a panel of outputs.
pub(crate) struct WinogradPanel<'a> {
    pub(crate) image: &'a WinogradImage<'a>,
    /// The tiles, row by row of the image.
    pub(crate) tiles: Range<usize>,
    /// Their patches, as by [`FloatKernels::winograd_input`]: one part for each block of rows.
    pub(crate) patches: &'a [f32],
    /// [product][inputs rounded up to a multiple of 4][columns of a tile]
    pub(crate) weights: &'a [f32],
    /// [columns of a tile]
    pub(crate) bias: &'a [f32],
    /// The outputs that the panel computes.
    pub(crate) columns: Range<usize>,
    pub(crate) activation: Option<Nonlinearity>,
    /// Added before the activation function; as `out`.
    pub(crate) residual: Option<&'a [f32]>,
    /// All outputs of a pixel.
    pub(crate) outputs: usize,
    /// [output height, output width, outputs]. The panel writes its columns of the tiles' pixels, which nothing else
    /// accesses meanwhile.
    pub(crate) out: *mut f32,
}

/// The zero points' contribution to the sum of row i and column j: columns[j] + rows[i] · zero_points[j], wrapping.
#[derive(Clone, Copy)]
pub(crate) struct Offsets<'a> {
    /// [n]
    pub(crate) columns: &'a [i32],
    /// [m]
    pub(crate) rows: &'a [i32],
    /// [n], or empty.
    pub(crate) zero_points: &'a [i32],
}

impl Offsets<'_> {
    /// Whether the offsets of all rows are equal.
    pub(crate) fn are_uniform(self) -> bool {
        self.zero_points.is_empty()
    }

    /// Initialises the sums [rows, width] of the columns `columns`; sums of padding become 0.
    pub(crate) fn write(
        self,
        corrections: Option<&[i32]>,
        columns: Range<usize>,
        width: usize,
        sums: &mut [i32],
    ) {
        let from = &self.columns[columns.clone()];
        for (sums, &row) in sums.chunks_exact_mut(width).zip(self.rows) {
            match corrections {
                Some(corrections) => sums.copy_from_slice(corrections),
                None => sums.fill(0),
            }
            for (sum, from) in sums.iter_mut().zip(from) {
                *sum = sum.wrapping_add(*from);
            }
            if !self.zero_points.is_empty() {
                let zero_points = &self.zero_points[columns.clone()];
                for (sum, zero) in sums.iter_mut().zip(zero_points) {
                    *sum = sum.wrapping_add(row.wrapping_mul(*zero));
                }
            }
        }
    }
}

/// Panels that are computed together.
#[cfg_attr(
    not(target_arch = "aarch64"),
    allow(dead_code, reason = "used on ARM only")
)]
pub(crate) struct F16Group<'a> {
    /// Packed rows: blocks of a tile's rows, as by [`F16Kernels::pack_rows`].
    pub(crate) x: &'a [u16],
    /// [rows]
    pub(crate) scales: &'a [f32],
    /// k rounded up to a multiple of 4.
    pub(crate) depth: usize,
    /// Whole panels.
    pub(crate) panels: &'a [u16],
    /// One value per column of the panels.
    pub(crate) bias: &'a [f32],
    /// The columns of `out` that the panels compute.
    pub(crate) columns: Range<usize>,
    pub(crate) activation: Option<Activation>,
    /// [rows, width]
    pub(crate) residual: Option<&'a [f32]>,
    /// n: the columns of `out` and `residual`.
    pub(crate) width: usize,
    /// [rows, width]. The group writes `columns`, which nothing else accesses meanwhile.
    pub(crate) out: *mut f32,
}
