//! The normalisation of pixels at the input.

use pinhole_bundle::dialect::{ChannelOrder, Op};
use tract_onnx::pb::{NodeProto, tensor_proto::DataType};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{float_tensor, replacement};
use pinhole::internal::attributes;

impl EncoderGraph {
    /// Replaces the conversion and normalisation of pixels.
    pub(super) fn replace_pixel_normalization(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if node.op_type == "Transpose"
                && is_standard(node)
                && let Some(found) = self.pixels(node)?
            {
                self.nodes[i] = found;
            }
        }
        Ok(())
    }

    /// Transpose(Cast(pixels) * scale + offset) to channels first.
    fn pixels(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        if attributes::integers(node, "perm") != [0, 3, 1, 2] {
            return Ok(None);
        }
        let parts = (|| {
            let [scaled, offset] = &self.producer(node.input.first()?, "Add")?.input[..] else {
                return None;
            };
            let [float, scale] = &self.producer(scaled, "Mul")?.input[..] else {
                return None;
            };
            let cast = self.producer(float, "Cast")?;
            let pixels = cast.input.first().filter(|p| *p == "pixels")?;
            (attributes::integer(cast, "to", 0) == DataType::Float as i64)
                .then_some((pixels, scale, offset))
        })();
        let Some((pixels, scale, offset)) = parts else {
            return Ok(None);
        };
        let (scale, offset) = (self.floats(scale)?, self.floats(offset)?);
        let (Some((scale, a)), Some((offset, b))) = (scale, offset) else {
            return Ok(None);
        };
        if a != [3] || b != [3] {
            return Ok(None);
        }
        let attributes = vec![
            attributes::of_tensor("scale", float_tensor("scale", &[3], &scale)),
            attributes::of_tensor("offset", float_tensor("offset", &[3], &offset)),
        ];
        Ok(Some(replacement(
            node,
            Op::NormalizePixels(ChannelOrder::First),
            vec![pixels.clone()],
            attributes,
        )))
    }
}
