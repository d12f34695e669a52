//! Linear layers in 8-bit integers: how each is written is chosen by the error that it leaves on what the
//! layer reads on calibration images.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use pinhole_kernels::{Int8Input, PackedLinear, PackedLinearInt8, Prologue};
use pinhole_model::Activation;

use crate::rounding::{clipped_scales, mean, powers, quantize, scale_rows, scales, settle};

/// What is known of a tower's linear layers, and what was chosen for them.
#[derive(Default)]
pub(crate) struct Quantization {
    /// In the order of execution.
    inputs: Vec<(String, Inputs)>,
    layers: Vec<Layer>,
    float: BTreeSet<String>,
}

/// What a linear layer reads on the calibration images.
struct Inputs {
    width: usize,
    /// The least and the largest value of each channel over every row shown.
    range: Vec<[f32; 2]>,
    /// Rows to choose on.
    fit: Vec<f32>,
    /// Rows of other images, to judge a choice by.
    judge: Vec<f32>,
    /// Shown so far, and to be shown in all.
    images: [usize; 2],
}

/// Rows of a layer's input that are kept to choose on.
const FIT_ROWS: usize = 1024;
/// Rows that are kept to judge by.
const JUDGE_ROWS: usize = 256;

impl Inputs {
    fn show(&mut self, x: &[f32]) {
        let width = self.width;
        for row in x.chunks_exact(width) {
            for ([least, largest], x) in self.range.iter_mut().zip(row) {
                *least = least.min(*x);
                *largest = largest.max(*x);
            }
        }
        let rows = x.len() / width;
        let [image, images] = self.images;
        let (part, most) = match image.is_multiple_of(2) {
            true => (&mut self.fit, FIT_ROWS),
            false => (&mut self.judge, JUDGE_ROWS),
        };
        let take = most.div_ceil(images.div_ceil(2)).min(rows);
        for i in 0..take {
            // Spread over the image's rows, from another one on in each image.
            let at = (i * rows / take + image) % rows;
            part.extend_from_slice(&x[at * width..][..width]);
        }
        self.images[0] += 1;
    }

    /// max |x - centre| of each channel, the centre being nought where it is not there.
    fn largest(&self, centre: &[f32]) -> Vec<f32> {
        let centres = centre.iter().copied().chain(std::iter::repeat(0.0));
        let ranges = self.range.iter().zip(centres);
        ranges
            .map(|([least, largest], centre)| (largest - centre).max(centre - least))
            .collect()
    }

    fn judge(&self) -> &[f32] {
        match self.judge.is_empty() {
            true => &self.fit,
            false => &self.judge,
        }
    }
}

/// A linear layer as the checkpoint has it.
pub(crate) struct Float<'a> {
    /// [inputs, outputs]
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub activation: Option<Activation>,
}

/// How a layer's inputs come, which decides what can be done for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Pixels, which are bytes already.
    Pixels,
    /// Rows behind an activation function: nothing before them can scale them, and no value is far below zero.
    Activated,
    /// Rows behind something linear, a layer norm or the values of an attention, that takes a factor a channel.
    Scalable,
}

/// What is done to a layer's inputs before it reads them, by what stands before the layer. Each may be empty.
#[derive(Clone, Default)]
pub(crate) struct Preparation {
    /// Taken from each channel; the layer's bias makes up for it.
    pub centre: Vec<f32>,
    /// What each channel is divided by then; the layer's weights make up for it.
    pub divisors: Vec<f32>,
}

impl Preparation {
    /// Both, to rows of a layer's inputs or to something that is added to them.
    pub(crate) fn apply(&self, x: &mut [f32]) {
        if !self.centre.is_empty() {
            for row in x.chunks_exact_mut(self.centre.len()) {
                row.iter_mut().zip(&self.centre).for_each(|(x, c)| *x -= c);
            }
        }
        self.divide(x);
    }

    /// The division alone, of something that is multiplied with the inputs.
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
pub(crate) struct Layer {
    pub name: String,
    pub source: Source,
    pub activation: Option<Activation>,
    pub preparation: Preparation,
    /// [inputs, outputs], for inputs that are prepared.
    pub weight: Vec<i8>,
    pub scale: Vec<f32>,
    /// For inputs that are prepared.
    pub bias: Vec<f32>,
    /// Added to each input, which is quantised to u8 then.
    pub offset: Option<f32>,
    alpha: Option<f32>,
    /// Relative error of the output on the rows to judge by; NaN where there were none.
    pub error: f32,
    /// The same in the plainest form: s8 of the inputs as they are, each weight the nearest.
    plain_error: f32,
    /// The largest channel's max |x| by the median channel's.
    outliers: f32,
    /// 1 - cosine of the embedding where this layer alone is in integers.
    pub damage: Option<f32>,
}

impl Quantization {
    /// Takes in what layer `name` reads on one of `images` images: `x` of rows of `width`.
    pub(crate) fn show(&mut self, name: &str, x: &[f32], width: usize, images: usize) {
        let at = self.inputs.iter().position(|(n, _)| n == name);
        let at = at.unwrap_or_else(|| {
            let inputs = Inputs {
                width,
                range: vec![[f32::INFINITY, f32::NEG_INFINITY]; width],
                fit: vec![],
                judge: vec![],
                images: [0, images],
            };
            self.inputs.push((name.into(), inputs));
            self.inputs.len() - 1
        });
        self.inputs[at].1.show(x);
    }

    /// Writes the layers `names` in floating point from now on.
    pub(crate) fn keep_float(&mut self, names: impl IntoIterator<Item = String>) {
        self.float.extend(names);
    }

    pub(crate) fn is_float(&self, name: &str) -> bool {
        self.float.contains(name)
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(crate) fn layers_mut(&mut self) -> &mut [Layer] {
        &mut self.layers
    }

    /// Layer `name` in integers, chosen when first asked for.
    pub(crate) fn layer(&mut self, name: &str, float: &Float, source: Source) -> Result<&Layer> {
        let at = match self.layers.iter().position(|l| l.name == name) {
            Some(at) => at,
            None => {
                let inputs = self.inputs.iter().find(|(n, _)| n == name);
                let layer = choose(name, float, source, inputs.map(|(_, inputs)| inputs))?;
                self.layers.push(layer);
                self.layers.len() - 1
            }
        };
        Ok(&self.layers[at])
    }

    /// Names of the layers that do the most damage, the worst first, as many as hold at most a share of
    /// `most` of the weights.
    pub(crate) fn worst(&self, most: f32) -> Vec<String> {
        let mut layers: Vec<&Layer> = self.layers.iter().collect();
        layers.sort_by(|a, b| {
            let damage = |l: &Layer| l.damage.unwrap_or(0.0);
            damage(b).total_cmp(&damage(a))
        });
        let total: usize = layers.iter().map(|l| l.weight.len()).sum();
        let mut left = (total as f32 * most) as usize;
        let mut names = vec![];
        for layer in layers {
            // A layer too large for what is left must not bar the smaller ones behind it.
            if layer.weight.len() <= left {
                left -= layer.weight.len();
                names.push(layer.name.clone());
            }
        }
        names
    }

    /// The layers as a table in Markdown.
    pub(crate) fn table(&self) -> String {
        let total: f32 = self.layers.iter().filter_map(|l| l.damage).sum();
        let mut table = "| layer | form | error | plain | largest channel | damage | share |\n\
                         |---|---|---|---|---|---|---|\n"
            .to_owned();
        let order = self.inputs.iter();
        for layer in order.filter_map(|(name, _)| self.layers.iter().find(|l| l.name == *name)) {
            let form = match self.is_float(&layer.name) {
                true => "f16".to_owned(),
                false => layer.form(),
            };
            let damage = layer.damage.map_or(["".into(), "".into()], |damage| {
                let share = if total > 0.0 { damage / total } else { 0.0 };
                [format!("{damage:.2e}"), format!("{:.1} %", 100.0 * share)]
            });
            table += &format!(
                "| {} | {form} | {:.3} % | {:.3} % | {:.1} x | {} | {} |\n",
                layer.name,
                100.0 * layer.error,
                100.0 * layer.plain_error,
                layer.outliers,
                damage[0],
                damage[1],
            );
        }
        table
            + "\nError: of the layer's output in integers against f32, by the Euclidean norm of the output, on rows \
               that the form was not chosen on where there are two images. Largest channel: of the layer's input, \
               by the median channel. Plain: the same error of s8 without anything done for it. Damage: 1 - cosine \
               of the embedding where this layer alone is in integers.\n"
    }
}

/// The powers of SmoothQuant's equation 4 that are tried.
const ALPHAS: [f32; 6] = [0.25, 0.4, 0.5, 0.6, 0.75, 0.9];
/// Neither activation function gives less than -0.17: x sigmoid(1.702 x) has its least value, -0.1636, at -0.75, and
/// GELU, -0.16997, there too.
const ACTIVATED_OFFSET: f32 = 0.17;
/// What a form must leave of the error of a plainer one.
const GAIN: f32 = 0.995;
/// What the order of f32 sums leaves: there is nothing to gain.
const FLOAT_ERROR: f32 = 1e-5;

/// The form of a layer that leaves the least error on `inputs`; without any, the plainest.
fn choose(name: &str, float: &Float, source: Source, inputs: Option<&Inputs>) -> Result<Layer> {
    let outputs = float.bias.len();
    let width = float.weight.len() / outputs;
    let (weight, scale) = quantize(float.weight, &scales(float.weight, outputs));
    let mut best = Layer {
        name: name.into(),
        source,
        activation: float.activation,
        preparation: Preparation::default(),
        weight,
        scale,
        bias: float.bias.to_vec(),
        offset: None,
        alpha: None,
        error: f32::NAN,
        plain_error: f32::NAN,
        outliers: f32::NAN,
        damage: None,
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
    let judge = inputs.judge();
    let target = exact(judge, float.activation);
    let error = |layer: &Layer| -> Result<f32> {
        Ok(relative_error(
            &layer.apply(judge, layer.activation)?,
            &target,
        ))
    };
    let better = |best: Layer, mut other: Layer| -> Result<Layer> {
        other.error = error(&other)?;
        Ok(if other.error < GAIN * best.error {
            other
        } else {
            best
        })
    };
    best.outliers = outliers(&inputs.largest(&[]));
    best.error = error(&best)?;
    best.plain_error = best.error;

    if source == Source::Scalable && best.error > FLOAT_ERROR {
        let centred = best.clone().centred(mean(&inputs.fit, width), float);
        best = better(best, centred)?;
        let largest = inputs.largest(&best.preparation.centre);
        let unsmoothed = best.clone();
        for alpha in ALPHAS {
            let divisors = smoothing(&largest, float.weight, outputs, alpha);
            let smoothed = unsmoothed.clone().smoothed(alpha, divisors, float);
            best = better(best, smoothed)?;
        }
    }
    if source == Source::Activated {
        let mut with_offset = best.clone();
        with_offset.offset = Some(ACTIVATED_OFFSET);
        best = better(best, with_offset)?;
    }

    let scaled = scale_rows(float.weight, outputs, &best.preparation.divisors);
    let prepared = best.prepared(&inputs.fit);
    let powers = powers(&prepared, width);
    let clipped = clipped_scales(&scaled, outputs, &powers);
    let clipped = best.clone().with(quantize(&scaled, &clipped));
    best = better(best, clipped)?;
    let mut settled = best.clone();
    settle(&scaled, &best.scale, &prepared, &mut settled.weight);
    // What the errors of the weights add up to on the mean input is known, and the bias can take it.
    let wanted = exact(&inputs.fit, None);
    for mut layer in [best.clone(), settled] {
        let found = layer.apply(&inputs.fit, None)?;
        let differences: Vec<f32> = wanted.iter().zip(&found).map(|(w, f)| w - f).collect();
        let shift = mean(&differences, outputs);
        layer.bias.iter_mut().zip(shift).for_each(|(b, s)| *b += s);
        best = better(best, layer)?;
    }
    Ok(best)
}

impl Layer {
    /// With `centre` taken from the inputs, which were as they are so far.
    fn centred(mut self, centre: Vec<f32>, float: &Float) -> Self {
        let mut sums: Vec<f64> = self.bias.iter().map(|&b| b.into()).collect();
        for (row, centre) in float.weight.chunks_exact(sums.len()).zip(&centre) {
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum += f64::from(*centre) * f64::from(*weight);
            }
        }
        self.bias = sums.into_iter().map(|s| s as f32).collect();
        self.preparation.centre = centre;
        self
    }

    /// With inputs divided by `divisors`, the weights multiplied with them.
    fn smoothed(mut self, alpha: f32, divisors: Vec<f32>, float: &Float) -> Self {
        let outputs = self.bias.len();
        let scaled = scale_rows(float.weight, outputs, &divisors);
        self.alpha = Some(alpha);
        self.preparation.divisors = divisors;
        self.with(quantize(&scaled, &scales(&scaled, outputs)))
    }

    fn with(mut self, (weight, scale): (Vec<i8>, Vec<f32>)) -> Self {
        (self.weight, self.scale) = (weight, scale);
        self
    }

    /// For people.
    fn form(&self) -> String {
        if let Some(offset) = self.offset {
            return format!("u8 of x + {offset}");
        }
        let mut form = "s8".to_owned();
        if !self.preparation.centre.is_empty() {
            form += ", centred";
        }
        if let Some(alpha) = self.alpha {
            form += &format!(", smoothed by {alpha}");
        }
        form
    }

    /// Packed for the board's kernels.
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

    /// The bias for inputs with the offset.
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

    /// Rows for [`Self::packed`], prepared already.
    pub(crate) fn input<'a>(&self, x: &'a [f32]) -> Int8Input<'a> {
        match self.offset {
            Some(offset) => Int8Input::Offset { x, offset },
            None => Int8Input::F32 {
                x,
                prologue: Prologue::None,
            },
        }
    }

    /// Rows `x` of the checkpoint's layer as this one is to get them.
    pub(crate) fn prepared(&self, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        self.preparation.apply(&mut x);
        x
    }

    /// What the board computes from rows `x` of the checkpoint's layer.
    fn apply(&self, x: &[f32], activation: Option<Activation>) -> Result<Vec<f32>> {
        let packed = self.packed()?;
        let rows = x.len() / packed.inputs();
        let mut y = vec![0.0; rows * packed.outputs()];
        if self.source == Source::Pixels {
            let x: Vec<u8> = x.iter().map(|&x| x as u8).collect();
            packed.apply(
                Int8Input::U8 { x: &x, scale: 1.0 },
                rows,
                activation,
                None,
                &mut y,
            );
        } else {
            let x = self.prepared(x);
            packed.apply(self.input(&x), rows, activation, None, &mut y);
        }
        Ok(y)
    }
}

/// ||found - wanted|| / ||wanted||; 0 where both are nought.
fn relative_error(found: &[f32], wanted: &[f32]) -> f32 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let difference: f64 = found.iter().zip(wanted).map(|(f, w)| square(f - w)).sum();
    let norm: f64 = wanted.iter().map(|&w| square(w)).sum();
    if difference == 0.0 {
        0.0
    } else {
        (difference / norm).sqrt() as f32
    }
}

/// The largest value by the median; 0 where the median is.
fn outliers(largest: &[f32]) -> f32 {
    let mut sorted = largest.to_vec();
    sorted.sort_by(f32::total_cmp);
    match (sorted.last(), sorted[sorted.len() / 2]) {
        (Some(last), median) if median > 0.0 => last / median,
        _ => 0.0,
    }
}

/// Divisors of the input channels: max |x|^alpha / max |w|^(1 - alpha), their geometric mean 1 (SmoothQuant, Xiao
/// et al. 2023, equation 4). 1 for a channel without inputs or weights.
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
    // Further than this no f32 gain need go.
    let factor = |l: &Option<f32>| l.map_or(1.0, |l| (l - mean).exp().clamp(1e-4, 1e4));
    logarithms.iter().map(factor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::tests::noise;

    const WIDTH: usize = 48;
    const OUTPUTS: usize = 24;

    /// A layer chosen on two images of 40 rows, `change` being applied to inputs and weights by channel.
    fn chosen(source: Source, change: impl Fn(usize, f32) -> (f32, f32)) -> (Layer, Vec<f32>) {
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
        let mut quantization = Quantization::default();
        for image in 0..2 {
            let x = scaled(noise(40 * WIDTH, 2 + image), 0);
            quantization.show("layer", &x, WIDTH, 2);
        }
        let bias = noise(OUTPUTS, 9);
        let float = Float {
            weight: &weight,
            bias: &bias,
            activation: None,
        };
        let layer = quantization.layer("layer", &float, source).unwrap().clone();
        (layer, weight)
    }

    #[test]
    fn outlier_channels_are_smoothed_where_something_can_take_the_factors() {
        let outliers = |channel: usize, v: f32| match channel {
            3 | 17 => (40.0 * v, v / 6.0),
            _ => (v, v),
        };
        let (layer, weight) = chosen(Source::Scalable, outliers);
        assert!(layer.alpha.is_some() && layer.outliers > 20.0);
        assert!(
            layer.error < 0.3 * layer.plain_error,
            "{} {}",
            layer.error,
            layer.plain_error
        );
        // Divided inputs by multiplied weights are the layer again.
        let smoothing = &layer.preparation.divisors;
        for (i, (count, weight)) in layer.weight.iter().zip(&weight).enumerate() {
            let scale = layer.scale[i % OUTPUTS];
            let found = f32::from(*count) * scale / smoothing[i / OUTPUTS];
            let bound = 20.0 * scale / smoothing[i / OUTPUTS];
            assert!((found - weight).abs() <= bound, "{i}: {found} for {weight}");
        }
        let (fixed, _) = chosen(Source::Activated, outliers);
        assert!(fixed.preparation.divisors.is_empty() && fixed.error > 3.0 * layer.error);
    }

    #[test]
    fn channels_that_lie_off_zero_are_centred_where_something_can_take_the_centre() {
        let off = |channel: usize, v: f32| (v + [3.0, -2.0, 0.0][channel % 3], v);
        let (layer, weight) = chosen(Source::Scalable, off);
        let centre = &layer.preparation.centre;
        assert!((centre[0] - 3.0).abs() < 0.2 && (centre[1] + 2.0).abs() < 0.2);
        let (error, plain) = (layer.error, layer.plain_error);
        assert!(error < 0.4 * plain, "{error} {plain}");
        // The centre itself is all bias.
        let found = layer.apply(centre, None).unwrap();
        let wanted = |o: usize| {
            (0..WIDTH)
                .map(|k| centre[k] * weight[k * OUTPUTS + o])
                .sum::<f32>()
        };
        for (o, (found, bias)) in found.iter().zip(noise(OUTPUTS, 9)).enumerate() {
            let wanted = wanted(o) + bias;
            assert!((found - wanted).abs() < 0.02, "{o}: {found} for {wanted}");
        }
        let (fixed, _) = chosen(Source::Activated, off);
        assert!(fixed.preparation.centre.is_empty() && fixed.error > 2.0 * error);
    }

    #[test]
    fn rows_that_are_hardly_below_zero_become_unsigned() {
        let activated = |_, v: f32| (if v < 0.0 { 0.3 * v } else { 8.0 * v * v }, v);
        let (layer, weight) = chosen(Source::Activated, activated);
        assert_eq!(layer.offset, Some(ACTIVATED_OFFSET));
        let (error, plain) = (layer.error, layer.plain_error);
        assert!(error < 0.8 * plain, "{error} {plain}");
        // Zeros are the offset alone, which the bias takes back.
        let zeros = layer.apply(&[0.0; WIDTH], None).unwrap();
        for (o, (found, bias)) in zeros.iter().zip(&layer.bias).enumerate() {
            let sum: f32 = (0..WIDTH).map(|k| weight[k * OUTPUTS + o].abs()).sum();
            let bound = ACTIVATED_OFFSET / 255.0 * sum + 1e-6;
            assert!((found - bias).abs() < bound, "{o}: {found} for {bias}");
        }
        for source in [Source::Activated, Source::Scalable] {
            let (layer, _) = chosen(source, |_, v| (8.0 * v, v));
            assert_eq!(layer.offset, None);
        }
    }

    #[test]
    fn like_channels_stay_as_they_are() {
        let (layer, _) = chosen(Source::Scalable, |_, v| (v.signum(), v.signum() * 0.1));
        assert!(layer.preparation.divisors.is_empty() && layer.alpha.is_none());
        assert!(layer.error < 1e-5, "{}", layer.error);
    }

    #[test]
    fn channels_of_zeros_do_no_harm() {
        let (layer, _) = chosen(Source::Scalable, |channel, v| match channel {
            0 => (0.0, v),
            1 => (v, 0.0),
            2 => (0.0, 0.0),
            5 => (50.0 * v, v),
            _ => (v, v),
        });
        let smoothing = &layer.preparation.divisors;
        assert!(smoothing.iter().all(|s| s.is_finite() && *s > 0.0));
        assert!(layer.error < 0.1);
        let (layer, _) = chosen(Source::Scalable, |_, _| (0.0, 0.0));
        assert_eq!(layer.error, 0.0);
        assert!(layer.bias.iter().chain(&layer.scale).all(|v| v.is_finite()));
    }

    #[test]
    fn rows_are_kept_within_bounds_and_judged_on_other_images() {
        let mut quantization = Quantization::default();
        for image in 0..100 {
            let x = vec![image as f32; 50 * 4];
            quantization.show("layer", &x, 4, 100);
        }
        let inputs = &quantization.inputs[0].1;
        let rows = |x: &[f32]| x.len() / 4;
        assert!((FIT_ROWS..FIT_ROWS + 50).contains(&rows(&inputs.fit)));
        assert!((JUDGE_ROWS..JUDGE_ROWS + 50).contains(&rows(&inputs.judge)));
        assert!(
            inputs.fit.iter().all(|v| v % 2.0 == 0.0)
                && inputs.judge.iter().all(|v| v % 2.0 == 1.0)
        );
        assert_eq!(inputs.range, [[0.0, 99.0]; 4]);
        assert_eq!(inputs.largest(&[]), [99.0; 4]);
        assert_eq!(
            inputs.largest(&[-1.0, 0.0, 40.0, 90.0]),
            [100.0, 99.0, 59.0, 90.0]
        );
    }

    #[test]
    fn the_worst_layers_are_named_within_their_share() {
        let mut quantization = Quantization::default();
        for (i, (name, outputs)) in [("a", 1), ("b", 10), ("c", 2), ("d", 3)]
            .into_iter()
            .enumerate()
        {
            let weight = vec![1.0; 4 * outputs];
            let float = Float {
                weight: &weight,
                bias: &vec![0.0; outputs],
                activation: None,
            };
            quantization.layer(name, &float, Source::Activated).unwrap();
            quantization.layers[i].damage = Some([1.0, 9.0, 3.0, 2.0][i]);
        }
        assert_eq!(quantization.worst(0.25), ["c", "a"]);
        assert_eq!(quantization.worst(1.0), ["b", "c", "d", "a"]);
    }
}
