#![no_main]

libfuzzer_sys::fuzz_target!(
    init: pinhole_fuzz_targets::write_seeds("web_request"),
    |bytes: &[u8]| pinhole_fuzz_targets::run("web_request", bytes)
);
