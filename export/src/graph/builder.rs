//! Building the graph node by node: linear layers in floating point or in 8-bit integers.

use anyhow::Result;
use pinhole_bundle::dialect::{
    self, AttentionInput, AttentionScores, Linear, LinearInput, Op, Residual, Storage,
};
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{Activation, Tensor};
use tract_onnx::pb::{AttributeProto, NodeProto};

use super::proto::{float, ints, node};
use super::weights::WeightFile;
use crate::quantization::{
    FloatLinear, InputOrigin, InputTransform, Int8Attention, QuantizationPlan, QuantizedLayer,
};

/// A graph under construction. Each method that adds a node returns the name of its output.
pub(super) struct GraphBuilder<'a> {
    pub(super) nodes: Vec<NodeProto>,
    pub(super) weights: WeightFile,
    pub(super) checkpoint: &'a Checkpoint,
    /// The form of each linear layer in 8-bit integers; `None` for a graph in floating point.
    pub(super) plan: Option<&'a mut QuantizationPlan>,
    pub(super) progress: &'a mut dyn FnMut(u64, u64),
    pub(super) done: u64,
    pub(super) total: u64,
}

/// A layer norm's parameters.
pub(super) struct Norm {
    gain: Vec<f32>,
    bias: Vec<f32>,
}

/// One or more linear layers over the same input, their outputs concatenated.
pub(super) struct FusedLinear<'a> {
    /// `[outputs, inputs]`
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    /// Applied by the last of them.
    pub(super) activation: Option<Activation>,
    /// What the layer that reads the last outputs needs done to them.
    pub(super) output_transform: &'a InputTransform,
}

impl FusedLinear<'_> {
    /// Divides the last of `values`, one per output, which multiply the outputs.
    fn divide(&self, values: &mut [f32]) {
        let first = values.len() - self.output_transform.divisors.len();
        self.output_transform.divide(&mut values[first..]);
    }

    /// Transforms the last of `values`, one per output, which are added to the outputs.
    fn transform(&self, values: &mut [f32]) {
        let InputTransform { means, divisors } = self.output_transform;
        let first = values.len() - means.len().max(divisors.len());
        self.output_transform.apply(&mut values[first..]);
    }
}

impl GraphBuilder<'_> {
    /// A tensor of the checkpoint, f32 row-major.
    pub(super) fn tensor(&mut self, name: &str) -> Result<Tensor> {
        self.done += 1;
        (self.progress)(self.done, self.total.max(self.done));
        Ok(self.checkpoint.tensor(name)?)
    }

    /// Adds a function node; `inputs` are its computed inputs and then its parameters.
    pub(super) fn call(
        &mut self,
        op: Op,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.node(dialect::DOMAIN, &op.name(), name, inputs, attributes)
    }

    /// Adds a standard operator.
    pub(super) fn standard(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.node("", op, name, inputs, attributes)
    }

    fn node(
        &mut self,
        domain: &str,
        op: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.nodes.push(node(domain, op, inputs, name, attributes));
        name.to_owned()
    }

    /// The parameters of the checkpoint's layer norm `source`.
    pub(super) fn norm(&mut self, source: &str) -> Result<Norm> {
        Ok(Norm {
            gain: self.tensor(&format!("{source}.weight"))?.data,
            bias: self.tensor(&format!("{source}.bias"))?.data,
        })
    }

    pub(super) fn layer_norm(&mut self, x: &str, name: &str, norm: &Norm) -> Result<String> {
        let shape = [norm.gain.len()];
        let gain = (self.weights).f32(&format!("{name}.gain"), &shape, &norm.gain)?;
        let bias = (self.weights).f32(&format!("{name}.bias"), &shape, &norm.bias)?;
        let epsilon = vec![float("epsilon", self.checkpoint.config().image.epsilon())];
        Ok(self.call(Op::LayerNorm, name, &[x, &gain, &bias], epsilon))
    }

    /// The graph's output: `x` `[N, D]`, with the layers that a learned method adds, L2-normalised.
    pub(super) fn embedding(&mut self, x: &str) -> Result<()> {
        let mut x = x.to_owned();
        if let Some(tail) = self.checkpoint.tail().cloned() {
            let (hidden, size) = (tail.down.shape[0], tail.up.shape[0]);
            // Only the direction of share g(f) + (1 - share) f matters: f needs no factor.
            let factor = tail.share / (1.0 - tail.share);
            let up: Vec<f32> = tail.up.data.iter().map(|value| factor * value).collect();
            let inner = self.linear("tail.down", &x, &tail.down.data, &vec![0.0; hidden])?;
            let inner = self.standard("Relu", "tail.hidden", &[&inner], vec![]);
            let outer = self.linear("tail.up", &inner, &up, &vec![0.0; size])?;
            let outer = self.standard("Relu", "tail.out", &[&outer], vec![]);
            x = self.standard("Add", "tail", &[&outer, &x], vec![]);
        }
        self.call(Op::L2Normalize, "embedding", &[&x], vec![]);
        Ok(())
    }

    /// A linear layer over `x` in floating point; `weight` is `[outputs, inputs]`, as PyTorch stores it.
    pub(super) fn linear(
        &mut self,
        name: &str,
        x: &str,
        weight: &[f32],
        bias: &[f32],
    ) -> Result<String> {
        let transposed = transpose(weight, bias.len(), weight.len() / bias.len());
        self.linear_in_out(Linear::plain(Storage::Float), name, &[x], &transposed, bias)
    }

    /// A linear layer over `inputs` in floating point; `weight` is `[inputs, outputs]`, as MatMul takes it.
    pub(super) fn linear_in_out(
        &mut self,
        layer: Linear,
        name: &str,
        inputs: &[&str],
        weight: &[f32],
        bias: &[f32],
    ) -> Result<String> {
        let outputs = bias.len();
        let shape = [weight.len() / outputs, outputs];
        let weight = (self.weights).matrix(&format!("{name}.weight"), &shape, weight)?;
        let bias = (self.weights).f32(&format!("{name}.bias"), &[outputs], bias)?;
        let mut all = inputs.to_vec();
        all.extend([weight.as_str(), bias.as_str()]);
        Ok(self.call(Op::Linear(layer), name, &all, vec![]))
    }

    /// A linear layer over `x`, plus `residual`; `weight` is `[outputs, inputs]`.
    pub(super) fn linear_add(
        &mut self,
        name: &str,
        [x, residual]: [&str; 2],
        weight: &[f32],
        bias: &[f32],
        origin: InputOrigin,
    ) -> Result<String> {
        let transposed = transpose(weight, bias.len(), weight.len() / bias.len());
        let exact = FloatLinear::new(&transposed, bias, None);
        let with = |storage| Linear {
            residual: Residual::Add,
            ..Linear::plain(storage)
        };
        let Some(layer) = self.quantized(name, &exact, origin)? else {
            let linear = with(Storage::Float);
            return self.linear_in_out(linear, name, &[x, residual], &transposed, bias);
        };
        let (input, attributes) = match layer.offset {
            None => (LinearInput::Plain, vec![]),
            Some(offset) => (LinearInput::Offset, vec![float("offset", offset)]),
        };
        let linear = Linear {
            input,
            ..with(Storage::Int8)
        };
        let [weight, scale, bias] = self.quantized_parameters(&layer)?;
        let all = [x, residual, &weight, &scale, &bias];
        Ok(self.call(Op::Linear(linear), name, &all, attributes))
    }

    /// What [`GraphBuilder::linear_add`] with `weight` `[outputs, inputs]` needs done to its inputs. The layer's form
    /// is chosen here, before the layer that produces those inputs is written.
    pub(super) fn input_transform(
        &mut self,
        name: &str,
        weight: &[f32],
        bias: &[f32],
    ) -> Result<InputTransform> {
        let transposed = transpose(weight, bias.len(), weight.len() / bias.len());
        let exact = FloatLinear::new(&transposed, bias, None);
        let layer = self.quantized(name, &exact, InputOrigin::Scalable)?;
        Ok(layer.map(|l| l.input_transform).unwrap_or_default())
    }

    /// Linear layers over `x` behind a layer norm; in 8-bit integers norm and product are one function.
    pub(super) fn norm_linear(
        &mut self,
        name: &str,
        x: &str,
        norm: &Norm,
        linear: &FusedLinear,
    ) -> Result<String> {
        let width = norm.gain.len();
        let outputs = linear.bias.len();
        let mut transposed = transpose(linear.weight, outputs, width);
        let exact = FloatLinear::new(&transposed, linear.bias, linear.activation);
        let with = |storage| Linear {
            activation: linear.activation,
            ..Linear::plain(storage)
        };
        let Some(mut layer) = self.quantized(name, &exact, InputOrigin::Scalable)? else {
            let mut bias = linear.bias.to_vec();
            transposed
                .chunks_exact_mut(outputs)
                .for_each(|row| linear.divide(row));
            linear.transform(&mut bias);
            let normed = self.layer_norm(x, &format!("{name}.norm"), norm)?;
            let layer = with(Storage::Float);
            return self.linear_in_out(layer, name, &[&normed], &transposed, &bias);
        };
        linear.divide(&mut layer.scale);
        linear.transform(&mut layer.bias);
        let (mut gain, mut shift) = (norm.gain.clone(), norm.bias.clone());
        layer.input_transform.divide(&mut gain);
        layer.input_transform.apply(&mut shift);
        let gain = (self.weights).f32(&format!("{name}.gain"), &[width], &gain)?;
        let shift = (self.weights).f32(&format!("{name}.shift"), &[width], &shift)?;
        let [weight, scale, bias] = self.quantized_parameters(&layer)?;
        let all = [x, &gain, &shift, &weight, &scale, &bias];
        let epsilon = vec![float("epsilon", self.checkpoint.config().image.epsilon())];
        let layer = Linear {
            input: LinearInput::LayerNorm,
            ..with(Storage::Int8)
        };
        Ok(self.call(Op::Linear(layer), name, &all, epsilon))
    }

    /// The attention of every token of `query_key_value` `[N, T, 3W]` to every other one.
    pub(super) fn self_attention(
        &mut self,
        query_key_value: &str,
        attention: Int8Attention,
    ) -> String {
        let heads = vec![ints("heads", &[attention.heads as i64])];
        let name = attention.name.clone();
        let scores = match &mut self.plan {
            None => AttentionScores::Exact,
            Some(plan) => plan.attention(attention),
        };
        let op = Op::Attention(AttentionInput::Joint, scores);
        self.call(op, &name, &[query_key_value], heads)
    }

    /// Layer `name` in 8-bit integers; `None` where it is written in floating point.
    pub(super) fn quantized(
        &mut self,
        name: &str,
        exact: &FloatLinear,
        origin: InputOrigin,
    ) -> Result<Option<QuantizedLayer>> {
        match &mut self.plan {
            Some(plan) if !plan.is_float(name) => {
                Ok(Some(plan.layer(name, exact, origin)?.clone()))
            }
            _ => Ok(None),
        }
    }

    /// Writes a layer's weight `[inputs, outputs]`, scale and bias; returns their names.
    pub(super) fn quantized_parameters(&mut self, layer: &QuantizedLayer) -> Result<[String; 3]> {
        let (name, outputs) = (&layer.name, layer.bias.len());
        let shape = [layer.weight.len() / outputs, outputs];
        let weights = &mut self.weights;
        let weight = weights.s8(&format!("{name}.weight"), &shape, &layer.weight)?;
        let scale = weights.f32(&format!("{name}.scale"), &[outputs], &layer.scale)?;
        let bias = weights.f32(&format!("{name}.bias"), &[outputs], &layer.offset_bias())?;
        Ok([weight, scale, bias])
    }
}

/// `[rows, columns]` to `[columns, rows]`.
pub(super) fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    for r in 0..rows {
        for c in 0..columns {
            out[c * rows + r] = data[r * columns + c];
        }
    }
    out
}
