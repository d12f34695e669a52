//! Pillow's resampling (libImaging/Resample.c and, for nearest, Geometry.c) of a window of the result.
//!
//! Pillow multiplies 8-bit pixels by weights in 22-bit fixed point and adds in 32-bit integers, one axis after the
//! other, rounding and clipping to 8 bits in between. This module computes the same integers in floating point, for which
//! every 64-bit target has vector instructions, unlike for 32-bit integer products.
//!
//! The second pass is in `f64`: every sum stays far below 2^53, so it is exact in any order. The first pass, which is most
//! of the work, is in `f32`, which is not exact. Where a sum is so close to the next result that the error could decide,
//! about one in a thousand, it is computed again in integers.

use std::f64::consts::PI;
use std::ops::Range;

use pinhole_model::Filter;

/// A window of a source image in RGB.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    /// First column and row of the source that the window has.
    pub(crate) columns_from: usize,
    pub(crate) rows_from: usize,
    /// Bytes from row to row.
    pub(crate) stride: usize,
    /// Rows of pixels, 3 bytes each. The last row may be without padding.
    pub(crate) data: &'a [u8],
}

impl<'a> Window<'a> {
    /// The rest of a row of the source, from pixel (`x`, `y`) on.
    fn from(self, x: usize, y: usize) -> &'a [u8] {
        &self.data[(y - self.rows_from) * self.stride + (x - self.columns_from) * 3..]
    }
}

/// One axis of a resize, and the window of the result that is computed.
pub(crate) struct Axis {
    /// Pixels of the source.
    pub(crate) source: usize,
    /// Pixels of the whole resized image, at least 1.
    pub(crate) resized: u64,
    /// First pixel of the window in the resized image.
    pub(crate) start: u64,
    /// Pixels of the window.
    pub(crate) len: usize,
}

/// Fraction bits of the weights: 32 - 8 - 2.
const PRECISION_BITS: u32 = 22;
/// Half a unit, added so that the shift rounds.
const HALF: f64 = (1 << (PRECISION_BITS - 1)) as f64;
/// Source lines that the first pass filters together, one per lane.
const LINES: usize = 8;
/// The lanes of one pixel of each line: [channel, line].
const LANES: usize = 3 * LINES;
/// Source pixels of a line that are spread to lanes at a time: 24 KiB, small enough for the caches.
const SEGMENT: usize = 256;
/// Result pixels of a line whose sums are computed at a time, so that they stay in the cache.
const STRIP: usize = 64;

/// The axis that is filtered first; lines run along it.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    RowsFirst,
    ColumnsFirst,
}

impl Order {
    /// Pillow filters rows first, except (since version 13, pull request 9549) where the height shrinks by more than
    /// twice as many pixels as the width.
    fn of(across: &Axis, down: &Axis) -> Self {
        let shrinks = |axis: &Axis| axis.source as i64 - axis.resized as i64;
        let columns = shrinks(down) > 0 && shrinks(down) > 2 * shrinks(across);
        if columns {
            Self::ColumnsFirst
        } else {
            Self::RowsFirst
        }
    }
}

/// A resize, ready to run.
pub(crate) struct Resampler<'a> {
    across: &'a Axis,
    down: &'a Axis,
    method: Method,
}

enum Method {
    Nearest {
        columns: Vec<Option<usize>>,
        rows: Vec<Option<usize>>,
    },
    Filter {
        order: Order,
        /// Filters the lines.
        along: Taps,
        /// Combines the lines.
        between: Taps,
    },
}

impl<'a> Resampler<'a> {
    pub(crate) fn new(filter: Filter, across: &'a Axis, down: &'a Axis) -> Self {
        let method = match Kernel::of(filter) {
            None => Method::Nearest {
                columns: nearest_sources(across),
                rows: nearest_sources(down),
            },
            Some(kernel) => {
                let order = Order::of(across, down);
                let (first, second) = match order {
                    Order::RowsFirst => (across, down),
                    Order::ColumnsFirst => (down, across),
                };
                Method::Filter {
                    order,
                    along: Taps::new(&kernel, first),
                    between: Taps::new(&kernel, second),
                }
            }
        };
        Self {
            across,
            down,
            method,
        }
    }

    /// The columns and rows of the source that the result is computed from.
    pub(crate) fn source(&self) -> (Range<usize>, Range<usize>) {
        let span = |sources: &[Option<usize>]| {
            let sources = || sources.iter().flatten().copied();
            match (sources().min(), sources().max()) {
                (Some(first), Some(last)) => first..last + 1,
                _ => 0..0,
            }
        };
        match &self.method {
            Method::Nearest { columns, rows } => (span(columns), span(rows)),
            Method::Filter {
                order,
                along,
                between,
            } => match order {
                Order::RowsFirst => (along.source(), between.source()),
                Order::ColumnsFirst => (between.source(), along.source()),
            },
        }
    }

    /// The window of the result, u8 [down.len, across.len, 3], from an image that has at least [`Resampler::source`].
    pub(crate) fn run(&self, image: Window) -> Vec<u8> {
        let (order, along, between) = match &self.method {
            Method::Nearest { columns, rows } => return nearest(image, columns, rows),
            Method::Filter {
                order,
                along,
                between,
            } => (*order, along, between),
        };
        let (first, second) = match order {
            Order::RowsFirst => (self.across, self.down),
            Order::ColumnsFirst => (self.down, self.across),
        };
        let mut result = vec![0; second.len * first.len * 3];
        for start in (0..first.len).step_by(STRIP) {
            let strip = start..first.len.min(start + STRIP);
            resize_strip(image, order, along, between, strip, first.len, &mut result);
        }
        match order {
            Order::RowsFirst => result,
            Order::ColumnsFirst => transposed(&result, first.len),
        }
    }
}

/// Transposes pixels [n, len, 3] to [len, n, 3].
fn transposed(pixels: &[u8], len: usize) -> Vec<u8> {
    let lines = || pixels.chunks_exact(len * 3);
    (0..len)
        .flat_map(|x| lines().flat_map(move |line| &line[x * 3..][..3]))
        .copied()
        .collect()
}

/// Computes the pixels `strip` of each line of `result`; lines have `len` pixels.
///
/// `along` filters the lines, `between` combines them. Source lines are read a few at a time and added to the result
/// lines that they contribute to, so that no intermediate image is stored.
fn resize_strip(
    image: Window,
    order: Order,
    along: &Taps,
    between: &Taps,
    strip: Range<usize>,
    len: usize,
    result: &mut [u8],
) {
    let values = strip.len() * 3;
    let mut lines = [[0.0; STRIP * 3]; LINES];
    let mut sums = vec![HALF; between.ranges.len() * values];
    let mut first_pass = FirstPass::new(image, order, along, strip.clone());
    // Result lines in [open, ..) are not complete yet.
    let mut open = 0;
    let source = between.source();
    for start in source.clone().step_by(LINES) {
        let block = start..source.end.min(start + LINES);
        first_pass.run(block.clone(), &mut lines);
        for (y, taps) in between.ranges.iter().enumerate().skip(open) {
            if taps.start >= block.end {
                break;
            }
            let mut weights = [0.0; LINES];
            for line in taps.start.max(block.start)..taps.end.min(block.end) {
                weights[line - block.start] = f64::from(between.weights(y)[line - taps.start]);
            }
            let sums = &mut sums[y * values..][..values];
            add_lines(sums, &lines, &weights);
            if taps.end <= block.end {
                open = y + 1;
                let result = &mut result[(y * len + strip.start) * 3..][..values];
                for (value, sum) in result.iter_mut().zip(sums) {
                    *value = clip(*sum);
                }
            }
        }
    }
}

/// sums[j] += weights[i] * lines[i][j], over all i.
fn add_lines(sums: &mut [f64], lines: &[[f64; STRIP * 3]; LINES], weights: &[f64; LINES]) {
    let [v0, v1, v2, v3, v4, v5, v6, v7] = lines;
    let [w0, w1, w2, w3, w4, w5, w6, w7] = weights;
    let lines = v0
        .iter()
        .zip(v1)
        .zip(v2)
        .zip(v3)
        .zip(v4)
        .zip(v5)
        .zip(v6)
        .zip(v7);
    for (sum, (((((((v0, v1), v2), v3), v4), v5), v6), v7)) in sums.iter_mut().zip(lines) {
        *sum += v0 * w0 + v1 * w1 + v2 * w2 + v3 * w3 + v4 * w4 + v5 * w5 + v6 * w6 + v7 * w7;
    }
}

/// The first pass, which filters [`LINES`] lines at a time, and its buffers.
struct FirstPass<'a> {
    image: Window<'a>,
    order: Order,
    taps: &'a Taps,
    strip: Range<usize>,
    /// Source pixels, one line per lane.
    segment: Vec<[f32; LANES]>,
    /// One sum per result pixel, one line per lane.
    sums: Vec<[f32; LANES]>,
}

impl<'a> FirstPass<'a> {
    fn new(image: Window<'a>, order: Order, taps: &'a Taps, strip: Range<usize>) -> Self {
        let sums = vec![[HALF as f32; LANES]; strip.len()];
        Self {
            image,
            order,
            taps,
            strip,
            segment: vec![[0.0_f32; LANES]; SEGMENT],
            sums,
        }
    }

    /// Filters the source lines `block`, at most [`LINES`], into `lines` [line, (pixel, channel)].
    fn run(&mut self, block: Range<usize>, lines: &mut [[f64; STRIP * 3]; LINES]) {
        self.sums.fill([HALF as f32; LANES]);
        let ranges = &self.taps.ranges[self.strip.clone()];
        let source = ranges[0].start..ranges[ranges.len() - 1].end;
        // Result pixels in [open, ..) are not complete yet.
        let mut open = 0;
        for start in source.clone().step_by(SEGMENT) {
            let segment = start..source.end.min(start + SEGMENT);
            let lanes = &mut self.segment[..segment.len()];
            match self.order {
                Order::RowsFirst => spread_rows(lanes, self.image, block.clone(), segment.clone()),
                Order::ColumnsFirst => {
                    spread_columns(lanes, self.image, block.clone(), segment.clone())
                }
            }
            for (x, taps) in ranges.iter().enumerate().skip(open) {
                if taps.start >= segment.end {
                    break;
                }
                if taps.end <= segment.end {
                    open = x + 1;
                }
                let part = taps.start.max(segment.start)..taps.end.min(segment.end);
                let pixels = &self.segment[part.start - segment.start..part.end - segment.start];
                let weights = &self.taps.weights(self.strip.start + x)[part.start - taps.start..];
                add_pixels(&mut self.sums[x], pixels, weights);
            }
        }
        for (x, sums) in self.sums.iter().enumerate() {
            let (values, distances) = clip_with_distances(sums);
            for (channel, values) in values.chunks_exact(LINES).enumerate() {
                for (line, value) in lines.iter_mut().zip(values) {
                    line[x * 3 + channel] = f64::from(*value);
                }
            }
            let certain = 0.5 - self.taps.errors[self.strip.start + x];
            let farthest = |a: f32, b: &f32| if *b > a { *b } else { a };
            if distances.iter().fold(0.0, farthest) < certain {
                continue;
            }
            for (lane, distance) in distances.iter().enumerate() {
                let (channel, line) = (lane / LINES, lane % LINES);
                if *distance >= certain && line < block.len() {
                    let value = self.exactly(block.start + line, x, channel);
                    lines[line][x * 3 + channel] = f64::from(value);
                }
            }
        }
    }

    /// One value of the result, in integers.
    #[cold]
    fn exactly(&self, line: usize, x: usize, channel: usize) -> u8 {
        let x = self.strip.start + x;
        let sources = self.taps.ranges[x].clone();
        let products = sources.zip(self.taps.weights(x)).map(|(source, weight)| {
            let pixel = match self.order {
                Order::RowsFirst => self.image.from(source, line),
                Order::ColumnsFirst => self.image.from(line, source),
            };
            i64::from(pixel[channel]) * *weight as i64
        });
        let sum = products.sum::<i64>() + HALF as i64;
        (sum >> PRECISION_BITS).clamp(0, 255) as u8
    }
}

/// Writes `columns` of `rows` to lanes, one row per lane. A missing row is a copy of the last one: the second pass gives
/// it no weight.
fn spread_rows(
    lanes: &mut [[f32; LANES]],
    image: Window,
    rows: Range<usize>,
    columns: Range<usize>,
) {
    let row = |lane: usize| image.from(columns.start, (rows.start + lane).min(rows.end - 1));
    let [v0, v1, v2, v3, v4, v5, v6, v7]: [&[u8]; LINES] = std::array::from_fn(row);
    let values = v0
        .iter()
        .zip(v1)
        .zip(v2)
        .zip(v3)
        .zip(v4)
        .zip(v5)
        .zip(v6)
        .zip(v7);
    let lanes = lanes.as_flattened_mut().chunks_exact_mut(LINES);
    for (lanes, (((((((v0, v1), v2), v3), v4), v5), v6), v7)) in lanes.zip(values) {
        for (lane, value) in lanes.iter_mut().zip([v0, v1, v2, v3, v4, v5, v6, v7]) {
            *lane = f32::from(*value);
        }
    }
}

/// Writes `rows` of `columns` to lanes, one column per lane. Missing columns are 0: the second pass gives them no weight.
fn spread_columns(
    lanes: &mut [[f32; LANES]],
    image: Window,
    columns: Range<usize>,
    rows: Range<usize>,
) {
    for (lanes, y) in lanes.iter_mut().zip(rows) {
        for (lane, pixel) in image.from(columns.start, y)[..columns.len() * 3]
            .chunks_exact(3)
            .enumerate()
        {
            for (channel, value) in pixel.iter().enumerate() {
                lanes[channel * LINES + lane] = f32::from(*value);
            }
        }
    }
}

/// sums[lane] += weights[t] * pixels[t][lane], over all t.
fn add_pixels(sums: &mut [f32; LANES], pixels: &[[f32; LANES]], weights: &[f32]) {
    let mut total = *sums;
    for (pixel, weight) in pixels.iter().zip(weights) {
        for (total, value) in total.iter_mut().zip(pixel) {
            *total += value * weight;
        }
    }
    *sums = total;
}

/// A fixed-point sum to 8 bits: Pillow's clip8, of a sum that starts at half a unit.
fn clip(sum: f64) -> u8 {
    // The sum is a 32-bit integer. Added to 1.5 * 2^52 it is in the mantissa's low bits, without a conversion.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let sum = (sum + SHIFT).to_bits() as i32;
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// [`clip`] of each sum, and how far it is from the middle of the sums with the same result; 0.5 is the end of them.
fn clip_with_distances(sums: &[f32; LANES]) -> ([u8; LANES], [f32; LANES]) {
    // Added to 1.5 * 2^23, a number is rounded to an integer, in the mantissa's low bits.
    const SHIFT: f32 = 12_582_912.0;
    const UNIT: f32 = 1.0 / (1 << PRECISION_BITS) as f32;
    let (mut values, mut distances) = ([0; LANES], [0.0; LANES]);
    for ((value, distance), sum) in values.iter_mut().zip(&mut distances).zip(sums) {
        let result = sum * UNIT - 0.5;
        let rounded = result + SHIFT;
        *distance = (result - (rounded - SHIFT)).abs();
        *value = (rounded.to_bits() as i32 - SHIFT.to_bits() as i32).clamp(0, 255) as u8;
    }
    (values, distances)
}

/// A resampling filter as a function of the distance in (scaled) pixels.
struct Kernel {
    weight: fn(f64) -> f64,
    support: f64,
}

impl Kernel {
    /// The kernel of `filter`; none for nearest.
    fn of(filter: Filter) -> Option<Self> {
        let (weight, support): (fn(f64) -> f64, f64) = match filter {
            Filter::Nearest => return None,
            Filter::Box => (box_filter, 0.5),
            Filter::Bilinear => (bilinear, 1.0),
            Filter::Hamming => (hamming, 1.0),
            Filter::Bicubic => (bicubic, 2.0),
            Filter::Lanczos => (lanczos, 3.0),
        };
        Some(Self { weight, support })
    }
}

fn box_filter(x: f64) -> f64 {
    if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }
}

fn bilinear(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn hamming(x: f64) -> f64 {
    let x = x.abs();
    if x == 0.0 {
        return 1.0;
    }
    if x >= 1.0 {
        return 0.0;
    }
    let x = x * PI;
    // The constants are single precision in Pillow.
    x.sin() / x * (f64::from(0.54_f32) + f64::from(0.46_f32) * x.cos())
}

/// Keys' cubic with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) {
        sinc(x) * sinc(x / 3.0)
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}

/// For each pixel of a window, the source pixels that it is computed from, with their weights in fixed point.
struct Taps {
    /// Source pixels of each window pixel; starts and ends never decrease.
    ranges: Vec<Range<usize>>,
    /// Where the weights of each window pixel begin.
    offsets: Vec<usize>,
    /// Integers below 2^24, which `f32` holds.
    weights: Vec<f32>,
    /// Bounds of the rounding errors of each window pixel's sum in `f32`, in results (0 to 255).
    errors: Vec<f32>,
}

impl Taps {
    fn new(kernel: &Kernel, axis: &Axis) -> Self {
        let scale = axis.source as f64 / axis.resized as f64;
        let filter_scale = scale.max(1.0);
        let support = kernel.support * filter_scale;
        let inverse = 1.0 / filter_scale;
        let mut taps = Self {
            ranges: Vec::new(),
            offsets: Vec::new(),
            weights: Vec::new(),
            errors: Vec::new(),
        };
        let mut weights = Vec::new();
        for x in axis.start..axis.start + axis.len as u64 {
            let center = (x as f64 + 0.5) * scale;
            // Casts truncate towards zero, and negative numbers to 0, as in Pillow.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(axis.source);
            let weight = |i| (kernel.weight)(((i as f64) - center + 0.5) * inverse);
            weights.clear();
            weights.extend((start..end).map(weight));
            let sum: f64 = weights.iter().sum();
            for weight in &mut weights {
                if sum != 0.0 {
                    *weight /= sum;
                }
                let fixed = *weight * f64::from(1 << PRECISION_BITS);
                *weight = (fixed + if fixed < 0.0 { -0.5 } else { 0.5 }).trunc();
            }
            // Each of n products and n additions is wrong by at most 2^-24 of a partial sum, which is at most that of
            // the absolute values (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2); two roundings
            // more, of clipping, and higher orders.
            let largest = HALF + 255.0 * weights.iter().map(|weight| weight.abs()).sum::<f64>();
            let operations = (weights.len() + 4) as f64;
            let error = operations * 1.01 * largest / f64::from(1 << 24);
            taps.errors
                .push((error / f64::from(1 << PRECISION_BITS)) as f32);
            taps.ranges.push(start..end);
            taps.offsets.push(taps.weights.len());
            taps.weights.extend(weights.iter().map(|w| *w as f32));
        }
        taps
    }

    fn weights(&self, x: usize) -> &[f32] {
        &self.weights[self.offsets[x]..][..self.ranges[x].len()]
    }

    /// All source pixels that the window is computed from.
    fn source(&self) -> Range<usize> {
        match self.ranges.as_slice() {
            [first, .., last] => first.start..last.end,
            [only] => only.clone(),
            [] => 0..0,
        }
    }
}

/// Nearest neighbour as Pillow's ImagingScaleAffine, which accumulates its position.
fn nearest(image: Window, columns: &[Option<usize>], rows: &[Option<usize>]) -> Vec<u8> {
    let mut result = Vec::with_capacity(rows.len() * columns.len() * 3);
    for row in rows {
        for column in columns {
            match (row, column) {
                (Some(row), Some(column)) => result.extend(&image.from(*column, *row)[..3]),
                // Rounding has moved the position outside the image; Pillow leaves such pixels black.
                _ => result.extend([0; 3]),
            }
        }
    }
    result
}

/// The source pixel of each pixel of the window.
fn nearest_sources(axis: &Axis) -> Vec<Option<usize>> {
    let scale = axis.source as f64 / axis.resized as f64;
    let mut position = scale * 0.5;
    let mut sources = Vec::with_capacity(axis.len);
    for x in 0..axis.start + axis.len as u64 {
        if x >= axis.start {
            sources.push(Some(position as usize).filter(|source| *source < axis.source));
        }
        position += scale;
    }
    sources
}
