//! `PINHOLE_KERNELS` is read once for a process, so this case has a test program of its own.

use pinhole_kernels::{available, check, chosen, compiled};

#[test]
fn unknown_variant_is_an_error_and_the_best_one_runs() {
    // SAFETY: the only test of this program, and nothing has read the environment yet.
    unsafe { std::env::set_var("PINHOLE_KERNELS", "avx1024") };
    let error = check().unwrap_err().to_string();
    let names = error
        .strip_prefix("PINHOLE_KERNELS: expected one of ")
        .and_then(|rest| rest.strip_suffix(", found \"avx1024\""))
        .expect(&error);
    // Those of other architectures too.
    let names: Vec<_> = names.split(", ").collect();
    assert!(
        ["avx2", "neon", "scalar"].iter().all(|n| names.contains(n)),
        "{error}"
    );
    assert!(compiled().iter().all(|n| names.contains(n)), "{error}");
    assert_eq!(chosen(), available()[0]);
}
