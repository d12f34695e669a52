//! Where the values of a tensor are in another one.

/// Length and stride of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) len: usize,
    pub(super) stride: usize,
}

impl Axis {
    /// Of one index, which is not counted.
    pub(super) const ONE: Axis = Axis { len: 1, stride: 0 };
}

/// The positions of the values of a tensor in another tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub(super) axes: Vec<Axis>,
    pub(super) offset: usize,
}

impl View {
    /// A whole tensor.
    pub(super) fn of(shape: &[usize]) -> Option<Self> {
        let mut stride = 1usize;
        let mut axes = vec![];
        for &len in shape.iter().rev() {
            axes.push(Axis { len, stride });
            stride = stride.checked_mul(len)?;
        }
        axes.reverse();
        Some(View { axes, offset: 0 })
    }

    /// Without `perm`, all axes are reversed, as in ONNX.
    pub(super) fn transpose(&mut self, perm: &[i64]) -> Option<()> {
        if perm.is_empty() {
            self.axes.reverse();
            return Some(());
        }
        let axis = |&from: &i64| self.axes.get(usize::try_from(from).ok()?).copied();
        let axes = perm.iter().map(axis).collect::<Option<Vec<Axis>>>()?;
        (axes.len() == self.axes.len()).then(|| self.axes = axes)
    }

    /// `len` indices of an axis.
    pub(super) fn slice(&mut self, axis: usize, start: usize, len: usize) -> Option<()> {
        let axis = self.axes.get_mut(axis)?;
        if start.checked_add(len)? > axis.len || len == 0 {
            return None;
        }
        self.offset += start * axis.stride;
        axis.len = len;
        Some(())
    }

    /// The same values in the same order, in the shape `to`. `None` if the result is not a view.
    pub(super) fn reshape(&mut self, to: &[usize]) -> Option<()> {
        // Runs of axes that are one.
        let mut runs: Vec<Axis> = vec![];
        for axis in self.axes.iter().filter(|axis| axis.len != 1) {
            match runs.last_mut() {
                Some(run) if Some(run.stride) == axis.stride.checked_mul(axis.len) => {
                    run.len = run.len.checked_mul(axis.len)?;
                    run.stride = axis.stride;
                }
                _ => runs.push(*axis),
            }
        }
        let mut runs = runs.into_iter();
        let mut rest = Axis::ONE;
        let mut axes = vec![];
        for &len in to {
            if len == 1 {
                axes.push(Axis::ONE);
                continue;
            }
            if rest.len == 1 {
                rest = runs.next()?;
            }
            if len == 0 || !rest.len.is_multiple_of(len) {
                return None;
            }
            rest.len /= len;
            let stride = rest.stride.checked_mul(rest.len)?;
            axes.push(Axis { len, stride });
        }
        (rest.len == 1 && runs.next().is_none()).then(|| self.axes = axes)
    }

    /// Whether the values are contiguous in row-major order.
    pub(super) fn is_contiguous(&self) -> bool {
        let mut next = 1;
        let mut axes = self.axes.iter().rev().filter(|axis| axis.len != 1);
        self.offset == 0
            && axes.all(|axis| {
                let matches = axis.stride == next;
                next = next.saturating_mul(axis.len);
                matches
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strides(view: &View) -> Vec<(usize, usize)> {
        view.axes.iter().map(|a| (a.len, a.stride)).collect()
    }

    /// A joint projection of 5 tokens to the keys of 2 heads of 4, transposed.
    #[test]
    fn a_view_tracks_its_values() {
        let mut view = View::of(&[1, 5, 24]).unwrap();
        view.reshape(&[1, 5, 3, 2, 4]).unwrap();
        view.transpose(&[2, 0, 3, 1, 4]).unwrap();
        view.slice(0, 1, 1).unwrap();
        view.reshape(&[1, 2, 5, 4]).unwrap();
        view.transpose(&[0, 1, 3, 2]).unwrap();
        assert_eq!(strides(&view), [(1, 0), (2, 4), (4, 1), (5, 24)]);
        assert_eq!(view.offset, 8);
        assert!(!view.is_contiguous());
        view.transpose(&[]).unwrap();
        assert_eq!(strides(&view), [(5, 24), (4, 1), (2, 4), (1, 0)]);
    }

    #[test]
    fn results_that_are_not_views_are_rejected() {
        let mut view = View::of(&[5, 24]).unwrap();
        assert!(view.is_contiguous());
        view.transpose(&[1, 0]).unwrap();
        // Would have to copy the values.
        for to in [&[120][..], &[12, 10], &[24, 5, 2], &[24], &[0]] {
            assert_eq!(view.clone().reshape(to), None, "{to:?}");
        }
        for perm in [&[0, 1, 2][..], &[0, 2], &[0], &[-1, 0]] {
            assert_eq!(view.clone().transpose(perm), None, "{perm:?}");
        }
        assert_eq!(view.slice(0, 20, 5), None);
        assert_eq!(view.slice(2, 0, 1), None);
        view.reshape(&[2, 12, 1, 5]).unwrap();
        assert_eq!(strides(&view), [(2, 12), (12, 1), (1, 0), (5, 24)]);
        view.slice(1, 1, 4).unwrap();
        assert_eq!((view.offset, view.axes[1].len), (1, 4));
        assert_eq!(view.reshape(&[8, 5]), None);
    }
}
