//! Memory aligned to cache lines, for packed weights and for working memory that each thread reuses.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::arena::Region;

/// Bytes of a cache line, which is also the size of the widest register.
const LINE: usize = 64;

/// Numbers that [`Aligned`] can hold.
///
/// # Safety
/// The type has no padding, every bit pattern is a value, and its size and alignment divide a cache line's size.
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

/// Zeroed memory that starts on a cache line.
struct Lines {
    memory: Memory,
    /// Bytes.
    len: usize,
}

enum Memory {
    /// Allocated without the alignment, since the allocator would zero over-aligned memory by writing to it, which touches every
    /// page.
    Allocated(Vec<u128>),
    Region(Region),
}

impl Lines {
    fn zeros(len: usize) -> Self {
        let spare = LINE - size_of::<u128>();
        let memory = Memory::Allocated(vec![0; (len + spare).div_ceil(size_of::<u128>())]);
        Lines { memory, len }
    }

    /// For weights: from a [`Region`] if it is large.
    fn kept(len: usize) -> Self {
        match Region::new(len) {
            Some(region) => Lines {
                memory: Memory::Region(region),
                len,
            },
            None => Self::zeros(len),
        }
    }

    fn start(&self) -> *const u8 {
        match &self.memory {
            Memory::Allocated(memory) => {
                let memory = memory.as_ptr().cast::<u8>();
                memory.wrapping_add(memory.addr().wrapping_neg() % LINE)
            }
            Memory::Region(region) => region.start(),
        }
    }

    fn start_mut(&mut self) -> *mut u8 {
        match &mut self.memory {
            Memory::Allocated(memory) => {
                let memory = memory.as_mut_ptr().cast::<u8>();
                memory.wrapping_add(memory.addr().wrapping_neg() % LINE)
            }
            Memory::Region(region) => region.start_mut(),
        }
    }
}

/// Values that start on a cache line, such as packed weights.
pub(crate) struct Aligned<T> {
    lines: Lines,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Plain> Aligned<T> {
    pub(crate) fn zeros(len: usize) -> Self {
        Aligned {
            lines: Lines::kept(len * size_of::<T>()),
            len,
            values: PhantomData,
        }
    }
}

impl<T: Plain> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        let mut clone = Self::zeros(self.len);
        clone.copy_from_slice(self);
        clone
    }
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `len` initialised values and start on a cache line.
        unsafe { std::slice::from_raw_parts(self.lines.start().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.start_mut().cast(), self.len) }
    }
}

thread_local! {
    static SPARE: RefCell<Vec<Lines>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on `len` values of this thread's working memory, whose content is arbitrary. Calls nest: a thread that waits for
/// others inside `f` may run a job that calls this function.
pub(crate) fn with<T: Plain, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let lines = SPARE.with_borrow_mut(Vec::pop);
    let lines = match lines {
        Some(lines) if lines.len >= len * size_of::<T>() => lines,
        _ => Lines::zeros(len * size_of::<T>()),
    };
    let mut memory = Aligned {
        lines,
        len,
        values: PhantomData,
    };
    let result = f(&mut memory);
    SPARE.with_borrow_mut(|spare| spare.push(memory.lines));
    result
}
