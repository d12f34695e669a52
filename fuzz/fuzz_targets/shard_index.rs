#![no_main]

libfuzzer_sys::fuzz_target!(
    init: pinhole_fuzz_targets::write_seeds("shard_index"),
    |bytes: &[u8]| pinhole_fuzz_targets::run("shard_index", bytes)
);
