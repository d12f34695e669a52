//! Loads of several registers in one instruction.

use std::arch::aarch64::*;
use std::arch::asm;

/// Loads consecutive registers from `$at` and advances it by `$bytes`, in one instruction; the compiler would emit two loads
/// and an addition.
macro_rules! load {
    ($at:ident, $registers:literal, $bytes:literal, $($register:tt $variable:ident)+) => {{
        $(let $variable: int8x16_t;)+
        asm!(
            concat!("ld1 {{", $registers, "}}, [{at}], #", $bytes),
            at = inout(reg) *$at,
            $(out($register) $variable,)+
            options(readonly, nostack, preserves_flags)
        );
        [$($variable),+]
    }};
}

/// Loads the next four registers of a panel and advances by `bytes`.
///
/// # Safety
/// `at` points to 64 readable values.
#[inline(always)]
pub(super) unsafe fn load_panel(at: &mut *const i8, bytes: usize) -> [int8x16_t; 4] {
    let (a, b, c, d): (int8x16_t, int8x16_t, int8x16_t, int8x16_t);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "ld1 {{v28.16b-v31.16b}}, [{at}], {bytes}",
            at = inout(reg) *at,
            bytes = in(reg) bytes,
            out("v28") a,
            out("v29") b,
            out("v30") c,
            out("v31") d,
            options(readonly, nostack, preserves_flags)
        );
    }
    [a, b, c, d]
}

/// Loads the next N registers of packed rows, 1 ..= 4, into other registers than [`load_panel`].
///
/// # Safety
/// `at` points to 16 N readable values.
#[inline(always)]
pub(super) unsafe fn load_rows<const N: usize>(at: &mut *const i8) -> [int8x16_t; N] {
    // SAFETY: the caller's promise.
    let mut all = [unsafe { vdupq_n_s8(0) }; 4];
    // SAFETY: the caller's promise.
    unsafe {
        match N {
            1 => all[..1].copy_from_slice(&load!(at, "v27.16b", 16, "v27" a)),
            2 => all[..2].copy_from_slice(&load!(at, "v26.16b-v27.16b", 32, "v26" a "v27" b)),
            3 => {
                all[..3].copy_from_slice(&load!(at, "v25.16b-v27.16b", 48, "v25" a "v26" b "v27" c))
            }
            4 => all = load!(at, "v24.16b-v27.16b", 64, "v24" a "v25" b "v26" c "v27" d),
            _ => unreachable!("{N} registers"),
        }
    }
    std::array::from_fn(|i| all[i])
}
