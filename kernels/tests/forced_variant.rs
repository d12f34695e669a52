//! `PINHOLE_KERNELS` is read once for a process, so this case has a test program of its own.

use pinhole_kernels::{PackedLinear, check, chosen};

#[test]
fn a_forced_variant_runs() {
    // SAFETY: the only test of this program, and nothing has read the environment yet.
    unsafe { std::env::set_var("PINHOLE_KERNELS", "scalar") };
    assert_eq!(check(), Ok("scalar"));
    assert_eq!(chosen(), "scalar");
    let layer = PackedLinear::from_in_out(&[2.0], 1, 1, None);
    assert_eq!(format!("{layer:?}"), "Packed(1 -> 1, f32 scalar)");
}
