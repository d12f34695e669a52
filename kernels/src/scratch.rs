//! Memory aligned to cache lines: packed weights, and working memory that each thread keeps for reuse.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// A cache line, which is also the widest register.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// f32 values that start on a cache line.
#[derive(Clone, Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    pub(crate) fn zeros(len: usize) -> Self {
        Aligned {
            lines: vec![Line([0.0; 16]); len.div_ceil(16)],
            len,
        }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the lines are at least `len` initialised f32, without padding between them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

thread_local! {
    static SPARE: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on `len` values of this thread's working memory, whose content is arbitrary. Calls nest: a
/// thread that waits for others inside `f` may take up work that needs memory of its own.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut memory = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if memory.lines.len() < len.div_ceil(16) {
        memory = Aligned::zeros(len);
    }
    memory.len = len;
    let result = f(&mut memory);
    SPARE.with_borrow_mut(|spare| spare.push(memory));
    result
}
