//! Measures the processor's peak: multiply-adds per second from registers.

use std::hint::black_box;
use std::time::Instant;

use pinhole_kernels::{PackedLinearF16, PackedLinearInt8, chosen_f32};

/// One thread's peak in 1e9 multiply-adds per second, by the kernels' element type; none for scalar and unknown kernels.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "the example does not use f16")]
pub(crate) struct Peaks {
    pub(crate) float: Option<f64>,
    pub(crate) int8: Option<f64>,
    pub(crate) half: Option<f64>,
}

/// Measures the instructions of the chosen kernels.
pub(crate) fn peaks() -> Peaks {
    let int8 = PackedLinearInt8::from_out_in(&[1], &[1.0], 1, 1, None).expect("a weight in range");
    let half = PackedLinearF16::from_out_in(&[0], 1, 1, None).expect("a finite weight");
    Peaks {
        float: limits::float(chosen_f32()),
        int8: limits::int8(int8.kernel()),
        half: limits::half(half.kernel()),
    }
}

/// The shortest of many runs, in seconds.
pub(crate) fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 5 || start.elapsed().as_millis() < 300 {
        let run = Instant::now();
        f();
        best = best.min(run.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// Defines `$function`, which times `$chains` independent chains of an instruction with `$products` multiply-adds: enough
/// chains to hide the latency, few enough for the registers.
macro_rules! peak {
    ($function:ident, $features:literal, $products:literal, $chains:literal, $start:expr, $step:expr) => {
        fn $function() -> f64 {
            const ROUNDS: usize = 1 << 16;
            #[target_feature(enable = $features)]
            fn run() {
                let x = black_box($start);
                let mut sums = [x; $chains];
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $step(*sum, x);
                    }
                }
                black_box(sums);
            }
            // SAFETY: called only for the chosen kernels, whose instructions the processor has.
            let seconds = best(|| unsafe { run() });
            (ROUNDS * $products * $chains) as f64 / seconds / 1e9
        }
    };
}

/// The peaks of this architecture, by the name of a kernel.
#[cfg(target_arch = "x86_64")]
mod limits {
    use super::{best, black_box};
    use std::arch::x86_64::*;

    peak!(avx512, "avx512f", 16, 16, _mm512_set1_ps(0.5), |sum, x| {
        _mm512_fmadd_ps(sum, x, x)
    });
    peak!(avx2, "avx2,fma", 8, 12, _mm256_set1_ps(0.5), |sum, x| {
        _mm256_fmadd_ps(sum, x, x)
    });
    peak!(
        avx512vnni_int8,
        "avx512f,avx512vnni",
        64,
        16,
        _mm512_set1_epi8(1),
        |sum, x| { _mm512_dpbusd_epi32(sum, x, x) }
    );
    peak!(
        avxvnni_int8,
        "avx2,avxvnni",
        32,
        12,
        _mm256_set1_epi8(1),
        |sum, x| { _mm256_dpbusd_avx_epi32(sum, x, x) }
    );
    peak!(avx2_int8, "avx2", 16, 12, _mm256_set1_epi8(1), |sum, x| {
        // The product depends on the previous sum, or the compiler would hoist it out of the loop.
        _mm256_add_epi32(sum, _mm256_madd_epi16(sum, x))
    });

    pub(super) fn float(kernel: &str) -> Option<f64> {
        match kernel {
            "avx512" => Some(avx512()),
            "avx2" => Some(avx2()),
            _ => None,
        }
    }

    pub(super) fn int8(kernel: &str) -> Option<f64> {
        match kernel {
            "avx512vnni" => Some(avx512vnni_int8()),
            "avxvnni" => Some(avxvnni_int8()),
            "avx2" => Some(avx2_int8()),
            _ => None,
        }
    }

    pub(super) fn half(_: &str) -> Option<f64> {
        None
    }
}

/// As on x86.
#[cfg(target_arch = "aarch64")]
mod limits {
    use super::{best, black_box};
    use std::arch::aarch64::*;
    use std::arch::asm;

    /// An instruction on a sum and two operands.
    macro_rules! instruction {
        ($name:literal, $to:literal, $from:literal) => {
            |mut sum: int32x4_t, x: int32x4_t| {
                // SAFETY: the caller's promise; the instruction accesses only registers.
                unsafe {
                    asm!(
                        concat!($name, " {0:v}.", $to, ", {1:v}.", $from, ", {1:v}.", $from),
                        inout(vreg) sum,
                        in(vreg) x,
                        options(pure, nomem, nostack)
                    );
                }
                sum
            }
        };
    }

    peak!(neon, "neon", 4, 16, vdupq_n_f32(0.5), |sum, x| vfmaq_f32(
        sum, x, x
    ));
    peak!(neon_int8, "neon", 16, 8, vdupq_n_s32(1), |sum, x| {
        let (a, x) = (vreinterpretq_s8_s32(sum), vreinterpretq_s8_s32(x));
        let low = vmull_s8(vget_low_s8(a), vget_low_s8(x));
        vpadalq_s16(sum, vmlal_high_s8(low, a, x))
    });
    peak!(
        dotprod,
        "neon,dotprod",
        16,
        16,
        vdupq_n_s32(1),
        instruction!("sdot", "4s", "16b")
    );
    peak!(
        i8mm,
        "neon,i8mm",
        32,
        16,
        vdupq_n_s32(1),
        instruction!("smmla", "4s", "16b")
    );
    peak!(
        fp16,
        "neon,fp16",
        8,
        16,
        vdupq_n_s32(0x3800_3800),
        instruction!("fmla", "8h", "8h")
    );

    pub(super) fn float(kernel: &str) -> Option<f64> {
        match kernel {
            "neon" => Some(neon()),
            _ => None,
        }
    }

    pub(super) fn int8(kernel: &str) -> Option<f64> {
        match kernel {
            "i8mm" => Some(i8mm()),
            "dotprod" => Some(dotprod()),
            "neon" => Some(neon_int8()),
            _ => None,
        }
    }

    pub(super) fn half(kernel: &str) -> Option<f64> {
        match kernel {
            "fp16" => Some(fp16()),
            _ => None,
        }
    }
}

/// As on x86.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod limits {
    pub(super) fn float(_: &str) -> Option<f64> {
        None
    }

    pub(super) fn int8(_: &str) -> Option<f64> {
        None
    }

    pub(super) fn half(_: &str) -> Option<f64> {
        None
    }
}
