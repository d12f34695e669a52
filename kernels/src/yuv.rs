//! Luma and chroma to RGB, and chroma enlarged as by libjpeg.

use crate::simd::Simd;

/// The conversion of luma and chroma to RGB, in units of 1/65536; halves are rounded up.
///
/// red = luma (Y - black) + red (Cr - 128), and so on, clamped to 0 ..= 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct YuvMatrix {
    /// The luma of black.
    pub black: u8,
    /// Factor of luma less black; of the other factors, the first name is the result's.
    pub luma: Factor,
    /// Factor of Cr - 128.
    pub red_cr: Factor,
    /// Factor of Cb - 128.
    pub green_cb: Factor,
    /// Factor of Cr - 128.
    pub green_cr: Factor,
    /// Factor of Cb - 128.
    pub blue_cb: Factor,
}

/// A factor below 2^15 in units of 1/65536: a whole number and a fraction of 16 bits, because processors multiply those
/// fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    whole: i16,
    fraction: i16,
}

impl Factor {
    /// `value` / 65536.
    pub const fn new(value: i32) -> Self {
        let whole = (value + (1 << 15)) >> 16;
        Self {
            whole: whole as i16,
            fraction: (value - (whole << 16)) as i16,
        }
    }

    /// The product with `value`: whole numbers, and units of 1/65536.
    #[inline(always)]
    fn times(self, value: i16) -> (i16, i32) {
        let fraction = i32::from(self.fraction) * i32::from(value);
        (self.whole.wrapping_mul(value), fraction)
    }
}

impl YuvMatrix {
    /// One pixel.
    #[inline(always)]
    pub fn rgb(&self, luma: u8, cb: u8, cr: u8) -> [u8; 3] {
        let luma = self.luma.times(i16::from(luma) - i16::from(self.black));
        let (cb, cr) = (i16::from(cb) - 128, i16::from(cr) - 128);
        [
            rounded([luma, self.red_cr.times(cr), (0, 0)]),
            rounded([luma, self.green_cb.times(cb), self.green_cr.times(cr)]),
            rounded([luma, self.blue_cb.times(cb), (0, 0)]),
        ]
    }
}

/// A sum of three products.
#[inline(always)]
fn rounded([a, b, c]: [(i16, i32); 3]) -> u8 {
    let fraction = (a.1 + b.1 + c.1 + (1 << 15)) >> 16;
    let whole = a.0.wrapping_add(b.0).wrapping_add(c.0);
    whole.wrapping_add(fraction as i16).clamp(0, 255) as u8
}

/// Pixels that are converted before they are written.
const BLOCK: usize = 64;

/// [`reference::yuv_to_rgb`](crate::reference::yuv_to_rgb) bit for bit.
#[inline(always)]
pub(crate) fn to_rgb<S: Simd>(
    simd: S,
    matrix: &YuvMatrix,
    luma: &[u8],
    cb: &[u8],
    cr: &[u8],
    rgb: &mut [u8],
) {
    let matrix = *matrix;
    let (lumas, last_luma) = luma.as_chunks::<BLOCK>();
    let (cbs, last_cb) = cb.as_chunks::<BLOCK>();
    let (crs, last_cr) = cr.as_chunks::<BLOCK>();
    let (rgbs, last_rgb) = rgb.as_chunks_mut::<{ 3 * BLOCK }>();
    for (rgb, (luma, (cb, cr))) in rgbs.iter_mut().zip(lumas.iter().zip(cbs.iter().zip(crs))) {
        let [mut red, mut green, mut blue] = [[0; BLOCK]; 3];
        for i in 0..BLOCK {
            [red[i], green[i], blue[i]] = matrix.rgb(luma[i], cb[i], cr[i]);
        }
        let [red, green, blue] = [&red, &green, &blue].map(
            #[inline(always)]
            |plane| plane.as_chunks::<16>().0,
        );
        let planes = red.iter().zip(green.iter().zip(blue));
        for (rgb, (red, (green, blue))) in rgb.as_chunks_mut::<48>().0.iter_mut().zip(planes) {
            // SAFETY: the chunk has 48 bytes.
            unsafe { simd.store_rgb([red, green, blue], rgb.as_mut_ptr()) };
        }
    }
    let samples = last_luma.iter().zip(last_cb.iter().zip(last_cr));
    for (pixel, (luma, (cb, cr))) in last_rgb.as_chunks_mut::<3>().0.iter_mut().zip(samples) {
        *pixel = matrix.rgb(*luma, *cb, *cr);
    }
}

/// [`crate::mix_rows`], compiled for the instruction set of the caller.
#[inline(always)]
pub(crate) fn mix_rows(near: &[u8], far: &[u8], sums: &mut [u16]) {
    for (sum, (near, far)) in sums.iter_mut().zip(near.iter().zip(far)) {
        *sum = u16::from(*near) * 3 + u16::from(*far);
    }
}

/// [`crate::double_row`], compiled for the instruction set of the caller.
#[inline(always)]
pub(crate) fn double_row(sums: &[u16], [even, odd]: [u16; 2], shift: u32, pixels: &mut [u8]) {
    let pixels = pixels.as_chunks_mut::<2>().0;
    let sums = sums.iter().zip(&sums[1..]).zip(&sums[2..]);
    for (pixels, ((before, sum), after)) in pixels.iter_mut().zip(sums) {
        let sum = sum.wrapping_mul(3);
        *pixels = [
            (sum.wrapping_add(*before).wrapping_add(even) >> shift) as u8,
            (sum.wrapping_add(*after).wrapping_add(odd) >> shift) as u8,
        ];
    }
}
