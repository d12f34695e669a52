//! Convolutions of 3 x 3 by Winograd's minimal filtering, F(m x m, 3 x 3) (Lavin and Gray, 2015): fewer multiplications per
//! output than a product for each tap.
//!
//! A tile of m x m outputs is computed from a patch of (m + 2)² pixels: Y = Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A, summed over the
//! channels of d before the outer transform. So each of the (m + 2)² places of a transformed patch is a matrix product of
//! its own, of a row for each tile. The patches of a block of tiles are transformed directly into the rows of the tiles of
//! linear layers; all products of a panel of outputs are then computed, and transformed to outputs while they are in the
//! cache.

use std::ops::Range;

use crate::activation::by_activation;
use crate::dispatch::{Filter, FloatKernels, Order, Shape, WinogradImage, WinogradPanel};
use crate::linear::pack::blocks;
use crate::linear::tile::{LINE, write};
use crate::scratch::{self, Aligned};
use crate::simd::{MOST_LANES, Simd, Tile, load_part};
use crate::threads::{self, Shared};
use crate::types::{FloatConvolutionWeights, Nonlinearity, Window};

/// Side of a kernel.
const KERNEL: usize = 3;

/// A row of G, which transforms kernels, for each place of a transformed patch.
type KernelRow = [f64; KERNEL];

const HALF_ROOT: f64 = std::f64::consts::FRAC_1_SQRT_2;
const ROOT: f64 = std::f64::consts::SQRT_2;

impl Filter {
    pub(crate) const ALL: [Filter; 2] = [Filter::Two, Filter::Four];

    /// m: outputs of a row of a tile.
    pub(crate) fn outputs(self) -> usize {
        match self {
            Filter::Two => 2,
            Filter::Four => 4,
        }
    }

    /// Pixels of a row of a patch.
    fn side(self) -> usize {
        self.outputs() + KERNEL - 1
    }

    /// Products for each channel and tile.
    pub(crate) fn products(self) -> usize {
        self.side() * self.side()
    }

    /// Tiles of an image of this height and width, down and across.
    pub(crate) fn tiles(self, image: [usize; 2]) -> [usize; 2] {
        image.map(|side| side.div_ceil(self.outputs()))
    }

    /// G, row by row.
    fn kernel_rows(self) -> &'static [KernelRow] {
        match self {
            Filter::Two => &[
                [1.0, 0.0, 0.0],
                [0.5, 0.5, 0.5],
                [0.5, -0.5, 0.5],
                [0.0, 0.0, 1.0],
            ],
            Filter::Four => &[
                [1.0, 0.0, 0.0],
                [-2.0 / 3.0, -ROOT / 3.0, -1.0 / 3.0],
                [-2.0 / 3.0, ROOT / 3.0, -1.0 / 3.0],
                [1.0 / 6.0, ROOT / 6.0, 1.0 / 3.0],
                [1.0 / 6.0, -ROOT / 6.0, 1.0 / 3.0],
                [0.0, 0.0, 1.0],
            ],
        }
    }

    /// Writes G g Gᵀ, row-major, of a kernel g.
    fn transform_kernel(self, kernel: &[f32], to: &mut [f32; MOST_PRODUCTS]) {
        let rows = self.kernel_rows();
        let dot = |row: &KernelRow, values: KernelRow| {
            row[0] * values[0] + row[1] * values[1] + row[2] * values[2]
        };
        let tap = |row: usize, column: usize| f64::from(kernel[row * KERNEL + column]);
        for (i, down) in rows.iter().enumerate() {
            let column = |j| dot(down, [tap(0, j), tap(1, j), tap(2, j)]);
            let half = [column(0), column(1), column(2)];
            for (j, across) in rows.iter().enumerate() {
                to[i * rows.len() + j] = dot(across, half) as f32;
            }
        }
    }
}

/// The most [`Filter::products`].
const MOST_PRODUCTS: usize = 36;

/// Whether minimal filtering computes this convolution.
pub(crate) fn applies(weights: &FloatConvolutionWeights, window: &Window) -> bool {
    window.kernel == [KERNEL; 2]
        && window.stride == [1, 1]
        && window.dilation == [1, 1]
        && weights.groups == 1
        && weights.inputs > 0
}

/// Multiply-adds that take as long as one weight from memory: 10 in one thread and 17 in two of a Zen 4, by estimate from
/// their memory's speed 20 in the four cores of a Raspberry Pi 4, and 25 in those of a Pi 5. Weights are read for each image.
const PER_WEIGHT: f64 = 16.0;

/// Multiply-adds that take as long as transforming, or gathering, one value of the rows or sums of the products.
const PER_VALUE: f64 = 5.0;

/// The filter of least cost for images of a height and width; `None` where a product for each tap costs less.
pub(crate) fn choose(
    weights: &FloatConvolutionWeights,
    window: &Window,
    image: [usize; 2],
) -> Option<Filter> {
    if !applies(weights, window) {
        return None;
    }
    let image = window.output(image)?;
    let [inputs, outputs] = [weights.inputs, weights.outputs].map(|channels| channels as f64);
    let area = |sides: [usize; 2]| sides[0] as f64 * sides[1] as f64;
    // Of matrix products, all with as many rows.
    let cost = |products: usize, rows: f64, values: f64| {
        let each = (rows + PER_WEIGHT) * inputs * outputs + rows * PER_VALUE * values;
        products as f64 * each
    };
    let filtered = Filter::ALL.map(|filter| {
        let rows = area(filter.tiles(image));
        (filter, cost(filter.products(), rows, inputs + outputs))
    });
    let least = filtered.into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
    let direct = cost(KERNEL * KERNEL, area(image), inputs);
    least
        .filter(|&(_, cost)| cost < direct)
        .map(|(filter, _)| filter)
}

/// Weights transformed and packed.
#[derive(Clone)]
pub(crate) struct Winograd {
    filter: Filter,
    inputs: usize,
    outputs: usize,
    vector: &'static dyn FloatKernels,
    /// [panel][product][inputs rounded up to a multiple of 4][columns of a tile]
    weights: Aligned<f32>,
    /// [panel][columns of a tile]
    bias: Aligned<f32>,
}

/// Where transformed patches and products are in memory. Planes and tiles are a cache line longer than their values, as those
/// that are a multiple of 4 KiB apart would push each other out of the cache.
#[derive(Clone, Copy)]
struct Layout {
    /// Values of a channel row, whole registers of any width.
    row: usize,
    /// Values of a product's rows.
    plane: usize,
    /// Values of the patches of a block of rows.
    part: usize,
    /// Values between the products of two tiles, of a panel.
    tile: usize,
}

impl Layout {
    #[inline(always)]
    fn new(filter: Filter, channels: usize, shape: Shape) -> Self {
        let row = channels.next_multiple_of(MOST_LANES);
        let plane = shape.rows * row + LINE;
        Layout {
            row,
            plane,
            part: filter.products() * plane,
            tile: filter.products() * shape.columns + LINE,
        }
    }
}

/// Values of the transformed patches of a block of tiles that stay in the second-level cache together with the products.
const MOST_PACKED: usize = 128 << 10;

/// Fewer tiles would read the weights too often.
const FEWEST_TILES: usize = 28;

impl Winograd {
    pub(crate) fn pack(
        vector: &'static dyn FloatKernels,
        filter: Filter,
        weights: &FloatConvolutionWeights,
    ) -> Self {
        let (inputs, outputs) = (weights.inputs, weights.outputs);
        let columns = vector.shape().columns;
        let depth = inputs.next_multiple_of(4);
        let products = filter.products();
        let panels = outputs.div_ceil(columns);
        let mut packed = Aligned::zeros(panels * products * depth * columns);
        let threads = threads::count(products * inputs * outputs * 4);
        let size = (products * depth * columns).max(1);
        threads::for_each_chunk(threads, &mut packed, size, |i, panel| {
            let mut transformed = [0.0; MOST_PRODUCTS];
            for column in 0..columns.min(outputs - i * columns) {
                let kernels = &weights.values[(i * columns + column) * inputs * KERNEL * KERNEL..];
                let kernels = kernels.chunks_exact(KERNEL * KERNEL).take(inputs);
                for (channel, kernel) in kernels.enumerate() {
                    filter.transform_kernel(kernel, &mut transformed);
                    for (product, &value) in transformed[..products].iter().enumerate() {
                        panel[(product * depth + channel) * columns + column] = value;
                    }
                }
            }
        });
        let mut bias = Aligned::zeros(panels * columns);
        if let Some(from) = weights.bias {
            bias[..outputs].copy_from_slice(from);
        }
        Winograd {
            filter,
            inputs,
            outputs,
            vector,
            weights: packed,
            bias,
        }
    }

    /// The name of the kernels.
    pub(crate) fn kernel(&self) -> &'static str {
        self.vector.name()
    }

    /// out [output height, output width, outputs] = activation(sums + bias + residual) of an image x [height, width, inputs]
    /// with pixels of zeros at the top, left, bottom and right.
    pub(crate) fn apply(
        &self,
        x: &[f32],
        [height, width]: [usize; 2],
        padding: [usize; 4],
        activation: Option<Nonlinearity>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let [top, left, bottom, right] = padding;
        let image = WinogradImage {
            x,
            height,
            width,
            channels: self.inputs,
            padding: [top, left],
            out: [top + height + bottom, left + width + right].map(|side| side - (KERNEL - 1)),
            filter: self.filter,
            zeros: &vec![0.0; self.inputs],
        };
        assert_eq!(x.len(), height * width * self.inputs);
        let outputs = image.out[0] * image.out[1] * self.outputs;
        assert!(out.len() == outputs && residual.is_none_or(|r| r.len() == outputs));
        let [down, across] = self.filter.tiles(image.out);
        let tiles = down * across;
        let threads = threads::count(tiles * self.filter.products() * self.inputs * self.outputs);
        let shape = self.vector.shape();
        let most = MOST_PACKED / (self.filter.products() * self.inputs);
        let most = most.max(FEWEST_TILES) / shape.rows * shape.rows;
        // Blocks in parallel wait for each other once, the parts of a block twice for every block.
        let (most, outer, inner) = if threads > 1 && tiles >= 2 * threads * shape.rows {
            (most.min(tiles.div_ceil(threads)), threads, 1)
        } else {
            (most, 1, threads)
        };
        // SAFETY: each block writes pixels of its own, each of its panels columns of its own.
        let out = unsafe { Shared::new(out) };
        threads::for_each(outer, tiles.div_ceil(most), |i| {
            let Some((first, count)) = blocks(tiles, most).nth(i) else {
                return;
            };
            let tiles = first..first + count;
            self.block(&image, tiles, inner, activation, residual, out);
        });
    }

    /// Computes some tiles by `threads`.
    fn block(
        &self,
        image: &WinogradImage,
        tiles: Range<usize>,
        threads: usize,
        activation: Option<Nonlinearity>,
        residual: Option<&[f32]>,
        out: Shared<f32>,
    ) {
        let shape = self.vector.shape();
        let layout = Layout::new(self.filter, self.inputs, shape);
        let parts = tiles.len().div_ceil(shape.rows);
        scratch::with(parts * layout.part, |patches: &mut [f32]| {
            threads::for_each_chunk(threads, patches, layout.part, |i, to| {
                if let Some((first, count)) = blocks(tiles.len(), shape.rows).nth(i) {
                    let first = tiles.start + first;
                    self.vector.winograd_input(image, first..first + count, to);
                }
            });
            let patches = &*patches;
            let size = self.filter.products() * self.inputs.next_multiple_of(4) * shape.columns;
            threads::for_each(threads, self.outputs.div_ceil(shape.columns), |i| {
                let first = i * shape.columns;
                let panel = WinogradPanel {
                    image,
                    tiles: tiles.clone(),
                    patches,
                    weights: &self.weights[i * size..][..size],
                    bias: &self.bias[first..][..shape.columns],
                    columns: first..self.outputs.min(first + shape.columns),
                    activation,
                    residual,
                    outputs: self.outputs,
                    out: out.pointer(),
                };
                scratch::with(tiles.len() * layout.tile, |products| {
                    // SAFETY: `out` has all outputs, and the panels' columns do not overlap.
                    unsafe { self.vector.winograd_panel(&panel, products) };
                });
            });
        });
    }
}

/// The transforms of one dimension, of a patch with SIDE pixels and a tile with OUTPUTS.
trait Transform<const SIDE: usize, const OUTPUTS: usize> {
    /// Bᵀ d
    fn input<S: Simd>(simd: S, d: [S::V; SIDE]) -> [S::V; SIDE];
    /// Aᵀ y
    fn output<S: Simd>(simd: S, y: [S::V; SIDE]) -> [S::V; OUTPUTS];
}

/// Of [`Filter::Two`].
struct Two;

impl Transform<4, 2> for Two {
    #[inline(always)]
    fn input<S: Simd>(simd: S, [d0, d1, d2, d3]: [S::V; 4]) -> [S::V; 4] {
        [
            simd.sub(d0, d2),
            simd.add(d1, d2),
            simd.sub(d2, d1),
            simd.sub(d1, d3),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, [y0, y1, y2, y3]: [S::V; 4]) -> [S::V; 2] {
        [
            simd.add(simd.add(y0, y1), y2),
            simd.sub(simd.sub(y1, y2), y3),
        ]
    }
}

/// Of [`Filter::Four`]. The rows of two points that differ in sign share their even and odd parts.
struct Four;

impl Transform<6, 4> for Four {
    #[inline(always)]
    fn input<S: Simd>(simd: S, [d0, d1, d2, d3, d4, d5]: [S::V; 6]) -> [S::V; 6] {
        let c = |v: f64| simd.splat(v as f32);
        let (root, half_root) = (c(ROOT), c(HALF_ROOT));
        let inner = simd.mul_add(d2, c(-2.0), d4);
        let inner_odd = simd.mul_add(d3, half_root, simd.mul(d1, c(-ROOT)));
        let outer = simd.mul_add(d2, c(-0.5), d4);
        let outer_odd = simd.mul_add(d3, root, simd.mul(d1, c(-HALF_ROOT)));
        [
            simd.mul_add(d2, c(-2.5), simd.add(d0, d4)),
            simd.add(inner, inner_odd),
            simd.sub(inner, inner_odd),
            simd.add(outer, outer_odd),
            simd.sub(outer, outer_odd),
            simd.mul_add(d3, c(-2.5), simd.add(d1, d5)),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, [y0, y1, y2, y3, y4, y5]: [S::V; 6]) -> [S::V; 4] {
        let c = |v: f64| simd.splat(v as f32);
        let (inner, inner_odd) = (simd.add(y1, y2), simd.sub(y1, y2));
        let (outer, outer_odd) = (simd.add(y3, y4), simd.sub(y3, y4));
        [
            simd.add(simd.add(y0, inner), outer),
            simd.mul_add(inner_odd, c(HALF_ROOT), simd.mul(outer_odd, c(ROOT))),
            simd.mul_add(inner, c(0.5), simd.mul(outer, c(2.0))),
            simd.mul_add(
                inner_odd,
                c(ROOT / 4.0),
                simd.mul_add(outer_odd, c(2.0 * ROOT), y5),
            ),
        ]
    }
}

/// Bᵀ d B of the patches d of tiles, at most [`Simd::ROWS`], as [`Layout`] states: [product][rows of a tile of linear layers],
/// in place or packed as [`Simd::IN_PLACE`] says.
#[inline(always)]
pub(crate) fn input<S: Simd>(
    simd: S,
    shape: Shape,
    image: &WinogradImage,
    tiles: Range<usize>,
    to: &mut [f32],
) {
    match image.filter {
        Filter::Two => input_by::<S, Two, 4, 2>(simd, shape, image, tiles, to),
        Filter::Four => input_by::<S, Four, 6, 4>(simd, shape, image, tiles, to),
    }
}

#[inline(always)]
fn input_by<S: Simd, F: Transform<SIDE, OUTPUTS>, const SIDE: usize, const OUTPUTS: usize>(
    simd: S,
    shape: Shape,
    image: &WinogradImage,
    tiles: Range<usize>,
    to: &mut [f32],
) {
    // A quad of a packed row is a register.
    const { assert!(S::IN_PLACE || S::LANES == 4) };
    let layout = Layout::new(image.filter, image.channels, shape);
    let count = tiles.len();
    assert!(count <= S::ROWS && to.len() >= layout.part && S::LANES <= MOST_LANES);
    for (i, tile) in tiles.enumerate() {
        let patch = image.patch::<SIDE, OUTPUTS>(tile);
        for at in (0..image.channels).step_by(S::LANES) {
            let whole = at + S::LANES <= image.channels;
            let mut columns = [[simd.splat(0.0); SIDE]; SIDE];
            for (j, column) in columns.iter_mut().enumerate() {
                let mut d = [simd.splat(0.0); SIDE];
                for (d, row) in d.iter_mut().zip(&patch) {
                    let pixel = row[j];
                    *d = if whole {
                        // SAFETY: a pixel has `channels` values.
                        unsafe { simd.load(pixel.as_ptr().add(at)) }
                    } else {
                        load_part(simd, &pixel[at..])
                    };
                }
                *column = F::input(simd, d);
            }
            let at = if S::IN_PLACE {
                i * layout.row + at
            } else {
                at * count + i * 4
            };
            for row in 0..SIDE {
                let mut d = [simd.splat(0.0); SIDE];
                for (d, column) in d.iter_mut().zip(&columns) {
                    *d = column[row];
                }
                for (column, v) in F::input(simd, d).into_iter().enumerate() {
                    let at = (row * SIDE + column) * layout.plane + at;
                    // SAFETY: a plane has ROWS rows of `layout.row` values, whole registers.
                    unsafe { simd.store(v, to.as_mut_ptr().add(at)) };
                }
            }
        }
    }
}

impl WinogradImage<'_> {
    /// The pixels that a tile is computed from.
    #[inline(always)]
    fn patch<const SIDE: usize, const OUTPUTS: usize>(
        &self,
        tile: usize,
    ) -> [[&[f32]; SIDE]; SIDE] {
        let across = self.out[1].div_ceil(OUTPUTS);
        let (row, column) = (tile / across * OUTPUTS, tile % across * OUTPUTS);
        let mut patch = [[&self.zeros[..self.channels]; SIDE]; SIDE];
        for (i, pixels) in patch.iter_mut().enumerate() {
            let Some(row) = (row + i).checked_sub(self.padding[0]) else {
                continue;
            };
            if row >= self.height {
                break;
            }
            for (j, pixel) in pixels.iter_mut().enumerate() {
                let column = (column + j).checked_sub(self.padding[1]);
                if let Some(column) = column.filter(|&column| column < self.width) {
                    let at = (row * self.width + column) * self.channels;
                    *pixel = &self.x[at..][..self.channels];
                }
            }
        }
        patch
    }
}

/// Computes a panel; `products` has [`Layout::tile`] values for each tile.
///
/// # Safety
/// As [`WinogradPanel::out`] states.
#[inline(always)]
pub(crate) unsafe fn panel<S: Simd>(
    simd: S,
    shape: Shape,
    p: &WinogradPanel,
    products: &mut [f32],
) {
    multiply(simd, shape, p, products);
    // SAFETY: the caller's promise.
    unsafe { by_activation!(p.activation, simd, output, simd, shape, p, products) }
}

/// The products of all patches and the panel's weights: [tile][product][columns of a tile].
#[inline(always)]
fn multiply<S: Simd>(simd: S, shape: Shape, p: &WinogradPanel, products: &mut [f32]) {
    let (filter, channels) = (p.image.filter, p.image.channels);
    let layout = Layout::new(filter, channels, shape);
    let count = p.tiles.len();
    let depth = channels.next_multiple_of(4);
    assert_eq!(p.weights.len(), filter.products() * depth * S::COLUMNS);
    assert!(products.len() >= count * layout.tile);
    let ahead = (4 * S::COLUMNS / LINE).div_ceil(count.div_ceil(S::ROWS));
    for product in 0..filter.products() {
        for start in (0..depth).step_by(S::DEPTH) {
            let steps = S::DEPTH.min(depth - start);
            let weights =
                &p.weights[(product * depth + start) * S::COLUMNS..][..steps * S::COLUMNS];
            // The tiles prefetch the next weights, a part each.
            let mut next = weights.as_ptr_range().end;
            for (part, (first, rows)) in blocks(count, S::ROWS).enumerate() {
                let plane = &p.patches[part * layout.part + product * layout.plane..];
                let plane = &plane[..layout.plane];
                let sums = &mut products[first * layout.tile..][..rows * layout.tile];
                let sums = &mut sums[product * S::COLUMNS..];
                let (x, x_stride) = if S::IN_PLACE {
                    (&plane[start..], layout.row)
                } else {
                    (&plane[start * rows..], 0)
                };
                let tile = Tile {
                    x: x.as_ptr(),
                    x_stride,
                    panel: weights.as_ptr(),
                    depth: steps,
                    sums: sums.as_mut_ptr(),
                    stride: layout.tile,
                    add: start > 0,
                    next,
                    ahead,
                };
                // SAFETY: the plane has `rows` <= ROWS rows of at least `depth` values, in place or packed; the sums have
                // COLUMNS values for each of them, and those of earlier steps are written if there are any.
                unsafe {
                    if S::IN_PLACE {
                        simd.tile::<true>(rows, tile);
                    } else {
                        simd.tile::<false>(rows, tile);
                    }
                }
                next = next.wrapping_add(steps / 4 * ahead * LINE);
            }
        }
    }
}

/// Writes the outputs of all tiles from their products, with the activation function `f`.
///
/// # Safety
/// As [`WinogradPanel::out`] states.
#[inline(always)]
unsafe fn output<S: Simd>(
    simd: S,
    shape: Shape,
    p: &WinogradPanel,
    products: &[f32],
    f: impl Fn(S::V) -> S::V + Copy,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match p.image.filter {
            Filter::Two => output_by::<S, Two, 4, 2>(simd, shape, p, products, f),
            Filter::Four => output_by::<S, Four, 6, 4>(simd, shape, p, products, f),
        }
    }
}

/// # Safety
/// As [`output`].
#[inline(always)]
unsafe fn output_by<
    S: Simd,
    F: Transform<SIDE, OUTPUTS>,
    const SIDE: usize,
    const OUTPUTS: usize,
>(
    simd: S,
    shape: Shape,
    p: &WinogradPanel,
    products: &[f32],
    f: impl Fn(S::V) -> S::V + Copy,
) {
    let layout = Layout::new(p.image.filter, p.image.channels, shape);
    let [out_height, out_width] = p.image.out;
    let across = out_width.div_ceil(OUTPUTS);
    assert!(products.len() >= p.tiles.len() * layout.tile && p.bias.len() == S::COLUMNS);
    for (i, tile) in p.tiles.clone().enumerate() {
        let products = &products[i * layout.tile..][..layout.tile];
        let (row, column) = (tile / across * OUTPUTS, tile % across * OUTPUTS);
        for at in (0..p.columns.len()).step_by(S::LANES) {
            let count = S::LANES.min(p.columns.len() - at);
            let mut columns = [[simd.splat(0.0); OUTPUTS]; SIDE];
            for (j, column) in columns.iter_mut().enumerate() {
                let mut y = [simd.splat(0.0); SIDE];
                for (i, y) in y.iter_mut().enumerate() {
                    let at = (i * SIDE + j) * S::COLUMNS + at;
                    // SAFETY: a tile has COLUMNS values for each product.
                    *y = unsafe { simd.load(products.as_ptr().add(at)) };
                }
                *column = F::output(simd, y);
            }
            // SAFETY: the bias has COLUMNS values.
            let bias = unsafe { simd.load(p.bias.as_ptr().add(at)) };
            for i in 0..OUTPUTS {
                let mut y = [simd.splat(0.0); SIDE];
                for (y, column) in y.iter_mut().zip(&columns) {
                    *y = column[i];
                }
                let row = row + i;
                if row >= out_height {
                    break;
                }
                for (j, y) in F::output(simd, y).into_iter().enumerate() {
                    let column = column + j;
                    if column >= out_width {
                        break;
                    }
                    let y = simd.add(y, bias);
                    let at = (row * out_width + column) * p.outputs + p.columns.start + at;
                    let residual = p.residual.map(|r| &r[at..][..count]);
                    // SAFETY: `out` has the pixel and these columns of it, which only this panel accesses.
                    let out = unsafe { std::slice::from_raw_parts_mut(p.out.add(at), count) };
                    write(simd, y, f, residual, Order::BeforeActivation, out);
                }
            }
        }
    }
}
