#![no_main]

libfuzzer_sys::fuzz_target!(
    init: pinhole_fuzz_targets::write_seeds("legacy_checkpoint"),
    |bytes: &[u8]| pinhole_fuzz_targets::run("legacy_checkpoint", bytes)
);
