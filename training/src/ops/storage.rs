//! Access to the values of candle's tensors.

use candle_core::{
    CpuStorage, DType, Error, Layout, Result, Storage, Tensor, backend::BackendStorage,
};

/// Calls `f` with the values of a tensor in row-major order.
pub(crate) fn read<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => Err(Error::Msg("the tensor is not on the CPU".into())),
    }
}

/// The values of a contiguous f32 tensor.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::Msg("expected a contiguous tensor".into()))?;
    match storage {
        CpuStorage::F32(values) => Ok(&values[start..end]),
        _ => Err(Error::UnsupportedDTypeForOp(storage.dtype(), "f32 operation").bt()),
    }
}

/// The length of the last axis, which must be `expected`.
pub(super) fn check_last_dim(dims: &[usize], expected: usize, name: &str) -> Result<usize> {
    if dims.last() == Some(&expected) && expected > 0 {
        return Ok(expected);
    }
    Err(Error::Msg(format!(
        "{name}: expected a last axis of {expected}, found {dims:?}"
    )))
}
