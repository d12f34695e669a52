//! Kernels for images. All variants are bit-identical, so that a frame's pixels do not depend on the processor.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{edges, poison, vectors};
use crate::reference;
use crate::resample::{FilteredLines, HALF, LINES, LineFilter, PRECISION_BITS, STRIP};
use crate::yuv::{Factor, YuvMatrix};

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// `len` pixels of `taps` source pixels each, `step` apart, of weights that add up to 1; some are negative.
fn filter(seed: u64, len: usize, taps: usize, step: usize) -> LineFilter {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut filter = LineFilter::default();
    for x in 0..len {
        let spread = (1 << PRECISION_BITS) / taps as i32;
        let mut weights: Vec<i32> = (0..taps)
            .map(|_| (random.next_u32() % (2 * spread as u32)) as i32 - spread / 4)
            .collect();
        weights[0] += (1 << PRECISION_BITS) - weights.iter().sum::<i32>();
        filter.push(x * step, &weights);
    }
    filter
}

/// If this fails, a resized image depends on the processor.
#[test]
fn filtered_lines_equal_the_reference() {
    for vector in vectors() {
        // Lines longer and shorter than what is spread at a time, and windows larger than that.
        for (len, taps, step) in [(1, 1, 1), (5, 7, 2), (STRIP + 9, 21, 5), (3, 300, 40)] {
            let filter = filter(len as u64, len, taps, step);
            let source = filter.source(0..len);
            let lines: Vec<_> = (0..LINES)
                .map(|line| bytes(line as u64, source.end * 3))
                .collect();
            for start in (0..len).step_by(STRIP) {
                let strip = start..len.min(start + STRIP);
                let first = filter.source(strip.clone()).start;
                let lines = std::array::from_fn(|i| &lines[i][first * 3..]);
                let mut expected: FilteredLines = [[0; STRIP * 3]; LINES];
                let mut found = expected;
                reference::filter_lines(&lines, first, &filter, strip.clone(), &mut expected);
                poison();
                vector.filter_lines(&lines, first, &filter, strip.clone(), &mut found);
                for (line, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let values = strip.len() * 3;
                    assert_eq!(
                        found[..values],
                        expected[..values],
                        "{}, {len} of {taps} taps, line {line}",
                        vector.name()
                    );
                }
            }
        }
    }
}

/// If this fails, the rounding errors of f32 decide sums next to a half.
#[test]
fn sums_next_to_a_half_are_exact() {
    let one = 1 << PRECISION_BITS;
    for vector in vectors() {
        // Of 1, 2 and 1 the sums are a half and -32 ..= 31 units of 2^-22: as exact products, f32 could not hold them.
        let mut filter = LineFilter::default();
        for offset in -32..32 {
            let parts = [one / 7 * 2, one / 7, 0];
            let rest = 200 * one + one / 2 + offset - 199 * parts[0] - 251 * parts[1];
            filter.push(0, &[parts[0], parts[1], rest / 253, rest % 253]);
        }
        let line: Vec<u8> = [199, 251, 253, 1].map(|value| [value; 3]).concat();
        let mut expected: FilteredLines = [[0; STRIP * 3]; LINES];
        let mut found = expected;
        let lines = [line.as_slice(); LINES];
        reference::filter_lines(&lines, 0, &filter, 0..64, &mut expected);
        vector.filter_lines(&lines, 0, &filter, 0..64, &mut found);
        for (i, expected) in expected[0].iter().enumerate() {
            assert_eq!(*expected, if i / 3 < 32 { 200 } else { 201 });
        }
        assert_eq!(found, expected, "{}", vector.name());
    }
}

#[test]
fn added_lines_equal_plain_sums() {
    for vector in vectors() {
        let random = bytes(1, LINES * STRIP * 3);
        let lines: FilteredLines =
            std::array::from_fn(|i| std::array::from_fn(|j| i32::from(random[i * STRIP * 3 + j])));
        let weights = std::array::from_fn(|i| if i < 5 { 0 } else { i as i32 * 3_001 - 20_000 });
        for len in edges(32).into_iter().chain([STRIP * 3]) {
            let mut sums = vec![HALF; len];
            vector.add_lines(&mut sums, &lines, &weights);
            for (j, sum) in sums.iter().enumerate() {
                let products = (0..LINES).map(|i| lines[i][j] * weights[i]);
                assert_eq!(*sum, HALF + products.sum::<i32>(), "{}", vector.name());
            }
        }
    }
}

#[test]
fn upsampled_rows_equal_plain_sums() {
    for vector in vectors() {
        for len in edges(64) {
            let (near, far) = (bytes(1, len), bytes(2, len));
            let mut sums = vec![0; len];
            vector.mix_rows(&near, &far, &mut sums);
            for (i, sum) in sums.iter().enumerate() {
                let expected = u32::from(near[i]) * 3 + u32::from(far[i]);
                assert_eq!(u32::from(*sum), expected, "{}", vector.name());
            }
            if len < 2 {
                continue;
            }
            let mut pixels = vec![0; (len - 2) * 2];
            vector.double_row(&sums, [8, 7], 4, &mut pixels);
            for (i, pixel) in pixels.iter().enumerate() {
                let middle = 1 + i / 2;
                let (other, bias) = [(middle - 1, 8), (middle + 1, 7)][i % 2];
                let sum = u32::from(sums[middle]) * 3 + u32::from(sums[other]) + bias;
                assert_eq!(u32::from(*pixel), sum >> 4, "{}, {i}", vector.name());
            }
        }
    }
}

#[test]
fn converted_rows_equal_the_formula() {
    let factors = [76_309, 104_597, -25_675, -53_279, 132_201];
    let [luma, red_cr, green_cb, green_cr, blue_cb] = factors.map(Factor::new);
    let matrix = YuvMatrix {
        black: 16,
        luma,
        red_cr,
        green_cb,
        green_cr,
        blue_cb,
    };
    for vector in vectors() {
        for len in edges(64).into_iter().chain([65_536]) {
            let [luma, cb, cr] = [1, 2, 3].map(|seed| bytes(seed, len));
            let mut rgb = vec![0; len * 3];
            vector.yuv_to_rgb(&matrix, &luma, &cb, &cr, &mut rgb);
            for (i, found) in rgb.chunks(3).enumerate() {
                let y = (i32::from(luma[i]) - 16) * factors[0] + (1 << 15);
                let (b, r) = (i32::from(cb[i]) - 128, i32::from(cr[i]) - 128);
                let sums = [
                    y + factors[1] * r,
                    y + factors[2] * b + factors[3] * r,
                    y + factors[4] * b,
                ];
                let expected = sums.map(|sum| (sum >> 16).clamp(0, 255) as u8);
                assert_eq!(found, expected, "{}, {len}: {i}", vector.name());
            }
        }
    }
}
