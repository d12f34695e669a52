//! Constants, and scales and zero points.

use tract_onnx::pb::{NodeProto, TensorProto, tensor_proto::DataType};

use pinhole::internal::attributes;

use super::graph::EncoderGraph;
use super::node::{AffineParams, axis};

/// Most outputs of a layer. Bounds the memory that a hostile file can claim.
pub(super) const MAX_OUTPUTS: usize = 1 << 20;

/// Values and shape.
pub(super) type Floats = (Vec<f32>, Vec<i64>);

impl EncoderGraph {
    /// An f32 constant, dequantised if necessary.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Floats>, String> {
        match self.producer(name, "DequantizeLinear") {
            Some(node) => self.dequantized(node),
            None => Ok(self.initial_floats(name)),
        }
    }

    /// An f32 initialiser.
    pub(super) fn initial_floats(&self, name: &str) -> Option<Floats> {
        let float = |t: &&TensorProto| t.data_type == DataType::Float as i32;
        let tensor = self.initializers.get(name).filter(float)?;
        let values = tensor.raw_data.as_chunks().0.iter();
        let values = values.map(|&bytes| f32::from_le_bytes(bytes)).collect();
        Some((values, tensor.dims.clone()))
    }

    /// A constant with one value per output.
    pub(super) fn bias(&self, name: &str) -> Result<Option<Vec<f32>>, String> {
        let found = self.floats(name)?.filter(|(values, dims)| {
            let last = dims.last().is_some_and(|&d| d == values.len() as i64);
            last && values.len() <= MAX_OUTPUTS
        });
        Ok(found.map(|(values, _)| values))
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
    pub(super) fn integers(&self, name: &str) -> Option<Vec<i32>> {
        let tensor = self.initializers.get(name)?;
        let bytes = tensor.raw_data.iter();
        match DataType::try_from(tensor.data_type) {
            Ok(DataType::Int8) => Some(bytes.map(|&b| b.cast_signed().into()).collect()),
            Ok(DataType::Uint8) => Some(bytes.map(|&b| b.into()).collect()),
            Ok(DataType::Int32) => {
                let values = tensor.raw_data.as_chunks().0.iter();
                Some(values.map(|&bytes| i32::from_le_bytes(bytes)).collect())
            }
            _ => None,
        }
    }

    /// The result of a DequantizeLinear, if its input is constant.
    pub(super) fn dequantized(&self, node: &NodeProto) -> Result<Option<Floats>, String> {
        let Some(tensor) = node.input.first().and_then(|i| self.initializers.get(i)) else {
            return Ok(None);
        };
        let fail = |what: &str| Err(format!("node {} (DequantizeLinear): {what}", node.name));
        let Some(numbers) = self.integers(&tensor.name) else {
            return fail("x: expected integers of 8 or 32 bits, found another type");
        };
        let scale = node.input.get(1);
        let Some((scales, _)) = scale.and_then(|s| self.initial_floats(s)) else {
            return fail("x_scale: expected a constant, found none");
        };
        let zeros = match node.input.get(2).filter(|z| !z.is_empty()) {
            None => vec![0; scales.len()],
            Some(zero) => match self.integers(zero) {
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
        let shift = match self.quantized_type(node) {
            Some(DataType::Uint8) => 128,
            Some(DataType::Int8) => 0,
            _ => return fail("zero point: expected an 8-bit constant, found something else"),
        };
        let Some(zero) = node.input.get(2).filter(|z| !z.is_empty()) else {
            return Ok(AffineParams {
                scale,
                zero_point: -shift as i8,
            });
        };
        match self.integers(zero).as_deref() {
            Some([zero]) => Ok(AffineParams {
                scale,
                // Of 8 bits.
                zero_point: (zero - shift) as i8,
            }),
            _ => fail("zero point: expected one value, found several"),
        }
    }

    /// The integers of a QuantizeLinear or DequantizeLinear: the type of its zero point, or without one the type that a
    /// QuantizeLinear states, u8 by default.
    fn quantized_type(&self, node: &NodeProto) -> Option<DataType> {
        if let Some(zero) = node.input.get(2).filter(|z| !z.is_empty()) {
            return DataType::try_from(self.initializers.get(zero)?.data_type).ok();
        }
        if node.op_type == "DequantizeLinear" {
            return self.quantized_type(self.producer(node.input.first()?, "QuantizeLinear")?);
        }
        match attributes::integer(node, "output_dtype", 0) {
            0 => Some(DataType::Uint8),
            stated => DataType::try_from(i32::try_from(stated).ok()?).ok(),
        }
    }
}
