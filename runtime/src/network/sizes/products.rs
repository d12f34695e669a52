//! Sizes of matrix products, and of the dialect's functions, which are products and their neighbours.

use pinhole_bundle::dialect;

use super::{Computed, Node, broadcast, count};
use crate::network::attributes;

/// Sizes of a product of the inputs `a` and `b`, as NumPy's matmul.
pub(super) fn matmul(node: &Node, a: usize, b: usize) -> Result<Computed, String> {
    let (left, right) = (node.shape(a)?, node.shape(b)?);
    let (rows, inner) = match left {
        [] => return node.refuse(a, "one dimension or more"),
        [inner] => (None, *inner),
        [.., rows, inner] => (Some(*rows), *inner),
    };
    let (again, columns) = match right {
        [] => return node.refuse(b, "one dimension or more"),
        [inner] => (*inner, None),
        [.., inner, columns] => (*inner, Some(*columns)),
    };
    if inner != again {
        return Err(format!(
            "expected factors that fit, found the shapes {left:?} and {right:?}"
        ));
    }
    let batch = |shape: &[usize]| shape[..shape.len().saturating_sub(2)].to_vec();
    let mut result = broadcast([&*batch(left), &*batch(right)])?;
    result.extend(rows);
    result.extend(columns);
    let products = count(&result)?.saturating_mul(inner as u64);
    Ok(Computed {
        products,
        ..Computed::one(result)
    })
}

pub(super) fn gemm(node: &Node) -> Result<Computed, String> {
    let matrix =
        |index: usize, transposed: &str| match (node.shape(index)?, node.integer(transposed, 0)) {
            (&[rows, columns], 0) => Ok([rows, columns]),
            (&[columns, rows], _) => Ok([rows, columns]),
            _ => node.refuse(index, "a matrix"),
        };
    let ([rows, inner], [again, columns]) = (matrix(0, "transA")?, matrix(1, "transB")?);
    if inner != again {
        return Err(format!(
            "expected factors that fit, found {inner} columns and {again} rows"
        ));
    }
    let result = vec![rows, columns];
    if let Some(bias) = node.optional(2)
        && broadcast([&*result, &bias.shape])? != result
    {
        return node.refuse(2, &format!("a shape that broadcasts to {result:?}"));
    }
    let products = count(&result)?.saturating_mul(inner as u64);
    Ok(Computed {
        products,
        ..Computed::one(result)
    })
}

pub(super) fn einsum(node: &Node) -> Result<Computed, String> {
    let equation = attributes::text(node.proto, "equation").replace(' ', "");
    let wrong = || format!("equation: expected letters as in ij,jk->ik, found {equation:?}");
    let (left, result) = equation.split_once("->").ok_or_else(wrong)?;
    let terms: Vec<&str> = left.split(',').collect();
    let letters = |text: &str| text.bytes().all(|b| b.is_ascii_alphabetic());
    if terms.len() != node.inputs.len()
        || !letters(result)
        || !terms.iter().all(|term| letters(term))
    {
        return Err(wrong());
    }
    let mut sizes = std::collections::BTreeMap::new();
    for (index, term) in terms.iter().enumerate() {
        let shape = node.shape(index)?;
        if shape.len() != term.len() {
            return node.refuse(
                index,
                &format!("{} dimensions as in {equation}", term.len()),
            );
        }
        for (letter, &size) in term.bytes().zip(shape) {
            if *sizes.entry(letter).or_insert(size) != size {
                return node.refuse(index, &format!("sizes that agree in {equation}"));
            }
        }
    }
    let shape: Option<Vec<usize>> = result
        .bytes()
        .map(|letter| sizes.get(&letter).copied())
        .collect();
    let all: Vec<usize> = sizes.values().copied().collect();
    Ok(Computed {
        products: count(&all)?,
        ..Computed::one(shape.ok_or_else(wrong)?)
    })
}

/// Sizes of a function of the dialect, whose numbers of inputs have been checked.
pub(super) fn dialect(node: &Node) -> Result<Computed, String> {
    let name = &*node.proto.op_type;
    let Some(function) = dialect::FUNCTIONS.iter().find(|f| f.name == name) else {
        return Err("expected a function of the dialect".into());
    };
    let parameter = |name: &str| {
        let position = function.parameters.iter().position(|p| *p == name);
        position.map(|position| node.shape(function.inputs.len() + position))
    };
    let first = node.shape(0)?;
    // Every function with a weight is a product of the last axis.
    let (rows, inner): (Vec<usize>, usize) = if function.inputs[0] == "pixels" {
        let patch = attributes::find(node.proto, "patch")
            .map_or(0, |a| a.ints.first().copied().unwrap_or(a.i));
        let patch = usize::try_from(patch).unwrap_or(0);
        match first {
            &[n, height, width, 3] if (1..=1 << 14).contains(&patch) => (
                vec![n, (height / patch) * (width / patch)],
                patch * patch * 3,
            ),
            _ => {
                return Err(format!(
                    "patch: expected a side of 1 to 16384 and pixels [N, S, S, 3], found {patch}"
                ));
            }
        }
    } else {
        match first {
            [rows @ .., inner] => (rows.to_vec(), *inner),
            [] => return node.refuse(0, "one dimension or more"),
        }
    };
    match parameter("weight").transpose()? {
        Some(&[from, to]) if from == inner => {
            let mut result = rows;
            result.push(to);
            let products = count(&result)?.saturating_mul(inner as u64);
            return Ok(Computed {
                products,
                ..Computed::one(result)
            });
        }
        Some(found) => return Err(format!("weight: expected [{inner}, M], found {found:?}")),
        None => {}
    }
    let attention = |tokens: usize, others: usize, result: Vec<usize>| {
        let heads = attributes::find(node.proto, "heads")
            .map_or(0, |a| a.ints.first().copied().unwrap_or(a.i));
        // The kernels need the scores of one head at a time.
        match u64::try_from(heads) {
            Ok(heads @ 1..=65_536) if heads <= result[2].max(1) as u64 => {}
            _ => {
                return Err(format!(
                    "heads: expected a divisor of {}, found {heads}",
                    result[2]
                ));
            }
        }
        let products = count(&[tokens, others, 2])?.saturating_mul(result[2] as u64);
        Ok(Computed {
            products,
            ..Computed::one(result)
        })
    };
    match (function.inputs, first) {
        (["patches"], &[n, patches, width]) => {
            Ok(Computed::one(vec![n, patches.saturating_add(1), width]))
        }
        (["query", "key_value"], &[n, tokens, width]) => match *node.shape(1)? {
            [_, others, both] if both == 2 * width => {
                attention(tokens, others, vec![n, tokens, width])
            }
            _ => node.refuse(1, &format!("[{n}, U, {}]", 2 * width)),
        },
        (["query_key_value"], &[n, tokens, width]) => {
            attention(tokens, tokens, vec![n, tokens, width / 3])
        }
        (["x"], _) => Ok(Computed::one(first.to_vec())),
        _ => node.refuse(0, "[N, T, W]"),
    }
}
