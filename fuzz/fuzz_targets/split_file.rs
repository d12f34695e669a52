#![no_main]

libfuzzer_sys::fuzz_target!(
    init: pinhole_fuzz_targets::write_seeds("split_file"),
    |bytes: &[u8]| pinhole_fuzz_targets::run("split_file", bytes)
);
