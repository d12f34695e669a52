//! Functions of one quantised value as tables.

use std::collections::{HashMap, HashSet};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{AffineParams, InputQuantization, float_tensor, replacement};
use crate::graph::functions::op_of;
use pinhole::internal::attributes;
use pinhole_bundle::dialect::Op;

impl EncoderGraph {
    /// Replaces a chain of functions of one quantised value, including further quantisations, by a table of 256
    /// values.
    pub(super) fn tabulate(&mut self) -> Result<(), String> {
        struct Table {
            base: String,
            affine: AffineParams,
            values: Vec<f32>,
            /// Number of operators that it replaces.
            operators: usize,
        }
        let mut tables: HashMap<String, Table> = HashMap::new();
        let mut order = vec![];
        for (i, node) in self.nodes.iter().enumerate() {
            let (Some(x), [output]) = (node.input.first(), &node.output[..]) else {
                continue;
            };
            let table = if let Some(Op::FakeQuantize(_)) = op_of(node) {
                let InputQuantization::Static(affine) = InputQuantization::of(node) else {
                    continue;
                };
                match tables.get(x) {
                    Some(table) => Table {
                        base: table.base.clone(),
                        affine: table.affine,
                        values: table
                            .values
                            .iter()
                            .map(|&v| fake_quantized(v, affine))
                            .collect(),
                        operators: table.operators + 1,
                    },
                    None => Table {
                        base: x.clone(),
                        affine,
                        values: (0..256)
                            .map(|q| (q - 128 - i32::from(affine.zero_point)) as f32 * affine.scale)
                            .collect(),
                        operators: 1,
                    },
                }
            } else if !is_standard(node) {
                continue;
            } else if let (Some(f), Some(table)) = (unary(&node.op_type), tables.get(x)) {
                Table {
                    base: table.base.clone(),
                    affine: table.affine,
                    values: table.values.iter().map(|&v| f(v)).collect(),
                    operators: table.operators + 1,
                }
            } else if let (Some(f), [a, b]) = (binary(&node.op_type), &node.input[..]) {
                let (base, affine, operators, pairs): (_, _, _, Vec<(f32, f32)>) =
                    match (tables.get(a), tables.get(b)) {
                        (Some(a), Some(b)) if a.base == b.base && a.affine == b.affine => {
                            let pairs = a.values.iter().copied().zip(b.values.iter().copied());
                            (
                                &a.base,
                                a.affine,
                                a.operators + b.operators,
                                pairs.collect(),
                            )
                        }
                        (Some(a), None) => match self.number(b)? {
                            Some(b) => {
                                let pairs = a.values.iter().map(|&a| (a, b)).collect();
                                (&a.base, a.affine, a.operators, pairs)
                            }
                            None => continue,
                        },
                        (None, Some(b)) => match self.number(a)? {
                            Some(a) => {
                                let pairs = b.values.iter().map(|&b| (a, b)).collect();
                                (&b.base, b.affine, b.operators, pairs)
                            }
                            None => continue,
                        },
                        _ => continue,
                    };
                Table {
                    base: base.clone(),
                    affine,
                    values: pairs.into_iter().map(|(a, b)| f(a, b)).collect(),
                    operators: operators + 1,
                }
            } else {
                continue;
            };
            tables.insert(output.clone(), table);
            order.push(i);
        }
        // Only the last operator of a chain is replaced.
        let mut outer: HashSet<&str> = self.outputs.iter().map(String::as_str).collect();
        for node in &self.nodes {
            let tabulated = node.output.first().is_some_and(|o| tables.contains_key(o));
            if !tabulated {
                outer.extend(node.input.iter().map(String::as_str));
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
            let mut attributes = InputQuantization::Static(table.affine).parameters();
            attributes.push(attributes::of_tensor(
                "values",
                float_tensor("values", &[256], &table.values),
            ));
            let input = vec![table.base.clone()];
            self.nodes[i] = replacement(&self.nodes[i], Op::QuantizedTable, input, attributes);
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

/// Equals the kernels' result.
fn fake_quantized(v: f32, affine: AffineParams) -> f32 {
    let zero = f32::from(affine.zero_point);
    (v / affine.scale)
        .clamp(-128.0 - zero, 127.0 - zero)
        .round_ties_even()
        * affine.scale
}
