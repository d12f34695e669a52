//! What follows convolutions: factors and biases per channel, residuals and activation functions.

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{
    Convolution, ConvolutionActivation, Linear, LinearInput, Op, Residual, Storage,
};
use tract_onnx::pb::{NodeProto, TensorProto};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{both_orders, float_tensor, replacement};
use crate::graph::functions::op_of;

/// What is merged into a convolution.
enum Neighbour {
    /// Of each output.
    Factor(Vec<f32>),
    /// Of each output.
    Bias(Vec<f32>),
    /// The name of what is added.
    Residual(String),
    Activation(ConvolutionActivation),
}

impl EncoderGraph {
    /// Merges factors, biases, residuals and activation functions into the convolutions that they follow.
    pub(super) fn merge_into_convolutions(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let Some((convolution, neighbour)) = self.neighbour(&self.nodes[i])? else {
                continue;
            };
            let at = self.producers[&convolution];
            if let Some(merged) = merged(&self.nodes[at], &self.nodes[i], neighbour) {
                self.nodes[i] = merged;
            }
        }
        Ok(())
    }

    /// What `node` does with the result of a convolution that nothing else reads, and the name of the result.
    fn neighbour(&self, node: &NodeProto) -> Result<Option<(String, Neighbour)>, String> {
        if !is_standard(node) {
            return Ok(None);
        }
        let read = |name: &str, readers: usize| {
            let (op, found) = self.function(name)?;
            match op {
                Op::Convolution(op) if self.uses.get(name) == Some(&readers) => Some((op, found)),
                _ => None,
            }
        };
        let plain = |name: &str| {
            let (op, found) = read(name, 1)?;
            (op == Convolution::plain(Storage::Float)).then_some(found)
        };
        let activated = |name: &str, readers: usize, activation| {
            let (op, _) = read(name, readers)?;
            let activation = Neighbour::Activation(activation);
            (op.activation.is_none()).then(|| (name.to_owned(), activation))
        };
        match (&*node.op_type, &node.input[..]) {
            ("Relu", [x]) => return Ok(activated(x, 1, ConvolutionActivation::Relu)),
            ("HardSwish", [x]) => return Ok(activated(x, 1, ConvolutionActivation::HardSwish)),
            ("Mul", [..]) => {
                for (x, gate) in both_orders(node) {
                    if let Some(activation) = self.gate(gate, x)
                        && let Some(found) = activated(x, 2, activation)
                    {
                        return Ok(Some(found));
                    }
                }
            }
            _ => {}
        }
        for (x, other) in both_orders(node) {
            let Some(convolution) = plain(x) else {
                continue;
            };
            let outputs = outputs(convolution);
            // The same for all pixels: the channels are the last axis.
            let constant = self.initial_floats(other).filter(|(values, dims)| {
                let last = dims.last().map_or(1, |&size| size as usize);
                dims.len() <= 4 && values.len() == last && [1, outputs].contains(&last)
            });
            let spread = |(values, _): (Vec<f32>, _)| match &values[..] {
                [value] => vec![*value; outputs],
                _ => values,
            };
            let same = || {
                let shape = self.shape(x);
                shape.is_some() && shape == self.shape(other)
            };
            let neighbour = match (&*node.op_type, constant.map(spread)) {
                ("Mul", Some(factors)) => Neighbour::Factor(factors),
                ("Add", Some(bias)) => Neighbour::Bias(bias),
                ("Sub", Some(bias)) if *x == node.input[0] => {
                    Neighbour::Bias(bias.iter().map(|b| -b).collect())
                }
                ("Add", None) if same() && x != other => Neighbour::Residual(other.into()),
                _ => continue,
            };
            return Ok(Some((x.to_owned(), neighbour)));
        }
        Ok(None)
    }

    /// The activation function that is x times `gate`, if nothing else reads the gate.
    fn gate(&self, gate: &str, x: &str) -> Option<ConvolutionActivation> {
        let of = |op: &str| {
            let node = self.producer(gate, op).filter(|n| is_standard(n))?;
            let own = node.input.first().is_some_and(|input| input == x);
            (own && self.is_read_once(gate)).then_some(node)
        };
        if of("Sigmoid").is_some() {
            return Some(ConvolutionActivation::Silu);
        }
        // max(0, min(1, x / 6 + 1/2))
        let slope = |node: &NodeProto| attributes::float(node, "alpha", 0.2) - 1.0 / 6.0;
        let hard = of("HardSigmoid").filter(|node| slope(node).abs() < 1e-6);
        hard.filter(|node| attributes::float(node, "beta", 0.5) == 0.5)?;
        Some(ConvolutionActivation::HardSwish)
    }

    /// Replaces 1x1 convolutions by linear layers where there is one with the same neighbours.
    pub(super) fn replace_pointwise_convolutions(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            if let Some(linear) = pointwise(node) {
                *node = linear;
            }
        }
        Ok(())
    }
}

fn parameter<'a>(node: &'a NodeProto, name: &str) -> Option<&'a TensorProto> {
    attributes::find(node, name)?.t.as_ref()
}

/// The output channels of a convolution.
fn outputs(node: &NodeProto) -> usize {
    let outputs = parameter(node, "weight").and_then(|w| w.dims.first());
    outputs.map_or(0, |&outputs| usize::try_from(outputs).unwrap_or(0))
}

/// The values of a parameter in f32.
fn floats(tensor: &TensorProto) -> Vec<f32> {
    let values = tensor.raw_data.as_chunks().0.iter();
    values.map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// `convolution` with what `node` does afterwards.
fn merged(convolution: &NodeProto, node: &NodeProto, neighbour: Neighbour) -> Option<NodeProto> {
    let Some(Op::Convolution(mut op)) = Op::named(&convolution.op_type) else {
        return None;
    };
    let mut input = convolution.input.clone();
    let mut attribute = convolution.attribute.clone();
    let mut change = |name: &str, change: &dyn Fn(usize, &mut [f32])| {
        let found = attribute.iter_mut().find(|a| a.name == name)?;
        let tensor = found.t.as_mut()?;
        let mut values = floats(tensor);
        let each = values.len() / (*tensor.dims.first()? as usize).max(1);
        let outputs = values.chunks_mut(each.max(1)).enumerate();
        outputs.for_each(|(o, values)| change(o, values));
        *tensor = float_tensor("", &tensor.dims, &values);
        Some(())
    };
    match neighbour {
        Neighbour::Factor(factors) => {
            for name in ["weight", "bias"] {
                change(name, &|o, values| {
                    values.iter_mut().for_each(|v| *v *= factors[o]);
                })?;
            }
        }
        Neighbour::Bias(bias) => {
            change("bias", &|o, values| {
                values.iter_mut().for_each(|v| *v += bias[o]);
            })?;
        }
        Neighbour::Residual(name) => {
            op.residual = Residual::Add;
            input.push(name);
        }
        Neighbour::Activation(activation) => op.activation = Some(activation),
    }
    Some(replacement(node, Op::Convolution(op), input, attribute))
}

/// The linear layer that computes the same as a convolution, if there is one.
fn pointwise(node: &NodeProto) -> Option<NodeProto> {
    let Some(Op::Convolution(op)) = op_of(node) else {
        return None;
    };
    let activation = match (op.activation, op.residual) {
        (None, _) => None,
        (Some(ConvolutionActivation::Mlp(activation)), Residual::None) => Some(activation),
        _ => return None,
    };
    let (weight, bias) = (parameter(node, "weight")?, parameter(node, "bias")?);
    let &[outputs, inputs, 1, 1] = &weight.dims[..] else {
        return None;
    };
    let all = |name: &str, value: i64| attributes::integers(node, name).iter().all(|&v| v == value);
    if !all("strides", 1) || !all("pads", 0) || attributes::integer(node, "group", 1) != 1 {
        return None;
    }
    let values = floats(weight);
    let (m, k) = (outputs as usize, inputs as usize);
    let transposed: Vec<f32> = (0..k * m).map(|i| values[i % m * k + i / m]).collect();
    let attribute = vec![
        attributes::of_tensor("weight", float_tensor("", &[inputs, outputs], &transposed)),
        attributes::of_tensor("bias", bias.clone()),
    ];
    let linear = Op::Linear(Linear {
        input: LinearInput::Plain,
        storage: Storage::Float,
        activation,
        residual: op.residual,
    });
    Some(replacement(node, linear, node.input.clone(), attribute))
}
