//! Pillow's resampling (libImaging/Resample.c and, for nearest, Geometry.c) of a window of the result.
//!
//! Pillow multiplies 8-bit pixels by weights in 22-bit fixed point and adds in 32-bit integers, one axis after the
//! other, rounding and clipping to 8 bits in between. The two passes are kernels
//! ([`filter_lines`](pinhole_kernels::filter_lines), [`add_lines`](pinhole_kernels::add_lines)).

use std::collections::VecDeque;
use std::f64::consts::PI;
use std::ops::Range;

use pinhole_kernels::{
    HALF, LINES, LineFilter, PRECISION_BITS, STRIP, add_lines, clip, filter_lines,
};
use pinhole_model::Filter;

/// What is resized.
pub(crate) trait Source {
    /// The part of the source image with these columns and rows.
    fn window(&mut self, columns: Range<usize>, rows: Range<usize>) -> Window<'_>;
}

/// Pixels of an image in RGB.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    /// Bytes from row to row.
    pub(crate) stride: usize,
    /// Rows of pixels, 3 bytes each. The last row may be without padding.
    pub(crate) data: &'a [u8],
}

impl<'a> Window<'a> {
    /// The rest of a row, from pixel (`x`, `y`) of the window on.
    fn from(self, x: usize, y: usize) -> &'a [u8] {
        &self.data[y * self.stride + x * 3..]
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
        along: LineFilter,
        /// Combines the lines.
        between: LineFilter,
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
                    along: line_filter(&kernel, first),
                    between: line_filter(&kernel, second),
                }
            }
        };
        Self {
            across,
            down,
            method,
        }
    }

    /// The window of the result, u8 [down.len, across.len, 3].
    pub(crate) fn run(&self, source: &mut impl Source) -> Vec<u8> {
        let (order, along, between) = match &self.method {
            Method::Nearest { columns, rows } => return nearest(source, columns, rows),
            Method::Filter {
                order,
                along,
                between,
            } => (*order, along, between),
        };
        match order {
            Order::RowsFirst => {
                let columns = along.source(0..self.across.len);
                resize(along, between, |rows, filter| {
                    let window = source.window(columns.clone(), rows.clone());
                    let row = |i: usize| window.from(0, i.min(rows.len() - 1));
                    filter(&std::array::from_fn(row));
                })
            }
            Order::ColumnsFirst => {
                let rows = along.source(0..self.down.len);
                let window = source.window(between.source(0..self.across.len), rows.clone());
                let from = between.source(0..self.across.len).start;
                let mut lines = vec![vec![0; rows.len() * 3]; LINES];
                let result = resize(along, between, |columns, filter| {
                    for (x, line) in columns.zip(&mut lines) {
                        for (y, pixel) in line.chunks_exact_mut(3).enumerate() {
                            pixel.copy_from_slice(&window.from(x - from, y)[..3]);
                        }
                    }
                    filter(&std::array::from_fn(|i| lines[i].as_slice()));
                });
                transposed(&result, self.down.len)
            }
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

/// Filters lines by `along` and combines them by `between`, to u8 [line, pixel, 3].
///
/// `read` gets the source lines by number, at most [`LINES`], and passes them on from the first pixel that `along` reads;
/// any lines in place of those that are missing. Source lines are read once and added to the result lines that they
/// contribute to, so that no intermediate image is stored.
fn resize(
    along: &LineFilter,
    between: &LineFilter,
    mut read: impl FnMut(Range<usize>, &mut dyn FnMut(&[&[u8]; LINES])),
) -> Vec<u8> {
    let (len, count) = (along.ranges().len(), between.ranges().len());
    let first = along.source(0..len).start;
    let source = between.source(0..count);
    let mut filtered = [[0; STRIP * 3]; LINES];
    let mut result = Vec::with_capacity(count * len * 3);
    // The sums of the first result lines that are not complete yet, and memory for later ones.
    let mut open: VecDeque<Vec<i32>> = VecDeque::new();
    let mut spare: Vec<Vec<i32>> = vec![];
    let mut complete = 0;
    for start in source.clone().step_by(LINES) {
        let block = start..source.end.min(start + LINES);
        let ranges = &between.ranges()[complete..];
        // For each result line that the block contributes to, the weights.
        let contributions: Vec<[i32; LINES]> = ranges
            .iter()
            .take_while(|taps| taps.start < block.end)
            .enumerate()
            .map(|(i, taps)| {
                let all = between.weights(complete + i);
                let mut weights = [0; LINES];
                for line in taps.start.max(block.start)..taps.end.min(block.end) {
                    weights[line - block.start] = all[line - taps.start];
                }
                weights
            })
            .collect();
        while open.len() < contributions.len() {
            let mut sums = spare.pop().unwrap_or_default();
            sums.clear();
            sums.resize(len * 3, HALF);
            open.push_back(sums);
        }
        read(block.clone(), &mut |lines| {
            for start in (0..len).step_by(STRIP) {
                let strip = start..len.min(start + STRIP);
                filter_lines(lines, first, along, strip.clone(), &mut filtered);
                for (sums, weights) in open.iter_mut().zip(&contributions) {
                    add_lines(&mut sums[start * 3..strip.end * 3], &filtered, weights);
                }
            }
        });
        let ended = |taps: &&Range<usize>| taps.end <= block.end;
        for _ in 0..ranges.iter().take_while(ended).count() {
            let sums = open.pop_front().expect("it had contributions");
            result.extend(sums.iter().map(|sum| clip(*sum)));
            spare.push(sums);
            complete += 1;
        }
    }
    result
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

/// The weights of the pixels of a window, in fixed point.
fn line_filter(kernel: &Kernel, axis: &Axis) -> LineFilter {
    let scale = axis.source as f64 / axis.resized as f64;
    let filter_scale = scale.max(1.0);
    let support = kernel.support * filter_scale;
    let inverse = 1.0 / filter_scale;
    let mut filter = LineFilter::default();
    let (mut weights, mut fixed) = (Vec::new(), Vec::new());
    for x in axis.start..axis.start + axis.len as u64 {
        let center = (x as f64 + 0.5) * scale;
        // Casts truncate towards zero, and negative numbers to 0, as in Pillow.
        let start = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(axis.source);
        let weight = |i| (kernel.weight)(((i as f64) - center + 0.5) * inverse);
        weights.clear();
        weights.extend((start..end).map(weight));
        let sum: f64 = weights.iter().sum();
        fixed.clear();
        fixed.extend(weights.iter().map(|weight| {
            let weight = if sum == 0.0 { *weight } else { weight / sum };
            let fixed = weight * f64::from(1 << PRECISION_BITS);
            (fixed + if fixed < 0.0 { -0.5 } else { 0.5 }) as i32
        }));
        filter.push(start, &fixed);
    }
    filter
}

/// Nearest neighbour as Pillow's ImagingScaleAffine, which accumulates its position.
fn nearest(source: &mut impl Source, columns: &[Option<usize>], rows: &[Option<usize>]) -> Vec<u8> {
    let across = span(columns);
    let mut result = Vec::with_capacity(rows.len() * columns.len() * 3);
    for row in rows {
        let window = row.map(|row| source.window(across.clone(), row..row + 1));
        for column in columns {
            match (window, column) {
                (Some(window), Some(column)) => {
                    result.extend(&window.from(column - across.start, 0)[..3]);
                }
                // Rounding has moved the position outside the image; Pillow leaves such pixels black.
                _ => result.extend([0; 3]),
            }
        }
    }
    result
}

/// From the first to the last of `sources`.
fn span(sources: &[Option<usize>]) -> Range<usize> {
    let sources = || sources.iter().flatten().copied();
    match (sources().min(), sources().max()) {
        (Some(first), Some(last)) => first..last + 1,
        _ => 0..0,
    }
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
