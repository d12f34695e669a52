use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Values, assert_bit_identical_for_any_threads, edges, int8_variants, poison};
use crate::activation::activate;
use crate::dispatch::Kernels;
use crate::{
    Affine, ConvolutionInput, ConvolutionOutput, ConvolutionWeights, ImageLayout, Nonlinearity,
    PackedConvolution, WeightError, Window, reference,
};
use pinhole_model::Activation;

/// `len` pseudo-random values of s8.
fn bytes(seed: u64, len: usize) -> Vec<i8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into_iter().map(u8::cast_signed).collect()
}

/// What the weights and their zero points contain.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Range {
    /// -127 ..= 127 without zero points.
    Symmetric,
    /// -128 ..= 126.
    Low,
    /// -128 ..= 127, which no single byte can represent after a shift.
    Full,
    /// -127 ..= 127 with zero points.
    ZeroPoints,
    /// -128 ..= 127 with zero points of -128 and 127.
    Extreme,
}

const RANGES: [Range; 5] = [
    Range::Symmetric,
    Range::Low,
    Range::Full,
    Range::ZeroPoints,
    Range::Extreme,
];

/// Of an output in bytes; a few values are out of range.
const OUTPUT: Affine = Affine {
    scale: 0.61,
    zero_point: -90,
};

/// What is bytes of x and output.
const BYTES: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

#[derive(Clone, Debug)]
struct Case {
    image: [usize; 2],
    inputs: usize,
    outputs: usize,
    groups: usize,
    window: Window,
    range: Range,
    by: Vec<Affine>,
    activation: Option<Nonlinearity>,
    bias: bool,
    residual: bool,
    /// Whether x and the output are bytes.
    bytes: [bool; 2],
    /// Channels last.
    x: Vec<f32>,
    /// Of x and the output.
    layouts: [ImageLayout; 2],
    weight: Vec<i8>,
    zero_points: Vec<i8>,
}

impl Case {
    fn new(
        image: [usize; 2],
        [inputs, outputs, groups]: [usize; 3],
        window: Window,
        range: Range,
    ) -> Self {
        let [h, w] = image;
        let seed = (h * 31 + w * 7 + inputs * 3 + outputs) as u64;
        let len = outputs * (inputs / groups) * window.kernel[0] * window.kernel[1];
        let mut weight = bytes(seed, len);
        let (low, high) = match range {
            Range::Symmetric | Range::ZeroPoints => (-127, 127),
            Range::Low => (-128, 126),
            Range::Full | Range::Extreme => (-128, 127),
        };
        weight.iter_mut().for_each(|w| *w = (*w).clamp(low, high));
        if let [first, .., last] = &mut weight[..] {
            (*first, *last) = (low, high);
        }
        let zero_points = match range {
            Range::Symmetric | Range::Low | Range::Full => vec![],
            Range::ZeroPoints => bytes(seed + 1, outputs),
            Range::Extreme => (0..outputs)
                .map(|o| if o % 2 == 0 { -128 } else { 127 })
                .collect(),
        };
        Case {
            image,
            inputs,
            outputs,
            groups,
            window,
            range,
            by: vec![Affine {
                scale: 0.0173,
                zero_point: [-128, -15, 0, 127][(h + outputs) % 4],
            }],
            activation: None,
            bias: !seed.is_multiple_of(3),
            residual: false,
            bytes: [false; 2],
            // A few values are out of range.
            x: Values::new(seed + 2, h * w * inputs)
                .iter()
                .map(|v| v * 2.8)
                .collect(),
            layouts: [(); 2].map(|()| ImageLayout::ChannelsLast),
            weight,
            zero_points,
        }
    }

    fn out_len(&self) -> usize {
        let [h, w] = self.window.output(self.image).unwrap_or([0, 0]);
        h * w * self.outputs
    }

    /// Calls `f` with the weights.
    fn with_weights<R>(&self, f: impl FnOnce(ConvolutionWeights) -> R) -> R {
        let (scales, bias) = (Values::new(3, self.outputs), Values::new(4, self.outputs));
        f(ConvolutionWeights {
            values: &self.weight,
            scales: &scales,
            zero_points: &self.zero_points,
            bias: self.bias.then_some(&*bias),
            outputs: self.outputs,
            inputs: self.inputs,
            groups: self.groups,
        })
    }

    /// The residual of all images, if there is one.
    fn residuals(&self) -> Option<Values> {
        (self.residual).then(|| Values::new(5, self.by.len() * self.out_len()))
    }

    /// The results; bytes as numbers.
    fn by(&self, kernels: Kernels) -> Vec<f32> {
        let layer = self.with_weights(|w| PackedConvolution::pack(kernels, w, self.window));
        let layer = layer.unwrap();
        let images = self.by.len();
        let len = images * self.out_len();
        let residual = self.residuals();
        let mut out = Values::new(6, len);
        poison();
        let (image, activation) = (self.image, self.activation);
        if self.layouts == [ImageLayout::ChannelsLast; 2] {
            let quantized = self.quantized();
            let x = match self.bytes[0] {
                true => ConvolutionInput::Bytes(&quantized, images, self.by[0]),
                false => ConvolutionInput::F32(&self.x, &self.by),
            };
            let residual = residual.as_deref();
            let run = |out| layer.apply(x, image, self.layouts, activation, residual, out);
            if self.bytes[1] {
                // At an address that no register is aligned to.
                let mut all = vec![77; len + 1];
                run(ConvolutionOutput::Bytes(&mut all[1..], OUTPUT));
                assert_eq!(all[0], 77);
                return all[1..].iter().map(|&b| b.into()).collect();
            }
            run(ConvolutionOutput::F32(&mut out));
            return out.to_vec();
        }
        // Each in its layout, and back.
        let [x, back] = [0, 1].map(|i| self.layouts[i] == ImageLayout::ChannelsFirst);
        let x = match x {
            true => channels_first(&self.x, images, self.inputs),
            false => self.x.clone(),
        };
        let residual = residual.map(|r| match back {
            true => channels_first(&r, images, self.outputs),
            false => r.to_vec(),
        });
        layer.apply(
            ConvolutionInput::F32(&x, &self.by),
            image,
            self.layouts,
            activation,
            residual.as_deref(),
            ConvolutionOutput::F32(&mut out),
        );
        match back {
            // The transpose of [outputs, pixels].
            true => channels_first(&out, images, self.out_len() / self.outputs),
            false => out.to_vec(),
        }
    }

    /// x as bytes, all images by the first scale.
    fn quantized(&self) -> Vec<u8> {
        let mut q = vec![0; self.x.len()];
        reference::quantize_affine(&self.x, self.by[0], &mut q);
        q.iter().map(|q| q.cast_unsigned() ^ 0x80).collect()
    }

    /// The reference's result; the activation function is that of `kernels`.
    fn expected(&self, kernels: Kernels) -> Vec<f32> {
        let len = self.out_len();
        let residual = self.residuals();
        let mut out = vec![0.0; self.by.len() * len];
        let size = self.x.len() / self.by.len();
        for (i, by) in self.by.iter().enumerate() {
            let x = &self.x[i * size..][..size];
            let by = if self.bytes[0] { self.by[0] } else { *by };
            let mut q = vec![0; x.len()];
            let finite = reference::quantize_affine(x, by, &mut q);
            let q: Vec<u8> = q.iter().map(|q| q.cast_unsigned() ^ 0x80).collect();
            let scale = if finite { by.scale } else { f32::NAN };
            let by = Affine { scale, ..by };
            let residual = residual.as_ref().map(|r| &r[i * len..][..len]);
            let out = &mut out[i * len..][..len];
            let (image, window) = (self.image, &self.window);
            self.with_weights(|w| {
                reference::convolution(&q, image, by, &w, window, None, residual, out);
            });
        }
        match kernels.int8 {
            None => activate(kernels, &mut out, self.activation),
            Some(vector) => vector.activate(&mut out, self.activation),
        }
        if !self.bytes[1] {
            return out;
        }
        let mut bytes = vec![0; out.len()];
        reference::quantize_bytes(&out, OUTPUT, &mut bytes);
        bytes.into_iter().map(f32::from).collect()
    }

    #[track_caller]
    fn check(&self, kernels: Kernels) {
        let (found, expected) = (self.by(kernels), self.expected(kernels));
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                found == expected || found.is_nan() && expected.is_nan(),
                "{}: image {:?}, channels {} -> {} in {} groups, {:?}, {:?}, {:?}, {:?}, residual {}, bytes {:?}: output {at}: \
                 expected {expected}, found {found}",
                kernels.name,
                self.image,
                self.inputs,
                self.outputs,
                self.groups,
                self.window,
                self.range,
                self.by,
                self.activation,
                self.residual,
                self.bytes,
            );
        }
    }
}

/// Each image [pixels, channels] as [channels, pixels].
fn channels_first(x: &[f32], images: usize, channels: usize) -> Vec<f32> {
    let size = x.len() / images;
    let pixels = size / channels.max(1);
    (0..x.len())
        .map(|i| x[i / size * size + i % pixels * channels + i % size / pixels])
        .collect()
}

pub(super) fn window(kernel: usize, stride: usize, dilation: usize, padding: usize) -> Window {
    Window {
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [dilation; 2],
        padding: [padding; 4],
    }
}

/// Channels around the tiles', pixels around their rows, in dense convolutions.
#[test]
fn dense_tile_edges() {
    for kernels in int8_variants() {
        let (rows, columns) = match kernels.int8 {
            Some(vector) => (vector.layout().rows, vector.layout().columns),
            None => (2, 2),
        };
        for (i, &n) in edges(columns).iter().enumerate() {
            for (j, &pixels) in edges(rows).iter().enumerate() {
                for inputs in [2, 3, 16, 17] {
                    let mut case = Case::new(
                        [2, pixels],
                        [inputs, n, 1],
                        window(3, 1, 1, 1),
                        RANGES[(i + j + inputs) % 5],
                    );
                    case.residual = (i + j) % 2 == 0;
                    case.activation = [None, Some(Nonlinearity::RELU)][j % 2];
                    case.check(kernels);
                    case.bytes = BYTES[1 + (i + j + inputs) % 3];
                    case.check(kernels);
                }
            }
        }
    }
}

/// Each kernel size, stride, dilation and range of weights of depthwise convolutions, with channels around a block's.
#[test]
fn depthwise_edges() {
    for kernels in int8_variants() {
        for (window, [channels, multiplier]) in depthwise_cases() {
            let range = RANGES[(window.kernel[0] + window.stride[0] + channels) % 5];
            let sizes = [channels, channels * multiplier, channels];
            let mut case = Case::new([9, 11], sizes, window, range);
            case.residual = channels % 2 == 0;
            case.activation = [None, Some(Nonlinearity::RELU)][window.kernel[0] % 2];
            case.check(kernels);
            case.bytes = BYTES[1 + (channels + window.kernel[0]) % 3];
            case.check(kernels);
        }
    }
}

/// Padding larger than the kernel, padding on one side only, kernels that are not square.
pub(super) fn edge_windows() -> [Window; 7] {
    let uneven = Window {
        kernel: [3, 5],
        stride: [2, 1],
        dilation: [1, 2],
        padding: [0, 4, 3, 5],
    };
    let line = Window {
        kernel: [1, 7],
        stride: [1, 3],
        dilation: [1, 1],
        padding: [0, 3, 0, 3],
    };
    [
        window(3, 1, 1, 1),
        window(3, 2, 1, 4),
        window(5, 1, 3, 9),
        window(1, 2, 1, 1),
        window(1, 1, 1, 0),
        uneven,
        line,
    ]
}

/// Depthwise windows, each with its channels and the outputs of a channel.
pub(super) fn depthwise_cases() -> impl Iterator<Item = (Window, [usize; 2])> {
    let strides = [(1, 1), (2, 1), (3, 1), (1, 2), (2, 3)];
    let channels = [(1, 1), (15, 1), (16, 1), (35, 1), (9, 2)];
    let windows = [1, 2, 3, 4, 5, 7, 9].into_iter().flat_map(move |kernel| {
        strides
            .map(|(stride, dilation)| window(kernel, stride, dilation, (kernel - 1) * dilation / 2))
    });
    windows.flat_map(move |window| {
        channels.map(|(channels, multiplier)| (window, [channels, multiplier]))
    })
}

/// Images of one pixel, and windows at the edges of what is allowed.
#[test]
fn window_edges() {
    for kernels in int8_variants() {
        for image in [[1, 1], [1, 6], [5, 1], [4, 7]] {
            for window in edge_windows() {
                for channels in [[20, 20, 20], [6, 9, 3], [5, 4, 1], [3, 6, 3]] {
                    for range in RANGES {
                        Case::new(image, channels, window, range).check(kernels);
                    }
                }
            }
        }
    }
}

/// The largest sums, with zero points at both ends.
#[test]
fn nothing_overflows() {
    for kernels in int8_variants() {
        for (w, zero) in [(127, -128), (-128, 127)] {
            for (x, zero_point) in [(1e9, -128), (-1e9, 127)] {
                // 32,768 values under the window.
                for (channels, kernel) in [([512, 3, 1], 8), ([2, 2, 2], 181)] {
                    let mut case = Case::new(
                        [kernel; 2],
                        channels,
                        window(kernel, 1, 1, 0),
                        Range::Extreme,
                    );
                    case.weight.fill(w);
                    case.zero_points.fill(zero);
                    case.x.fill(x);
                    case.by[0].zero_point = zero_point;
                    case.check(kernels);
                }
            }
        }
        let case = Case::new([1, 1], [32769, 1, 1], window(1, 1, 1, 0), Range::Symmetric);
        let error = case
            .with_weights(|w| PackedConvolution::pack(kernels, w, case.window))
            .unwrap_err();
        assert_eq!(
            error,
            WeightError::Inputs {
                most: 32768,
                found: 32769
            }
        );
    }
}

#[test]
fn activations_and_residuals() {
    let activations = [
        Some(Nonlinearity::Mlp(Activation::Gelu)),
        Some(Nonlinearity::Mlp(Activation::QuickGelu)),
        Some(Nonlinearity::Clamp {
            low: 0.0,
            high: 6.0,
        }),
        Some(Nonlinearity::RELU),
        Some(Nonlinearity::Silu),
        Some(Nonlinearity::HardSwish),
    ];
    for kernels in int8_variants() {
        for activation in activations {
            for channels in [[40, 40, 40], [10, 70, 1]] {
                for residual in [false, true] {
                    let mut case =
                        Case::new([6, 5], channels, window(3, 1, 1, 1), Range::Symmetric);
                    case.activation = activation;
                    case.residual = residual;
                    for bytes in BYTES {
                        case.bytes = bytes;
                        case.check(kernels);
                    }
                }
            }
        }
    }
}

/// Each image has its own scale, and a NaN reaches its own image only.
#[test]
fn images_are_independent() {
    for kernels in int8_variants() {
        for channels in [[24, 24, 24], [5, 40, 1]] {
            let one = Case::new([7, 6], channels, window(3, 1, 1, 1), Range::ZeroPoints);
            let mut all = one.clone();
            let other = Affine {
                scale: 0.031,
                zero_point: 9,
            };
            all.by = vec![one.by[0], other, one.by[0]];
            for _ in 0..2 {
                all.x.extend(&one.x);
            }
            all.check(kernels);
            assert_eq!(all.by(kernels)[..one.out_len()], one.by(kernels));
            all.x[one.x.len() + 5] = f32::NAN;
            let out = all.by(kernels);
            let mut images = out.chunks_exact(one.out_len());
            let nan = images.by_ref().map(|i| i.iter().all(|v| v.is_nan()));
            assert_eq!(nan.collect::<Vec<_>>(), [false, true, false]);
            let finite = out.iter().filter(|v| v.is_finite()).count();
            assert_eq!(finite, 2 * one.out_len());
        }
    }
}

#[test]
fn bit_identical_for_any_number_of_threads() {
    for kernels in int8_variants() {
        for (image, channels) in [
            ([40, 30], [16, 40, 1]),
            ([7, 7], [64, 130, 1]),
            ([40, 41], [40, 40, 40]),
            ([12, 12], [64, 128, 2]),
        ] {
            let case = Case::new(image, channels, window(3, 1, 1, 1), Range::ZeroPoints);
            assert_bit_identical_for_any_threads(|| case.by(kernels));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_shape(
        image in [1usize..14, 1usize..14],
        kernel in [1usize..6, 1usize..6],
        stride in [1usize..4, 1usize..4],
        dilation in [1usize..3, 1usize..3],
        padding in [0usize..5, 0usize..5, 0usize..5, 0usize..5],
        groups in 1usize..20,
        inputs in 1usize..4,
        outputs in 1usize..4,
        range in 0usize..5,
        first in [any::<bool>(), any::<bool>()],
        residual: bool,
        bytes in 0usize..4,
    ) {
        let window = Window { kernel, stride, dilation, padding };
        let channels = [inputs * groups, outputs * groups, groups];
        let mut case = Case::new(image, channels, window, RANGES[range]);
        case.layouts = first.map(|first| match first {
            true => ImageLayout::ChannelsFirst,
            false => ImageLayout::ChannelsLast,
        });
        case.residual = residual;
        if first == [false; 2] {
            case.bytes = BYTES[bytes];
        }
        for kernels in int8_variants() {
            case.check(kernels);
        }
    }
}

/// The layouts, with channels and pixels around the transposition's blocks.
#[test]
fn layouts_of_any_size() {
    use ImageLayout::{ChannelsFirst, ChannelsLast};
    for kernels in int8_variants() {
        for layouts in [
            [ChannelsFirst, ChannelsLast],
            [ChannelsLast, ChannelsFirst],
            [ChannelsFirst; 2],
        ] {
            for channels in [1, 3, 4, 9, 16] {
                for pixels in [1, 4, 15, 16, 37] {
                    for images in [1, 2] {
                        let mut case = Case::new(
                            [images, pixels],
                            [channels, channels + 1, 1],
                            window(1, 1, 1, 0),
                            Range::Symmetric,
                        );
                        // The rows as images.
                        case.image = [1, pixels];
                        case.by = vec![case.by[0]; images];
                        case.layouts = layouts;
                        case.residual = true;
                        case.check(kernels);
                    }
                }
            }
        }
    }
}

/// The reference on numbers computed by hand: a 2 x 2 kernel with stride 2 on 3 x 3 pixels with padding below and right.
#[test]
fn reference_by_hand() {
    let weights = ConvolutionWeights {
        values: &[1, 2, 3, 4, 1, -1, 0, 10],
        scales: &[0.5, 2.0],
        zero_points: &[0, 1],
        bias: Some(&[100.0, 0.0]),
        outputs: 2,
        inputs: 1,
        groups: 1,
    };
    let window = Window {
        kernel: [2, 2],
        stride: [2, 2],
        dilation: [1, 1],
        padding: [0, 0, 1, 1],
    };
    assert_eq!(window.output([3, 3]), Some([2, 2]));
    let x = [11, 12, 13, 14, 15, 16, 17, 18, 19].map(|x| x + 128);
    let by = Affine {
        scale: 0.1,
        zero_point: 10,
    };
    let mut out = [0.0; 8];
    let activation = Some(Nonlinearity::RELU);
    let residual = Some(&[1.0; 8][..]);
    reference::convolution(
        &x,
        [3, 3],
        by,
        &weights,
        &window,
        activation,
        residual,
        &mut out,
    );
    // x - 10 is 1 to 9. Output 0: 1 + 4 + 12 + 20 = 37, 3 + 18 = 21, 7 + 16 = 23, 9.
    // Output 1 has the weights 0, -2, -1, 9: -4 - 4 + 45 = 37, -6, -16, 0.
    let scales = [0.1f32 * 0.5, 0.1 * 2.0];
    let expected = [37.0, 37.0, 21.0, -6.0, 23.0, -16.0, 9.0, 0.0];
    for (i, (y, sum)) in out.iter().zip(expected).enumerate() {
        let v = f32::mul_add(sum, scales[i % 2], [100.0, 0.0][i % 2]) + 1.0;
        assert_eq!(*y, v.max(0.0), "output {i}");
    }
    let mut bytes = [0; 8];
    let by = Affine {
        scale: 0.5,
        zero_point: -28,
    };
    let values = [0.0, 0.25, 0.75, -50.0, -51.0, 77.5, 80.0, f32::NAN];
    reference::quantize_bytes(&values, by, &mut bytes);
    // Half to even, about 100.
    assert_eq!(bytes, [100, 100, 102, 0, 0, 255, 255, 0]);
}

#[test]
fn windows_that_do_not_fit_have_no_output() {
    assert_eq!(window(3, 1, 1, 0).output([2, 5]), None);
    assert_eq!(window(3, 1, 1, 0).output([3, 5]), Some([1, 3]));
    assert_eq!(window(3, 2, 2, 1).output([5, 8]), Some([2, 3]));
    assert_eq!(window(usize::MAX, 1, 2, 0).output([9, 9]), None);
}

#[test]
#[should_panic(expected = "x: f32 [1, 2, 5, 3]")]
fn wrong_length_panics_with_the_name() {
    let case = Case::new([2, 5], [3, 4, 1], window(1, 1, 1, 0), Range::Symmetric);
    let layer = case
        .with_weights(|w| PackedConvolution::new(w, case.window))
        .unwrap();
    let (x, by) = (&case.x[1..], &case.by);
    let (x, out) = (ConvolutionInput::F32(x, by), &mut [0.0; 40][..]);
    let out = ConvolutionOutput::F32(out);
    layer.apply(x, [2, 5], case.layouts, None, None, out);
}

/// Windows of one pixel, whose rows the kernels may read where they are: with inputs around a step's and those that rows are
/// packed for, images of several blocks of rows and of less than a tile.
#[test]
fn one_pixel_in_any_types() {
    for kernels in int8_variants() {
        for (i, inputs) in [3, 4, 64, 66, 96, 2048].into_iter().enumerate() {
            for (j, pixels) in [1, 9, 70, 300].into_iter().enumerate() {
                for (o, outputs) in [5, 32, 70].into_iter().enumerate() {
                    let channels = [inputs, outputs, 1];
                    let mut case =
                        Case::new([1, pixels], channels, window(1, 1, 1, 0), Range::Symmetric);
                    case.residual = (i + j) % 3 > 0;
                    case.activation = [None, Some(Nonlinearity::RELU)][o % 2];
                    case.bytes = BYTES[(i + 3 * j + o) % 4];
                    case.check(kernels);
                }
            }
        }
    }
}

/// Several images in bytes have one scale.
#[test]
fn images_of_bytes() {
    for kernels in int8_variants() {
        for channels in [[24, 24, 24], [8, 40, 1]] {
            let mut case = Case::new([5, 6], channels, window(3, 1, 1, 1), Range::Symmetric);
            case.by = vec![case.by[0]; 3];
            for _ in 0..2 {
                case.x.extend_from_within(..30 * channels[0]);
            }
            case.residual = true;
            case.bytes = [true; 2];
            case.check(kernels);
        }
    }
}

#[test]
#[should_panic(expected = "expected bytes with the channels last")]
fn bytes_with_the_channels_first_panic() {
    let mut case = Case::new([2, 5], [3, 4, 1], window(1, 1, 1, 0), Range::Symmetric);
    case.layouts = [ImageLayout::ChannelsFirst; 2];
    let layer = case
        .with_weights(|w| PackedConvolution::new(w, case.window))
        .unwrap();
    let x = case.quantized();
    let x = ConvolutionInput::Bytes(&x, 1, case.by[0]);
    let out = ConvolutionOutput::F32(&mut [0.0; 40]);
    layer.apply(x, [2, 5], case.layouts, None, None, out);
}
