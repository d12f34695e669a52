//! Memory aligned to cache lines: packed weights, and working memory that each thread keeps for reuse.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A cache line, which is also the widest register.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Numbers that [`Aligned`] can hold.
///
/// # Safety
/// No padding, any bits are a value, the size divides a cache line's and so does the alignment.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: a primitive number.
unsafe impl Plain for f32 {}
// SAFETY: a primitive number.
unsafe impl Plain for i32 {}
// SAFETY: a primitive number.
unsafe impl Plain for u16 {}
// SAFETY: a primitive number.
unsafe impl Plain for i8 {}
// SAFETY: a primitive number.
unsafe impl Plain for u8 {}

/// Values that start on a cache line.
#[derive(Clone)]
pub(crate) struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Plain> Aligned<T> {
    pub(crate) fn zeros(len: usize) -> Self {
        Aligned {
            lines: vec![Line([0.0; 16]); lines::<T>(len)],
            len,
            values: PhantomData,
        }
    }
}

/// Cache lines of `len` values.
fn lines<T>(len: usize) -> usize {
    len.div_ceil(size_of::<Line>() / size_of::<T>())
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines are at least `len` initialised values, without padding between them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

thread_local! {
    static SPARE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on `len` values of this thread's working memory, whose content is arbitrary. Calls nest: a
/// thread that waits for others inside `f` may take up work that needs memory of its own.
pub(crate) fn with<T: Plain, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut lines = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if lines.len() < self::lines::<T>(len) {
        lines = Aligned::<T>::zeros(len).lines;
    }
    let mut memory = Aligned {
        lines,
        len,
        values: PhantomData,
    };
    let result = f(&mut memory);
    SPARE.with_borrow_mut(|spare| spare.push(memory.lines));
    result
}
