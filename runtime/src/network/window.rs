//! How a convolution moves over an image, from the attributes of its node. The exporter makes functions of the convolutions
//! that this accepts, so that it writes no file that is refused on the board.

use pinhole_kernels::Window;
use tract_onnx::pb::NodeProto;

use crate::network::attributes;

/// The greatest side of a kernel and the greatest stride. Larger ones could claim much memory for little data.
const MOST_SIDE: usize = 64;

/// The greatest distance of a kernel's first and last tap, and the most padding, as of [`MOST_SIDE`].
const MOST_REACH: usize = 128;

/// The window of a convolution or a pool with this kernel; attributes that are missing have ONNX's defaults.
///
/// # Errors
/// What was expected and found: padding that depends on the image's size, and what exceeds the limits.
pub fn read(node: &NodeProto, kernel: [usize; 2]) -> Result<Window, String> {
    let padding = match &*attributes::text(node, "auto_pad") {
        "" | "NOTSET" => numbers(node, "pads", 0, MOST_REACH)?,
        "VALID" => [0; 4],
        other => {
            return Err(format!(
                "auto_pad: expected NOTSET or VALID, found {other:?}"
            ));
        }
    };
    let window = Window {
        kernel,
        padding,
        stride: numbers(node, "strides", 1, MOST_SIDE)?,
        dilation: numbers(node, "dilations", 1, MOST_REACH)?,
    };
    for (side, dilation) in window.kernel.into_iter().zip(window.dilation) {
        if !(1..=MOST_SIDE).contains(&side) || (side - 1) * dilation > MOST_REACH {
            return Err(format!(
                "weight: expected a kernel of 1 to {MOST_SIDE} that reaches {MOST_REACH} pixels, found {:?}, {dilation} apart",
                window.kernel
            ));
        }
    }
    Ok(window)
}

/// An attribute of N numbers from `least`, the default, to `most`.
fn numbers<const N: usize>(
    node: &NodeProto,
    name: &str,
    least: usize,
    most: usize,
) -> Result<[usize; N], String> {
    let found = match attributes::integers(node, name) {
        [] => return Ok([least; N]),
        found => found,
    };
    let all = found.iter().map(|&v| usize::try_from(v).ok());
    let all: Option<Vec<usize>> = all
        .map(|v| v.filter(|v| (least..=most).contains(v)))
        .collect();
    let all = all.and_then(|all| all.try_into().ok());
    all.ok_or_else(|| {
        format!("{name}: expected {N} numbers from {least} to {most}, found {found:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::attributes::{of_integers, of_text};

    /// If this fails, a board refuses what the exporter writes, or allocates what a file claims.
    #[test]
    fn windows_within_the_limits_are_read() {
        let found = |kernel, attributes: &[tract_onnx::pb::AttributeProto]| {
            let node = NodeProto {
                attribute: attributes.to_vec(),
                ..NodeProto::default()
            };
            read(&node, kernel).map(|w| (w.stride, w.dilation, w.padding))
        };
        let pads = of_integers("pads", &[1, 2, 3, 4]);
        let plain = ([1, 1], [1, 1], [0; 4]);
        assert_eq!(found([3, 3], &[]), Ok(plain));
        assert_eq!(
            found([64, 1], &[pads.clone(), of_integers("strides", &[64, 2])]),
            Ok(([64, 2], [1, 1], [1, 2, 3, 4]))
        );
        // Pads beside VALID do not count.
        let valid = of_text("auto_pad", "VALID");
        assert_eq!(found([3, 3], &[pads, valid]), Ok(plain));
        assert!(found([2, 2], &[of_integers("dilations", &[128, 1])]).is_ok());
        for (kernel, attribute, part) in [
            ([65, 1], of_integers("strides", &[1, 1]), "weight: expected"),
            ([0, 1], of_integers("strides", &[1, 1]), "weight: expected"),
            (
                [3, 3],
                of_integers("dilations", &[1, 65]),
                "weight: expected",
            ),
            (
                [3, 3],
                of_integers("dilations", &[0, 1]),
                "dilations: expected",
            ),
            (
                [3, 3],
                of_integers("strides", &[65, 1]),
                "strides: expected",
            ),
            ([3, 3], of_integers("strides", &[1]), "strides: expected 2"),
            (
                [3, 3],
                of_integers("pads", &[0, 0, 0, -1]),
                "pads: expected",
            ),
            (
                [3, 3],
                of_integers("pads", &[0, 0, 0, 129]),
                "pads: expected",
            ),
            (
                [3, 3],
                of_text("auto_pad", "SAME_LOWER"),
                "auto_pad: expected",
            ),
        ] {
            let error = found(kernel, &[attribute]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
