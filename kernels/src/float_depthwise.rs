//! Depthwise convolutions in f32: each output channel reads one input channel.
//!
//! Sixteen output channels are computed together. The rows under the window are copied to a ring, padded and with these
//! channels alone, so that the inner loop reads adjacent values.

use crate::activation::activated;
use crate::dispatch::{FloatDepthwiseBlock, Order};
use crate::int8::taps::CHANNELS;
use crate::linear::tile::write;
use crate::scratch;
use crate::simd::Simd;

/// Sizes of the working memory of a block.
#[derive(Clone, Copy)]
struct Sizes {
    /// Outputs of a row, rounded up to whole tiles.
    pixels: usize,
    /// Rows of the image that one row of outputs needs; row y is kept in slot y modulo `kept`.
    kept: usize,
    /// Values of a row of the ring.
    line: usize,
}

impl Sizes {
    fn new(b: &FloatDepthwiseBlock, tile: usize) -> Self {
        let [rows, columns] = b.window.kernel;
        let pixels = b.out_width.next_multiple_of(tile);
        let reach = (columns - 1) * b.window.dilation[1];
        Sizes {
            pixels,
            kept: (rows - 1) * b.window.dilation[0] + 1,
            line: ((pixels - 1) * b.window.stride[1] + reach + 1) * CHANNELS,
        }
    }
}

/// Outputs of a tile in registers of `lanes` values: as many sums as hide the latency of multiply-adds.
const fn tile_pixels(lanes: usize) -> usize {
    if lanes == CHANNELS { 8 } else { 4 }
}

/// Runs `f` with working memory for [`block`]: the ring of rows, and the sums of a tile.
pub(crate) fn with_memory<S: Simd>(
    b: &FloatDepthwiseBlock,
    f: impl FnOnce(&mut [f32], &mut [f32]),
) {
    let tile = tile_pixels(S::LANES);
    let sizes = Sizes::new(b, tile);
    scratch::with(sizes.kept * sizes.line, |ring: &mut [f32]| {
        scratch::with(tile * CHANNELS, |sums: &mut [f32]| f(ring, sums));
    });
}

/// Computes a block, with memory from [`with_memory`].
///
/// # Safety
/// As [`FloatDepthwiseBlock::out`] states.
#[inline(always)]
pub(crate) unsafe fn block<S: Simd>(
    simd: S,
    b: &FloatDepthwiseBlock,
    ring: &mut [f32],
    sums: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match S::LANES {
            16 => block_of::<S, { tile_pixels(16) }, 1>(simd, b, ring, sums),
            8 => block_of::<S, { tile_pixels(8) }, 2>(simd, b, ring, sums),
            _ => block_of::<S, { tile_pixels(4) }, 4>(simd, b, ring, sums),
        }
    }
}

/// [`block`] with tiles of PIXELS outputs; V registers hold [`CHANNELS`] values.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn block_of<S: Simd, const PIXELS: usize, const V: usize>(
    simd: S,
    b: &FloatDepthwiseBlock,
    ring: &mut [f32],
    sums: &mut [f32],
) {
    let [rows, columns] = b.window.kernel;
    let [stride, dilation] = [b.window.stride[1], b.window.dilation[1]];
    let Sizes { pixels, kept, line } = Sizes::new(b, PIXELS);
    assert_eq!(V * S::LANES, CHANNELS);
    assert_eq!(b.weights.len(), rows * columns * CHANNELS);
    assert!(ring.len() == kept * line && sums.len() == PIXELS * CHANNELS);
    let mut taps = Vec::with_capacity(rows);
    // The next row of the padded image to copy.
    let mut next = 0;
    for y in b.rows.clone() {
        let start = y * b.window.stride[0];
        taps.clear();
        for ky in 0..rows {
            let row = start + ky * b.window.dilation[0];
            // Rows between those of a dilated kernel may be needed later.
            for row in next.max(start)..=row {
                b.read_line(row, &mut ring[row % kept * line..][..line]);
            }
            next = next.max(row + 1);
            if (b.window.padding[0]..b.window.padding[0] + b.height).contains(&row) {
                taps.push((row % kept * line, ky * columns * CHANNELS));
            }
        }
        for pixel in (0..pixels).step_by(PIXELS) {
            let tile = Tile {
                x: ring[pixel * stride * CHANNELS..].as_ptr(),
                rows: &taps,
                weights: b.weights.as_ptr(),
                columns,
                stride: stride * CHANNELS,
                dilation: dilation * CHANNELS,
                bias: &b.bias,
                sums,
            };
            // SAFETY: the last pixel's last tap ends with its line; there are as many weights as taps.
            unsafe {
                match (columns, stride, dilation) {
                    (3, 1, 1) => tile.sum::<S, PIXELS, V, 3>(simd),
                    (5, 1, 1) => tile.sum::<S, PIXELS, V, 5>(simd),
                    (7, 1, 1) => tile.sum::<S, PIXELS, V, 7>(simd),
                    _ => tile.sum_any::<S, PIXELS, V>(simd),
                }
            }
            let count = PIXELS.min(b.out_width.saturating_sub(pixel));
            // SAFETY: the caller's promise.
            unsafe { b.write(simd, y, pixel, &sums[..count * CHANNELS]) };
        }
    }
}

/// Neighbouring outputs of a row.
struct Tile<'a> {
    /// The first tap of the first output, in a row of the ring that starts at 0.
    x: *const f32,
    /// For each row of the kernel inside the image, where its row of the ring and its weights start.
    rows: &'a [(usize, usize)],
    /// [kernel height, kernel width, CHANNELS]
    weights: *const f32,
    columns: usize,
    /// Values between two outputs, and between two taps.
    stride: usize,
    dilation: usize,
    bias: &'a [f32; CHANNELS],
    /// [pixels, CHANNELS]
    sums: &'a mut [f32],
}

impl Tile<'_> {
    /// Sums of a kernel with COLUMNS columns, without stride and dilation. Each value is loaded once for all taps.
    ///
    /// # Safety
    /// `x` and `weights` have the values of all taps.
    #[inline(always)]
    unsafe fn sum<S: Simd, const PIXELS: usize, const V: usize, const COLUMNS: usize>(
        self,
        simd: S,
    ) {
        for v in 0..V {
            let at = v * S::LANES;
            // SAFETY: the bias has CHANNELS values.
            let mut sums = [unsafe { simd.load(self.bias.as_ptr().add(at)) }; PIXELS];
            for &(row, weights) in self.rows {
                let (x, w) = (
                    self.x.wrapping_add(row + at),
                    self.weights.wrapping_add(weights + at),
                );
                for column in 0..COLUMNS {
                    // SAFETY: the caller's promise.
                    let w = unsafe { simd.load(w.add(column * CHANNELS)) };
                    for (p, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: the caller's promise.
                        let x = unsafe { simd.load(x.add((p + column) * CHANNELS)) };
                        *sum = simd.mul_add(x, w, *sum);
                    }
                }
            }
            for (p, &sum) in sums.iter().enumerate() {
                let to = &mut self.sums[p * CHANNELS + at..][..S::LANES];
                // SAFETY: the slice has LANES values.
                unsafe { simd.store(sum, to.as_mut_ptr()) };
            }
        }
    }

    /// [`Self::sum`] of any kernel.
    ///
    /// # Safety
    /// As [`Self::sum`].
    #[inline(always)]
    unsafe fn sum_any<S: Simd, const PIXELS: usize, const V: usize>(self, simd: S) {
        for v in 0..V {
            let at = v * S::LANES;
            // SAFETY: the bias has CHANNELS values.
            let mut sums = [unsafe { simd.load(self.bias.as_ptr().add(at)) }; PIXELS];
            for &(row, weights) in self.rows {
                let (x, w) = (
                    self.x.wrapping_add(row + at),
                    self.weights.wrapping_add(weights + at),
                );
                for column in 0..self.columns {
                    // SAFETY: the caller's promise.
                    let w = unsafe { simd.load(w.add(column * CHANNELS)) };
                    for (p, sum) in sums.iter_mut().enumerate() {
                        let tap = p * self.stride + column * self.dilation;
                        // SAFETY: the caller's promise.
                        let x = unsafe { simd.load(x.add(tap)) };
                        *sum = simd.mul_add(x, w, *sum);
                    }
                }
            }
            for (p, &sum) in sums.iter().enumerate() {
                let to = &mut self.sums[p * CHANNELS + at..][..S::LANES];
                // SAFETY: the slice has LANES values.
                unsafe { simd.store(sum, to.as_mut_ptr()) };
            }
        }
    }
}

impl FloatDepthwiseBlock<'_> {
    /// The channels of the block that exist.
    fn channels(&self) -> usize {
        CHANNELS.min(self.outputs - self.first)
    }

    /// Reads a row of the padded image into `line` [pixels][CHANNELS]; a row of padding is not written.
    #[inline(always)]
    fn read_line(&self, row: usize, line: &mut [f32]) {
        let [top, left, ..] = self.window.padding;
        let Some(row) = row.checked_sub(top).filter(|&row| row < self.height) else {
            return;
        };
        let line = line.as_chunks_mut::<CHANNELS>().0;
        let (before, line) = line.split_at_mut(left.min(line.len()));
        let (inside, behind) = line.split_at_mut(self.width.min(line.len()));
        before.as_flattened_mut().fill(0.0);
        behind.as_flattened_mut().fill(0.0);
        let row = &self.x[row * self.width * self.inputs..][..self.width * self.inputs];
        let pixels = row.chunks_exact(self.inputs);
        let count = self.channels();
        if self.multiplier > 1 {
            let mut channels = [0; CHANNELS];
            for (i, channel) in channels[..count].iter_mut().enumerate() {
                *channel = (self.first + i) / self.multiplier;
            }
            for (to, pixel) in inside.iter_mut().zip(pixels) {
                *to = channels.map(
                    #[inline(always)]
                    |channel| pixel[channel],
                );
            }
        } else if count == CHANNELS {
            for (to, pixel) in inside.iter_mut().zip(pixels) {
                to.copy_from_slice(&pixel[self.first..][..CHANNELS]);
            }
        } else {
            for (to, pixel) in inside.iter_mut().zip(pixels) {
                to[..count].copy_from_slice(&pixel[self.first..][..count]);
                to[count..].fill(0.0);
            }
        }
    }

    /// Writes outputs of row y, from `first` on, from their sums [pixels][CHANNELS].
    ///
    /// # Safety
    /// As [`Self::out`] states.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, simd: S, y: usize, first: usize, sums: &[f32]) {
        let count = self.channels();
        let order = self.residual.map_or(Order::BeforeActivation, |r| r.order);
        for (pixel, sums) in sums.chunks_exact(CHANNELS).enumerate() {
            let at = (y * self.out_width + first + pixel) * self.outputs + self.first;
            let residual = self.residual.map(|r| &r.values[at..][..count]);
            // SAFETY: the pixel has these channels, which only this block accesses.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(at), count) };
            for (j, out) in out.chunks_mut(S::LANES).enumerate() {
                let at = j * S::LANES;
                // SAFETY: CHANNELS is a multiple of LANES.
                let v = unsafe { simd.load(sums.as_ptr().add(at)) };
                let residual = residual.map(|r| &r[at..][..out.len()]);
                write(
                    simd,
                    v,
                    #[inline(always)]
                    |v| activated(simd, v, self.activation),
                    residual,
                    order,
                    out,
                );
            }
        }
    }
}
