//! f16 where the processor has none: the definition itself, compiled for the registers there are.

use crate::reference;

/// Columns that are computed together, so that their chains of additions hide each other's latency.
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
            // SAFETY: the processor has the instructions.
            return unsafe { avx512(x, weight, sums) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the instructions.
            return unsafe { avx2(x, weight, sums) };
        }
    }
    reference::sums_f16(x, weight, sums);
}
