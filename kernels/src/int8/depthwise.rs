//! Depthwise convolutions: each output channel reads one input channel.
//!
//! Sixteen output channels are computed together, from interleaved taps (see `taps.rs`). An interleaved row serves all rows
//! of the kernel, and every group of taps whose distance the stride divides.

use super::group::Int8Simd;
use super::output::{SumRows, Writer};
use super::pack::Operand;
use super::taps::{CHANNELS, DepthwiseTile, STEP};
use crate::activation::by_activation;
use crate::dispatch::{DepthwiseBlock, Order, Residual};
use crate::scratch;
use crate::simd::Simd;
use crate::transpose::interleaved;
use crate::types::Window;

/// How the interleaved rows are laid out.
#[derive(Clone, Copy, Debug)]
struct Rows {
    /// Pixels between two positions whose taps are interleaved.
    pitch: usize,
    /// Positions of a row.
    positions: usize,
    /// Positions between neighbouring outputs.
    stride: usize,
    /// Groups of taps of a row of the kernel.
    groups: usize,
    /// Positions between two groups of taps.
    group: usize,
    /// Rows of the image that one row of outputs needs; row y is kept in slot y modulo `kept`.
    kept: usize,
    /// Pixels of a row of the image, with padding.
    line: usize,
    /// Outputs of a row, rounded up to whole tiles.
    pixels: usize,
}

impl Rows {
    /// For tiles of `pixels` outputs.
    fn new(operand: Operand, pixels: usize, window: &Window, out_width: usize) -> Self {
        let taps = operand.taps();
        let (stride, dilation) = (window.stride[1], window.dilation[1]);
        let groups = window.kernel[1].div_ceil(taps);
        let pitch = match (taps * dilation).is_multiple_of(stride) || groups == 1 {
            true => stride,
            false => 1,
        };
        let pixels = out_width.next_multiple_of(pixels);
        let group = taps * dilation / pitch;
        let positions = (pixels - 1) * (stride / pitch) + (groups - 1) * group + 1;
        Rows {
            pitch,
            positions,
            stride: stride / pitch,
            groups,
            group,
            kept: (window.kernel[0] - 1) * window.dilation[0] + 1,
            line: (positions - 1) * pitch + (taps - 1) * dilation + 1,
            pixels,
        }
    }

    /// Bytes of an interleaved row.
    fn size(&self) -> usize {
        self.positions * STEP
    }
}

/// Working memory for blocks of one convolution.
pub(crate) struct Memory<'a> {
    rows: Rows,
    /// The interleaved rows.
    ring: &'a mut [u8],
    /// [pixels][CHANNELS]: a row of the image.
    line: &'a mut [u8],
    /// [pixels][CHANNELS]: a row of sums.
    sums: &'a mut [i32],
    /// Where each step's taps begin in the ring.
    offsets: &'a mut [usize],
}

impl Memory<'_> {
    /// Runs `f` with memory for `block` and tiles of `pixels` outputs.
    pub(crate) fn with(
        operand: Operand,
        pixels: usize,
        block: &DepthwiseBlock,
        f: impl FnOnce(Memory),
    ) {
        let rows = Rows::new(operand, pixels, &block.window, block.out_width);
        scratch::with(rows.kept * rows.size(), |ring: &mut [u8]| {
            scratch::with(rows.line * CHANNELS, |line: &mut [u8]| {
                scratch::with(rows.pixels * CHANNELS, |sums: &mut [i32]| {
                    let mut offsets = vec![0; block.weights.len() / STEP];
                    f(Memory {
                        rows,
                        ring,
                        line,
                        sums,
                        offsets: &mut offsets,
                    });
                });
            });
        });
    }
}

/// Computes a block.
///
/// # Safety
/// As [`DepthwiseBlock::out`] states.
#[inline(always)]
pub(crate) unsafe fn block<I: Int8Simd>(simd: I, b: &DepthwiseBlock, memory: &mut Memory) {
    let Memory {
        rows,
        ring,
        line,
        sums,
        offsets,
    } = memory;
    let size = rows.size();
    let kernel_rows = b.window.kernel[0];
    assert_eq!(offsets.len(), b.parts * kernel_rows * rows.groups);
    assert_eq!(b.weights.len(), offsets.len() * STEP);
    assert!(rows.pixels.is_multiple_of(I::PIXELS) && sums.len() == rows.pixels * CHANNELS);
    assert_eq!(ring.len(), rows.kept * size);
    // The next row of the padded image to interleave.
    let mut next = 0;
    for y in b.rows.clone() {
        let start = y * b.window.stride[0];
        for ky in 0..kernel_rows {
            let row = start + ky * b.window.dilation[0];
            // Rows between those of a dilated kernel may be needed later.
            for row in next.max(start)..=row {
                b.read_line(row, line);
                let slot = &mut ring[row % rows.kept * size..][..size];
                rows.interleave(I::LAYOUT.operand, line, b.window.dilation[1], slot);
            }
            next = next.max(row + 1);
            for part in 0..b.parts {
                for group in 0..rows.groups {
                    offsets[(part * kernel_rows + ky) * rows.groups + group] =
                        row % rows.kept * size + group * rows.group * STEP;
                }
            }
        }
        for pixel in (0..rows.pixels).step_by(I::PIXELS) {
            let tile = DepthwiseTile {
                x: ring[pixel * rows.stride * STEP..].as_ptr(),
                offsets,
                stride: rows.stride * STEP,
                weights: b.weights.as_ptr(),
                from: &b.from,
                sums: sums[pixel * CHANNELS..][..I::PIXELS * CHANNELS].as_mut_ptr(),
            };
            // SAFETY: the last pixel's last group of taps is at position `positions` - 1 of its row; there are as many
            // steps of weights as offsets.
            unsafe { simd.depthwise(&tile) };
        }
        // SAFETY: the caller's promise.
        unsafe { b.write(simd.float(), y, sums) };
    }
}

impl Rows {
    /// Interleaves the taps at each position of `line` [pixels][CHANNELS].
    #[inline(always)]
    fn interleave(&self, operand: Operand, line: &[u8], dilation: usize, to: &mut [u8]) {
        let line = line.as_chunks::<CHANNELS>().0;
        for (to, at) in to.as_chunks_mut::<STEP>().0.iter_mut().zip(0..) {
            let at = &line[at * self.pitch..];
            match operand {
                Operand::Wide => {
                    let (a, b) = (&at[0], &at[dilation]);
                    for (to, (a, b)) in to.as_chunks_mut::<4>().0.iter_mut().zip(a.iter().zip(b)) {
                        let (a, b) = (i32::from(a.cast_signed()), i32::from(b.cast_signed()));
                        // Two values of 16 bits, the first in the lower half.
                        *to = (a & 0xffff | b << 16).to_le_bytes();
                    }
                }
                Operand::Signed | Operand::Unsigned => {
                    let taps = [at[0], at[dilation], at[2 * dilation], at[3 * dilation]];
                    *to = interleaved(taps);
                }
            }
        }
    }
}

impl DepthwiseBlock<'_> {
    /// The channels of the block that exist.
    fn channels(&self) -> usize {
        CHANNELS.min(self.outputs - self.first)
    }

    /// Reads a row of the padded image into `line` [pixels][CHANNELS].
    #[inline(always)]
    fn read_line(&self, row: usize, line: &mut [u8]) {
        let [top, left, ..] = self.window.padding;
        if row < top || row >= top + self.height {
            return line.fill(self.padding);
        }
        let row = row - top;
        let line = line.as_chunks_mut::<CHANNELS>().0;
        let (before, line) = line.split_at_mut(left.min(line.len()));
        let (inside, behind) = line.split_at_mut(self.width.min(line.len()));
        before.as_flattened_mut().fill(self.padding);
        behind.as_flattened_mut().fill(self.padding);
        let row = &self.x[row * self.width * self.inputs..][..self.width * self.inputs];
        let pixels = row.chunks_exact(self.inputs);
        let count = self.channels();
        let turn = self.turn;
        if self.multiplier > 1 {
            let mut channels = [0; CHANNELS];
            for (i, channel) in channels[..count].iter_mut().enumerate() {
                *channel = (self.first + i) / self.multiplier;
            }
            for (to, pixel) in inside.iter_mut().zip(pixels) {
                *to = channels.map(
                    #[inline(always)]
                    |channel| pixel[channel] ^ turn,
                );
            }
        } else if count == CHANNELS {
            for (to, pixel) in inside.iter_mut().zip(pixels) {
                to.copy_from_slice(&pixel[self.first..][..CHANNELS]);
                to.iter_mut().for_each(|byte| *byte ^= turn);
            }
        } else {
            for (to, pixel) in inside.iter_mut().zip(pixels) {
                for (to, byte) in to.iter_mut().zip(&pixel[self.first..][..count]) {
                    *to = byte ^ turn;
                }
            }
        }
    }

    /// Writes the outputs of row y from its sums [pixels][CHANNELS].
    ///
    /// # Safety
    /// As [`Self::out`] states.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, simd: S, y: usize, sums: &[i32]) {
        // SAFETY: the caller's promise.
        unsafe { by_activation!(self.activation, simd, Self::write_by, self, simd, y, sums) }
    }

    /// [`Self::write`] with the activation function `f`.
    ///
    /// # Safety
    /// As [`Self::write`].
    #[inline(always)]
    unsafe fn write_by<S: Simd>(
        &self,
        simd: S,
        y: usize,
        sums: &[i32],
        f: impl Fn(S::V) -> S::V + Copy,
    ) {
        let count = self.channels();
        let residual = self.residual.map(|values| Residual {
            values,
            order: Order::BeforeActivation,
        });
        let first = y * self.out_width * self.outputs + self.first;
        if count == CHANNELS {
            let pixels = self.out_width;
            let end = first + pixels.saturating_sub(1) * self.outputs + CHANNELS;
            assert!(sums.len() >= pixels * CHANNELS);
            assert!(residual.is_none_or(|r| r.values.len() >= end));
            // A register of all pixels after the other, so that the code is small.
            for at in (0..CHANNELS).step_by(S::LANES) {
                let rows = SumRows {
                    sums: sums[at..].as_ptr(),
                    pitch: CHANNELS,
                    row_scales: None,
                    scales: self.scales[at..].as_ptr(),
                    bias: self.bias[at..].as_ptr(),
                    residual,
                    out: self.out,
                    first: first + at,
                    width: self.outputs,
                };
                // SAFETY: CHANNELS sums for each pixel, a multiple of LANES; only this block accesses their outputs.
                unsafe { rows.write::<S, 1>(simd, 0..pixels, self.out.to_bytes(), f) };
            }
            return;
        }
        let writer = Writer::new(simd, residual, self.out);
        for (pixel, sums) in sums.chunks_exact(CHANNELS).take(self.out_width).enumerate() {
            let to = first + pixel * self.outputs;
            for at in (0..count).step_by(S::LANES) {
                // SAFETY: CHANNELS is a multiple of LANES; the pixel has these channels, which only this block accesses.
                unsafe {
                    let v = simd.mul_add(
                        simd.load_i32(sums.as_ptr().add(at)),
                        simd.load(self.scales.as_ptr().add(at)),
                        simd.load(self.bias.as_ptr().add(at)),
                    );
                    writer.write(v, f, to + at, S::LANES.min(count - at));
                }
            }
        }
    }
}
