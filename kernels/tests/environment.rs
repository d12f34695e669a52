//! `PINHOLE_KERNELS`, which is read once for a process: each case is a process of its own.

use std::process::Command;

/// Runs in the child process.
#[test]
#[ignore = "the other tests run it in a process of its own"]
fn child() {
    println!(
        "check: {:?}",
        pinhole_kernels::check().map_err(|e| e.to_string())
    );
    println!("chosen: {}", pinhole_kernels::chosen());
    let layer = pinhole_kernels::PackedLinear::from_in_out(&[2.0], 1, 1, None);
    println!("layer: {layer:?}");
}

fn with(value: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("PINHOLE_KERNELS", value)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_available_variant_runs_when_forced() {
    for name in pinhole_kernels::available() {
        let said = with(name);
        assert!(said.contains(&format!("check: Ok(\"{name}\")")), "{said}");
        assert!(said.contains(&format!("chosen: {name}\n")), "{said}");
        assert!(
            said.contains(&format!("layer: PackedLinear(1 -> 1, {name})")),
            "{said}"
        );
    }
}

#[test]
fn a_wrong_name_is_an_error_and_the_best_variant_runs() {
    let said = with("avx1024");
    assert!(
        said.contains("expected one of avx512, avx2, neon, scalar, found"),
        "{said}"
    );
    assert!(
        said.contains(&format!("chosen: {}\n", pinhole_kernels::available()[0])),
        "{said}"
    );
    let other = if cfg!(target_arch = "x86_64") {
        "neon"
    } else {
        "avx512"
    };
    let said = with(other);
    assert!(said.contains("this processor cannot run"), "{said}");
}
