#![no_main]

libfuzzer_sys::fuzz_target!(
    init: pinhole_fuzz_targets::write_seeds("prompt_learner"),
    |bytes: &[u8]| pinhole_fuzz_targets::run("prompt_learner", bytes)
);
