//! Sizes of convolutions, pools and resized images.

use pinhole_bundle::dialect::ChannelOrder;

use super::{Computed, Node, Value, count};
use crate::network::attributes;

/// The greatest stride, dilation, pad and kernel; the largest image has 16384 pixels.
const MOST: i64 = 1 << 14;

/// Strides, dilations and pads over the axes after the first two.
struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    before: Vec<usize>,
    after: Vec<usize>,
    /// How a size that the stride does not divide is rounded.
    ceil: bool,
    padding: Padding,
}

#[derive(PartialEq)]
enum Padding {
    Explicit,
    /// As many pads as keep the size, before it is divided by the stride.
    Same,
    Valid,
}

impl Window {
    fn read(node: &Node, kernel: Vec<usize>) -> Result<Window, String> {
        let rank = kernel.len();
        let padding = match &*attributes::text(node.proto, "auto_pad") {
            "" | "NOTSET" => Padding::Explicit,
            "SAME_UPPER" | "SAME_LOWER" => Padding::Same,
            "VALID" => Padding::Valid,
            other => {
                return Err(format!(
                    "auto_pad: expected NOTSET, SAME_UPPER, SAME_LOWER or VALID, found {other:?}"
                ));
            }
        };
        let list = |name: &str, length: usize, least: i64| {
            let Some(attribute) = attributes::find(node.proto, name) else {
                return Ok(vec![least as usize; length]);
            };
            let found = &attribute.ints;
            if found.len() != length || found.iter().any(|v| !(least..=MOST).contains(v)) {
                return Err(format!(
                    "{name}: expected {length} numbers from {least} to {MOST}, found {found:?}"
                ));
            }
            Ok(found.iter().map(|&v| v as usize).collect::<Vec<_>>())
        };
        let pads = list("pads", 2 * rank, 0)?;
        if kernel.iter().any(|k| !(1..=MOST as usize).contains(k)) {
            return Err(format!(
                "kernel: expected sides of 1 to {MOST}, found {kernel:?}"
            ));
        }
        Ok(Window {
            strides: list("strides", rank, 1)?,
            dilations: list("dilations", rank, 1)?,
            before: pads[..rank].to_vec(),
            after: pads[rank..].to_vec(),
            ceil: node.integer("ceil_mode", 0) != 0,
            padding,
            kernel,
        })
    }

    /// The size of `axis` that a convolution or a pool makes of `size`.
    fn output(&self, axis: usize, size: usize) -> Result<usize, String> {
        let stride = self.strides[axis];
        let reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1;
        let padded = match self.padding {
            Padding::Same => return Ok(size.div_ceil(stride)),
            Padding::Valid => size,
            Padding::Explicit => size + self.before[axis] + self.after[axis],
        };
        let steps = padded.checked_sub(reach).ok_or_else(|| {
            format!(
                "kernel: expected one of at most {padded}, the padded side, found one of {reach}"
            )
        })?;
        Ok(1 + if self.ceil {
            steps.div_ceil(stride)
        } else {
            steps / stride
        })
    }
}

/// The sides after batch and channels.
fn sides<'a>(node: &Node<'a>) -> Result<(&'a [usize], &'a [usize]), String> {
    let shape = match node.inputs.first() {
        Some(Some(value)) => &value.shape[..],
        _ => return Err("input 0: expected one, found none".into()),
    };
    match shape {
        [_, _, sides @ ..] if (1..=3).contains(&sides.len()) => Ok((shape, sides)),
        _ => node.refuse(0, "[N, C, ..] with 1 to 3 sides"),
    }
}

/// Sizes of a convolution whose weight `[M, C / group, ..]` is the input `weight`; x and the result have the channels in
/// this order.
pub(super) fn conv(node: &Node, weight: usize, order: ChannelOrder) -> Result<Computed, String> {
    let (shape, sides) = match (order, node.shape(0)?) {
        (ChannelOrder::First, _) => sides(node)?,
        (ChannelOrder::Last, &[n, ref sides @ .., channels]) if sides.len() == 2 => {
            (&[n, channels][..], sides)
        }
        (ChannelOrder::Last, _) => return node.refuse(0, "[N, H, W, C]"),
    };
    let filter = node.shape(weight)?;
    let group = usize::try_from(node.integer("group", 1)).unwrap_or(0);
    let (channels, outputs) = match filter {
        &[outputs, channels, ref kernel @ ..] if kernel.len() == sides.len() => (channels, outputs),
        _ => {
            return node.refuse(
                weight,
                &format!("[M, C / group, ..] with {} sides", sides.len()),
            );
        }
    };
    if group == 0 || channels.checked_mul(group) != Some(shape[1]) || !outputs.is_multiple_of(group)
    {
        return Err(format!(
            "group: expected one that divides {outputs} outputs and {} inputs into {channels} each, found {group}",
            shape[1]
        ));
    }
    let kernel = filter[2..].to_vec();
    check_kernel(node, &kernel)?;
    check_bias(node, if weight == 1 { 2 } else { 8 }, outputs)?;
    let window = Window::read(node, kernel)?;
    let mut result = vec![shape[0], outputs];
    for (axis, &size) in sides.iter().enumerate() {
        result.push(window.output(axis, size)?);
    }
    if order == ChannelOrder::Last {
        result[1..].rotate_left(1);
    }
    let products = count(&result)?.saturating_mul(count(&filter[1..])?);
    Ok(Computed {
        products,
        ..Computed::one(result)
    })
}

fn check_kernel(node: &Node, kernel: &[usize]) -> Result<(), String> {
    match attributes::find(node.proto, "kernel_shape") {
        Some(found)
            if !found
                .ints
                .iter()
                .map(|&v| v as usize)
                .eq(kernel.iter().copied()) =>
        {
            Err(format!(
                "kernel_shape: expected {kernel:?} as in the weight, found {:?}",
                found.ints
            ))
        }
        _ => Ok(()),
    }
}

/// The third input of a convolution; zero points of integer ones have one value.
fn check_bias(node: &Node, index: usize, outputs: usize) -> Result<(), String> {
    match node.optional(index) {
        Some(bias) if ![1, outputs as u64].contains(&count(&bias.shape)?) => {
            node.refuse(index, &format!("a bias of {outputs} values"))
        }
        _ => Ok(()),
    }
}

/// Sizes of ConvTranspose, whose weight is `[C, M / group, ..]`.
pub(super) fn transposed(node: &Node) -> Result<Computed, String> {
    let (shape, sides) = sides(node)?;
    let filter = node.shape(1)?;
    let group = usize::try_from(node.integer("group", 1)).unwrap_or(0);
    if filter.len() != shape.len()
        || filter[0] != shape[1]
        || group == 0
        || !shape[1].is_multiple_of(group)
    {
        return node.refuse(
            1,
            &format!("[{}, M / group, ..] with {} sides", shape[1], sides.len()),
        );
    }
    let kernel = filter[2..].to_vec();
    check_kernel(node, &kernel)?;
    let window = Window::read(node, kernel)?;
    if attributes::find(node.proto, "output_shape").is_some() || window.padding != Padding::Explicit
    {
        return Err("output_shape, auto_pad: expected pads instead".into());
    }
    let more = attributes::integers(node.proto, "output_padding");
    let outputs = filter[1].saturating_mul(group);
    check_bias(node, 2, outputs)?;
    let mut result = vec![shape[0], outputs];
    for (axis, &size) in sides.iter().enumerate() {
        let more = more.get(axis).copied().unwrap_or(0);
        if !(0..window.strides[axis] as i64).contains(&more) {
            return Err(format!(
                "output_padding: expected less than the stride, found {more}"
            ));
        }
        let reach = (window.kernel[axis] - 1) * window.dilations[axis] + 1;
        let whole = (size.max(1) - 1).saturating_mul(window.strides[axis]) + reach + more as usize;
        let pads = window.before[axis] + window.after[axis];
        result.push(
            whole
                .checked_sub(pads)
                .ok_or_else(|| format!("pads: expected at most {whole}, found {pads}"))?,
        );
    }
    let products = count(&result)?.saturating_mul(count(&filter[2..])?);
    Ok(Computed {
        products: products.saturating_mul(shape[1] as u64 / group as u64),
        ..Computed::one(result)
    })
}

/// Sizes of MaxPool and AveragePool.
pub(super) fn pool(node: &Node) -> Result<Computed, String> {
    let (shape, sides) = sides(node)?;
    let kernel = attributes::integers(node.proto, "kernel_shape");
    if kernel.len() != sides.len() {
        return Err(format!(
            "kernel_shape: expected {} sides, found {kernel:?}",
            sides.len()
        ));
    }
    // What is negative is refused as too large.
    let window = Window::read(node, kernel.iter().map(|&k| k as usize).collect())?;
    for axis in 0..sides.len() {
        if window.before[axis].max(window.after[axis]) >= window.kernel[axis] {
            return Err(format!(
                "pads: expected less than the kernel {kernel:?}, found more"
            ));
        }
    }
    let mut result = shape[..2].to_vec();
    for (axis, &size) in sides.iter().enumerate() {
        result.push(window.output(axis, size)?);
    }
    let products = count(&result)?.saturating_mul(count(&window.kernel)?);
    Ok(Computed {
        products,
        ..Computed::one(result)
    })
}

/// Sizes of Resize, by constant scales or sizes.
pub(super) fn resize(node: &Node) -> Result<Computed, String> {
    let shape = node.shape(0)?;
    if attributes::find(node.proto, "axes").is_some() {
        return Err("axes: expected sizes or scales of all axes".into());
    }
    let scales = match node.optional(2) {
        Some(Value { shape, .. }) if *shape != [0] => Some(node.constant(2)?),
        _ => None,
    };
    let result: Vec<usize> = match scales {
        Some(scales) => {
            if scales.values.len() != shape.len()
                || scales.values.iter().any(|s| !(1e-4..=1e4).contains(s))
            {
                let rank = shape.len();
                return Err(format!(
                    "scales: expected {rank} numbers from 0.0001 to 10000, found {:?}",
                    scales.values
                ));
            }
            let scaled = shape.iter().zip(&scales.values);
            scaled
                .map(|(&size, scale)| (size as f64 * scale) as usize)
                .collect()
        }
        None => {
            let sizes = node.integers(3)?;
            if sizes.len() != shape.len() || sizes.iter().any(|s| *s < 1) {
                return Err(format!(
                    "sizes: expected {} numbers above 0, found {sizes:?}",
                    shape.len()
                ));
            }
            sizes.iter().map(|&s| s as usize).collect()
        }
    };
    Ok(Computed::one(result))
}
