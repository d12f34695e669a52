//! Memory of packed weights, of many layers in one mapping, which the system may give pages of 2 MiB.
//!
//! A network reads all its weights for each image. With pages of 4 KiB the processor has to look up the addresses of some twenty
//! thousand pages for ViT-B/32 in 8 bits, which it cannot remember from one image to the next.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::MmapMut;

/// Bytes of a huge page.
const PAGE: usize = 2 << 20;

/// Bytes of a mapping, unless a layer needs more. What a mapping has left is not touched, so that less than a page is wasted.
const MAPPING: usize = 8 << 20;

/// Smaller layers are left to the allocator: a network of such layers fits few pages of any size.
const LEAST: usize = 128 << 10;

/// The mappings in use, with the bytes that are taken of each.
static MAPPINGS: Mutex<Vec<(Weak<Mapping>, usize)>> = Mutex::new(Vec::new());

/// Anonymous memory. Unmapped with the last of its regions.
struct Mapping {
    /// The first whole page.
    start: *mut u8,
    /// Bytes from `start`, whole pages.
    len: usize,
    /// Owns the memory.
    _memory: MmapMut,
}

// SAFETY: the pointer is only copied; who accesses memory through it owns a region.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// None if the system has no memory left for it.
    fn new(len: usize) -> Option<Self> {
        let len = len.checked_next_multiple_of(PAGE)?;
        let mut memory = MmapMut::map_anon(len.checked_add(PAGE)?).ok()?;
        // A system that has no such pages ignores the advice.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        let start = memory.as_mut_ptr();
        let start = start.wrapping_add(start.addr().wrapping_neg() % PAGE);
        Some(Mapping {
            start,
            len,
            _memory: memory,
        })
    }
}

/// A part of a mapping that nothing else accesses.
pub(crate) struct Region {
    start: *mut u8,
    _mapping: Arc<Mapping>,
}

// SAFETY: a region owns its memory.
unsafe impl Send for Region {}
// SAFETY: memory is accessed only as borrows of the region allow.
unsafe impl Sync for Region {}

impl Region {
    /// `len` zeroed bytes from a multiple of 64 on. None for a few, and if the system has no memory left.
    pub(crate) fn new(len: usize) -> Option<Self> {
        if len < LEAST {
            return None;
        }
        let len = len.checked_next_multiple_of(64)?;
        // The list is valid after a panic too: each change is a single one.
        let mut mappings = MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner);
        mappings.retain(|(mapping, _)| mapping.strong_count() > 0);
        for (mapping, taken) in mappings.iter_mut() {
            if let Some(mapping) = mapping.upgrade()
                && mapping.len - *taken >= len
            {
                let start = mapping.start.wrapping_add(*taken);
                *taken += len;
                return Some(Region {
                    start,
                    _mapping: mapping,
                });
            }
        }
        let mapping = Arc::new(Mapping::new(len.max(MAPPING))?);
        mappings.push((Arc::downgrade(&mapping), len));
        Some(Region {
            start: mapping.start,
            _mapping: mapping,
        })
    }

    pub(crate) fn start(&self) -> *const u8 {
        self.start
    }

    pub(crate) fn start_mut(&mut self) -> *mut u8 {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_zeroed_and_do_not_overlap() {
        let sizes = [LEAST, LEAST + 1, 3 << 20, 5 << 20, 9 << 20, LEAST];
        let mut regions: Vec<(Region, usize)> = sizes
            .map(|len| (Region::new(len).expect("memory"), len))
            .into();
        for (i, (region, len)) in regions.iter_mut().enumerate() {
            assert!(region.start().addr().is_multiple_of(64));
            // SAFETY: the region has `len` initialised bytes, which nothing else accesses.
            let bytes = unsafe { std::slice::from_raw_parts_mut(region.start_mut(), *len) };
            assert!(bytes.iter().all(|&b| b == 0), "region {i}");
            bytes.fill(i as u8 + 1);
        }
        for (i, (region, len)) in regions.iter().enumerate() {
            // SAFETY: as above.
            let bytes = unsafe { std::slice::from_raw_parts(region.start(), *len) };
            assert!(bytes.iter().all(|&b| b == i as u8 + 1), "region {i}");
        }
    }

    #[test]
    fn small_ones_are_left_to_the_allocator() {
        assert!(Region::new(LEAST - 1).is_none());
    }

    #[test]
    fn a_size_that_does_not_exist_is_refused() {
        assert!(Region::new(usize::MAX).is_none());
        assert!(Region::new(usize::MAX / 2).is_none());
    }
}
