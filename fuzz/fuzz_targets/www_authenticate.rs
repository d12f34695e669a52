#![no_main]

libfuzzer_sys::fuzz_target!(
    init: pinhole_fuzz_targets::write_seeds("www_authenticate"),
    |bytes: &[u8]| pinhole_fuzz_targets::run("www_authenticate", bytes)
);
