//! Traces the values of a tensor back through operators of tract that only move values or are pointwise.

use pinhole_kernels::Pointwise;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::array::{Gather, Slice};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::math::Mul;
use tract_onnx::tract_hir::internal::*;

use super::operators::operator;

/// An operand of a product: a view of `base`, and the pointwise functions applied to it.
pub(super) struct Operand {
    pub(super) base: OutletId,
    /// Number of values of `base`.
    pub(super) len: usize,
    pub(super) view: View,
    pub(super) steps: Vec<Pointwise>,
}

impl Operand {
    pub(super) fn of(model: &TypedModel, outlet: OutletId) -> Option<Self> {
        let (mut base, mut path) = (outlet, vec![]);
        while path.len() < MAX_PATH
            && let Some((from, motion)) = Motion::of(model, model.node(base.node))
        {
            base = from;
            path.push(motion);
        }
        let fact = model.outlet_fact(base).ok()?;
        if fact.datum_type != f32::datum_type() {
            return None;
        }
        let (mut view, len) = View::of(fact.shape.as_concrete()?)?;
        let mut steps = vec![];
        for motion in path.into_iter().rev() {
            match motion {
                Motion::Axes(op) => view.apply(op)?,
                Motion::Slice { axis, start, len } => view.slice(axis, start, len)?,
                Motion::Index { axis, at } => {
                    view.slice(axis, at, 1)?;
                    view.axes.remove(axis);
                }
                Motion::Pointwise(step) => steps.push(step),
            }
        }
        Some(Operand {
            base,
            len,
            view,
            steps,
        })
    }
}

/// The last value after `outlet` in which `view` is contiguous in row-major order, and the pointwise functions up to it.
pub(super) fn contiguous_successor(
    model: &TypedModel,
    mut outlet: OutletId,
    mut view: View,
) -> Option<(OutletId, Vec<Pointwise>)> {
    let mut steps = vec![];
    let mut last = None;
    loop {
        if view.is_contiguous() {
            last = Some(outlet);
        } else if last.is_some() {
            break;
        }
        let [next] = *model.outlet_successors(outlet) else {
            break;
        };
        if model.output_outlets().ok()?.contains(&outlet) {
            break;
        }
        let next = model.node(next.node);
        match Motion::of(model, next) {
            Some((_, Motion::Axes(op))) if view.apply(op).is_some() => {}
            Some((_, Motion::Pointwise(step))) if last.is_none() => steps.push(step),
            _ => break,
        }
        outlet = next.id.into();
    }
    Some((last?, steps))
}

/// Most operators between a projection and a product; more than any export has.
const MAX_PATH: usize = 64;

/// An operator that only moves values, or is pointwise.
enum Motion<'a> {
    Axes(&'a AxisOp),
    Slice {
        axis: usize,
        start: usize,
        len: usize,
    },
    /// One index of an axis, which is removed.
    Index {
        axis: usize,
        at: usize,
    },
    Pointwise(Pointwise),
}

impl<'a> Motion<'a> {
    /// Returns the input too.
    fn of(model: &TypedModel, node: &'a TypedNode) -> Option<(OutletId, Self)> {
        let motion = if let Some(op) = node.op_as::<AxisOp>() {
            Motion::Axes(op)
        } else if let Some(op) = node.op_as::<Slice>() {
            let (start, end) = (op.start.to_usize().ok()?, op.end.to_usize().ok()?);
            Motion::Slice {
                axis: op.axis,
                start,
                len: end.checked_sub(start)?,
            }
        } else if let Some(op) = node.op_as::<Gather>() {
            let indices = &model.outlet_fact(*node.inputs.get(1)?).ok()?.konst;
            let index = indices.as_ref().filter(|i| i.rank() == 0)?;
            let index = index.cast_to_scalar::<i64>().ok()?;
            let shape = &model.outlet_fact(node.inputs[0]).ok()?.shape;
            let len = *shape.as_concrete()?.get(op.axis)?;
            let at = if index < 0 { index + len as i64 } else { index };
            Motion::Index {
                axis: op.axis,
                at: usize::try_from(at).ok()?,
            }
        } else if let Some(step) = operator::pointwise(node.op.as_ref()) {
            Motion::Pointwise(step)
        } else {
            let (x, factor) = scale(model, node)?;
            return Some((x, Motion::Pointwise(Pointwise::Scale(factor))));
        };
        Some((*node.inputs.first()?, motion))
    }
}

/// A value times a scalar constant: the value and the constant.
fn scale(model: &TypedModel, node: &TypedNode) -> Option<(OutletId, f32)> {
    let TypedBinOp(op, None) = node.op_as::<TypedBinOp>()? else {
        return None;
    };
    let [a, b] = *node.inputs else {
        return None;
    };
    if !op.is::<Mul>() {
        return None;
    }
    let shape = &model.outlet_fact(node.id.into()).ok()?.shape;
    [(a, b), (b, a)].into_iter().find_map(|(x, factor)| {
        let factor = model.outlet_fact(factor).ok()?.konst.as_ref()?;
        let &[factor] = factor.try_as_plain_ram().ok()?.as_slice::<f32>().ok()? else {
            return None;
        };
        let same = model.outlet_fact(x).ok()?.shape == *shape;
        (same && factor.is_finite()).then_some((x, factor))
    })
}

/// The chain of pointwise functions that ends in `outlet`, and its input.
pub(super) fn pointwise_before(
    model: &TypedModel,
    mut outlet: OutletId,
) -> (OutletId, Vec<Pointwise>) {
    let mut steps = vec![];
    while let Some((from, Motion::Pointwise(step))) =
        Motion::of(model, model.node(outlet.node)).filter(|_| steps.len() < MAX_PATH)
    {
        outlet = from;
        steps.push(step);
    }
    steps.reverse();
    (outlet, steps)
}

/// Length and stride of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) len: usize,
    pub(super) stride: usize,
}

/// The positions of the values of a tensor in another tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub(super) axes: Vec<Axis>,
    pub(super) offset: usize,
}

impl View {
    /// A whole tensor, and its number of values.
    pub(super) fn of(shape: &[usize]) -> Option<(Self, usize)> {
        let (axes, len) = row_major(shape, 1)?;
        Some((View { axes, offset: 0 }, len))
    }

    /// `None` if the result is not a view.
    fn apply(&mut self, op: &AxisOp) -> Option<()> {
        match op {
            AxisOp::Add(at) if *at <= self.axes.len() => {
                self.axes.insert(*at, Axis { len: 1, stride: 0 });
            }
            AxisOp::Rm(at) if self.axes.get(*at)?.len == 1 => {
                self.axes.remove(*at);
            }
            AxisOp::Move(from, to) if (*from).max(*to) < self.axes.len() => {
                let axis = self.axes.remove(*from);
                self.axes.insert(*to, axis);
            }
            AxisOp::Reshape(at, from, to) => {
                let end = at.checked_add(from.len())?;
                let old = self.axes.get(*at..end)?;
                let axes: Vec<&Axis> = old.iter().filter(|axis| axis.len != 1).collect();
                let uniform = (axes.windows(2))
                    .all(|pair| Some(pair[0].stride) == pair[1].stride.checked_mul(pair[1].len));
                let stride = axes.last().map_or(1, |axis| axis.stride);
                let to: Vec<usize> = to
                    .iter()
                    .map(|d| d.to_usize().ok())
                    .collect::<Option<_>>()?;
                let (new, len) = row_major(&to, stride)?;
                let count = old.iter().map(|axis| axis.len).product::<usize>();
                if !uniform || count.checked_mul(stride)? != len {
                    return None;
                }
                self.axes.splice(*at..end, new);
            }
            _ => return None,
        }
        Some(())
    }

    fn slice(&mut self, axis: usize, start: usize, len: usize) -> Option<()> {
        let axis = self.axes.get_mut(axis)?;
        if start.checked_add(len)? > axis.len || len == 0 {
            return None;
        }
        self.offset += start * axis.stride;
        axis.len = len;
        Some(())
    }

    /// Whether the values are contiguous in row-major order.
    fn is_contiguous(&self) -> bool {
        let mut next = 1;
        self.offset == 0
            && self.axes.iter().rev().filter(|a| a.len != 1).all(|axis| {
                let matches = axis.stride == next;
                next = next.saturating_mul(axis.len);
                matches
            })
    }
}

/// Row-major axes for a shape whose last axis has stride `stride`, and the stride of the whole.
fn row_major(shape: &[usize], stride: usize) -> Option<(Vec<Axis>, usize)> {
    let mut all = stride;
    let mut axes = vec![];
    for &len in shape.iter().rev() {
        axes.push(Axis { len, stride: all });
        all = all.checked_mul(len)?;
    }
    axes.reverse();
    Some((axes, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reshape(at: usize, from: &[usize], to: &[usize]) -> AxisOp {
        let dims = |shape: &[usize]| shape.iter().map(|&d| d.to_dim()).collect();
        AxisOp::Reshape(at, dims(from), dims(to))
    }

    fn strides(view: &View) -> Vec<(usize, usize)> {
        view.axes.iter().map(|a| (a.len, a.stride)).collect()
    }

    /// A joint projection of 5 tokens to the keys of 2 heads of 4, transposed.
    #[test]
    fn a_view_tracks_its_values() {
        let (mut view, len) = View::of(&[5, 24]).unwrap();
        assert_eq!(len, 120);
        for op in [
            reshape(1, &[24], &[3, 8]),
            AxisOp::Move(1, 0),
            reshape(2, &[8], &[1, 2, 4]),
        ] {
            view.apply(&op).unwrap();
        }
        view.slice(0, 1, 1).unwrap();
        for op in [AxisOp::Rm(0), AxisOp::Move(0, 3), AxisOp::Add(0)] {
            view.apply(&op).unwrap();
        }
        assert_eq!(strides(&view), [(1, 0), (1, 8), (2, 4), (4, 1), (5, 24)]);
        assert_eq!(view.offset, 8);
        assert!(!view.is_contiguous());
    }

    #[test]
    fn results_that_are_not_views_are_rejected() {
        let (mut view, _) = View::of(&[5, 24]).unwrap();
        view.apply(&AxisOp::Move(0, 1)).unwrap();
        // Would have to copy the values.
        assert_eq!(view.apply(&reshape(0, &[24, 5], &[120])), None);
        assert_eq!(view.apply(&AxisOp::Rm(0)), None);
        assert_eq!(view.apply(&AxisOp::Add(3)), None);
        assert_eq!(view.apply(&AxisOp::Move(0, 2)), None);
        assert_eq!(view.apply(&reshape(0, &[24], &[5, 5])), None);
        assert_eq!(view.apply(&reshape(1, &[5, 1], &[5])), None);
        assert_eq!(view.slice(0, 20, 5), None);
        view.slice(1, 1, 4).unwrap();
        assert_eq!((view.offset, view.axes[1].len), (24, 4));
    }
}
