//! The two passes of resampling an image in 22-bit fixed point, as Pillow does (libImaging/Resample.c).

use std::ops::Range;

use crate::scratch;
use crate::simd::Simd;
use crate::transpose::transposed_bytes;

/// Fraction bits of the weights: 32 - 8 - 2, so that sums of 8-bit values fit.
pub const PRECISION_BITS: u32 = 22;
/// Lines that the first pass filters together.
pub const LINES: usize = 16;
/// Most result pixels of a line that are computed at a time, so that they stay in the cache.
pub const STRIP: usize = 64;
/// What sums start with, so that the shift rounds.
pub const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Values of a strip: [pixel, channel].
const VALUES: usize = STRIP * 3;
/// The lanes of one pixel of each line: [channel, line].
const LANES: usize = 3 * LINES;
/// Source pixels that are spread to lanes at a time: 24 KiB, small enough for the first-level caches.
const SEGMENT: usize = 128;

/// Results of the first pass: 8-bit values [line, (pixel, channel)].
pub type FilteredLines = [[i32; VALUES]; LINES];

/// For each pixel of a resized line, the source pixels that it is computed from, with their weights.
#[derive(Clone, Debug, Default)]
pub struct LineFilter {
    ranges: Vec<Range<usize>>,
    /// Where the weights of each pixel begin.
    offsets: Vec<usize>,
    weights: Vec<i32>,
    /// The same; `f32` holds them.
    floats: Vec<f32>,
    /// Bounds of the rounding errors of each pixel's sum in `f32`, in results (0 to 255).
    errors: Vec<f32>,
}

impl LineFilter {
    /// Appends a pixel: the sum of the source pixels from `start` on times `weights`, in units of 2^-22.
    ///
    /// # Panics
    /// If a start or an end is before that of the previous pixel, or the weights' magnitudes sum to 2 or more.
    pub fn push(&mut self, start: usize, weights: &[i32]) {
        let range = start..start + weights.len();
        if let Some(last) = self.ranges.last() {
            assert!(
                last.start <= range.start && last.end <= range.end,
                "start: expected pixels in order, found {range:?} after {last:?}"
            );
        }
        let magnitude: f64 = weights.iter().map(|weight| f64::from(*weight).abs()).sum();
        let unit = f64::from(1 << PRECISION_BITS);
        assert!(
            magnitude < 2.0 * unit,
            "weights: expected magnitudes below 2 together, found {}",
            magnitude / unit
        );
        // Each of n products and n additions is wrong by at most 2^-24 of a partial sum, which is at most that of the
        // absolute values (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2); two roundings more, of
        // clipping, and higher orders.
        let largest = f64::from(HALF) + 255.0 * magnitude;
        let operations = (weights.len() + 4) as f64;
        let error = operations * 1.01 * largest / f64::from(1 << 24);
        self.errors.push((error / unit) as f32);
        self.offsets.push(self.weights.len());
        self.weights.extend(weights);
        self.floats
            .extend(weights.iter().map(|weight| *weight as f32));
        self.ranges.push(range);
    }

    /// The source pixels of each pixel; starts and ends never decrease.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// The weights of the source pixels of a pixel.
    pub fn weights(&self, pixel: usize) -> &[i32] {
        &self.weights[self.offsets[pixel]..][..self.ranges[pixel].len()]
    }

    /// All source pixels that the pixels `part` are computed from.
    pub fn source(&self, part: Range<usize>) -> Range<usize> {
        match &self.ranges[part] {
            [first, .., last] => first.start..last.end,
            [only] => only.clone(),
            [] => 0..0,
        }
    }

    fn floats(&self, pixel: usize) -> &[f32] {
        &self.floats[self.offsets[pixel]..][..self.ranges[pixel].len()]
    }
}

/// A rounded sum: Pillow's clip8, of a sum that starts at half a unit.
#[inline]
pub fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// One value of [`reference::filter_lines`](crate::reference::filter_lines).
pub(crate) fn filtered(line: &[u8], first: usize, filter: &LineFilter, pixel: usize) -> u8 {
    let pixels = line[(filter.ranges[pixel].start - first) * 3..].chunks(3);
    let products = pixels
        .zip(filter.weights(pixel))
        .map(|(pixel, weight)| i32::from(pixel[0]) * weight);
    clip(products.sum::<i32>() + HALF)
}

/// Working memory of [`filter_lines`].
pub(crate) struct Memory<'a> {
    /// [SEGMENT]
    pixels: &'a mut [[f32; LANES]],
    /// One per pixel of the strip.
    sums: &'a mut [[f32; LANES]],
}

impl Memory<'_> {
    /// Runs `f` with memory for a strip of `len` pixels.
    pub(crate) fn with(len: usize, f: impl FnOnce(Memory)) {
        scratch::with((SEGMENT + len) * LANES, |memory| {
            let (lanes, _) = memory.as_chunks_mut();
            let (pixels, sums) = lanes.split_at_mut(SEGMENT);
            f(Memory { pixels, sums });
        });
    }
}

/// [`reference::filter_lines`](crate::reference::filter_lines) bit for bit.
///
/// It computes in `f32`, which is not exact. A sum so close to the next result that the error could decide, about one in a
/// thousand, is computed again in integers.
#[inline(always)]
pub(crate) fn filter_lines<S: Simd>(
    simd: S,
    lines: &[&[u8]; LINES],
    first: usize,
    filter: &LineFilter,
    strip: Range<usize>,
    Memory { pixels, sums }: Memory,
    out: &mut FilteredLines,
) {
    sums.as_flattened_mut().fill(HALF as f32);
    let ranges = &filter.ranges[strip.clone()];
    let source = filter.source(strip.clone());
    // Result pixels in [open, ..) are not complete yet.
    let mut open = 0;
    for start in source.clone().step_by(SEGMENT) {
        let segment = start..source.end.min(start + SEGMENT);
        let bytes = (start - first) * 3..(segment.end - first) * 3;
        spread(lines, bytes, pixels.as_flattened_mut());
        for (x, taps) in ranges.iter().enumerate().skip(open) {
            if taps.start >= segment.end {
                break;
            }
            if taps.end <= segment.end {
                open = x + 1;
            }
            let part = taps.start.max(start)..taps.end.min(segment.end);
            let pixels = &pixels[part.start - start..part.end - start];
            let weights = &filter.floats(strip.start + x)[part.start - taps.start..];
            add_pixels(simd, &mut sums[x], pixels, weights);
        }
    }
    let mut results = [[0; LANES]; STRIP];
    for (x, (sums, results)) in sums.iter().zip(&mut results).enumerate() {
        let x = strip.start + x;
        let mut distances = [0.0; LANES];
        clip_with_distances(sums, results, &mut distances);
        let certain = 0.5 - filter.errors[x];
        let mut uncertain = 0;
        for distance in &distances {
            uncertain |= u32::from(*distance >= certain);
        }
        if uncertain == 0 {
            continue;
        }
        for (lane, (result, distance)) in results.iter_mut().zip(&distances).enumerate() {
            if *distance >= certain {
                let (channel, line) = (lane / LINES, lane % LINES);
                *result = filtered(&lines[line][channel..], first, filter, x);
            }
        }
    }
    let blocks = results.as_flattened().as_chunks().0.as_chunks().0;
    for (i, block) in blocks.iter().enumerate() {
        let lines = transposed_bytes(block);
        for (out, line) in out.iter_mut().zip(&lines) {
            for (value, byte) in out[i * 16..][..16].iter_mut().zip(line) {
                *value = i32::from(*byte);
            }
        }
    }
}

/// Writes the values `bytes` of the lines to lanes, one line per lane.
#[inline(always)]
fn spread(lines: &[&[u8]; LINES], bytes: Range<usize>, lanes: &mut [f32]) {
    let lanes = lanes.as_chunks_mut::<LINES>().0;
    let blocks = lanes[..bytes.len()].chunks_mut(16);
    for (start, lanes) in bytes.clone().step_by(16).zip(blocks) {
        let mut rows = [[0; 16]; LINES];
        for (row, line) in rows.iter_mut().zip(lines) {
            match line[start..].first_chunk() {
                Some(whole) => *row = *whole,
                None => {
                    let rest = &line[start..bytes.end];
                    row[..rest.len()].copy_from_slice(rest);
                }
            }
        }
        let columns = transposed_bytes(&rows);
        for (lanes, column) in lanes.iter_mut().zip(&columns) {
            for (lane, byte) in lanes.iter_mut().zip(column) {
                *lane = f32::from(*byte);
            }
        }
    }
}

/// sums[lane] += weights[t] * pixels[t][lane], over all t.
#[inline(always)]
fn add_pixels<S: Simd>(simd: S, sums: &mut [f32; LANES], pixels: &[[f32; LANES]], weights: &[f32]) {
    match const { LANES / S::LANES } {
        3 => add_pixels_in::<S, 3>(simd, sums, pixels, weights),
        6 => add_pixels_in::<S, 6>(simd, sums, pixels, weights),
        _ => add_pixels_in::<S, 12>(simd, sums, pixels, weights),
    }
}

/// [`add_pixels`] in `N` registers.
#[inline(always)]
fn add_pixels_in<S: Simd, const N: usize>(
    simd: S,
    sums: &mut [f32; LANES],
    pixels: &[[f32; LANES]],
    weights: &[f32],
) {
    assert_eq!(N * S::LANES, LANES);
    let mut total = [simd.splat(0.0); N];
    for (i, total) in total.iter_mut().enumerate() {
        // SAFETY: `N` registers are `LANES` values.
        *total = unsafe { simd.load(sums.as_ptr().add(i * S::LANES)) };
    }
    for (pixel, weight) in pixels.iter().zip(weights) {
        let weight = simd.splat(*weight);
        for (i, total) in total.iter_mut().enumerate() {
            // SAFETY: `N` registers are `LANES` values.
            let values = unsafe { simd.load(pixel.as_ptr().add(i * S::LANES)) };
            *total = simd.mul_add(values, weight, *total);
        }
    }
    for (i, total) in total.iter().enumerate() {
        // SAFETY: `N` registers are `LANES` values.
        unsafe { simd.store(*total, sums.as_mut_ptr().add(i * S::LANES)) };
    }
}

/// [`clip`] of each sum, and how far it is from the middle of the sums with the same result; 0.5 is the end of them.
#[inline(always)]
fn clip_with_distances(
    sums: &[f32; LANES],
    results: &mut [u8; LANES],
    distances: &mut [f32; LANES],
) {
    // Added to 1.5 * 2^23, a number is rounded to an integer, in the mantissa's low bits.
    const SHIFT: f32 = 12_582_912.0;
    const UNIT: f32 = 1.0 / (1 << PRECISION_BITS) as f32;
    for ((result, distance), sum) in results.iter_mut().zip(distances).zip(sums) {
        let value = sum * UNIT - 0.5;
        let rounded = value + SHIFT;
        *distance = (value - (rounded - SHIFT)).abs();
        *result = (rounded.to_bits() as i32 - SHIFT.to_bits() as i32).clamp(0, 255) as u8;
    }
}

/// [`crate::add_lines`], compiled for the instruction set of the caller.
#[inline(always)]
pub(crate) fn add_lines(sums: &mut [i32], lines: &FilteredLines, weights: &[i32; LINES]) {
    let groups = lines.as_chunks::<4>().0.iter();
    for (lines, weights) in groups.zip(weights.as_chunks::<4>().0) {
        if *weights == [0; 4] {
            continue;
        }
        let ([v0, v1, v2, v3], [w0, w1, w2, w3]) = (lines, weights);
        let values = v0.iter().zip(v1).zip(v2).zip(v3);
        for (sum, (((v0, v1), v2), v3)) in sums.iter_mut().zip(values) {
            let products = [(v0, w0), (v1, w1), (v2, w2), (v3, w3)];
            for (value, weight) in products {
                *sum = sum.wrapping_add(value.wrapping_mul(*weight));
            }
        }
    }
}
