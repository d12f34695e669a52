//! Operators that only move values, or compute each from the one at the same place.

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{Op, Range};
use tract_onnx::pb::{AttributeProto, NodeProto};

use super::views::View;
use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{
    AffineParams, InputQuantization, axis, both_orders, float_tensor, new_node,
};
use crate::graph::functions::op_of;

/// A function of each value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Multiplication by a constant.
    Scale(f32),
    /// [`Op::FakeQuantize`].
    Quantize(AffineParams),
    /// [`Op::QuantizedTable`], of 256 values.
    Table(AffineParams, Vec<f32>),
}

impl Step {
    /// The quantisation or table `self` as a function of `input`.
    pub(super) fn node(&self, input: &str, output: &str) -> Option<NodeProto> {
        let function = |op: Op, affine: AffineParams, more: Option<AttributeProto>| {
            let mut attribute = InputQuantization::Static(affine).parameters();
            attribute.extend(more);
            Some(new_node(op, &[input], output, attribute))
        };
        match self {
            Step::Scale(_) => None,
            Step::Quantize(affine) => function(Op::FakeQuantize(Range::Static), *affine, None),
            Step::Table(affine, values) => {
                let values = attributes::of_tensor("values", float_tensor("", &[256], values));
                function(Op::QuantizedTable, *affine, Some(values))
            }
        }
    }

    /// The result for one value, equal to the kernels'.
    pub(super) fn apply(&self, value: f32) -> f32 {
        match self {
            Step::Scale(factor) => value * factor,
            Step::Quantize(affine) => steps_from_zero(value, *affine) * affine.scale,
            Step::Table(affine, values) => {
                let step = steps_from_zero(value, *affine) + f32::from(affine.zero_point);
                values[(step + 128.0) as usize]
            }
        }
    }
}

/// The quantised value, less the zero point.
fn steps_from_zero(value: f32, affine: AffineParams) -> f32 {
    let zero = f32::from(affine.zero_point);
    (value / affine.scale)
        .clamp(-128.0 - zero, 127.0 - zero)
        .round_ties_even()
}

/// What a node does with the values of its input.
pub(super) enum Motion<'a> {
    Transpose(&'a [i64]),
    Reshape(&'a [usize]),
    /// `len` indices of each axis from `start` on.
    Slice(Vec<AxisRange>),
    /// One index of an axis, which is removed.
    Index(AxisRange),
    Step(Step),
}

/// A part of an axis.
pub(super) struct AxisRange {
    axis: usize,
    start: usize,
    len: usize,
}

impl Motion<'_> {
    /// The view after the motion; `None` if the result is not a view.
    pub(super) fn apply(&self, view: &mut View) -> Option<()> {
        match self {
            Motion::Transpose(perm) => view.transpose(perm),
            Motion::Reshape(shape) => view.reshape(shape),
            Motion::Slice(ranges) => {
                (ranges.iter()).try_for_each(|range| view.slice(range.axis, range.start, range.len))
            }
            Motion::Index(range) => {
                view.slice(range.axis, range.start, 1)?;
                view.axes.remove(range.axis);
                Some(())
            }
            Motion::Step(_) => Some(()),
        }
    }
}

impl EncoderGraph {
    /// The value that `value` is a motion of, and the motion.
    pub(super) fn motion(&self, value: &str) -> Option<(&str, Motion<'_>)> {
        let node = &self.nodes[*self.producers.get(value)?];
        if let Some((input, step)) = self.step(node) {
            return Some((input, Motion::Step(step)));
        }
        let input = node.input.first().filter(|_| is_standard(node))?;
        let from = self.shape(input)?;
        let motion = match &*node.op_type {
            "Transpose" => Motion::Transpose(attributes::integers(node, "perm")),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => Motion::Reshape(self.shape(value)?),
            "Expand" => Motion::Reshape(self.shape(value).filter(|to| *to == from)?),
            "Slice" => Motion::Slice(self.slice_ranges(node, from)?),
            "Gather" => {
                let axis = axis(node, 0, from.len())?;
                let &[index] = self.numbers(node.input.get(1)?)? else {
                    return None;
                };
                let (start, len) = (from_start(index, from[axis])?, 1);
                let range = AxisRange { axis, start, len };
                match self.shape(&node.input[1])?.len() {
                    0 => Motion::Index(range),
                    1 => Motion::Slice(vec![range]),
                    _ => return None,
                }
            }
            "Split" => {
                let axis = axis(node, 0, from.len())?;
                let length = |name: &String| self.shape(name)?.get(axis).copied();
                let before = node.output.iter().take_while(|name| *name != value);
                let start = before.map(length).sum::<Option<usize>>()?;
                let len = self.shape(value)?[axis];
                Motion::Slice(vec![AxisRange { axis, start, len }])
            }
            _ => return None,
        };
        Some((input, motion))
    }

    /// The parts that a Slice takes of its input, of the shape `from`, in steps of 1.
    fn slice_ranges(&self, node: &NodeProto, from: &[usize]) -> Option<Vec<AxisRange>> {
        let numbers = |index: usize| {
            let name = node.input.get(index).filter(|name| !name.is_empty());
            name.map(|name| self.numbers(name))
        };
        let (starts, ends) = (numbers(1)??, numbers(2)??);
        let axes: Vec<f64> = match numbers(3) {
            Some(axes) => axes?.to_vec(),
            None => (0..starts.len()).map(|i| i as f64).collect(),
        };
        if numbers(4).is_some_and(|steps| steps.is_none_or(|s| s.iter().any(|&s| s != 1.0))) {
            return None;
        }
        if ends.len() != starts.len() || axes.len() != starts.len() {
            return None;
        }
        let ranges = starts.iter().zip(ends).zip(&axes);
        let range = |((&start, &end), &axis): ((&f64, &f64), &f64)| {
            let axis = from_start(axis, from.len()).filter(|&axis| axis < from.len())?;
            let [start, end] = [start, end].map(|at| from_start(at, from[axis]));
            let (start, end) = (start?, end?);
            let len = end.checked_sub(start).filter(|&len| len > 0)?;
            Some(AxisRange { axis, start, len })
        };
        ranges.map(range).collect()
    }

    /// The input of a function of each value, and the function.
    fn step<'a>(&self, node: &'a NodeProto) -> Option<(&'a str, Step)> {
        let function = op_of(node);
        if let Some(Op::FakeQuantize(Range::Static) | Op::QuantizedTable) = function {
            let InputQuantization::Static(affine) = InputQuantization::of(node) else {
                return None;
            };
            let step = match function {
                Some(Op::QuantizedTable) => {
                    let values = attributes::find(node, "values")?.t.as_ref()?;
                    let values = values.raw_data.as_chunks().0.iter();
                    Step::Table(affine, values.map(|&b| f32::from_le_bytes(b)).collect())
                }
                _ => Step::Quantize(affine),
            };
            return Some((node.input.first()?, step));
        }
        if !is_standard(node) {
            return None;
        }
        let same =
            |x: &str| self.shape(x).is_some() && self.shape(x) == self.shape(&node.output[0]);
        let (x, factor) = match (&*node.op_type, &node.input[..]) {
            ("Mul", [_, _]) => both_orders(node)
                .into_iter()
                .find_map(|(x, factor)| Some((x, self.scalar(factor)?)).filter(|_| same(x)))?,
            ("Div", [x, divisor]) => (&**x, self.scalar(divisor)?.recip()),
            _ => return None,
        };
        (same(x) && factor.is_finite() && factor > 0.0).then_some((x, Step::Scale(factor)))
    }

    /// A constant of one value, computed or given.
    fn scalar(&self, name: &str) -> Option<f32> {
        if let Ok(Some(number)) = self.number(name) {
            return Some(number);
        }
        match self.numbers(name)? {
            &[number] => Some(number as f32),
            _ => None,
        }
    }

    /// The functions of each value that end in `value`, in order, and what the first is applied to.
    pub(super) fn steps_before<'a>(&'a self, mut value: &'a str) -> (&'a str, Vec<Step>) {
        let mut steps = vec![];
        while let Some((from, Motion::Step(step))) =
            self.motion(value).filter(|_| steps.len() < MAX_MOTIONS)
        {
            value = from;
            steps.push(step);
        }
        steps.reverse();
        (value, steps)
    }
}

/// Most motions between a projection and a product; more than any export has.
pub(super) const MAX_MOTIONS: usize = 64;

/// An index that may count from the end, as one from 0 to `len`, which it is limited to.
fn from_start(index: f64, len: usize) -> Option<usize> {
    let index = if index < 0.0 {
        index + len as f64
    } else {
        index
    };
    (index >= 0.0).then(|| (index as usize).min(len))
}
