use pinhole_model::Activation;
use proptest::prelude::*;

use super::convolution::{depthwise_cases, edge_windows, window};
use super::{UNIT, Values, assert_bit_identical_for_any_threads, edges, float, poison, vectors};
use crate::dispatch::{Filter, Kernels, SCALAR};
use crate::{
    FloatConvolutionWeights, Nonlinearity, PackedFloatConvolution, Window, reference, winograd,
};

#[derive(Clone, Debug)]
struct Case {
    images: usize,
    image: [usize; 2],
    inputs: usize,
    outputs: usize,
    groups: usize,
    window: Window,
    activation: Option<Nonlinearity>,
    bias: bool,
    residual: bool,
}

/// The vector variants and the scalar one.
fn all() -> Vec<Kernels> {
    let vectors = vectors().into_iter().map(float);
    vectors.chain([SCALAR]).collect()
}

impl Case {
    fn new(image: [usize; 2], [inputs, outputs, groups]: [usize; 3], window: Window) -> Self {
        Case {
            images: 1,
            image,
            inputs,
            outputs,
            groups,
            window,
            activation: None,
            bias: !(image[0] + outputs).is_multiple_of(3),
            residual: false,
        }
    }

    fn weight_len(&self) -> usize {
        self.outputs * (self.inputs / self.groups) * self.window.kernel[0] * self.window.kernel[1]
    }

    fn x(&self) -> Values {
        Values::new(2, self.images * self.image[0] * self.image[1] * self.inputs)
    }

    fn out_len(&self) -> usize {
        let [h, w] = self.window.output(self.image).unwrap_or([0, 0]);
        self.images * h * w * self.outputs
    }

    fn weights<'a>(&self, values: &'a [f32], bias: &'a [f32]) -> FloatConvolutionWeights<'a> {
        FloatConvolutionWeights {
            values,
            bias: self.bias.then_some(bias),
            outputs: self.outputs,
            inputs: self.inputs,
            groups: self.groups,
        }
    }

    /// The forms of the weights that compute this convolution: without a filter, and with each that applies.
    fn filters(&self) -> Vec<Option<Filter>> {
        let values = vec![0.0; self.weight_len()];
        let applies = winograd::applies(&self.weights(&values, &[]), &self.window);
        let filters = Filter::ALL.into_iter().filter(|_| applies).map(Some);
        [None].into_iter().chain(filters).collect()
    }

    fn by(&self, kernels: Kernels, filter: Option<Filter>, x: &[f32]) -> Vec<f32> {
        let (values, bias) = (
            Values::new(3, self.weight_len()),
            Values::new(4, self.outputs),
        );
        let weights = self.weights(&values, &bias);
        let layer = PackedFloatConvolution::pack(kernels, weights, self.window, filter);
        let residual = Values::new(5, self.out_len());
        let mut out = Values::new(6, self.out_len());
        poison();
        let residual = self.residual.then_some(&*residual);
        layer.apply(
            x,
            self.images,
            self.image,
            self.activation,
            residual,
            &mut out,
        );
        out.to_vec()
    }

    /// The reference's result, and the sums of magnitudes that its rounding errors are relative to.
    fn expected(&self) -> (Vec<f32>, Vec<f32>) {
        let magnitude = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
        let (x, values) = (self.x(), Values::new(3, self.weight_len()));
        let (bias, residual) = (Values::new(4, self.outputs), Values::new(5, self.out_len()));
        let by = |x: &[f32], values: &[f32], bias: &[f32], residual: &[f32], activation| {
            let mut out = vec![0.0; self.out_len()];
            let (size, out_size) = (x.len() / self.images, self.out_len() / self.images);
            for i in 0..self.images {
                let part = |from: &'_ [f32]| from[i * out_size..][..out_size].to_vec();
                reference::float_convolution(
                    &x[i * size..][..size],
                    self.image,
                    &self.weights(values, bias),
                    &self.window,
                    activation,
                    self.residual.then(|| part(residual)).as_deref(),
                    &mut out[i * out_size..][..out_size],
                );
            }
            out
        };
        let expected = by(&x, &values, &bias, &residual, self.activation);
        let [x, values, bias, residual] = [&x, &values, &bias, &residual].map(|v| magnitude(v));
        (expected, by(&x, &values, &bias, &residual, None))
    }

    /// The largest of the `values` of outputs, of the same channel, up to `reach` pixels away.
    fn largest_near(&self, values: &[f32], reach: usize) -> Vec<f32> {
        let [height, width] = self.window.output(self.image).unwrap_or([0, 0]);
        let near = |at: usize, side: usize| at.saturating_sub(reach)..side.min(at + reach + 1);
        let position = |image: usize, row: usize, column: usize| {
            ((image * height + row) * width + column) * self.outputs
        };
        let mut largest = values.to_vec();
        for (at, largest) in largest.iter_mut().enumerate() {
            let (pixel, channel) = (at / self.outputs, at % self.outputs);
            let (image, row, column) = (
                pixel / width / height,
                pixel / width % height,
                pixel % width,
            );
            for row in near(row, height) {
                for column in near(column, width) {
                    *largest = largest.max(values[position(image, row, column) + channel]);
                }
            }
        }
        largest
    }

    /// Compares all forms of the weights with the reference.
    #[track_caller]
    fn check(&self, kernels: Kernels) {
        let (expected, magnitudes) = self.expected();
        for filter in self.filters() {
            let found = self.by(kernels, filter, &self.x());
            assert_eq!(found.len(), expected.len());
            // Errors of a filter are relative to what all outputs of its tile are computed from. Its transforms add errors.
            let (reach, transforms) = match filter {
                None => (0, 0),
                Some(Filter::Two) => (1, 8),
                Some(Filter::Four) => (3, 32),
            };
            let magnitudes = self.largest_near(&magnitudes, reach);
            let terms = self.weight_len() / self.outputs + 2 + transforms;
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // The activation functions are at most 1.2 times as steep as their argument.
                let bound = 2.4 * terms as f64 * UNIT * f64::from(magnitudes[at]) + 5e-7;
                let error = (f64::from(*found) - f64::from(*expected)).abs();
                assert!(
                    error <= bound,
                    "{}: {filter:?}: {self:?}: output {at}: expected {expected}, found {found}",
                    kernels.name
                );
            }
        }
    }
}

/// Channels around the tiles', pixels around their rows, in dense convolutions; channels that are no multiple of 4.
#[test]
fn dense_tile_edges() {
    for kernels in all() {
        let (rows, columns) = kernels
            .float
            .map_or((2, 2), |v| (v.shape().rows, v.shape().columns));
        for (i, &n) in edges(columns).iter().enumerate() {
            for (j, &pixels) in edges(rows).iter().enumerate() {
                for inputs in [2, 3, 16, 17] {
                    for kernel in [1, 3] {
                        let window = window(kernel, 1, 1, kernel / 2);
                        let mut case = Case::new([2, pixels], [inputs, n, 1], window);
                        case.residual = (i + j) % 2 == 0;
                        case.activation = [None, Some(Nonlinearity::RELU)][j % 2];
                        case.check(kernels);
                    }
                }
            }
        }
    }
}

/// Sides around those of tiles, with padding on no, each and all sides, and channels around a register's.
#[test]
fn filter_edges() {
    for kernels in all() {
        for side in 1..=9 {
            for padding in [[0; 4], [1; 4], [1, 0, 0, 2], [0, 2, 1, 0]] {
                for channels in [[1, 1, 1], [5, 18, 1], [17, 33, 1]] {
                    let window = Window {
                        padding,
                        ..window(3, 1, 1, 0)
                    };
                    let mut case = Case::new([side, 10 - side], channels, window);
                    case.residual = side % 2 == 0;
                    case.activation = [None, Some(Nonlinearity::RELU)][side % 2];
                    case.check(kernels);
                }
            }
        }
    }
}

/// The chosen form costs least: tiles of 4 x 4 for many pixels, of 2 x 2 where the weights outweigh them, none for few.
#[test]
fn chosen_filters() {
    for (side, channels, filter) in [
        (112, 32, Some(Filter::Four)),
        (28, 128, Some(Filter::Four)),
        (14, 256, Some(Filter::Two)),
        (7, 512, Some(Filter::Two)),
        (4, 512, None),
        (1, 64, None),
    ] {
        let values = vec![0.0; channels * channels * 9];
        let weights = FloatConvolutionWeights {
            values: &values,
            bias: None,
            outputs: channels,
            inputs: channels,
            groups: 1,
        };
        let found = winograd::choose(&weights, &window(3, 1, 1, 1), [side; 2]);
        assert_eq!(found, filter, "{side} pixels, {channels} channels");
        for other in [window(3, 2, 1, 1), window(3, 1, 2, 1), window(5, 1, 1, 2)] {
            let values = vec![0.0; channels * channels * other.kernel[0] * other.kernel[1]];
            let weights = FloatConvolutionWeights {
                values: &values,
                ..weights
            };
            assert_eq!(winograd::choose(&weights, &other, [side; 2]), None);
        }
    }
}

/// More values under the window than a block of k.
#[test]
fn deep_convolutions() {
    for kernels in all() {
        for inputs in [40, 61, 64, 261] {
            Case::new([4, 5], [inputs, 9, 1], window(3, 1, 1, 1)).check(kernels);
        }
    }
}

/// Each kernel size, stride and dilation of depthwise convolutions, with channels around a block's.
#[test]
fn depthwise_edges() {
    for kernels in all() {
        for (window, [channels, multiplier]) in depthwise_cases() {
            let sizes = [channels, channels * multiplier, channels];
            let mut case = Case::new([9, 11], sizes, window);
            case.residual = channels % 2 == 0;
            case.activation = [None, Some(Nonlinearity::RELU)][window.kernel[0] % 2];
            case.check(kernels);
        }
    }
}

/// Images of one pixel, and windows at the edges of what is allowed.
#[test]
fn window_edges() {
    for kernels in all() {
        for image in [[1, 1], [1, 6], [5, 1], [4, 7]] {
            for window in edge_windows() {
                for channels in [[20, 20, 20], [6, 9, 3], [8, 12, 2], [5, 4, 1], [3, 6, 3]] {
                    Case::new(image, channels, window).check(kernels);
                }
            }
        }
    }
}

#[test]
fn activations_and_residuals() {
    let activations = [
        Some(Nonlinearity::Mlp(Activation::Gelu)),
        Some(Nonlinearity::Mlp(Activation::QuickGelu)),
        Some(Nonlinearity::Mlp(Activation::GeluTanh)),
        Some(Nonlinearity::Clamp {
            low: 0.0,
            high: 6.0,
        }),
        Some(Nonlinearity::RELU),
        Some(Nonlinearity::Silu),
        Some(Nonlinearity::HardSwish),
    ];
    for kernels in all() {
        for activation in activations {
            for channels in [[40, 40, 40], [10, 70, 1]] {
                for residual in [false, true] {
                    let mut case = Case::new([6, 5], channels, window(3, 1, 1, 1));
                    case.activation = activation;
                    case.residual = residual;
                    case.check(kernels);
                }
            }
        }
    }
}

/// The reference on numbers computed by hand: a 2 x 2 kernel with stride 2 on 3 x 3 pixels with padding below and right, of
/// two groups of one channel.
#[test]
fn reference_by_hand() {
    let weights = FloatConvolutionWeights {
        values: &[1.0, 2.0, 3.0, 4.0, 0.0, -2.0, -1.0, 9.0],
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
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
    let mut out = [0.0; 8];
    let (activation, residual) = (Some(Nonlinearity::RELU), Some(&[1.0; 8][..]));
    reference::float_convolution(
        &x,
        [3, 3],
        &weights,
        &window,
        activation,
        residual,
        &mut out,
    );
    // Output 0: 1 + 4 + 12 + 20 = 37, 3 + 18 = 21, 7 + 16 = 23, 9. Output 1: -4 - 4 + 45 = 37, -6, -16, 0.
    assert_eq!(out, [138.0, 38.0, 122.0, 0.0, 124.0, 0.0, 110.0, 1.0]);
}

/// A NaN reaches the outputs whose windows hold it, at most those of a filter's tile, and no other image.
#[test]
fn images_are_independent() {
    for kernels in all() {
        for channels in [[24, 24, 24], [5, 40, 1]] {
            let mut case = Case::new([7, 6], channels, window(3, 1, 1, 1));
            case.images = 3;
            case.check(kernels);
            let mut x = case.x().to_vec();
            let size = x.len() / 3;
            // The first channel of the corner's pixel, which is under four windows.
            x[size] = f32::NAN;
            let reached = if channels[2] == 1 { channels[1] } else { 1 };
            for filter in case.filters() {
                let out = case.by(kernels, filter, &x);
                let counts: Vec<usize> = out
                    .chunks_exact(out.len() / 3)
                    .map(|image| image.iter().filter(|v| v.is_nan()).count())
                    .collect();
                // A filter spreads it in its tile.
                let most = filter.map_or(4, |filter| filter.outputs() * filter.outputs());
                assert!(
                    counts[0] == 0
                        && (4 * reached..=most * reached).contains(&counts[1])
                        && counts[2] == 0,
                    "{}: {filter:?}: {counts:?}",
                    kernels.name
                );
            }
        }
    }
}

#[test]
fn bit_identical_for_any_number_of_threads() {
    for kernels in all() {
        for (image, channels, kernel) in [
            ([40, 30], [16, 40, 1], 3),
            ([7, 7], [64, 130, 1], 3),
            ([40, 41], [40, 40, 40], 3),
            ([12, 12], [64, 128, 2], 3),
            ([40, 40], [64, 64, 1], 1),
        ] {
            let case = Case::new(image, channels, window(kernel, 1, 1, kernel / 2));
            let x = case.x();
            for filter in case.filters() {
                assert_bit_identical_for_any_threads(|| case.by(kernels, filter, &x));
            }
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
        inputs in 1usize..6,
        outputs in 1usize..4,
        residual: bool,
    ) {
        let window = Window { kernel, stride, dilation, padding };
        let mut case = Case::new(image, [inputs * groups, outputs * groups, groups], window);
        case.residual = residual;
        for kernels in all() {
            case.check(kernels);
        }
    }
}

#[test]
#[should_panic(expected = "x: [1, 2, 5, 3]")]
fn wrong_length_panics_with_the_name() {
    let case = Case::new([2, 5], [3, 4, 1], window(1, 1, 1, 0));
    case.by(SCALAR, None, &case.x()[1..]);
}
