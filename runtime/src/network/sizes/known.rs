//! The values of small constants, which the sizes of others are computed from.

use tract_onnx::pb::{TensorProto, tensor_proto::DataType};

use crate::network::initializer::raw;

/// More values than any list of sizes, axes or pads has.
const MAX_VALUES: usize = 1 << 10;

/// A few values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) values: Vec<f64>,
    /// Whether their type is one of integers.
    pub(super) integer: bool,
}

impl Known {
    pub(super) fn of_integers(values: impl IntoIterator<Item = i64>) -> Option<Known> {
        let values: Vec<f64> = values
            .into_iter()
            .take(MAX_VALUES + 1)
            .map(|v| v as f64)
            .collect();
        (values.len() <= MAX_VALUES).then_some(Known {
            values,
            integer: true,
        })
    }

    /// The values of a tensor whose size has been checked, if they are few and in the file.
    pub(super) fn of_tensor(tensor: &TensorProto) -> Option<Known> {
        if tensor.dims.iter().product::<i64>() > MAX_VALUES as i64 {
            return None;
        }
        if tensor.dims.contains(&0) {
            return Known::of_integers([]);
        }
        let bytes = raw(tensor)?.raw_data;
        let (values, integer): (Vec<f64>, bool) = match DataType::try_from(tensor.data_type) {
            Ok(DataType::Int64) => {
                let chunks = bytes.as_chunks().0.iter();
                (
                    chunks.map(|&b| i64::from_le_bytes(b) as f64).collect(),
                    true,
                )
            }
            Ok(DataType::Int32) => {
                let chunks = bytes.as_chunks().0.iter();
                (
                    chunks.map(|&b| i32::from_le_bytes(b).into()).collect(),
                    true,
                )
            }
            Ok(DataType::Float) => {
                let chunks = bytes.as_chunks().0.iter();
                (
                    chunks.map(|&b| f32::from_le_bytes(b).into()).collect(),
                    false,
                )
            }
            Ok(DataType::Bool) => (bytes.iter().map(|&b| b.into()).collect(), true),
            _ => return None,
        };
        Some(Known { values, integer })
    }

    /// Rounded towards zero; what i64 cannot hold, as its least or greatest value.
    pub(super) fn integers(&self) -> Vec<i64> {
        self.values.iter().map(|&v| v as i64).collect()
    }

    /// The values at `indices`, if all are inside.
    pub(super) fn at(&self, indices: impl IntoIterator<Item = usize>) -> Option<Known> {
        let values = indices.into_iter().map(|i| self.values.get(i).copied());
        Some(Known {
            values: values.collect::<Option<_>>()?,
            integer: self.integer,
        })
    }

    /// The values of a view: from the index `first` on, in the order of an index into `shape`, each of whose dimensions is
    /// one of `strides`.
    pub(super) fn view(&self, first: isize, shape: &[usize], strides: &[isize]) -> Option<Known> {
        let mut indices = vec![first];
        for (&size, &stride) in shape.iter().zip(strides) {
            if indices.len().checked_mul(size)? > MAX_VALUES {
                return None;
            }
            let along = |from: isize| {
                (0..size as isize).map(move |i| from.wrapping_add(i.wrapping_mul(stride)))
            };
            indices = indices.into_iter().flat_map(along).collect();
        }
        self.at(indices.into_iter().map(isize::cast_unsigned))
    }

    /// `self`, reduced by `f` to one value.
    pub(super) fn reduced(&self, f: fn(f64, f64) -> f64) -> Option<Known> {
        Some(Known {
            values: vec![self.values.iter().copied().reduce(f)?],
            integer: self.integer,
        })
    }
}

/// The distance of neighbours along each dimension of a row-major `shape`.
pub(super) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis] as isize);
    }
    strides
}
