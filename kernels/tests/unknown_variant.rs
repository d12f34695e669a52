//! `PINHOLE_KERNELS` is read once for a process, so this case has a test program of its own.

use pinhole_kernels::{available, check, chosen};

#[test]
fn an_unknown_variant_is_an_error_and_the_best_one_runs() {
    // SAFETY: the only test of this program, and nothing has read the environment yet.
    unsafe { std::env::set_var("PINHOLE_KERNELS", "avx1024") };
    let error = check().unwrap_err().to_string();
    let expected = "PINHOLE_KERNELS: expected one of avx512vnni, avx512, avx2, i8mm, dotprod, \
                    dotprod-nofp16, fp16, neon, scalar, found \"avx1024\"";
    assert_eq!(error, expected);
    assert_eq!(chosen(), available()[0]);
}
