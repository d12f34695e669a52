#![no_main]

libfuzzer_sys::fuzz_target!(
    init: pinhole_fuzz_targets::write_seeds("open_clip_config"),
    |bytes: &[u8]| pinhole_fuzz_targets::run("open_clip_config", bytes)
);
