//! What a file may hold: element types, operators and operator sets, with a remedy for each that is refused.

use anyhow::{Result, bail, ensure};
use pinhole_bundle::dialect;
use tract_onnx::pb::{ModelProto, NodeProto};

use super::elements::ElementType;

/// The version of the standard operators that `model` uses.
///
/// # Errors
/// None, or one outside of those that are known.
pub(super) fn opset_version(model: &ModelProto) -> Result<i64> {
    let versions = dialect::FOREIGN_OPSETS;
    let standard = (model.opset_import.iter()).find(|o| is_standard(&o.domain));
    let Some(found) = standard.map(|o| o.version) else {
        bail!(
            "opset_import: expected the standard operators, found none; export it again with torch.onnx.export"
        );
    };
    let (first, last) = (versions.start(), versions.end());
    ensure!(
        found >= *first,
        "opset_import: expected version {first} to {last}, found {found}; export again with opset_version={}, or \
         convert the file (onnx.version_converter.convert_version)",
        dialect::OPSET
    );
    ensure!(
        found <= *last,
        "opset_import: expected version {first} to {last}, found {found}, which this version does not know; export \
         again with opset_version={last} or lower"
    );
    Ok(found)
}

fn is_standard(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// ONNX Runtime's operators that are computed here, all of dynamic quantisation.
const MICROSOFT: [&str; 2] = ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"];

/// ONNX Runtime's operators with weights of 4 bits or fewer, in blocks.
const BLOCKS_OF_FEW_BITS: [&str; 4] = [
    "MatMulNBits",
    "MatMulBnb4",
    "GatherBlockQuantized",
    "MatMulFpQ4",
];

const FLOAT_FILE: &str = "pass the float file from before the quantisation";

/// Checks that `node` is one that can be computed exactly, as far as its name and attributes show. Its types and sizes
/// are checked when the graph is loaded.
///
/// # Errors
/// They name the node, the format that it belongs to, and the remedy.
pub(super) fn check_node(node: &NodeProto) -> Result<()> {
    let op = &*node.op_type;
    let at = match &*node.domain {
        domain if is_standard(domain) => format!("node {} ({op})", node.name),
        domain => format!("node {} ({domain}.{op})", node.name),
    };
    let inner = (node.attribute.iter()).any(|a| a.g.is_some() || !a.graphs.is_empty());
    ensure!(
        !inner,
        "{at}: expected no control flow, found a graph inside; trace the model with a fixed input"
    );
    match &*node.domain {
        domain if is_standard(domain) => {}
        "com.microsoft" if MICROSOFT.contains(&op) => return Ok(()),
        "com.microsoft" if BLOCKS_OF_FEW_BITS.contains(&op) => bail!(
            "{at}: weights in blocks of few bits are not supported; {FLOAT_FILE}, or one with weights of 8 bits"
        ),
        "com.microsoft" if op.starts_with('Q') && op != "QuickGelu" => bail!(
            "{at}: the QOperator format is not supported; quantise again with quant_format=QuantFormat.QDQ, or {FLOAT_FILE}"
        ),
        "com.microsoft" | "com.microsoft.nchwc" | "com.microsoft.nhwc" | "com.ms.internal.nhwc" => {
            bail!(
                "{at}: ONNX Runtime's fused operators are not supported; pass the file from before ONNX Runtime's \
                 optimisation, or one that it optimised at level basic (ORT_ENABLE_BASIC; quantise a file that \
                 quant_pre_process prepared)"
            )
        }
        "org.pytorch.aten" => bail!(
            "{at}: PyTorch's own operators are not supported; export again without operator_export_type"
        ),
        domain => bail!(
            "{at}: expected a standard operator, found one of the domain {domain}; export again with standard \
             operators, or take it out of the image encoder with --output NAME of a value before it"
        ),
    }
    if op.starts_with("QLinear") {
        bail!(
            "{at}: the QOperator format is not supported; quantise again with quant_format=QuantFormat.QDQ, or {FLOAT_FILE}"
        );
    }
    if let Some(unsupported) = Unsupported::find(node) {
        bail!("{at}: {}; {}", unsupported.what, unsupported.remedy);
    }
    Ok(())
}

/// What the ONNX library would refuse without a reason, or compute differently from the specification.
struct Unsupported {
    what: &'static str,
    remedy: &'static str,
}

impl Unsupported {
    fn find(node: &NodeProto) -> Option<Unsupported> {
        let integer = |name: &str, default: i64| {
            let found = node.attribute.iter().find(|a| a.name == name);
            found.map_or(default, |a| a.i)
        };
        let float = |name: &str, default: f32| {
            let found = node.attribute.iter().find(|a| a.name == name);
            found.map_or(default, |a| a.f)
        };
        let (what, remedy) = match &*node.op_type {
            "Attention" | "RotaryEmbedding" => (
                "this operator of opset 23 is not supported",
                "export again with opset_version=20, where it is written as products and a softmax",
            ),
            "QuantizeLinear" | "DequantizeLinear" if integer("block_size", 0) != 0 => (
                "block_size: quantisation in blocks is not supported",
                "quantise per tensor or per channel, or pass the float file from before the quantisation",
            ),
            "Swish" if float("alpha", 1.0) != 1.0 => (
                "alpha: expected 1, found another factor",
                "write it as x * sigmoid(alpha * x)",
            ),
            "BatchNormalization" if integer("training_mode", 0) != 0 => (
                "training_mode: expected an encoder for inference",
                "call model.eval() before the export",
            ),
            _ => return None,
        };
        Some(Unsupported { what, remedy })
    }
}

/// Why tensors of `element` cannot be read, with the remedy; `None` for those that can.
pub(super) fn refusal(element: ElementType) -> Option<String> {
    use ElementType::*;
    let (what, remedy) = match element {
        Float32 | Float16 | BFloat16 | Float64 | Int8 | UInt8 | Int32 | Int64 | Bool => {
            return None;
        }
        UInt16 | Int16 => (
            "quantisation to 16 bits is not supported",
            "quantise to 8 bits (QuantType.QUInt8 or QInt8), or pass the float file from before the quantisation",
        ),
        FewBits(_) => (
            "weights of less than 8 bits are not supported",
            "pass the float file from before the quantisation, or one with weights of 8 bits",
        ),
        Float8(_) => (
            "quantisation to 8-bit floats is not supported",
            "quantise to 8-bit integers (QuantType.QInt8), or pass the float file from before the quantisation",
        ),
        UInt32 | UInt64 | Text | Complex(_) | Unknown => (
            "expected f32, f16, bf16, f64, int8, uint8, int32, int64 or bool",
            "export the image encoder alone, from its normalised pixels to the embedding",
        ),
    };
    Some(format!("{element}: {what}; {remedy}"))
}
