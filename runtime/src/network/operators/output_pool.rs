//! Output tensors that are reused from image to image.

use std::sync::{Arc, Mutex};

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// A pool of output tensors: after the first images no operator allocates or zeroes memory.
#[derive(Debug, Default)]
pub(super) struct OutputPool(Mutex<Vec<Arc<Tensor>>>);

impl OutputPool {
    /// Runs `fill` on an f32 tensor of `shape` with arbitrary content, and returns the tensor.
    pub(super) fn fill(
        &self,
        shape: &[usize],
        fill: impl FnOnce(&mut [f32]) -> TractResult<()>,
    ) -> TractResult<Arc<Tensor>> {
        let lock = || self.0.lock().unwrap_or_else(|e| e.into_inner());
        let mut outputs = lock();
        // Held only by the pool: tract drops an output after its last use.
        let free = outputs
            .iter()
            .position(|o| Arc::strong_count(o) == 1 && o.shape() == shape);
        let free = free.map(|i| outputs.swap_remove(i));
        drop(outputs);
        let mut output = match free {
            Some(output) => output,
            None => Arc::new(Tensor::zero::<f32>(shape)?),
        };
        let tensor = Arc::get_mut(&mut output).context("an output is still in use")?;
        fill(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
        lock().push(Arc::clone(&output));
        Ok(output)
    }
}
