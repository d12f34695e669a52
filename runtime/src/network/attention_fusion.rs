//! Fuses attention as other programs write it, some thirty operators, into one operator.
//!
//! This runs on tract's typed graph, in which all shapes and constants are known. Each operand is traced back through
//! operators that only move values, to a view of the tensor that contains its values, so nothing is copied.
//! Quantisations and factors on the path keep their order. A block is replaced only if the heads are adjacent in its
//! views; everything else is left to tract.

use pinhole_kernels::{self as kernels, AttentionStages, Pointwise, StridedRows};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::nn::{Softmax, SoftmaxKind};
use tract_onnx::tract_hir::internal::*;

use super::operators::operator::{Compute, floats, typed};
use super::view::{Axis, Operand, View, contiguous_successor, pointwise_before};

/// Replaces each attention block by one operator.
pub(super) fn fuse(model: &mut TypedModel) -> TractResult<()> {
    let nodes = model.nodes().iter();
    let found: Vec<Block> = nodes.filter_map(|node| find(model, node)).collect();
    for found in found {
        let mut patch = TypedModelPatch::default();
        let inputs = patch.taps(model, &found.inputs)?;
        let name = if found.attention.stages == AttentionStages::default() {
            "Attention"
        } else {
            "FakeQuantizedAttention"
        };
        let operator = typed(name, found.attention);
        let outputs = patch.wire_node(found.name, operator, &inputs)?;
        patch.shunt_outside(model, found.output, outputs[0])?;
        patch.apply(model)?;
    }
    // Removes nodes that nothing reads any more.
    model.compact()
}

/// A block, with the inputs and the output of its operator.
struct Block {
    name: String,
    attention: Attention,
    inputs: [OutletId; 3],
    output: OutletId,
}

/// The block whose second product is `node`.
fn find(model: &TypedModel, node: &TypedNode) -> Option<Block> {
    let product = Product::of(model, node)?;
    // Which operand is the softmax.
    let weights_of = |w: usize| {
        let (outlet, steps) = pointwise_before(model, node.inputs[w]);
        let before = model.node(outlet.node);
        let softmax = before.op_as::<Softmax>()?;
        let standard = softmax.kind == SoftmaxKind::Softmax && softmax.quant_output_dt.is_none();
        let keys = product.depth[w];
        (standard && *softmax.axes == [keys]).then(|| (w, before.inputs[0], steps))
    };
    let (w, scores, weights) = weights_of(0).or_else(|| weights_of(1))?;
    let (scores, scores_steps) = pointwise_before(model, scores);
    let scores = model.node(scores.node);
    let scored = Product::of(model, scores)?;
    // Which operand is the keys: the one whose rows are the softmax axis.
    let k = (0..2).find(|&i| scored.side[i].1 == product.depth[w])?;
    let q = 1 - k;
    // The third axis must be that of the heads in both products.
    if scored.side[q].1 != product.side[w].0 {
        return None;
    }
    let v = 1 - w;
    let queries = Operand::of(model, scores.inputs[q])?;
    let keys = Operand::of(model, scores.inputs[k])?;
    let values = Operand::of(model, node.inputs[v])?;
    let query = Heads::of(&queries, scored.heads[q], scored.side[q].0, scored.depth[q])?;
    let key = Heads::of(&keys, scored.heads[k], scored.side[k].0, scored.depth[k])?;
    let value = Heads::of(
        &values,
        product.heads[v],
        product.depth[v],
        product.side[v].0,
    )?;
    let (count, width) = (query.heads, query.width);
    if [&key, &value]
        .iter()
        .any(|o| (o.heads, o.width) != (count, width))
        || key.rows != value.rows
    {
        return None;
    }

    // The positions of the second product's values in [queries, heads, width].
    let rank = model.outlet_fact(node.id.into()).ok()?.rank();
    let mut axes = vec![Axis { len: 1, stride: 0 }; rank];
    let all = count.checked_mul(width)?;
    for (at, len, stride) in [
        (product.side[w].1, query.rows, all),
        (product.heads[2], count, width),
        (product.side[v].1, width, 1),
    ] {
        axes[at] = Axis { len, stride };
    }
    let (output, out) = contiguous_successor(model, node.id.into(), View { axes, offset: 0 })?;
    let shape = model.outlet_fact(output).ok()?.shape.as_concrete()?.into();

    let inputs = [queries.base, keys.base, values.base];
    let mut stages = AttentionStages {
        q: queries.steps,
        k: keys.steps,
        v: values.steps,
        scores: scores_steps,
        weights,
        out,
    };
    let scale = take_scale(&mut stages);
    Some(Block {
        name: node.name.clone(),
        attention: Attention {
            q: query,
            k: key,
            v: value,
            scale,
            stages,
            shape,
        },
        inputs,
        output,
    })
}

/// If all stages are factors before the softmax, clears them and returns their product; otherwise 1.
fn take_scale(stages: &mut AttentionStages) -> f32 {
    let before = [&stages.q, &stages.k, &stages.scores];
    let factors: Option<Vec<f32>> = before
        .into_iter()
        .flatten()
        .map(|step| match step {
            Pointwise::Scale(factor) => Some(*factor),
            _ => None,
        })
        .collect();
    let after = [&stages.v, &stages.weights, &stages.out];
    match factors {
        Some(factors) if after.iter().all(|s| s.is_empty()) => {
            *stages = AttentionStages::default();
            factors.into_iter().product()
        }
        _ => 1.0,
    }
}

/// The axes of a matrix product per head, in its operands and its output.
struct Product {
    /// In both operands and the output.
    heads: [usize; 3],
    /// The axis that is summed over, in both operands.
    depth: [usize; 2],
    /// The axis that only one operand has: in that operand, and in the output.
    side: [(usize, usize); 2],
}

impl Product {
    /// `None` if there is another axis, except of length 1.
    fn of(model: &TypedModel, node: &TypedNode) -> Option<Self> {
        let product = node.op_as::<EinSum>()?;
        let [a, b] = *node.inputs else {
            return None;
        };
        if product.q_params.is_some() || product.operating_dt != f32::datum_type() {
            return None;
        }
        let shape = |outlet: OutletId| {
            let fact = model.outlet_fact(outlet).ok()?;
            let float = fact.datum_type == f32::datum_type();
            fact.shape.as_concrete().filter(|_| float)
        };
        let shapes = [shape(a)?, shape(b)?, shape(node.id.into())?];
        let (mut heads, mut depth, mut side) = (None, None, [None; 2]);
        for axis in product.axes.iter_all_axes() {
            let mut at = [None; 3];
            let mut lengths = vec![];
            let places = [&axis.inputs[0], &axis.inputs[1], &axis.outputs[0]];
            for ((at, place), shape) in at.iter_mut().zip(places).zip(shapes) {
                match **place {
                    [] => {}
                    [place] => {
                        *at = Some(place);
                        lengths.push(*shape.get(place)?);
                    }
                    _ => return None,
                }
            }
            if lengths.iter().all(|&len| len == 1) {
                continue;
            }
            if lengths.iter().any(|&len| len != lengths[0]) {
                return None;
            }
            let repeated = match at {
                [Some(a), Some(b), Some(out)] => heads.replace([a, b, out]).is_some(),
                [Some(a), Some(b), None] => depth.replace([a, b]).is_some(),
                [Some(a), None, Some(out)] => side[0].replace((a, out)).is_some(),
                [None, Some(b), Some(out)] => side[1].replace((b, out)).is_some(),
                _ => true,
            };
            if repeated {
                return None;
            }
        }
        Some(Product {
            heads: heads?,
            depth: depth?,
            side: [side[0]?, side[1]?],
        })
    }
}

/// The rows of an operand, with adjacent heads.
#[derive(Debug)]
struct Heads {
    /// Number of values of the whole tensor.
    len: usize,
    offset: usize,
    stride: usize,
    rows: usize,
    heads: usize,
    width: usize,
}

impl Heads {
    /// The rows of an operand with these axes; `None` if the heads are not adjacent.
    fn of(operand: &Operand, heads: usize, rows: usize, width: usize) -> Option<Self> {
        let axis = |i: usize| operand.view.axes.get(i).copied();
        let (heads, rows, width) = (axis(heads)?, axis(rows)?, axis(width)?);
        (width.stride == 1 && heads.stride == width.len).then_some(Heads {
            len: operand.len,
            offset: operand.view.offset,
            stride: rows.stride,
            rows: rows.len,
            heads: heads.len,
            width: width.len,
        })
    }

    fn rows<'a>(&self, data: &'a [f32]) -> StridedRows<'a> {
        StridedRows {
            data: &data[self.offset..],
            stride: self.stride,
        }
    }
}

/// Attention over one image. The inputs contain the queries, keys and values, and may be the same tensor.
#[derive(Debug)]
struct Attention {
    q: Heads,
    k: Heads,
    v: Heads,
    /// Scale of the scores, if there are no stages.
    scale: f32,
    stages: AttentionStages,
    /// Output shape.
    shape: TVec<usize>,
}

impl Compute for Attention {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        for (heads, shape) in [&self.q, &self.k, &self.v].into_iter().zip(inputs) {
            ensure!(
                shape.iter().product::<usize>() == heads.len,
                "expected {} values, found {shape:?}",
                heads.len
            );
        }
        Ok(self.shape.clone())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let (q, k, v) = (&self.q, &self.k, &self.v);
        let queries = q.rows(floats(&inputs[0])?);
        let keys = k.rows(floats(&inputs[1])?);
        let values = v.rows(floats(&inputs[2])?);
        let (tq, tk, heads, width) = (q.rows, k.rows, q.heads, q.width);
        if self.stages == AttentionStages::default() {
            let scale = self.scale;
            kernels::attention(
                queries, tq, keys, values, tk, heads, width, false, scale, output,
            );
        } else {
            let stages = &self.stages;
            kernels::staged_attention(queries, tq, keys, values, tk, heads, width, stages, output);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5 tokens, 2 heads of `width` values with stride 16.
    fn operand(width: usize) -> Operand {
        let axis = |len, stride| Axis { len, stride };
        Operand {
            base: OutletId::new(0, 0),
            len: 5 * 96,
            view: View {
                axes: vec![axis(1, 0), axis(2, 16), axis(5, 96), axis(width, 1)],
                offset: 32,
            },
            steps: vec![],
        }
    }

    #[test]
    fn only_adjacent_heads_are_accepted() {
        let heads = Heads::of(&operand(16), 1, 2, 3).unwrap();
        let found = (
            heads.offset,
            heads.stride,
            heads.rows,
            heads.heads,
            heads.width,
        );
        assert_eq!(found, (32, 96, 5, 2, 16));
        // A gap between two heads, and a head whose values are not adjacent.
        assert!(Heads::of(&operand(8), 1, 2, 3).is_none());
        let mut apart = operand(16);
        apart.view.axes[3].stride = 6;
        assert!(Heads::of(&apart, 1, 2, 3).is_none());
    }

    /// Attention in tract's operators, or something similar.
    #[derive(Clone, Copy)]
    struct TestBlock {
        /// Shapes of q, k and v.
        shapes: [&'static [usize]; 3],
        scores: &'static str,
        /// Whether k is the first operand of the scores, and v of the sum.
        swapped: bool,
        softmax: SoftmaxKind,
        axis: usize,
        sum: &'static str,
    }

    /// Two heads of 4 values, 5 queries, 3 keys.
    const BLOCK: TestBlock = TestBlock {
        shapes: [&[5, 2, 4], &[3, 2, 4], &[3, 2, 4]],
        scores: "qhd,khd->hqk",
        swapped: false,
        softmax: SoftmaxKind::Softmax,
        axis: 2,
        sum: "hqk,khd->qhd",
    };

    impl TestBlock {
        fn model(&self) -> TractResult<TypedModel> {
            let mut model = TypedModel::default();
            let mut inputs = vec![];
            for (name, shape) in ["q", "k", "v"].into_iter().zip(self.shapes) {
                inputs.push(model.add_source(name, f32::fact(shape))?);
            }
            let order = |a, b| if self.swapped { [b, a] } else { [a, b] };
            let product =
                |axes: &str| TractResult::Ok(EinSum::new(axes.parse()?, f32::datum_type()));
            let [q, k, v] = inputs[..] else {
                bail!("inputs")
            };
            let scores = model.wire_node("scores", product(self.scores)?, &order(q, k))?;
            let softmax = Softmax {
                axes: tvec![self.axis],
                quant_output_dt: None,
                kind: self.softmax,
            };
            let weights = model.wire_node("weights", softmax, &scores)?;
            let sum = model.wire_node("sum", product(self.sum)?, &order(weights[0], v))?;
            model.select_output_outlets(&sum)?;
            Ok(model)
        }

        /// The output for fixed inputs.
        fn run(&self, model: TypedModel) -> TractResult<Vec<f32>> {
            let values = |(i, shape): (usize, &&[usize])| {
                let count = shape.iter().product::<usize>();
                let values = (0..count).map(|j| ((i + 1) * (j + 3) * 37 % 29) as f32 / 10.0 - 1.4);
                TractResult::Ok(Tensor::from_shape(shape, &values.collect::<Vec<f32>>())?.into())
            };
            let inputs = self.shapes.iter().enumerate().map(values);
            let inputs = inputs.collect::<TractResult<TVec<TValue>>>()?;
            let output = model.into_runnable()?.run(inputs)?;
            Ok(output[0].try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
        }

        /// Whether it is fused. Asserts that the output stays the same.
        #[track_caller]
        fn is_fused(&self) -> bool {
            let model = self.model().unwrap();
            let expected = self.run(model.clone()).unwrap();
            let mut fused = model;
            fuse(&mut fused).unwrap();
            let single = fused.nodes().iter().any(|n| n.op.name() == "Attention");
            let found = self.run(fused).unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{found}, {expected}");
            }
            single
        }
    }

    #[test]
    fn attention_is_found_in_either_order() {
        assert!(BLOCK.is_fused());
        let swapped = TestBlock {
            scores: "khd,qhd->hqk",
            swapped: true,
            sum: "khd,hqk->qhd",
            ..BLOCK
        };
        assert!(swapped.is_fused());
        let of_one_image = TestBlock {
            shapes: [&[1, 5, 2, 4], &[1, 3, 2, 4], &[1, 3, 2, 4]],
            scores: "bqhd,bkhd->bhqk",
            axis: 3,
            sum: "bhqk,bkhd->bqhd",
            ..BLOCK
        };
        assert!(of_one_image.is_fused());
        // Scores with another order of axes.
        let turned = TestBlock {
            scores: "qhd,khd->khq",
            axis: 0,
            sum: "khq,khd->qhd",
            ..BLOCK
        };
        assert!(turned.is_fused());
    }

    #[test]
    fn similar_blocks_are_not_fused() {
        let cubes: [&[usize]; 3] = [&[2, 2, 2]; 3];
        for (difference, block) in [
            ("softmax over the queries", TestBlock { axis: 1, ..BLOCK }),
            (
                "logarithms",
                TestBlock {
                    softmax: SoftmaxKind::LogSoftmax,
                    ..BLOCK
                },
            ),
            (
                "wider values",
                TestBlock {
                    shapes: [&[5, 2, 4], &[3, 2, 4], &[3, 2, 8]],
                    ..BLOCK
                },
            ),
            (
                "heads after one another",
                TestBlock {
                    shapes: [&[2, 5, 4], &[2, 3, 4], &[2, 3, 4]],
                    scores: "hqd,hkd->hqk",
                    sum: "hqk,hkd->qhd",
                    ..BLOCK
                },
            ),
            (
                "an output of heads after one another",
                TestBlock {
                    sum: "hqk,khd->hqd",
                    ..BLOCK
                },
            ),
            (
                "queries for heads",
                TestBlock {
                    shapes: cubes,
                    sum: "qhk,khd->qhd",
                    ..BLOCK
                },
            ),
            (
                "a sum over the queries",
                TestBlock {
                    shapes: cubes,
                    sum: "hkq,khd->qhd",
                    ..BLOCK
                },
            ),
            (
                "two images",
                TestBlock {
                    shapes: [&[2, 5, 2, 4], &[2, 3, 2, 4], &[2, 3, 2, 4]],
                    scores: "bqhd,bkhd->bhqk",
                    axis: 3,
                    sum: "bhqk,bkhd->bqhd",
                    ..BLOCK
                },
            ),
            (
                "one head of keys for all",
                TestBlock {
                    shapes: [&[5, 2, 4], &[3, 1, 4], &[3, 2, 4]],
                    ..BLOCK
                },
            ),
            (
                "values that all heads share",
                TestBlock {
                    shapes: [&[5, 2, 4], &[3, 2, 4], &[3, 4, 1]],
                    sum: "hqk,kdx->qhd",
                    ..BLOCK
                },
            ),
        ] {
            assert!(!block.is_fused(), "{difference}");
        }
    }

    /// Any quantisation keeps all factors in their places.
    #[test]
    fn factors_become_the_scale() {
        let factors = AttentionStages {
            q: vec![Pointwise::Scale(0.5)],
            k: vec![Pointwise::Scale(0.25)],
            scores: vec![Pointwise::Scale(3.0)],
            ..Default::default()
        };
        let mut stages = factors.clone();
        assert_eq!(take_scale(&mut stages), 0.375);
        assert_eq!(stages, AttentionStages::default());
        let quantized = AttentionStages {
            out: vec![Pointwise::FakeQuantize(kernels::Affine {
                scale: 1.0,
                zero_point: 0,
            })],
            ..factors
        };
        let mut stages = quantized.clone();
        assert_eq!(take_scale(&mut stages), 1.0);
        assert_eq!(stages, quantized);
    }
}
