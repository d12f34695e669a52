//! Cargo heeds build dependencies only of a crate with a build script.

fn main() {}
