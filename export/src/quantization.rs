//! The form of each linear layer, convolution and attention in 8-bit integers, chosen by the quantisation error on calibration images.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use anyhow::{Result, ensure};
use pinhole_bundle::dialect::AttentionScores;
use pinhole_kernels::{
    Affine, Int8Input, PackedLinear, PackedLinearInt8, Prologue, StridedRows, int8_attention,
};
use pinhole_model::Activation;

use crate::byte_values::{ByteValue, ValueRange};
use crate::convolution_quantization::{FloatConvolution, LayerImages, QuantizedConvolution};
use crate::rounding::{
    MIN_GAIN, clipped_scales, coordinate_descent, mean, mean_squares, outlier_ratio, quantize,
    relative_error, scale_rows, scales,
};

/// The linear layers, convolutions and self-attentions of an image encoder: samples of the layers' inputs, and the form chosen
/// for each.
#[derive(Default)]
pub(crate) struct QuantizationPlan {
    /// Names in the order of execution.
    order: Vec<String>,
    inputs: HashMap<String, LayerInputs>,
    images: HashMap<String, LayerImages>,
    layers: Vec<QuantizedLayer>,
    convolutions: Vec<QuantizedConvolution>,
    attentions: Vec<Int8Attention>,
    float: BTreeSet<String>,
    /// What layers write that may write bytes.
    outputs: HashMap<String, ValueRange>,
    /// The results that bytes were considered for.
    bytes: Vec<ByteValue>,
}

/// A self-attention in 8-bit integers.
#[derive(Clone)]
pub(crate) struct Int8Attention {
    pub name: String,
    /// As many as an image has, or slightly less.
    pub tokens: usize,
    pub heads: usize,
    /// Of queries, keys and values.
    pub width: usize,
    /// The first column of the queries, the keys and the values, each in its input; one input has all three.
    pub columns: [usize; 3],
    /// Multiplies the scores.
    pub scale: f32,
    /// As [`QuantizedLayer::sensitivity`].
    pub sensitivity: Option<f32>,
}

/// Fewest tokens whose attention is computed in integers, an estimate: the time that integers save grows with the square of the
/// tokens, that of quantising with their number.
const MIN_TOKENS: usize = 64;

impl Int8Attention {
    /// What the runtime computes of one image's inputs, each [tokens, any]; out is [tokens, width].
    pub(crate) fn apply(&self, inputs: &[&[f32]], out: &mut [f32]) {
        let tokens = out.len() / self.width;
        let [q, k, v] = [0, 1, 2].map(|i: usize| {
            let input = inputs[i.min(inputs.len() - 1)];
            StridedRows {
                data: &input[self.columns[i]..],
                stride: input.len() / tokens,
            }
        });
        let (heads, head) = (self.heads, self.width / self.heads);
        int8_attention(q, tokens, k, v, tokens, heads, head, self.scale, out);
    }
}

/// What the report says of a layer.
struct Summary<'a> {
    name: &'a str,
    form: String,
    weights: usize,
    error: f32,
    baseline_error: f32,
    outlier_ratio: f32,
    sensitivity: Option<f32>,
}

/// What a linear layer reads on the calibration images.
struct LayerInputs {
    width: usize,
    /// Rows of all images.
    rows: usize,
    /// Least and largest value of each channel over all rows.
    range: Vec<[f32; 2]>,
    /// Rows that the form is fitted on.
    fit: Vec<f32>,
    /// Held-out rows, of other images, that forms are compared on.
    held_out: Vec<f32>,
    images_done: usize,
    images: usize,
}

/// Rows of a layer's input to fit on.
const FIT_ROWS: usize = 1024;
/// Held-out rows.
const HELD_OUT_ROWS: usize = 256;

impl LayerInputs {
    fn record(&mut self, x: &[f32]) {
        let width = self.width;
        for row in x.chunks_exact(width) {
            for ([least, largest], x) in self.range.iter_mut().zip(row) {
                *least = least.min(*x);
                *largest = largest.max(*x);
            }
        }
        let rows = x.len() / width;
        self.rows += rows;
        let image = self.images_done;
        let (kept, limit) = if image.is_multiple_of(2) {
            (&mut self.fit, FIT_ROWS)
        } else {
            (&mut self.held_out, HELD_OUT_ROWS)
        };
        let take = limit.div_ceil(self.images.div_ceil(2)).min(rows);
        for i in 0..take {
            // Spread over the image's rows, with another start in each image.
            let at = (i * rows / take + image) % rows;
            kept.extend_from_slice(&x[at * width..][..width]);
        }
        self.images_done += 1;
    }

    /// max |x - mean| of each channel; `means` may be empty, for 0.
    fn largest(&self, means: &[f32]) -> Vec<f32> {
        let means = means.iter().copied().chain(std::iter::repeat(0.0));
        let ranges = self.range.iter().zip(means);
        ranges
            .map(|([least, largest], mean)| (largest - mean).max(mean - least))
            .collect()
    }

    /// The held-out rows; of a single image, the rows to fit on.
    fn held_out(&self) -> &[f32] {
        if self.held_out.is_empty() {
            &self.fit
        } else {
            &self.held_out
        }
    }
}

/// A linear layer in floating point.
pub(crate) struct FloatLinear<'a> {
    /// `[inputs, outputs]`
    weight: &'a [f32],
    bias: &'a [f32],
    activation: Option<Activation>,
}

impl<'a> FloatLinear<'a> {
    /// `weight` is `[inputs, outputs]`.
    pub(crate) fn new(weight: &'a [f32], bias: &'a [f32], activation: Option<Activation>) -> Self {
        Self {
            weight,
            bias,
            activation,
        }
    }
}

/// Where a layer's inputs come from, which decides what can be done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputOrigin {
    /// Pixels, which are bytes already.
    Pixels,
    /// An activation function: nothing before it can scale the channels, and no value is far below 0.
    Activation,
    /// A layer norm or the values of an attention, which can shift and scale each channel.
    Scalable,
    /// Anything else, which stays as it is.
    Other,
}

/// What the operation before a layer does to the layer's inputs. Each list may be empty.
#[derive(Clone, Default)]
pub(crate) struct InputTransform {
    /// Subtracted per channel; the layer's bias compensates.
    pub means: Vec<f32>,
    /// SmoothQuant's factors: each channel is then divided by its own; the layer's weights compensate.
    pub divisors: Vec<f32>,
}

impl InputTransform {
    /// Transforms rows of a layer's inputs, or values that are added to them.
    pub(crate) fn apply(&self, x: &mut [f32]) {
        if !self.means.is_empty() {
            for row in x.chunks_exact_mut(self.means.len()) {
                row.iter_mut().zip(&self.means).for_each(|(x, m)| *x -= m);
            }
        }
        self.divide(x);
    }

    /// The division alone, for values that multiply the inputs.
    pub(crate) fn divide(&self, x: &mut [f32]) {
        if !self.divisors.is_empty() {
            for row in x.chunks_exact_mut(self.divisors.len()) {
                row.iter_mut()
                    .zip(&self.divisors)
                    .for_each(|(x, d)| *x /= d);
            }
        }
    }
}

/// A linear layer in 8-bit integers.
#[derive(Clone)]
pub(crate) struct QuantizedLayer {
    pub name: String,
    origin: InputOrigin,
    pub activation: Option<Activation>,
    pub input_transform: InputTransform,
    /// `[inputs, outputs]`, for transformed inputs.
    pub weight: Vec<i8>,
    /// Per output channel.
    pub scale: Vec<f32>,
    /// For transformed inputs.
    pub bias: Vec<f32>,
    /// Added to each input, which is then quantised to u8.
    pub offset: Option<f32>,
    /// SmoothQuant's migration strength.
    alpha: Option<f32>,
    /// Relative error of the output on the held-out rows; NaN without calibration.
    error: f32,
    /// The same of the baseline: s8 inputs as they are, weights rounded to nearest.
    baseline_error: f32,
    /// Ratio of the largest channel's max |x| to the median channel's.
    outlier_ratio: f32,
    /// 1 - cosine of the embedding where only this layer is in integers.
    pub sensitivity: Option<f32>,
}

impl QuantizationPlan {
    /// Records rows `x` of `width` values, which layer `name` reads on one of `images` images.
    pub(crate) fn record(&mut self, name: &str, x: &[f32], width: usize, images: usize) {
        note(&mut self.order, name);
        let inputs = self
            .inputs
            .entry(name.into())
            .or_insert_with(|| LayerInputs {
                width,
                rows: 0,
                range: vec![[f32::INFINITY, f32::NEG_INFINITY]; width],
                fit: vec![],
                held_out: vec![],
                images_done: 0,
                images,
            });
        inputs.record(x);
    }

    /// Records the image `x` [height, width, channels], which convolution `name` reads of one of `images` images.
    pub(crate) fn record_image(&mut self, name: &str, x: &[f32], shape: [usize; 3], images: usize) {
        note(&mut self.order, name);
        let inputs = self.images.entry(name.into());
        let inputs = inputs.or_insert_with(|| LayerImages::new(shape, images));
        inputs.record(x);
    }

    /// Records the result `y` of layer `name`, which may become bytes, on an image.
    pub(crate) fn record_output(&mut self, name: &str, y: &[f32]) {
        self.outputs.entry(name.into()).or_default().record(y);
    }

    /// The scale of the result of layer `name` as bytes; `None` if it stays f32.
    pub(crate) fn bytes(&mut self, name: &str) -> Option<Affine> {
        let at = match self.bytes.iter().position(|v| v.name == name) {
            Some(at) => at,
            None => {
                let by = self.outputs.get(name)?.affine()?;
                self.bytes.push(ByteValue::new(name, by));
                self.bytes.len() - 1
            }
        };
        let value = &self.bytes[at];
        (!value.stays_float).then_some(value.by)
    }

    /// Keeps the `count` most sensitive values in f32 that are bytes; false if there are none.
    pub(crate) fn keep_values_float(&mut self, count: usize) -> bool {
        let mut values: Vec<&mut ByteValue> = (self.bytes.iter_mut())
            .filter(|value| !value.stays_float)
            .collect();
        values.sort_by(|a, b| {
            b.sensitivity
                .partial_cmp(&a.sensitivity)
                .unwrap_or(Ordering::Equal)
        });
        let found = !values.is_empty();
        for value in values.into_iter().take(count) {
            value.stays_float = true;
        }
        found
    }

    pub(crate) fn byte_values_mut(&mut self) -> &mut [ByteValue] {
        &mut self.bytes
    }

    /// Records that the attention `name` is run.
    pub(crate) fn record_attention(&mut self, name: &str) {
        if !self.order.iter().any(|recorded| recorded == name) {
            self.order.push(name.into());
        }
    }

    /// Keeps the layers `names` in floating point.
    pub(crate) fn keep_float(&mut self, names: impl IntoIterator<Item = String>) {
        self.float.extend(names);
    }

    pub(crate) fn is_float(&self, name: &str) -> bool {
        self.float.contains(name)
    }

    pub(crate) fn layers(&self) -> &[QuantizedLayer] {
        &self.layers
    }

    pub(crate) fn layers_mut(&mut self) -> &mut [QuantizedLayer] {
        &mut self.layers
    }

    pub(crate) fn convolutions(&self) -> &[QuantizedConvolution] {
        &self.convolutions
    }

    pub(crate) fn convolutions_mut(&mut self) -> &mut [QuantizedConvolution] {
        &mut self.convolutions
    }

    pub(crate) fn attentions(&self) -> &[Int8Attention] {
        &self.attentions
    }

    pub(crate) fn attentions_mut(&mut self) -> &mut [Int8Attention] {
        &mut self.attentions
    }

    /// How `attention` is computed.
    pub(crate) fn attention(&mut self, attention: Int8Attention) -> AttentionScores {
        if attention.tokens < MIN_TOKENS || self.is_float(&attention.name) {
            return AttentionScores::Exact;
        }
        if self.attentions.iter().all(|a| a.name != attention.name) {
            self.attentions.push(attention);
        }
        AttentionScores::Int8
    }

    /// Layer `name` in integers; its form is chosen at the first call.
    pub(crate) fn layer(
        &mut self,
        name: &str,
        float: &FloatLinear,
        origin: InputOrigin,
    ) -> Result<&QuantizedLayer> {
        let at = match self.layers.iter().position(|l| l.name == name) {
            Some(at) => at,
            None => {
                let layer = quantize_layer(name, float, origin, self.inputs.get(name))?;
                self.layers.push(layer);
                self.layers.len() - 1
            }
        };
        Ok(&self.layers[at])
    }

    /// As [`Self::layer`], of a convolution.
    pub(crate) fn convolution(
        &mut self,
        name: &str,
        float: &FloatConvolution,
    ) -> Result<&mut QuantizedConvolution> {
        let at = match self.convolutions.iter().position(|l| l.name == name) {
            Some(at) => at,
            None => {
                let layer = QuantizedConvolution::fitted(name, float, self.images.get(name))?;
                self.convolutions.push(layer);
                self.convolutions.len() - 1
            }
        };
        Ok(&mut self.convolutions[at])
    }

    /// Layers in integers and those that were compared with them.
    fn summaries(&self) -> Vec<Summary<'_>> {
        let linear = self.layers.iter().map(|l| Summary {
            name: &l.name,
            form: l.form(),
            weights: l.weight.len(),
            error: l.error,
            baseline_error: l.baseline_error,
            outlier_ratio: l.outlier_ratio,
            sensitivity: l.sensitivity,
        });
        // A convolution of one pixel may have become a linear layer.
        let linear_too = |name: &str| self.layers.iter().any(|l| l.name == name);
        let convolutions = self.convolutions.iter().filter(|c| !linear_too(&c.name));
        let convolutions = convolutions.map(|c| Summary {
            name: &c.name,
            form: c.input.into(),
            weights: c.weight.len(),
            error: c.error,
            baseline_error: c.baseline_error,
            outlier_ratio: c.outlier_ratio,
            sensitivity: c.sensitivity,
        });
        let attentions = self.attentions.iter().map(|a| Summary {
            name: &a.name,
            form: "s8 queries, keys and values".into(),
            weights: 0,
            error: f32::NAN,
            baseline_error: f32::NAN,
            outlier_ratio: f32::NAN,
            sensitivity: a.sensitivity,
        });
        linear.chain(convolutions).chain(attentions).collect()
    }

    /// Names of what takes little more time in floating point: linear layers that multiply next to nothing, as those of the
    /// class token alone, each at most the share `max_share` of their multiplications; and every attention.
    pub(crate) fn cheap_in_float(&self, max_share: f64) -> BTreeSet<String> {
        let products: Vec<(&str, f64)> = (self.layers.iter())
            .filter_map(|l| {
                let rows = self.inputs.get(&l.name)?.rows;
                Some((&*l.name, rows as f64 * l.weight.len() as f64))
            })
            .collect();
        let total: f64 = products.iter().map(|(_, products)| products).sum();
        let small = (products.into_iter())
            .filter(|(_, products)| *products <= max_share * total)
            .map(|(name, _)| name);
        let attentions = self.attentions.iter().map(|a| &*a.name);
        small.chain(attentions).map(str::to_owned).collect()
    }

    /// Those of `names` whose sensitivity is above `least`.
    pub(crate) fn above(&self, names: &BTreeSet<String>, least: f32) -> Vec<String> {
        let layers = self.summaries().into_iter();
        layers
            .filter(|l| names.contains(l.name) && l.sensitivity > Some(least))
            .map(|l| l.name.to_owned())
            .collect()
    }

    /// Names of the most sensitive layers, in descending order, that together hold at most the share `max_share` of
    /// the weights.
    pub(crate) fn most_sensitive(&self, max_share: f32) -> Vec<String> {
        let mut layers = self.summaries();
        layers.retain(|l| !self.is_float(l.name));
        let sensitivity = |l: &Summary| l.sensitivity.unwrap_or(0.0);
        layers.sort_by(|a, b| sensitivity(b).total_cmp(&sensitivity(a)));
        let total: usize = layers.iter().map(|l| l.weights).sum();
        let mut left = (total as f32 * max_share) as usize;
        let mut names = vec![];
        for layer in layers {
            // A layer too large for what is left does not exclude smaller ones after it.
            if layer.weights <= left {
                left -= layer.weights;
                names.push(layer.name.to_owned());
            }
        }
        names
    }

    /// The layers as a Markdown table.
    pub(crate) fn table(&self) -> String {
        let layers = self.summaries();
        let total: f32 = layers.iter().filter_map(|l| l.sensitivity).sum();
        let mut table =
            "| layer | form | error | baseline | largest channel | sensitivity | share |\n\
                         |---|---|---|---|---|---|---|\n"
                .to_owned();
        let order = self.order.iter();
        for layer in order.filter_map(|name| layers.iter().find(|l| l.name == *name)) {
            // An attention has no weights.
            let form = match (self.is_float(layer.name), layer.weights) {
                (false, _) => &layer.form,
                (true, 0) => "f32",
                (true, _) => "f16",
            };
            let [sensitivity, share] = match layer.sensitivity {
                Some(value) => {
                    let share = if total > 0.0 { value / total } else { 0.0 };
                    [format!("{value:.2e}"), format!("{:.1} %", 100.0 * share)]
                }
                None => [String::new(), String::new()],
            };
            // Neither an attention nor a layer without calibration has an error of its own.
            let known = |value: f32, shown: String| match value.is_nan() {
                true => String::new(),
                false => shown,
            };
            let percent = |value: f32| known(value, format!("{:.3} %", 100.0 * value));
            table += &format!(
                "| {} | {form} | {} | {} | {} | {sensitivity} | {share} |\n",
                layer.name,
                percent(layer.error),
                percent(layer.baseline_error),
                known(layer.outlier_ratio, format!("{:.1} x", layer.outlier_ratio)),
            );
        }
        table
            + "\nerror: relative quantisation error of the layer's output, on held-out rows if there are two or more \
               images; of a convolution, of its sums. baseline: the same for s8 inputs and weights rounded to nearest. largest channel: the largest \
               input channel relative to the median one. sensitivity: 1 - cosine of the embedding where only this \
               layer is in integers. share: of all layers' sensitivity.\n"
    }
}

/// Adds a name that is new.
fn note(order: &mut Vec<String>, name: &str) {
    if !order.iter().any(|known| known == name) {
        order.push(name.into());
    }
}

/// SmoothQuant's migration strengths (equation 4) that are tried.
const ALPHAS: [f32; 6] = [0.25, 0.4, 0.5, 0.6, 0.75, 0.9];
/// No activation function goes below -0.1701: the minimum of x sigmoid(1.702 x) is -0.1636, that of GELU -0.16997 and by
/// tanh -0.17004, all near x = -0.75. What is below -0.17 is rounded to it.
const ACTIVATION_OFFSET: f32 = 0.17;
/// An error of this size is the rounding of f32 sums.
const FLOAT_ERROR: f32 = 1e-5;

/// Layer `name` in the form with the least error on `inputs`; without inputs, the baseline.
fn quantize_layer(
    name: &str,
    float: &FloatLinear,
    origin: InputOrigin,
    inputs: Option<&LayerInputs>,
) -> Result<QuantizedLayer> {
    let outputs = float.bias.len();
    let width = float.weight.len() / outputs;
    let (weight, scale) = quantize(float.weight, &scales(float.weight, outputs));
    let mut best = QuantizedLayer {
        name: name.into(),
        origin,
        activation: float.activation,
        input_transform: InputTransform::default(),
        weight,
        scale,
        bias: float.bias.to_vec(),
        offset: None,
        alpha: None,
        error: f32::NAN,
        baseline_error: f32::NAN,
        outlier_ratio: f32::NAN,
        sensitivity: None,
    };
    let Some(inputs) = inputs else {
        return Ok(best);
    };
    ensure!(
        inputs.width == width,
        "{name}: expected calibration rows of {width}, found {}",
        inputs.width
    );
    let exact = PackedLinear::from_in_out(float.weight, width, outputs, Some(float.bias));
    let exact = |x: &[f32], activation| {
        let mut y = vec![0.0; x.len() / width * outputs];
        exact.apply(x, x.len() / width, activation, None, &mut y);
        y
    };
    let held_out = inputs.held_out();
    let target = exact(held_out, float.activation);
    let error = |layer: &QuantizedLayer| -> Result<f32> {
        let found = layer.apply(held_out, layer.activation)?;
        Ok(relative_error(&found, &target))
    };
    let better = |best: QuantizedLayer, mut other: QuantizedLayer| -> Result<QuantizedLayer> {
        other.error = error(&other)?;
        Ok(if other.error < MIN_GAIN * best.error {
            other
        } else {
            best
        })
    };
    best.outlier_ratio = outlier_ratio(&inputs.largest(&[]));
    best.error = error(&best)?;
    best.baseline_error = best.error;

    if origin == InputOrigin::Scalable && best.error > FLOAT_ERROR {
        let centred = best.clone().centred(mean(&inputs.fit, width), float);
        best = better(best, centred)?;
        let largest = inputs.largest(&best.input_transform.means);
        let unsmoothed = best.clone();
        for alpha in ALPHAS {
            let divisors = smoothing(&largest, float.weight, outputs, alpha);
            let smoothed = unsmoothed.clone().smoothed(alpha, divisors, float);
            best = better(best, smoothed)?;
        }
    }
    if origin == InputOrigin::Activation {
        let mut with_offset = best.clone();
        with_offset.offset = Some(ACTIVATION_OFFSET);
        best = better(best, with_offset)?;
    }

    let scaled = scale_rows(float.weight, outputs, &best.input_transform.divisors);
    let transformed = best.transformed(&inputs.fit);
    let mean_squares = mean_squares(&transformed, width);
    let clipped = clipped_scales(&scaled, outputs, &mean_squares);
    let clipped = best.clone().with(quantize(&scaled, &clipped));
    best = better(best, clipped)?;
    let mut optimised = best.clone();
    coordinate_descent(&scaled, &best.scale, &transformed, &mut optimised.weight);
    // The mean output error of the rounded weights is known, so the bias can compensate it.
    let wanted = exact(&inputs.fit, None);
    for mut layer in [best.clone(), optimised] {
        let found = layer.apply(&inputs.fit, None)?;
        let differences: Vec<f32> = wanted.iter().zip(&found).map(|(w, f)| w - f).collect();
        let shift = mean(&differences, outputs);
        layer.bias.iter_mut().zip(shift).for_each(|(b, s)| *b += s);
        best = better(best, layer)?;
    }
    Ok(best)
}

impl QuantizedLayer {
    /// With `means` subtracted from the inputs, which were not transformed before.
    fn centred(mut self, means: Vec<f32>, float: &FloatLinear) -> Self {
        let mut sums: Vec<f64> = self.bias.iter().map(|&b| b.into()).collect();
        for (row, mean) in float.weight.chunks_exact(sums.len()).zip(&means) {
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum += f64::from(*mean) * f64::from(*weight);
            }
        }
        self.bias = sums.into_iter().map(|s| s as f32).collect();
        self.input_transform.means = means;
        self
    }

    /// With the inputs divided by `divisors` and the weights multiplied by them.
    fn smoothed(mut self, alpha: f32, divisors: Vec<f32>, float: &FloatLinear) -> Self {
        let outputs = self.bias.len();
        let scaled = scale_rows(float.weight, outputs, &divisors);
        self.alpha = Some(alpha);
        self.input_transform.divisors = divisors;
        self.with(quantize(&scaled, &scales(&scaled, outputs)))
    }

    fn with(mut self, (weight, scale): (Vec<i8>, Vec<f32>)) -> Self {
        (self.weight, self.scale) = (weight, scale);
        self
    }

    /// For the report.
    fn form(&self) -> String {
        if let Some(offset) = self.offset {
            return format!("u8 of x + {offset}");
        }
        let mut form = "s8".to_owned();
        if !self.input_transform.means.is_empty() {
            form += ", centred";
        }
        if let Some(alpha) = self.alpha {
            form += &format!(", smoothed by {alpha}");
        }
        form
    }

    /// Packed for the runtime's kernels.
    pub(crate) fn packed(&self) -> Result<PackedLinearInt8> {
        let outputs = self.bias.len();
        let width = self.weight.len() / outputs;
        Ok(PackedLinearInt8::from_in_out(
            &self.weight,
            &self.scale,
            width,
            outputs,
            Some(&self.offset_bias()),
        )?)
    }

    /// The bias for inputs with the offset added.
    pub(crate) fn offset_bias(&self) -> Vec<f32> {
        let Some(offset) = self.offset else {
            return self.bias.clone();
        };
        let mut sums = vec![0i64; self.bias.len()];
        for row in self.weight.chunks_exact(sums.len()) {
            for (sum, &weight) in sums.iter_mut().zip(row) {
                *sum += i64::from(weight);
            }
        }
        let terms = self.bias.iter().zip(&self.scale).zip(sums);
        terms
            .map(|((&bias, &scale), sum)| {
                (f64::from(bias) - f64::from(offset) * f64::from(scale) * sum as f64) as f32
            })
            .collect()
    }

    /// Transformed rows as the input of [`Self::packed`].
    pub(crate) fn input<'a>(&self, x: &'a [f32]) -> Int8Input<'a> {
        match self.offset {
            Some(offset) => Int8Input::Offset { x, offset },
            None => Int8Input::F32 {
                x,
                prologue: Prologue::None,
            },
        }
    }

    /// The rows `x` of the layer in floating point, transformed.
    pub(crate) fn transformed(&self, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        self.input_transform.apply(&mut x);
        x
    }

    /// What the runtime computes from the rows `x` of the layer in floating point.
    fn apply(&self, x: &[f32], activation: Option<Activation>) -> Result<Vec<f32>> {
        let packed = self.packed()?;
        let rows = x.len() / packed.inputs();
        let mut y = vec![0.0; rows * packed.outputs()];
        if self.origin == InputOrigin::Pixels {
            let x: Vec<u8> = x.iter().map(|&x| x as u8).collect();
            let x = Int8Input::U8 { x: &x, scale: 1.0 };
            packed.apply(x, rows, activation, None, &mut y);
        } else {
            let x = self.transformed(x);
            packed.apply(self.input(&x), rows, activation, None, &mut y);
        }
        Ok(y)
    }
}

/// Divisors of the input channels: max |x|^alpha / max |w|^(1 - alpha), scaled to the geometric mean 1 (SmoothQuant,
/// Xiao et al. 2023, equation 4). 1 for a channel without inputs or weights.
fn smoothing(largest: &[f32], weight: &[f32], outputs: usize, alpha: f32) -> Vec<f32> {
    let rows = weight.chunks_exact(outputs);
    let logarithms: Vec<Option<f32>> = largest
        .iter()
        .zip(rows)
        .map(|(&x, row)| {
            let w = row.iter().fold(0.0f32, |w, v| w.max(v.abs()));
            (x > 0.0 && w > 0.0).then(|| alpha * x.ln() - (1.0 - alpha) * w.ln())
        })
        .collect();
    let known: Vec<f32> = logarithms.iter().flatten().copied().collect();
    let mean = known.iter().sum::<f32>() / known.len().max(1) as f32;
    // Keeps the gains in a range that f32 resolves.
    let factor = |l: &Option<f32>| l.map_or(1.0, |l| (l - mean).exp().clamp(1e-4, 1e4));
    logarithms.iter().map(factor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::tests::noise;

    const WIDTH: usize = 48;
    const OUTPUTS: usize = 24;

    /// A layer quantised on two images of 40 rows; `change` maps (channel, value) to the (input, weight) used.
    fn chosen(
        origin: InputOrigin,
        change: impl Fn(usize, f32) -> (f32, f32),
    ) -> (QuantizedLayer, Vec<f32>) {
        let scaled = |data: Vec<f32>, row: usize| -> Vec<f32> {
            let channel = |i: usize| if row == 1 { i / OUTPUTS } else { i % WIDTH };
            let pick = |i, v| {
                if row == 1 {
                    change(channel(i), v).1
                } else {
                    change(channel(i), v).0
                }
            };
            data.into_iter()
                .enumerate()
                .map(|(i, v)| pick(i, v))
                .collect()
        };
        let weight = scaled(noise(WIDTH * OUTPUTS, 1), 1);
        let mut plan = QuantizationPlan::default();
        for image in 0..2 {
            let x = scaled(noise(40 * WIDTH, 2 + image), 0);
            plan.record("layer", &x, WIDTH, 2);
        }
        let bias = noise(OUTPUTS, 9);
        let float = FloatLinear::new(&weight, &bias, None);
        let layer = plan.layer("layer", &float, origin).unwrap().clone();
        (layer, weight)
    }

    #[test]
    fn outlier_channels_are_smoothed_if_the_inputs_can_be_scaled() {
        let outliers = |channel: usize, v: f32| match channel {
            3 | 17 => (40.0 * v, v / 6.0),
            _ => (v, v),
        };
        let (layer, weight) = chosen(InputOrigin::Scalable, outliers);
        assert!(layer.alpha.is_some() && layer.outlier_ratio > 20.0);
        assert!(
            layer.error < 0.3 * layer.baseline_error,
            "{} {}",
            layer.error,
            layer.baseline_error
        );
        // Divided inputs times multiplied weights equal the layer.
        let smoothing = &layer.input_transform.divisors;
        for (i, (value, weight)) in layer.weight.iter().zip(&weight).enumerate() {
            let scale = layer.scale[i % OUTPUTS];
            let found = f32::from(*value) * scale / smoothing[i / OUTPUTS];
            let bound = 20.0 * scale / smoothing[i / OUTPUTS];
            assert!((found - weight).abs() <= bound, "{i}: {found} for {weight}");
        }
        let (fixed, _) = chosen(InputOrigin::Activation, outliers);
        assert!(fixed.input_transform.divisors.is_empty() && fixed.error > 3.0 * layer.error);
    }

    #[test]
    fn channels_with_a_mean_are_centred_if_the_inputs_can_be_shifted() {
        let off = |channel: usize, v: f32| (v + [3.0, -2.0, 0.0][channel % 3], v);
        let (layer, weight) = chosen(InputOrigin::Scalable, off);
        let means = &layer.input_transform.means;
        assert!((means[0] - 3.0).abs() < 0.2 && (means[1] + 2.0).abs() < 0.2);
        let (error, baseline) = (layer.error, layer.baseline_error);
        assert!(error < 0.4 * baseline, "{error} {baseline}");
        // For the means as input, the output is the bias alone.
        let found = layer.apply(means, None).unwrap();
        let wanted = |o: usize| {
            (0..WIDTH)
                .map(|k| means[k] * weight[k * OUTPUTS + o])
                .sum::<f32>()
        };
        for (o, (found, bias)) in found.iter().zip(noise(OUTPUTS, 9)).enumerate() {
            let wanted = wanted(o) + bias;
            assert!((found - wanted).abs() < 0.02, "{o}: {found} for {wanted}");
        }
        let (fixed, _) = chosen(InputOrigin::Activation, off);
        assert!(fixed.input_transform.means.is_empty() && fixed.error > 2.0 * error);
    }

    #[test]
    fn inputs_that_are_hardly_negative_are_quantised_to_u8() {
        let activated = |_, v: f32| (if v < 0.0 { 0.3 * v } else { 8.0 * v * v }, v);
        let (layer, weight) = chosen(InputOrigin::Activation, activated);
        assert_eq!(layer.offset, Some(ACTIVATION_OFFSET));
        let (error, baseline) = (layer.error, layer.baseline_error);
        assert!(error < 0.8 * baseline, "{error} {baseline}");
        // For zeros as input only the offset is multiplied, which the bias compensates.
        let zeros = layer.apply(&[0.0; WIDTH], None).unwrap();
        for (o, (found, bias)) in zeros.iter().zip(&layer.bias).enumerate() {
            let sum: f32 = (0..WIDTH).map(|k| weight[k * OUTPUTS + o].abs()).sum();
            let bound = ACTIVATION_OFFSET / 255.0 * sum + 1e-6;
            assert!((found - bias).abs() < bound, "{o}: {found} for {bias}");
        }
        for origin in [InputOrigin::Activation, InputOrigin::Scalable] {
            let (layer, _) = chosen(origin, |_, v| (8.0 * v, v));
            assert_eq!(layer.offset, None);
        }
    }

    #[test]
    fn equal_channels_are_not_smoothed() {
        let (layer, _) = chosen(InputOrigin::Scalable, |_, v| (v.signum(), v.signum() * 0.1));
        assert!(layer.input_transform.divisors.is_empty() && layer.alpha.is_none());
        assert!(layer.error < 1e-5, "{}", layer.error);
    }

    #[test]
    fn channels_of_zeros_give_finite_parameters() {
        let (layer, _) = chosen(InputOrigin::Scalable, |channel, v| match channel {
            0 => (0.0, v),
            1 => (v, 0.0),
            2 => (0.0, 0.0),
            5 => (50.0 * v, v),
            _ => (v, v),
        });
        let smoothing = &layer.input_transform.divisors;
        assert!(smoothing.iter().all(|s| s.is_finite() && *s > 0.0));
        assert!(layer.error < 0.1);
        let (layer, _) = chosen(InputOrigin::Scalable, |_, _| (0.0, 0.0));
        assert_eq!(layer.error, 0.0);
        assert!(layer.bias.iter().chain(&layer.scale).all(|v| v.is_finite()));
    }

    #[test]
    fn samples_are_bounded_and_held_out_rows_are_of_other_images() {
        let mut plan = QuantizationPlan::default();
        for image in 0..100 {
            let x = vec![image as f32; 50 * 4];
            plan.record("layer", &x, 4, 100);
        }
        let inputs = &plan.inputs["layer"];
        let rows = |x: &[f32]| x.len() / 4;
        assert!((FIT_ROWS..FIT_ROWS + 50).contains(&rows(&inputs.fit)));
        assert!((HELD_OUT_ROWS..HELD_OUT_ROWS + 50).contains(&rows(&inputs.held_out)));
        assert!(
            inputs.fit.iter().all(|v| v % 2.0 == 0.0)
                && inputs.held_out.iter().all(|v| v % 2.0 == 1.0)
        );
        assert_eq!(inputs.range, [[0.0, 99.0]; 4]);
        assert_eq!(inputs.largest(&[]), [99.0; 4]);
        assert_eq!(
            inputs.largest(&[-1.0, 0.0, 40.0, 90.0]),
            [100.0, 99.0, 59.0, 90.0]
        );
    }

    #[test]
    fn the_most_sensitive_layers_are_named_up_to_the_share() {
        let mut plan = QuantizationPlan::default();
        for (i, (name, outputs)) in [("a", 1), ("b", 10), ("c", 2), ("d", 3)]
            .into_iter()
            .enumerate()
        {
            let weight = vec![1.0; 4 * outputs];
            let bias = vec![0.0; outputs];
            let float = FloatLinear::new(&weight, &bias, None);
            plan.layer(name, &float, InputOrigin::Activation).unwrap();
            plan.layers[i].sensitivity = Some([1.0, 9.0, 3.0, 2.0][i]);
        }
        assert_eq!(plan.most_sensitive(0.25), ["c", "a"]);
        assert_eq!(plan.most_sensitive(1.0), ["b", "c", "d", "a"]);
    }

    /// If this fails, the export gives up bytes that cost nothing, or the wrong ones.
    #[test]
    fn the_most_sensitive_values_stay_f32_until_none_is_bytes() {
        let mut plan = QuantizationPlan::default();
        let names = ["a", "b", "c", "d"];
        for (name, sensitivity) in names.into_iter().zip([0.1, 0.4, 0.2, 0.3]) {
            plan.record_output(name, &[0.0, 1.0]);
            assert!(plan.bytes(name).is_some());
            let value = plan.byte_values_mut().last_mut().unwrap();
            value.sensitivity = Some(sensitivity);
        }
        let mut left = vec![];
        let mut kept = 1;
        while plan.keep_values_float(kept) {
            kept *= 2;
            let bytes = names.into_iter().filter(|n| plan.bytes(n).is_some());
            left.push(bytes.collect::<String>());
        }
        assert_eq!(left, ["acd", "a", ""]);
    }

    #[test]
    fn small_layers_multiply_little() {
        let mut plan = QuantizationPlan::default();
        // 4 x outputs weights, for each of so many rows on each of two images.
        for (name, outputs, rows) in [("a", 10, 90), ("b", 90, 1), ("c", 1, 10), ("d", 1, 900)] {
            let (weight, bias) = (vec![1.0; 4 * outputs], vec![0.0; outputs]);
            for _ in 0..2 {
                plan.record(name, &vec![1.0; 4 * rows], 4, 2);
            }
            let float = FloatLinear::new(&weight, &bias, None);
            plan.layer(name, &float, InputOrigin::Other).unwrap();
        }
        let names = BTreeSet::from(["b".into(), "c".into()]);
        assert_eq!(plan.cheap_in_float(0.1), names);
        assert_eq!(plan.cheap_in_float(0.01), BTreeSet::from(["c".into()]));
        assert_eq!(plan.cheap_in_float(1.0).len(), 4);
    }

    #[test]
    fn attention_of_many_tokens_is_computed_in_integers_unless_that_costs_too_much() {
        let mut plan = QuantizationPlan::default();
        let attention = |name: &str, tokens| Int8Attention {
            name: name.into(),
            tokens,
            heads: 1,
            width: 8,
            columns: [0, 8, 16],
            scale: 1.0,
            sensitivity: None,
        };
        assert_eq!(plan.attention(attention("few", 50)), AttentionScores::Exact);
        for name in ["a", "b"] {
            plan.record_attention(name);
            let scores = plan.attention(attention(name, 197));
            assert_eq!(scores, AttentionScores::Int8);
        }
        plan.attentions_mut()[0].sensitivity = Some(0.1);
        plan.attentions_mut()[1].sensitivity = Some(0.3);
        let cheap = plan.cheap_in_float(0.0);
        assert_eq!(cheap.len(), 2);
        assert_eq!(plan.above(&cheap, 0.2), ["b"]);
        // They have no weights, so that any share of these has room for them.
        assert_eq!(plan.most_sensitive(0.0), ["b", "a"]);
        plan.keep_float(["b".into()]);
        assert_eq!(plan.attention(attention("b", 197)), AttentionScores::Exact);
        let table = plan.table();
        assert!(
            table.contains("| b | f32 |  |  |  | 3.00e-1 | 75.0 % |"),
            "{table}"
        );
    }
}
