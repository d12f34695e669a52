//! Attention as other programs write it, some thirty operators, becomes one of ours.
//!
//! It is looked for in tract's graph once all shapes and constants are known, which exports compute on the way.
//! Each operand is followed back through what only moves values to the tensor that its values come from, as a view
//! of it: by which way they came does not matter, and nothing is copied. Quantisers and factors on the way are
//! kept in their order. A block is replaced only if its views are those of heads side by side; all else stays
//! tract's.

use pinhole_kernels::{self as kernels, AttentionStages, Pointwise, StridedRows};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::nn::{Softmax, SoftmaxKind};
use tract_onnx::tract_hir::internal::*;

use super::operators::{self, Compute, plain};
use super::view::{Axis, Operand, View, in_order, pointwise_before};

/// Puts one operator in the place of each attention block.
pub(super) fn fuse(model: &mut TypedModel) -> TractResult<()> {
    let nodes = model.nodes().iter();
    let found: Vec<Found> = nodes.filter_map(|node| find(model, node)).collect();
    for found in found {
        let mut patch = TypedModelPatch::default();
        let inputs = patch.taps(model, &found.inputs)?;
        let name = match found.attention.stages == AttentionStages::default() {
            true => "Attention",
            false => "FakeQuantizedAttention",
        };
        let operator = operators::typed(name, found.attention);
        let outputs = patch.wire_node(found.name, operator, &inputs)?;
        patch.shunt_outside(model, found.output, outputs[0])?;
        patch.apply(model)?;
    }
    // Without what nobody reads any more.
    model.compact()
}

/// A block: what it reads, and the value that its operator makes.
struct Found {
    name: String,
    attention: Attention,
    inputs: [OutletId; 3],
    output: OutletId,
}

/// The block whose second product is `node`.
fn find(model: &TypedModel, node: &TypedNode) -> Option<Found> {
    let product = Product::of(model, node)?;
    // Which operand softmax made.
    let weights_of = |w: usize| {
        let (outlet, steps) = pointwise_before(model, node.inputs[w]);
        let before = model.node(outlet.node);
        let softmax = before.op_as::<Softmax>()?;
        let plain = softmax.kind == SoftmaxKind::Softmax && softmax.quant_output_dt.is_none();
        let keys = product.depth[w];
        (plain && *softmax.axes == [keys]).then(|| (w, before.inputs[0], steps))
    };
    let (w, scores, weights) = weights_of(0).or_else(|| weights_of(1))?;
    let (scores, scores_steps) = pointwise_before(model, scores);
    let scores = model.node(scores.node);
    let scored = Product::of(model, scores)?;
    // Which operand the keys are: the one whose rows softmax goes over.
    let k = (0..2).find(|&i| scored.side[i].1 == product.depth[w])?;
    let q = 1 - k;
    // Then the third axis is that of the heads in both.
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

    // Where in [queries, heads, width] the second product's values belong.
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
    let (output, out) = in_order(model, node.id.into(), View { axes, offset: 0 })?;
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
    let scale = only_scale(&mut stages);
    Some(Found {
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

/// If nothing but factors stand on the way to softmax and nothing else elsewhere: their product, the stages left
/// empty.
fn only_scale(stages: &mut AttentionStages) -> f32 {
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

/// The axes of a product of matrices for each head: where they are in its operands, and in its output.
struct Product {
    /// In both operands and the output.
    heads: [usize; 3],
    /// What is summed over, in both operands.
    depth: [usize; 2],
    /// The axis of one operand alone: in it, and in the output.
    side: [(usize, usize); 2],
}

impl Product {
    /// None if there is any other axis than of length 1.
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
            let twice = match at {
                [Some(a), Some(b), Some(out)] => heads.replace([a, b, out]).is_some(),
                [Some(a), Some(b), None] => depth.replace([a, b]).is_some(),
                [Some(a), None, Some(out)] => side[0].replace((a, out)).is_some(),
                [None, Some(b), Some(out)] => side[1].replace((b, out)).is_some(),
                _ => true,
            };
            if twice {
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

/// An operand's rows of heads side by side.
#[derive(Debug)]
struct Heads {
    /// Values of the tensor that they are part of.
    len: usize,
    offset: usize,
    stride: usize,
    rows: usize,
    heads: usize,
    width: usize,
}

impl Heads {
    /// Those of an operand by its axes, if they lie so.
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

/// Of one image; its inputs hold the queries, the keys and the values, and may be one.
#[derive(Debug)]
struct Attention {
    q: Heads,
    k: Heads,
    v: Heads,
    /// Of the scores, where there are no stages.
    scale: f32,
    stages: AttentionStages,
    /// The output's.
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
        let queries = q.rows(plain(&inputs[0])?);
        let keys = k.rows(plain(&inputs[1])?);
        let values = v.rows(plain(&inputs[2])?);
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

    /// Heads of `width` of 16 values, 16 apart, of 5 tokens.
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
    fn only_heads_side_by_side_are_rows() {
        let heads = Heads::of(&operand(16), 1, 2, 3).unwrap();
        let found = (
            heads.offset,
            heads.stride,
            heads.rows,
            heads.heads,
            heads.width,
        );
        assert_eq!(found, (32, 96, 5, 2, 16));
        // With a gap between two heads, and with a head's values apart.
        assert!(Heads::of(&operand(8), 1, 2, 3).is_none());
        let mut apart = operand(16);
        apart.view.axes[3].stride = 6;
        assert!(Heads::of(&apart, 1, 2, 3).is_none());
    }

    /// What attention is made of in tract, or something like it.
    #[derive(Clone, Copy)]
    struct Block {
        /// Of q, k and v.
        shapes: [&'static [usize]; 3],
        scores: &'static str,
        /// Whether the scores' first operand is k, and the sum's v.
        swapped: bool,
        softmax: SoftmaxKind,
        axis: usize,
        sum: &'static str,
    }

    /// Two heads of 4 values, 5 queries, 3 keys.
    const BLOCK: Block = Block {
        shapes: [&[5, 2, 4], &[3, 2, 4], &[3, 2, 4]],
        scores: "qhd,khd->hqk",
        swapped: false,
        softmax: SoftmaxKind::Softmax,
        axis: 2,
        sum: "hqk,khd->qhd",
    };

    impl Block {
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

        /// What it computes.
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

        /// Whether it becomes one operator. It computes the same, whatever becomes of it.
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
        let swapped = Block {
            scores: "khd,qhd->hqk",
            swapped: true,
            sum: "khd,hqk->qhd",
            ..BLOCK
        };
        assert!(swapped.is_fused());
        let of_one_image = Block {
            shapes: [&[1, 5, 2, 4], &[1, 3, 2, 4], &[1, 3, 2, 4]],
            scores: "bqhd,bkhd->bhqk",
            axis: 3,
            sum: "bhqk,bkhd->bqhd",
            ..BLOCK
        };
        assert!(of_one_image.is_fused());
        // The scores in another order of their axes.
        let turned = Block {
            scores: "qhd,khd->khq",
            axis: 0,
            sum: "khq,khd->qhd",
            ..BLOCK
        };
        assert!(turned.is_fused());
    }

    #[test]
    fn what_resembles_attention_stays() {
        let cubes: [&[usize]; 3] = [&[2, 2, 2]; 3];
        for (what, block) in [
            ("softmax over the queries", Block { axis: 1, ..BLOCK }),
            (
                "logarithms",
                Block {
                    softmax: SoftmaxKind::LogSoftmax,
                    ..BLOCK
                },
            ),
            (
                "wider values",
                Block {
                    shapes: [&[5, 2, 4], &[3, 2, 4], &[3, 2, 8]],
                    ..BLOCK
                },
            ),
            (
                "heads after one another",
                Block {
                    shapes: [&[2, 5, 4], &[2, 3, 4], &[2, 3, 4]],
                    scores: "hqd,hkd->hqk",
                    sum: "hqk,hkd->qhd",
                    ..BLOCK
                },
            ),
            (
                "an output of heads after one another",
                Block {
                    sum: "hqk,khd->hqd",
                    ..BLOCK
                },
            ),
            (
                "queries for heads",
                Block {
                    shapes: cubes,
                    sum: "qhk,khd->qhd",
                    ..BLOCK
                },
            ),
            (
                "a sum over the queries",
                Block {
                    shapes: cubes,
                    sum: "hkq,khd->qhd",
                    ..BLOCK
                },
            ),
            (
                "two images",
                Block {
                    shapes: [&[2, 5, 2, 4], &[2, 3, 2, 4], &[2, 3, 2, 4]],
                    scores: "bqhd,bkhd->bhqk",
                    axis: 3,
                    sum: "bhqk,bkhd->bqhd",
                    ..BLOCK
                },
            ),
            (
                "one head of keys for all",
                Block {
                    shapes: [&[5, 2, 4], &[3, 1, 4], &[3, 2, 4]],
                    ..BLOCK
                },
            ),
            (
                "values that all heads share",
                Block {
                    shapes: [&[5, 2, 4], &[3, 2, 4], &[3, 4, 1]],
                    sum: "hqk,kdx->qhd",
                    ..BLOCK
                },
            ),
        ] {
            assert!(!block.is_fused(), "{what}");
        }
    }

    /// A quantiser anywhere keeps every factor where it is.
    #[test]
    fn factors_alone_become_the_scale() {
        let factors = AttentionStages {
            q: vec![Pointwise::Scale(0.5)],
            k: vec![Pointwise::Scale(0.25)],
            scores: vec![Pointwise::Scale(3.0)],
            ..Default::default()
        };
        let mut stages = factors.clone();
        assert_eq!(only_scale(&mut stages), 0.375);
        assert_eq!(stages, AttentionStages::default());
        let quantized = AttentionStages {
            out: vec![Pointwise::FakeQuantize(kernels::Affine {
                scale: 1.0,
                zero_point: 0,
            })],
            ..factors
        };
        let mut stages = quantized.clone();
        assert_eq!(only_scale(&mut stages), 1.0);
        assert_eq!(stages, quantized);
    }
}
