//! The inner loop of depthwise convolutions, on taps that are interleaved: the values under neighbouring taps of a row of the
//! kernel, so that a product of vectors sums them: four bytes per channel, or two values widened to 16 bits.

use super::pack::Operand;

/// Output channels of a block.
pub(crate) const CHANNELS: usize = 16;

/// Bytes of a step: the interleaved taps of all channels of a block, four bytes each.
pub(crate) const STEP: usize = 4 * CHANNELS;

impl Operand {
    /// Taps of a row of the kernel in a step.
    pub(crate) const fn taps(self) -> usize {
        match self {
            Operand::Signed | Operand::Unsigned => 4,
            Operand::Wide => 2,
        }
    }
}

/// An instruction set's products of interleaved taps. A register has the taps of some channels of a block.
pub(crate) trait DepthwiseSimd: Copy {
    /// Taps or weights.
    type Taps: Copy;
    /// The sums of a register's channels.
    type Sums: Copy;

    /// # Safety
    /// `from` points to a readable value per channel.
    unsafe fn start(self, from: *const i32) -> Self::Sums;
    /// # Safety
    /// `from` points to the four readable bytes of each channel.
    unsafe fn taps(self, from: *const u8) -> Self::Taps;
    /// sums + the products of x and w.
    fn add(self, sums: Self::Sums, x: Self::Taps, w: Self::Taps) -> Self::Sums;
    /// # Safety
    /// `to` points to a writable value per channel.
    unsafe fn finish(self, sums: Self::Sums, to: *mut i32);
}

/// The operands of a tile: PIXELS neighbouring outputs of a block's channels.
pub(crate) struct DepthwiseTile<'a> {
    /// The interleaved taps of the first pixel's first step.
    pub(crate) x: *const u8,
    /// Where the taps of each step begin, in bytes from `x`.
    pub(crate) offsets: &'a [usize],
    /// Bytes between the taps of neighbouring pixels.
    pub(crate) stride: usize,
    /// [offsets.len()][STEP]
    pub(crate) weights: *const u8,
    /// [CHANNELS]: what the sums start with.
    pub(crate) from: &'a [i32; CHANNELS],
    /// [PIXELS][CHANNELS], writable.
    pub(crate) sums: *mut i32,
}

impl DepthwiseTile<'_> {
    /// Computes the tile in REGISTERS registers per pixel.
    ///
    /// # Safety
    /// The pointers are valid for PIXELS pixels as the fields state.
    #[inline(always)]
    pub(crate) unsafe fn run<S: DepthwiseSimd, const PIXELS: usize, const REGISTERS: usize>(
        &self,
        simd: S,
    ) {
        let bytes = STEP / REGISTERS;
        let channels = CHANNELS / REGISTERS;
        // SAFETY: the caller's promise.
        unsafe {
            let start: [S::Sums; REGISTERS] = std::array::from_fn(
                #[inline(always)]
                |r| simd.start(self.from.as_ptr().add(r * channels)),
            );
            let mut sums = [start; PIXELS];
            let mut weights = self.weights;
            for &offset in self.offsets {
                let w: [S::Taps; REGISTERS] = std::array::from_fn(
                    #[inline(always)]
                    |r| simd.taps(weights.add(r * bytes)),
                );
                let mut x = self.x.add(offset);
                for sums in &mut sums {
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.add(*sum, simd.taps(x.add(r * bytes)), w[r]);
                    }
                    x = x.wrapping_add(self.stride);
                }
                weights = weights.add(STEP);
            }
            for (p, sums) in sums.into_iter().enumerate() {
                for (r, sum) in sums.into_iter().enumerate() {
                    simd.finish(sum, self.sums.add(p * CHANNELS + r * channels));
                }
            }
        }
    }
}
