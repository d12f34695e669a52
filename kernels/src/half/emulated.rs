//! Emulation of f16 arithmetic: the scalar reference, auto-vectorised for the processor.

use crate::reference;

/// Columns that are computed at once, which hides the latency of their additions.
pub(super) const COLUMNS: usize = 64;

/// [`reference::sums_f16`]
pub(super) fn sums(x: &[f32], weight: &[[f32; COLUMNS]], sums: &mut [f32; COLUMNS]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
        fn avx512(x: &[f32], weight: &[[f32; COLUMNS]], sums: &mut [f32; COLUMNS]) {
            reference::sums_f16(x, weight, sums);
        }
        #[target_feature(enable = "avx2")]
        fn avx2(x: &[f32], weight: &[[f32; COLUMNS]], sums: &mut [f32; COLUMNS]) {
            reference::sums_f16(x, weight, sums);
        }
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the processor has these features.
            return unsafe { avx512(x, weight, sums) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has these features.
            return unsafe { avx2(x, weight, sums) };
        }
    }
    reference::sums_f16(x, weight, sums);
}
