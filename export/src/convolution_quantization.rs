//! Convolutions in 8-bit integers: the weights with the least quantisation error on calibration images.

use anyhow::{Result, ensure};
use pinhole_kernels::{
    Affine, ConvolutionInput, ConvolutionOutput, ConvolutionWeights, FloatConvolutionWeights,
    ImageLayout, Nonlinearity, PackedConvolution, PackedFloatConvolution, Window,
};

use crate::rounding::{
    MIN_GAIN, MOST_JOINT_INPUTS, clipped_scales, coordinate_descent, mean, mean_squares,
    outlier_ratio, quantize, relative_error, scales,
};

/// What a convolution reads on some of the calibration images.
pub(crate) struct LayerImages {
    /// Height, width and channels.
    shape: [usize; 3],
    /// Images that the form is fitted on.
    fit: Vec<f32>,
    /// Other images, that forms are compared on.
    held_out: Vec<f32>,
    images_done: usize,
    images: usize,
}

/// Most images of each kind.
const MOST_IMAGES: usize = 4;
/// Outputs whose inputs the rounding is fitted on.
const FIT_OUTPUTS: usize = 1024;
/// Largest error of a depthwise convolution in integers. Its channels share the image's scale but no products, so that channels of
/// small values lose the most; and as it has few products, integers save little.
const MOST_DEPTHWISE_ERROR: f32 = 0.01;

impl LayerImages {
    /// For inputs of this height, width and number of channels, of `images` images.
    pub(crate) fn new(shape: [usize; 3], images: usize) -> Self {
        LayerImages {
            shape,
            fit: vec![],
            held_out: vec![],
            images_done: 0,
            images,
        }
    }

    /// Records the layer's input of the next image.
    pub(crate) fn record(&mut self, x: &[f32]) {
        let step = self.images.div_ceil(2 * MOST_IMAGES);
        let image = self.images_done;
        self.images_done += 1;
        if image.is_multiple_of(step) {
            let kept = if (image / step).is_multiple_of(2) {
                &mut self.fit
            } else {
                &mut self.held_out
            };
            kept.extend_from_slice(x);
        }
    }

    /// The held-out images; of a single image, that to fit on.
    fn held_out(&self) -> &[f32] {
        if self.held_out.is_empty() {
            &self.fit
        } else {
            &self.held_out
        }
    }

    /// max |x| of each channel.
    fn largest(&self) -> Vec<f32> {
        let mut largest = vec![0.0f32; self.shape[2]];
        for pixel in self.fit.chunks_exact(self.shape[2]) {
            for (largest, x) in largest.iter_mut().zip(pixel) {
                *largest = largest.max(x.abs());
            }
        }
        largest
    }

    /// The values under the window of some outputs, [tap][channel] in each.
    fn under(&self, window: &Window) -> Vec<f32> {
        let [height, width, channels] = self.shape;
        let [out_height, out_width] = window.output([height, width]).unwrap_or([0, 0]);
        let outputs = out_height * out_width;
        let images = self.fit.chunks_exact((height * width * channels).max(1));
        let take = FIT_OUTPUTS.div_ceil(images.len().max(1)).min(outputs);
        let mut rows = vec![];
        for (number, image) in images.enumerate() {
            for i in 0..take {
                // Spread over the outputs, with another start in each image.
                let at = (i * outputs / take + number) % outputs;
                for tap in 0..window.kernel[0] * window.kernel[1] {
                    let tap = [tap / window.kernel[1], tap % window.kernel[1]];
                    let corner = [at / out_width, at % out_width];
                    let [row, column] = [0, 1].map(|axis| {
                        let at =
                            corner[axis] * window.stride[axis] + tap[axis] * window.dilation[axis];
                        at.checked_sub(window.padding[axis])
                    });
                    let inside = row.filter(|&r| r < height).zip(column);
                    match inside.filter(|&(_, column)| column < width) {
                        Some((row, column)) => {
                            let first = (row * width + column) * channels;
                            rows.extend_from_slice(&image[first..][..channels]);
                        }
                        None => rows.resize(rows.len() + channels, 0.0),
                    }
                }
            }
        }
        rows
    }
}

/// A convolution in floating point.
pub(crate) struct FloatConvolution<'a> {
    /// [outputs, inputs / groups, kernel height, kernel width]
    pub weight: &'a [f32],
    /// `[outputs]`
    pub bias: &'a [f32],
    pub groups: usize,
    pub window: Window,
    pub activation: Option<Nonlinearity>,
}

impl FloatConvolution<'_> {
    fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// Values under the window in a group.
    pub(crate) fn values(&self) -> usize {
        self.weight.len() / self.bias.len().max(1)
    }

    fn inputs(&self) -> usize {
        self.values() / self.taps() * self.groups
    }

    /// Where the weight at `at` of [values, outputs], the values ordered [tap][channel], is in the weights.
    fn position(&self, at: usize) -> usize {
        let (outputs, taps) = (self.bias.len(), self.taps());
        let channels = self.values() / taps;
        let (value, output) = (at / outputs, at % outputs);
        (output * channels + value % channels) * taps + value / channels
    }

    /// The weights [values, outputs], the values ordered [tap][channel].
    fn columns(&self) -> Vec<f32> {
        let all = 0..self.weight.len();
        all.map(|at| self.weight[self.position(at)]).collect()
    }

    /// The sums and biases of images x.
    fn apply(&self, x: &[f32], [height, width, channels]: [usize; 3]) -> Vec<f32> {
        let weights = FloatConvolutionWeights {
            values: self.weight,
            bias: Some(self.bias),
            outputs: self.bias.len(),
            inputs: self.inputs(),
            groups: self.groups,
        };
        let images = x.len() / (height * width * channels).max(1);
        let [out_height, out_width] = self.window.output([height, width]).unwrap_or([0, 0]);
        let mut y = vec![0.0; images * out_height * out_width * self.bias.len()];
        let packed = PackedFloatConvolution::new(weights, self.window, [height, width]);
        packed.apply(x, images, [height, width], None, None, &mut y);
        y
    }
}

/// A convolution in 8-bit integers.
#[derive(Clone)]
pub(crate) struct QuantizedConvolution {
    pub name: String,
    /// [outputs, inputs / groups, kernel height, kernel width]
    pub weight: Vec<i8>,
    /// Per output channel.
    pub scale: Vec<f32>,
    /// Per output channel.
    pub bias: Vec<f32>,
    inputs: usize,
    groups: usize,
    window: Window,
    activation: Option<Nonlinearity>,
    /// How the input is quantised, for the report.
    pub input: &'static str,
    /// Relative error of the sums on the held-out images; NaN without calibration.
    pub error: f32,
    /// The same of weights rounded to nearest.
    pub baseline_error: f32,
    /// Ratio of the largest channel's max |x| to the median channel's.
    pub outlier_ratio: f32,
    /// 1 - cosine of the embedding where only this layer is in integers.
    pub sensitivity: Option<f32>,
}

impl QuantizedConvolution {
    /// Layer `name` with the weights that have the least error on `inputs`; without inputs, rounded to nearest.
    pub(crate) fn fitted(
        name: &str,
        float: &FloatConvolution,
        inputs: Option<&LayerImages>,
    ) -> Result<Self> {
        let outputs = float.bias.len();
        let columns = float.columns();
        let (weight, scale) = quantize(&columns, &scales(&columns, outputs));
        let mut best = QuantizedConvolution {
            name: name.into(),
            weight: vec![],
            scale: vec![],
            bias: float.bias.to_vec(),
            inputs: float.inputs(),
            groups: float.groups,
            window: float.window,
            activation: float.activation,
            input: "u8 per image",
            error: f32::NAN,
            baseline_error: f32::NAN,
            outlier_ratio: f32::NAN,
            sensitivity: None,
        }
        .with(float, &weight, scale.clone());
        let Some(inputs) = inputs else {
            return Ok(best);
        };
        let shape = inputs.shape;
        ensure!(
            shape[2] == float.inputs(),
            "{name}: expected calibration images of {} channels, found {}",
            float.inputs(),
            shape[2]
        );
        let target = float.apply(inputs.held_out(), shape);
        let better = |best: Self, mut other: Self| -> Result<Self> {
            other.error = relative_error(&other.sums(inputs.held_out(), shape)?, &target);
            Ok(if other.error < MIN_GAIN * best.error {
                other
            } else {
                best
            })
        };
        best.outlier_ratio = outlier_ratio(&inputs.largest());
        best.error = relative_error(&best.sums(inputs.held_out(), shape)?, &target);
        best.baseline_error = best.error;

        // Which inputs belong to a weight depends on the output where there are groups.
        let rows = if float.groups == 1 && float.values() <= MOST_JOINT_INPUTS {
            inputs.under(&float.window)
        } else {
            vec![]
        };
        let mean_squares = if rows.is_empty() {
            vec![1.0; float.values()]
        } else {
            mean_squares(&rows, float.values())
        };
        let (clipped, clipped_scale) =
            quantize(&columns, &clipped_scales(&columns, outputs, &mean_squares));
        let mut candidates = vec![(weight, scale), (clipped, clipped_scale)];
        if !rows.is_empty() {
            for i in 0..candidates.len() {
                let (mut weight, scale) = candidates[i].clone();
                coordinate_descent(&columns, &scale, &rows, &mut weight);
                candidates.push((weight, scale));
            }
        }
        let wanted = float.apply(&inputs.fit, shape);
        for (weight, scale) in candidates {
            // The mean error of the rounded weights is known, so the bias can compensate it.
            let plain = best.clone().with(float, &weight, scale);
            let plain = QuantizedConvolution {
                bias: float.bias.to_vec(),
                ..plain
            };
            let found = plain.sums(&inputs.fit, shape)?;
            let differences: Vec<f32> = wanted.iter().zip(&found).map(|(w, f)| w - f).collect();
            let mut shifted = plain.clone();
            let shift = mean(&differences, outputs);
            shifted
                .bias
                .iter_mut()
                .zip(shift)
                .for_each(|(b, s)| *b += s);
            best = better(best, plain)?;
            best = better(best, shifted)?;
        }
        Ok(best)
    }

    /// With these weights [values, outputs], the values ordered [tap][channel].
    fn with(mut self, float: &FloatConvolution, columns: &[i8], scale: Vec<f32>) -> Self {
        self.weight = vec![0; columns.len()];
        for (at, &value) in columns.iter().enumerate() {
            self.weight[float.position(at)] = value;
        }
        self.scale = scale;
        self
    }

    /// Whether the layer is better left in floating point.
    pub(crate) fn stays_float(&self) -> bool {
        let depthwise = self.groups > 1 && self.groups == self.inputs;
        depthwise && self.error > MOST_DEPTHWISE_ERROR
    }

    /// Packed for the runtime's kernels.
    pub(crate) fn packed(&self) -> Result<PackedConvolution> {
        let weights = ConvolutionWeights {
            values: &self.weight,
            scales: &self.scale,
            zero_points: &[],
            bias: Some(&self.bias),
            outputs: self.bias.len(),
            inputs: self.inputs,
            groups: self.groups,
        };
        Ok(PackedConvolution::new(weights, self.window)?)
    }

    /// What the runtime computes of an image.
    pub(crate) fn apply(
        &self,
        packed: &PackedConvolution,
        x: &[f32],
        image: [usize; 2],
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (layouts, by) = ([ImageLayout::ChannelsLast; 2], [Affine::dynamic(x)]);
        let x = ConvolutionInput::F32(x, &by);
        let out = ConvolutionOutput::F32(out);
        packed.apply(x, image, layouts, self.activation, residual, out);
    }

    /// The sums and biases that the runtime computes of images x.
    fn sums(&self, x: &[f32], [height, width, channels]: [usize; 3]) -> Result<Vec<f32>> {
        let packed = self.packed()?;
        let size = (height * width * channels).max(1);
        let by: Vec<Affine> = x.chunks_exact(size).map(Affine::dynamic).collect();
        let [out_height, out_width] = self.window.output([height, width]).unwrap_or([0, 0]);
        let mut y = vec![0.0; by.len() * out_height * out_width * self.bias.len()];
        let layouts = [ImageLayout::ChannelsLast; 2];
        let x = ConvolutionInput::F32(x, &by);
        let out = ConvolutionOutput::F32(&mut y);
        packed.apply(x, [height, width], layouts, None, None, out);
        Ok(y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::tests::noise;

    const SHAPE: [usize; 3] = [7, 6, 8];

    fn fitted(groups: usize, side: usize, images: usize) -> (QuantizedConvolution, f32) {
        let outputs = 8;
        let weight = noise(outputs * SHAPE[2] / groups * side * side, 1);
        let bias = noise(outputs, 2);
        let float = FloatConvolution {
            weight: &weight,
            bias: &bias,
            groups,
            window: Window {
                kernel: [side, side],
                stride: [1, 2],
                dilation: [1, 1],
                padding: [1, 0, 1, 2],
            },
            activation: None,
        };
        let size: usize = SHAPE.iter().product();
        let mut inputs = LayerImages::new(SHAPE, images);
        for image in 0..images {
            // Neighbouring channels are alike.
            let x = noise(size, 10 + image as u64);
            let x: Vec<f32> = (0..size).map(|i| x[i / 4 * 4] + 0.3 * x[i]).collect();
            inputs.record(&x);
        }
        let layer = QuantizedConvolution::fitted("layer", &float, Some(&inputs)).unwrap();
        let x = noise(size, 99);
        let exact = float.apply(&x, SHAPE);
        let error = relative_error(&layer.sums(&x, SHAPE).unwrap(), &exact);
        (layer, error)
    }

    #[test]
    fn any_window_and_groups_are_close_to_the_float_layer() {
        for groups in [1, 2, 8] {
            for side in [1, 3] {
                let (layer, error) = fitted(groups, side, 9);
                assert!(error < 0.02, "{groups} groups, {side}: {error}");
                assert!(layer.error <= layer.baseline_error && layer.error > 0.0);
            }
        }
    }

    #[test]
    fn a_depthwise_layer_of_unequal_channels_stays_in_floating_point() {
        let stays = |groups: usize, largest: f32| {
            let weight = noise(SHAPE[2] * SHAPE[2] / groups * 9, 1);
            let float = FloatConvolution {
                weight: &weight,
                bias: &[0.0; 8],
                groups,
                window: Window {
                    kernel: [3, 3],
                    stride: [1, 1],
                    dilation: [1, 1],
                    padding: [1; 4],
                },
                activation: None,
            };
            let mut inputs = LayerImages::new(SHAPE, 2);
            for image in 0..2 {
                let mut x = noise(SHAPE.iter().product(), 10 + image);
                x.iter_mut().step_by(8).for_each(|x| *x *= largest);
                inputs.record(&x);
            }
            let layer = QuantizedConvolution::fitted("layer", &float, Some(&inputs)).unwrap();
            layer.stays_float()
        };
        assert!(!stays(8, 1.0));
        assert!(!stays(1, 50.0) && !stays(4, 50.0));
        assert!(stays(8, 50.0));
    }

    #[test]
    fn weights_of_correlated_inputs_are_rounded_jointly() {
        let (layer, _) = fitted(1, 3, 8);
        let (error, baseline) = (layer.error, layer.baseline_error);
        assert!(error < 0.95 * baseline, "{error} {baseline}");
    }

    #[test]
    fn a_few_images_are_kept_and_the_held_out_ones_are_others() {
        let mut inputs = LayerImages::new([1, 1, 2], 100);
        for image in 0..100 {
            inputs.record(&[image as f32; 2]);
        }
        let of = |x: &[f32]| x.iter().step_by(2).map(|&v| v as usize).collect::<Vec<_>>();
        assert_eq!(of(&inputs.fit), [0, 26, 52, 78]);
        assert_eq!(of(&inputs.held_out), [13, 39, 65, 91]);
        let mut one = LayerImages::new([1, 1, 2], 1);
        one.record(&[-3.0, 2.0]);
        assert_eq!(one.held_out(), [-3.0, 2.0]);
        assert_eq!(one.largest(), [3.0, 2.0]);
    }

    #[test]
    fn values_under_the_window_include_padding() {
        let mut inputs = LayerImages::new([2, 2, 1], 1);
        inputs.record(&[1.0, 2.0, 3.0, 4.0]);
        let window = Window {
            kernel: [2, 2],
            stride: [1, 1],
            dilation: [1, 1],
            padding: [1, 0, 0, 1],
        };
        let rows = inputs.under(&window);
        let expected = [
            [0.0, 0.0, 1.0, 2.0],
            [0.0, 0.0, 2.0, 0.0],
            [1.0, 2.0, 3.0, 4.0],
            [2.0, 0.0, 4.0, 0.0],
        ];
        assert_eq!(rows, expected.concat());
    }
}
