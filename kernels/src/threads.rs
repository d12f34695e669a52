//! Splits work among the threads of rayon's current pool.

use rayon::prelude::*;

/// Fewer multiply-adds take less time than waking another thread.
const WORTH_SPLITTING: usize = 1 << 19;

/// The number of threads to split `work` multiply-adds among. Calls rayon only if splitting pays, as the call starts the
/// global pool if there is no other.
pub(crate) fn count(work: usize) -> usize {
    if work < WORTH_SPLITTING {
        1
    } else {
        rayon::current_num_threads()
    }
}

/// Runs `job` for each index below `jobs`, on `threads` as [`count`] gave them.
pub(crate) fn for_each(threads: usize, jobs: usize, job: impl Fn(usize) + Sync + Send) {
    if threads == 1 || jobs <= 1 {
        (0..jobs).for_each(job);
    } else {
        (0..jobs).into_par_iter().with_max_len(1).for_each(job);
    }
}

/// Runs `job` for each chunk of `all` and its index, on `threads`; the last chunk may be shorter.
pub(crate) fn for_each_chunk<T: Send>(
    threads: usize,
    all: &mut [T],
    size: usize,
    job: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    if threads == 1 || all.len() <= size {
        all.chunks_mut(size)
            .enumerate()
            .for_each(|(i, chunk)| job(i, chunk));
    } else {
        all.par_chunks_mut(size)
            .enumerate()
            .for_each(|(i, chunk)| job(i, chunk));
    }
}

/// A pointer to memory that several threads write parts of.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

// SAFETY: the caller of `Shared::new` promises that no two threads access the same value through it.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// While `all` is borrowed, no two threads may access the same value through the result.
    pub(crate) unsafe fn new(all: &mut [T]) -> Self {
        Shared(all.as_mut_ptr())
    }

    /// # Safety
    /// As [`Shared::new`], of the memory at `pointer`.
    pub(crate) unsafe fn at(pointer: *mut T) -> Self {
        Shared(pointer)
    }

    pub(crate) fn pointer(self) -> *mut T {
        self.0
    }
}
