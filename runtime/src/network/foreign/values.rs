//! Constants, and scales and zero points.

use tract_onnx::pb::{NodeProto, TensorProto, tensor_proto::DataType};

use super::graph::{Graph, is_standard};
use super::node::{AffineParams, axis, float_tensor};
use crate::network::initializer;

/// Values and shape.
pub(super) type Floats = (Vec<f32>, Vec<i64>);

impl Graph<'_> {
    /// An f32 constant, dequantised if necessary.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Floats>, String> {
        match self.producer(name, "DequantizeLinear") {
            Some(node) => self.dequantized(node),
            None => self.initial_floats(name),
        }
    }

    /// An f32 initialiser.
    pub(super) fn initial_floats(&self, name: &str) -> Result<Option<Floats>, String> {
        let float = |t: &&TensorProto| t.data_type == DataType::Float as i32;
        let Some(tensor) = self.initializers.get(name).filter(float) else {
            return Ok(None);
        };
        let values = initializer::floats(tensor, self.folder)
            .map_err(|e| format!("initializer {name}: {e}"))?;
        Ok(Some((values, tensor.dims.clone())))
    }

    /// A constant of one value.
    pub(super) fn number(&self, name: &str) -> Result<Option<f32>, String> {
        let few = |t: &TensorProto| t.dims.len() <= 1 && t.dims.iter().all(|&d| d == 1);
        // Does not read large tensors.
        let source = match self.producer(name, "DequantizeLinear") {
            Some(node) => node.input.first().map_or(name, |i| i),
            None => name,
        };
        if !self.initializers.get(source).is_some_and(few) {
            return Ok(None);
        }
        let found = self.floats(name)?;
        Ok(found.and_then(|(values, _)| values.first().copied()))
    }

    /// An integer constant of 8 or 32 bits.
    pub(super) fn integers(&self, name: &str) -> Result<Option<Vec<i32>>, String> {
        let Some(tensor) = self.initializers.get(name) else {
            return Ok(None);
        };
        initializer::integers(tensor, self.folder).map_err(|e| format!("initializer {name}: {e}"))
    }

    /// The result of a DequantizeLinear, if its input is constant.
    pub(super) fn dequantized(&self, node: &NodeProto) -> Result<Option<Floats>, String> {
        let Some(tensor) = node.input.first().and_then(|i| self.initializers.get(i)) else {
            return Ok(None);
        };
        let fail = |what: &str| Err(format!("node {} (DequantizeLinear): {what}", node.name));
        let Some(numbers) = self.integers(&tensor.name)? else {
            return fail("x: expected integers of 8 or 32 bits, found another type");
        };
        let scale = node.input.get(1);
        let Some((scales, _)) = scale.map_or(Ok(None), |s| self.initial_floats(s))? else {
            return fail("x_scale: expected a constant, found none");
        };
        let zeros = match node.input.get(2).filter(|z| !z.is_empty()) {
            None => vec![0; scales.len()],
            Some(zero) => match self.integers(zero)? {
                Some(zeros) => zeros,
                None => return fail("x_zero_point: expected a constant, found none"),
            },
        };
        let dims = tensor.dims.clone();
        // Number of scales, and number of adjacent values with the same scale.
        let (channels, inner) = match scales.len() {
            1 => (1, numbers.len()),
            channels => {
                let axis = axis(node, 1, dims.len());
                let Some(axis) = axis.filter(|&a| dims[a] == channels as i64) else {
                    return fail("x_scale: expected one value, or one per index of the axis");
                };
                // Of an empty tensor, the other dimensions may be huge.
                let inner = dims[axis + 1..].iter();
                let inner = inner.fold(1, |n: usize, &d| n.saturating_mul(d as usize));
                (channels, inner)
            }
        };
        if zeros.len() != scales.len() {
            return fail("x_zero_point: expected as many values as in x_scale");
        }
        let one = |(i, q): (usize, i32)| {
            let channel = i / inner % channels;
            (i64::from(q) - i64::from(zeros[channel])) as f32 * scales[channel]
        };
        Ok(Some((
            numbers.into_iter().enumerate().map(one).collect(),
            dims,
        )))
    }

    /// The scale and zero point of a QuantizeLinear or DequantizeLinear of computed values.
    pub(super) fn params(&self, node: &NodeProto) -> Result<AffineParams, String> {
        let fail = |what: &str| {
            Err(format!(
                "node {} ({}): {what}; quantise activations with one constant scale for the whole tensor",
                node.name, node.op_type
            ))
        };
        let scale = node.input.get(1).map_or(Ok(None), |s| self.number(s))?;
        let Some(scale) = scale else {
            return fail("scale: expected one constant value, found none or several");
        };
        if !(scale.is_finite() && scale > 0.0) {
            return fail(&format!("scale: expected a number above 0, found {scale}"));
        }
        let Some(zero) = node.input.get(2).filter(|z| !z.is_empty()) else {
            return Ok(AffineParams {
                scale,
                zero_point: -128,
            });
        };
        let data_type = self.initializers.get(zero).map(|t| t.data_type);
        let shift = match data_type.map(DataType::try_from) {
            Some(Ok(DataType::Uint8)) => 128,
            Some(Ok(DataType::Int8)) => 0,
            _ => return fail("zero point: expected an 8-bit constant, found something else"),
        };
        match self.integers(zero)?.as_deref() {
            Some([zero]) => Ok(AffineParams {
                scale,
                zero_point: i64::from(*zero) - shift,
            }),
            _ => fail("zero point: expected one value, found several"),
        }
    }

    /// Dequantises the remaining quantised constants. An error for quantisations that tract computes incorrectly.
    pub(super) fn dequantize_constants(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if !is_standard(node) {
                continue;
            }
            match &*node.op_type {
                "DequantizeLinear" => {
                    if let Some((values, dims)) = self.dequantized(node)? {
                        let name = node.output[0].clone();
                        let tensor = float_tensor(&name, &dims, &values);
                        if self.outputs.contains(&name) {
                            return Err(format!(
                                "output {name}: expected a computed value, found a constant"
                            ));
                        }
                        self.nodes[i].output.clear();
                        self.initializers.insert(name, tensor);
                    } else {
                        self.params(node)?;
                    }
                }
                "QuantizeLinear" => {
                    self.params(node)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
