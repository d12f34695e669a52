//! How a convolution moves over an image, from the attributes of its node.

use pinhole_kernels::Window;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::network::attributes;

/// The greatest side of a kernel and the greatest stride. Larger ones could claim much memory for little data.
const MOST_SIDE: usize = 64;

/// The greatest distance of a kernel's first and last tap, and the most padding, as of [`MOST_SIDE`].
const MOST_REACH: usize = 128;

/// The window of a convolution with this kernel.
pub(super) fn read(node: &NodeProto, kernel: [usize; 2]) -> TractResult<Window> {
    let window = Window {
        kernel,
        padding: numbers(node, "pads", 0, MOST_REACH)?,
        stride: numbers(node, "strides", 1, MOST_SIDE)?,
        dilation: numbers(node, "dilations", 1, MOST_REACH)?,
    };
    for (side, dilation) in window.kernel.into_iter().zip(window.dilation) {
        ensure!(
            (1..=MOST_SIDE).contains(&side) && (side - 1) * dilation <= MOST_REACH,
            "weight: expected a kernel of 1 to {MOST_SIDE} that reaches {MOST_REACH} pixels, found {:?}, {dilation} apart",
            window.kernel
        );
    }
    Ok(window)
}

/// All input channels, and the groups, of a convolution with these inputs per group and these outputs.
pub(super) fn channels(
    node: &NodeProto,
    group_inputs: usize,
    outputs: usize,
) -> TractResult<(usize, usize)> {
    let groups = attributes::integer(node, "group", 0);
    let groups = usize::try_from(groups).unwrap_or(0);
    let inputs = group_inputs.checked_mul(groups).filter(|&i| i > 0);
    let inputs = inputs.filter(|_| outputs.is_multiple_of(groups));
    let inputs = inputs.with_context(|| {
        format!("group: expected a divisor of {outputs} outputs, found {groups}")
    })?;
    Ok((inputs, groups))
}

/// An attribute of N numbers from `least` to `most`.
fn numbers<const N: usize>(
    node: &NodeProto,
    name: &str,
    least: usize,
    most: usize,
) -> TractResult<[usize; N]> {
    let found = attributes::integers(node, name);
    let all = found.iter().map(|&v| usize::try_from(v).ok());
    let all: Option<Vec<usize>> = all
        .map(|v| v.filter(|v| (least..=most).contains(v)))
        .collect();
    all.and_then(|all| all.try_into().ok()).with_context(|| {
        format!("{name}: expected {N} numbers from {least} to {most}, found {found:?}")
    })
}
