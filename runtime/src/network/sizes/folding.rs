//! Operators on small constants.

use tract_onnx::pb::tensor_proto::DataType;

use super::{Known, Node};

/// The result of an operator that computes each value from those at the same place, if the inputs are known.
pub(super) fn pointwise(node: &Node) -> Option<Known> {
    let first = node.optional(0)?.known.as_ref()?;
    let map = |f: fn(f64) -> f64| {
        let values = first.values.iter().map(|&v| f(v)).collect();
        Some(Known {
            values,
            integer: first.integer,
        })
    };
    match &*node.proto.op_type {
        "Identity" => Some(first.clone()),
        "Neg" => map(|v| -v),
        "Floor" => map(f64::floor),
        "Ceil" => map(f64::ceil),
        "Sqrt" => map(f64::sqrt),
        "Abs" => map(f64::abs),
        "Round" => map(f64::round_ties_even),
        "Not" => map(|v| truth(v == 0.0)),
        "Cast" => {
            let integer = match DataType::try_from(node.integer("to", 0) as i32) {
                Ok(DataType::Int64 | DataType::Int32) => true,
                Ok(DataType::Float | DataType::Double) => false,
                _ => return None,
            };
            let values = first.values.iter().copied();
            let values = values
                .map(|v| if integer { v.trunc() } else { v })
                .collect();
            Some(Known { values, integer })
        }
        op => {
            let second = node.optional(1)?.known.as_ref()?;
            let integer = first.integer && second.integer;
            let f: fn(f64, f64) -> f64 = match op {
                "Add" => |a, b| a + b,
                "Sub" => |a, b| a - b,
                "Mul" => |a, b| a * b,
                "Div" if integer => |a, b| (a / b).trunc(),
                "Div" => |a, b| a / b,
                "Min" => f64::min,
                "Max" => f64::max,
                "Mod" if node.integer("fmod", 0) == 0 => |a, b| a - b * (a / b).floor(),
                "Pow" => f64::powf,
                "Equal" => |a, b| truth(a == b),
                "Less" => |a, b| truth(a < b),
                "Greater" => |a, b| truth(a > b),
                "And" => |a, b| truth(a != 0.0 && b != 0.0),
                "Or" => |a, b| truth(a != 0.0 || b != 0.0),
                _ => return None,
            };
            if node.inputs.len() != 2 {
                return None;
            }
            let [a, b] = [first, second].map(|known| &known.values);
            let pairs = together([a.len(), b.len()])?;
            let values: Vec<f64> = pairs.map(|[i, j]| f(a[i], b[j])).collect();
            let finite = values.iter().all(|v| v.is_finite());
            finite.then_some(Known { values, integer })
        }
    }
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// The result of Where, if its inputs are known.
pub(super) fn select(node: &Node) -> Option<Known> {
    let known = |index| node.optional(index)?.known.as_ref();
    let (condition, a, b) = (known(0)?, known(1)?, known(2)?);
    let lengths = [condition, a, b].map(|known| known.values.len());
    let values = together(lengths)?
        .map(|[c, i, j]| {
            if condition.values[c] != 0.0 {
                a.values[i]
            } else {
                b.values[j]
            }
        })
        .collect();
    Some(Known {
        values,
        integer: a.integer,
    })
}

/// The indices of lists that are of one length, or of one value for all.
fn together<const N: usize>(lengths: [usize; N]) -> Option<impl Iterator<Item = [usize; N]>> {
    let longest = lengths.into_iter().max()?;
    let fits = lengths.iter().all(|&n| n == longest || n == 1);
    fits.then(|| (0..longest).map(move |i| lengths.map(|n| if n == 1 { 0 } else { i })))
}
