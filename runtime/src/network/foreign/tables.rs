//! Quantisations that change nothing, and functions of one quantised value as tables.

use std::collections::{HashMap, HashSet};

use super::node::{by_attributes, float_tensor, replacement, static_params, tensor_attribute};
use super::{By, FAKE_QUANTIZE, Foreign, LINEAR, PATCHES, Params, TABLE, standard};

/// Operators that move values and compute nothing, with the values as their first input.
const MOVES: [&str; 10] = [
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Gather",
    "Slice",
    "Split",
    "Expand",
    "Concat",
];

impl Foreign<'_> {
    /// A quantisation whose every reader quantises alike again, moved values included, changes nothing.
    pub(super) fn redundant(&mut self) -> Result<(), String> {
        // What all readers of a value quantise it by; None if one of them does not.
        let mut needs: HashMap<&str, Option<Params>> = HashMap::new();
        for output in &self.outputs {
            needs.insert(output, None);
        }
        for node in self.nodes.iter().rev() {
            let own = match &*node.op_type {
                FAKE_QUANTIZE | LINEAR | PATCHES => match static_params(node) {
                    Some(By::Static(params)) => Some(params),
                    _ => None,
                },
                op if standard(node) && MOVES.contains(&op) => {
                    let mut all = node.output.iter();
                    let first = all
                        .next()
                        .and_then(|o| needs.get(o.as_str()).copied().flatten());
                    let same = all.all(|o| needs.get(o.as_str()).copied().flatten() == first);
                    first.filter(|_| same)
                }
                _ => None,
            };
            for (i, input) in node.input.iter().enumerate() {
                // Shapes and indices are no values.
                let own = own.filter(|_| i == 0 || node.op_type == "Concat");
                needs
                    .entry(input)
                    .and_modify(|all| *all = all.filter(|all| Some(*all) == own))
                    .or_insert(own);
            }
        }
        let mut gone: HashMap<String, String> = HashMap::new();
        for node in &self.nodes {
            if node.op_type == FAKE_QUANTIZE
                && let Some(By::Static(params)) = static_params(node)
                && needs.get(node.output[0].as_str()).copied().flatten() == Some(params)
            {
                let input = &node.input[0];
                let input = gone.get(input).unwrap_or(input).clone();
                gone.insert(node.output[0].clone(), input);
            }
        }
        for input in self.nodes.iter_mut().flat_map(|n| &mut n.input) {
            if let Some(original) = gone.get(input) {
                *input = original.clone();
            }
        }
        Ok(())
    }

    /// Functions of one quantised value, with quantisations between, become a table of 256 values.
    pub(super) fn tables(&mut self) -> Result<(), String> {
        struct Table {
            base: String,
            by: Params,
            values: Vec<f32>,
            /// How many operators it stands for.
            operators: usize,
        }
        let mut tables: HashMap<String, Table> = HashMap::new();
        let mut order = vec![];
        for (i, node) in self.nodes.iter().enumerate() {
            let (Some(x), [output]) = (node.input.first(), &node.output[..]) else {
                continue;
            };
            let table = if node.op_type == FAKE_QUANTIZE {
                let Some(By::Static(by)) = static_params(node) else {
                    continue;
                };
                match tables.get(x) {
                    Some(table) => Table {
                        base: table.base.clone(),
                        by: table.by,
                        values: table
                            .values
                            .iter()
                            .map(|&v| fake_quantized(v, by))
                            .collect(),
                        operators: table.operators + 1,
                    },
                    None => Table {
                        base: x.clone(),
                        by,
                        values: (0..256)
                            .map(|q| (q - 128 - by.zero_point) as f32 * by.scale)
                            .collect(),
                        operators: 1,
                    },
                }
            } else if !standard(node) {
                continue;
            } else if let (Some(f), Some(table)) = (unary(&node.op_type), tables.get(x)) {
                Table {
                    base: table.base.clone(),
                    by: table.by,
                    values: table.values.iter().map(|&v| f(v)).collect(),
                    operators: table.operators + 1,
                }
            } else if let (Some(f), [a, b]) = (binary(&node.op_type), &node.input[..]) {
                let (base, by, operators, pairs): (_, _, _, Vec<(f32, f32)>) =
                    match (tables.get(a), tables.get(b)) {
                        (Some(a), Some(b)) if a.base == b.base && a.by == b.by => {
                            let pairs = a.values.iter().copied().zip(b.values.iter().copied());
                            (&a.base, a.by, a.operators + b.operators, pairs.collect())
                        }
                        (Some(a), None) => match self.number(b)? {
                            Some(b) => {
                                let pairs = a.values.iter().map(|&a| (a, b)).collect();
                                (&a.base, a.by, a.operators, pairs)
                            }
                            None => continue,
                        },
                        (None, Some(b)) => match self.number(a)? {
                            Some(a) => {
                                let pairs = b.values.iter().map(|&b| (a, b)).collect();
                                (&b.base, b.by, b.operators, pairs)
                            }
                            None => continue,
                        },
                        _ => continue,
                    };
                Table {
                    base: base.clone(),
                    by,
                    values: pairs.into_iter().map(|(a, b)| f(a, b)).collect(),
                    operators: operators + 1,
                }
            } else {
                continue;
            };
            tables.insert(output.clone(), table);
            order.push(i);
        }
        // The last of a chain stands for all of it.
        let mut inner: HashSet<String> = HashSet::new();
        let mut outer: HashSet<&str> = self.outputs.iter().map(String::as_str).collect();
        for node in &self.nodes {
            let tabulated = node.output.first().is_some_and(|o| tables.contains_key(o));
            match tabulated {
                true => inner.extend(node.input.iter().cloned()),
                false => outer.extend(node.input.iter().map(String::as_str)),
            }
        }
        let ends: Vec<usize> = order
            .into_iter()
            .filter(|&i| {
                let output = self.nodes[i].output[0].as_str();
                outer.contains(output) && tables[output].operators > 1
            })
            .collect();
        for i in ends {
            let table = &tables[&self.nodes[i].output[0]];
            if !table.values.iter().all(|v| v.is_finite()) {
                continue;
            }
            let mut attributes = by_attributes(&By::Static(table.by));
            attributes.push(tensor_attribute(
                "values",
                float_tensor("values", &[256], &table.values),
            ));
            let input = vec![table.base.clone()];
            self.nodes[i] = replacement(&self.nodes[i], TABLE, input, attributes);
        }
        Ok(())
    }
}

fn unary(op: &str) -> Option<fn(f32) -> f32> {
    match op {
        "Sigmoid" => Some(|v| 1.0 / (1.0 + (-v).exp())),
        "Tanh" => Some(f32::tanh),
        "Exp" => Some(f32::exp),
        "Sqrt" => Some(f32::sqrt),
        "Neg" => Some(|v| -v),
        "Relu" => Some(|v| v.max(0.0)),
        _ => None,
    }
}

fn binary(op: &str) -> Option<fn(f32, f32) -> f32> {
    match op {
        "Add" => Some(|a, b| a + b),
        "Sub" => Some(|a, b| a - b),
        "Mul" => Some(|a, b| a * b),
        "Div" => Some(|a, b| a / b),
        _ => None,
    }
}

/// As the kernels do it.
fn fake_quantized(v: f32, by: Params) -> f32 {
    let zero = by.zero_point as f32;
    (v / by.scale)
        .clamp(-128.0 - zero, 127.0 - zero)
        .round_ties_even()
        * by.scale
}
