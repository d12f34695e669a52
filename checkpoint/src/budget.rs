//! The memory that what a file describes may take.

/// Bytes that the values, names and copies described by one file may take, beside the tensors themselves. ViT-L's
/// training checkpoint takes a tenth.
const LIMIT: usize = 48 << 20;

/// Counts the memory of what is read from one file, before it is allocated.
#[derive(Debug)]
pub(crate) struct Budget {
    left: usize,
}

impl Budget {
    /// For one file.
    pub(crate) fn new() -> Budget {
        Budget { left: LIMIT }
    }

    /// Takes `bytes`, which stay taken.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            format!(
                "its values, copies and names take more than {} MiB of memory; save the plain state dict again, for \
                 example as safetensors",
                LIMIT >> 20
            )
        })?;
        Ok(())
    }

    /// Takes the memory of `count` values in a container that grows, which holds up to twice as many.
    pub(crate) fn take_values<T>(&mut self, count: usize) -> Result<(), String> {
        self.take(count.saturating_mul(2 * size_of::<T>()))
    }
}
