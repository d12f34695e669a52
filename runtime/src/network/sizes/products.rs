//! Sizes of matrix products, and of the dialect's functions, which are products and their neighbours.

use pinhole_bundle::dialect::{AttentionInput, ChannelOrder, Op};

use super::{Computed, Node, broadcast, convolutions, count};
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
    let op = Op::named(&node.proto.op_type).ok_or("expected a function of the dialect")?;
    let first = node.shape(0)?;
    match (op, first) {
        (Op::PatchEmbedding(_), &[n, height, width, 3]) => {
            let patch = usize::try_from(integer(node, "patch")).unwrap_or(0);
            if !(1..=1 << 14).contains(&patch) {
                return Err(format!(
                    "patch: expected a side of 1 to 16384, found {patch}"
                ));
            }
            let rows = vec![n, (height / patch) * (width / patch)];
            product(node, op, rows, patch * patch * 3)
        }
        (Op::PatchEmbedding(_), _) => node.refuse(0, "[N, S, S, 3]"),
        (Op::Linear(_) | Op::AffineLinear(..), [rows @ .., inner]) => {
            product(node, op, rows.to_vec(), *inner)
        }
        (Op::Linear(_) | Op::AffineLinear(..), []) => node.refuse(0, "one dimension or more"),
        (Op::TokenEmbedding, &[n, patches, width]) => {
            Ok(Computed::one(vec![n, patches.saturating_add(1), width]))
        }
        (Op::ConstantTokens, &[n, tokens, width]) => {
            let kept = usize::try_from(integer(node, "kept")).unwrap_or(0);
            if !(1..=tokens).contains(&kept) {
                return Err(format!("kept: expected 1 to {tokens}, found {kept}"));
            }
            match *node.shape(1)? {
                [more, columns] if columns == width && width > 0 => {
                    Ok(Computed::one(vec![n, kept.saturating_add(more), width]))
                }
                _ => node.refuse(1, &format!("[n, {width}]")),
            }
        }
        (Op::Attention(AttentionInput::QueryKeyValue, _), &[n, tokens, width]) => {
            match *node.shape(1)? {
                [_, others, both] if both == 2 * width => {
                    attention(node, tokens, others, vec![n, tokens, width])
                }
                _ => node.refuse(1, &format!("[{n}, U, {}]", 2 * width)),
            }
        }
        (Op::Attention(AttentionInput::Joint, _), &[n, tokens, width]) => {
            attention(node, tokens, tokens, vec![n, tokens, width / 3])
        }
        (Op::Attention(AttentionInput::Columns, _), &[n, tokens, _]) => {
            let others = column_attention(node, n)?;
            let width = integer(node, "width") as usize;
            attention(node, tokens, others, vec![n, tokens, width])
        }
        (Op::TokenEmbedding | Op::ConstantTokens | Op::Attention(..), _) => {
            node.refuse(0, "[N, T, W]")
        }
        (Op::LayerNorm | Op::L2Normalize, []) => node.refuse(0, "one dimension or more"),
        (
            Op::LayerNorm
            | Op::L2Normalize
            | Op::Activate(_)
            | Op::FakeQuantize(_)
            | Op::QuantizedTable,
            _,
        ) => Ok(Computed::one(first.to_vec())),
        (Op::NormalizePixels(ChannelOrder::First), &[n, height, width, 3]) => {
            Ok(Computed::one(vec![n, 3, height, width]))
        }
        (Op::NormalizePixels(ChannelOrder::Last), [_, _, _, 3]) => {
            Ok(Computed::one(first.to_vec()))
        }
        (Op::NormalizePixels(_), _) => node.refuse(0, "[N, H, W, 3]"),
        (Op::AffineConvolution(_, order), [_, _, _, _]) => {
            convolutions::conv(node, weight_input(op)?, order)
        }
        (Op::AffineConvolution(..), _) => node.refuse(0, "an image of each, 4 dimensions"),
        (Op::Convolution(_), [_, _, _, _]) => {
            convolutions::conv(node, weight_input(op)?, ChannelOrder::Last)
        }
        (Op::Convolution(_), _) => node.refuse(0, "[N, H, W, C]"),
    }
}

/// The input that is the weight of `op`.
fn weight_input(op: Op) -> Result<usize, String> {
    let position = op.parameters().iter().position(|p| *p == "weight");
    let position = position.ok_or("weight: expected one, found none")?;
    Ok(op.inputs().len() + position)
}

/// `rows` of `inner` values times the weight of `op`.
fn product(node: &Node, op: Op, rows: Vec<usize>, inner: usize) -> Result<Computed, String> {
    match *node.shape(weight_input(op)?)? {
        [from, to] if from == inner => {
            let mut result = rows;
            result.push(to);
            let products = count(&result)?.saturating_mul(inner as u64);
            Ok(Computed {
                products,
                ..Computed::one(result)
            })
        }
        ref found => Err(format!("weight: expected [{inner}, M], found {found:?}")),
    }
}

/// Checks the columns that attention reads of `n` images, and returns the number of keys.
fn column_attention(node: &Node, n: usize) -> Result<usize, String> {
    let width = integer(node, "width");
    let mut rows = vec![];
    for (index, name) in ["query_column", "key_column", "value_column"]
        .into_iter()
        .enumerate()
    {
        let first = integer(node, name);
        match *node.shape(index)? {
            [images, count, columns] if images == n => {
                let end = first.checked_add(width).filter(|_| first >= 0 && width > 0);
                if end.is_none_or(|end| end > columns as i64) {
                    return Err(format!(
                        "{name}: expected {width} columns of {columns}, found the first at {first}"
                    ));
                }
                rows.push(count);
            }
            _ => return node.refuse(index, &format!("[{n}, T, W]")),
        }
    }
    if rows[1] != rows[2] {
        return node.refuse(2, &format!("as many values as keys, {}", rows[1]));
    }
    Ok(rows[1])
}

fn attention(
    node: &Node,
    tokens: usize,
    others: usize,
    result: Vec<usize>,
) -> Result<Computed, String> {
    let heads = integer(node, "heads");
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
}

/// An attribute that is an int or a list of one; 0 if it is missing.
fn integer(node: &Node, name: &str) -> i64 {
    attributes::find(node.proto, name).map_or(0, |a| a.ints.first().copied().unwrap_or(a.i))
}
