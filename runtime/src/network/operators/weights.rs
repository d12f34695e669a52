//! Packed weights.

use std::cell::RefCell;

use half::f16;
use half::slice::HalfFloatSliceExt;
use pinhole_bundle::dialect::Op;
use pinhole_kernels::{self as kernels, PackedLinear, PackedLinearF16, PackedLinearInt8, Weights};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::parameters::{folder, shape, tensor, weight};
use crate::network::initializer;

thread_local! {
    /// The memory of an 8-bit weight, for the next weight that is loaded on this thread. Freeing and allocating it
    /// each time would touch new pages, or leave holes between the packed weights.
    static SPARE: RefCell<Vec<i8>> = const { RefCell::new(Vec::new()) };
}

/// Frees the memory that loading a network on this thread has kept.
pub(in crate::network) fn free_spare() {
    SPARE.take();
}

/// What all packed weights have in common.
pub(super) trait Packed {
    fn inputs(&self) -> usize;
    fn outputs(&self) -> usize;
    /// Data type and kernel variant.
    fn kernel_name(&self) -> String;
}

impl<W: Weights> Packed for kernels::Packed<W> {
    fn inputs(&self) -> usize {
        self.inputs()
    }

    fn outputs(&self) -> usize {
        self.outputs()
    }

    fn kernel_name(&self) -> String {
        format!("{} {}", W::NAME, self.kernel())
    }
}

/// Floating-point weights: f16 if they are stored and multiplied in f16, else f32.
#[derive(Debug)]
pub(super) enum FloatWeights {
    F32(PackedLinear),
    F16(PackedLinearF16),
}

impl FloatWeights {
    pub(super) fn packed(&self) -> &dyn Packed {
        match self {
            Self::F32(weights) => weights,
            Self::F16(weights) => weights,
        }
    }

    /// The name of `op` with these weights, for display.
    pub(super) fn operator_name(&self, op: Op) -> String {
        match self {
            Self::F32(_) => op.name(),
            Self::F16(_) => format!("{}F16", op.name()),
        }
    }

    /// Packs weight `[K, M]` and bias `[M]` of `node`. f32 weights are multiplied by `scale`. If `F16`, weights that
    /// are stored in f16 stay in f16.
    pub(super) fn pack<const F16: bool>(
        context: &ParsingContext,
        node: &NodeProto,
        scale: f32,
    ) -> TractResult<Self> {
        let (bias, bias_shape) = weight(context, node, "bias", 1)?;
        let check_bias = |outputs: usize| {
            ensure!(
                bias_shape[0] == outputs,
                "bias: expected [{outputs}], found {bias_shape:?}"
            );
            Ok(())
        };
        if F16 {
            let proto = tensor(node, "weight")?;
            let tensor = context.load_tensor(proto)?;
            if tensor.datum_type() == f16::datum_type() {
                let &[inputs, outputs] = tensor.shape() else {
                    bail!("weight: expected 2 dimensions, found {:?}", tensor.shape());
                };
                check_bias(outputs)?;
                let bits = tensor.try_as_plain_ram()?.as_slice::<f16>()?;
                let bits = bits.reinterpret_cast();
                return PackedLinearF16::from_in_out(bits, inputs, outputs, Some(&bias))
                    .map(Self::F16)
                    .map_err(|e| format_err!("{}: {e}", proto.name));
            }
        }
        let (mut weight, shape) = weight(context, node, "weight", 2)?;
        let (inputs, outputs) = (shape[0], shape[1]);
        check_bias(outputs)?;
        if scale != 1.0 {
            weight.iter_mut().for_each(|w| *w *= scale);
        }
        let packed = PackedLinear::from_in_out(&weight, inputs, outputs, Some(&bias));
        Ok(Self::F32(packed))
    }
}

/// Packs weight s8 `[K, M]`, per-channel scale `[M]` and bias `[M]` of `node`.
pub(super) fn pack_int8(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<PackedLinearInt8> {
    let proto = tensor(node, "weight")?;
    let shape = shape(proto, "weight", 2)?;
    let (inputs, outputs) = (shape[0], shape[1]);
    let values = initializer::int8(proto, folder(context), SPARE.take())
        .with_context(|| format!("weight: {}", proto.name))?;
    let (scale, scale_shape) = weight(context, node, "scale", 1)?;
    let (bias, bias_shape) = weight(context, node, "bias", 1)?;
    for (name, shape) in [("scale", scale_shape), ("bias", bias_shape)] {
        ensure!(
            shape[0] == outputs,
            "{name}: expected [{outputs}], found {shape:?}"
        );
    }
    let packed = PackedLinearInt8::from_in_out(&values, &scale, inputs, outputs, Some(&bias));
    SPARE.set(values);
    packed.map_err(|e| format_err!("{}: {e}", proto.name))
}
