//! Output tensors that are reused from image to image.

use std::sync::{Arc, Mutex};

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// A pool of output tensors: after the first images no operator allocates or zeroes memory.
#[derive(Debug, Default)]
pub(super) struct OutputPool(Mutex<Vec<Arc<Tensor>>>);

impl OutputPool {
    /// Runs `fill` on a tensor of `shape` with arbitrary content, and returns the tensor.
    pub(super) fn fill<T: Datum + Copy>(
        &self,
        shape: &[usize],
        fill: impl FnOnce(&mut [T]) -> TractResult<()>,
    ) -> TractResult<Arc<Tensor>> {
        let lock = || self.0.lock().unwrap_or_else(|e| e.into_inner());
        let mut outputs = lock();
        // Held only by the pool: tract drops an output after its last use.
        let fits = |o: &Tensor| o.shape() == shape && o.datum_type() == T::datum_type();
        let free = outputs
            .iter()
            .position(|o| Arc::strong_count(o) == 1 && fits(o));
        let free = free.map(|i| outputs.swap_remove(i));
        drop(outputs);
        let mut output = match free {
            Some(output) => output,
            None => Arc::new(Tensor::zero_dt(T::datum_type(), shape)?),
        };
        let tensor = Arc::get_mut(&mut output).context("an output is still in use")?;
        fill(tensor.try_as_plain_ram_mut()?.as_slice_mut::<T>()?)?;
        lock().push(Arc::clone(&output));
        Ok(output)
    }
}
