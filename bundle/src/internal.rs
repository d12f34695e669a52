//! For tests of this repository: the parsers by themselves. Unstable: anything in it can change in any release.

use std::path::Path;

use crate::{Error, Golden, Head, Manifest, TaughtExamples, read};

/// Parses and validates `manifest.json`. `path` is for errors, here and below.
///
/// # Errors
/// As [`Bundle::open`](crate::Bundle::open).
pub fn read_manifest(path: &Path, bytes: &[u8]) -> Result<Manifest, Error> {
    read::parse_manifest(path, bytes)
}

/// Parses and checks `head.safetensors`.
///
/// # Errors
/// As [`Bundle::open`](crate::Bundle::open).
pub fn read_head(path: &Path, bytes: &[u8], manifest: &Manifest) -> Result<Head, Error> {
    Head::from_bytes(path, bytes, manifest)
}

/// Parses and checks the golden embeddings.
///
/// # Errors
/// As [`Bundle::open`](crate::Bundle::open).
pub fn read_golden(path: &Path, bytes: &[u8], embedding_size: usize) -> Result<Golden, Error> {
    Golden::from_bytes(path, bytes, embedding_size)
}

/// Parses and checks what a bundle was taught.
///
/// # Errors
/// As [`Bundle::examples`](crate::Bundle::examples).
pub fn read_examples(
    path: &Path,
    bytes: &[u8],
    manifest: &Manifest,
) -> Result<TaughtExamples, Error> {
    TaughtExamples::from_bytes(path, bytes, manifest)
}

/// The file of `examples`; `path` is for errors.
///
/// # Errors
/// As [`BundleWriter::add_examples`](crate::BundleWriter::add_examples).
pub fn write_examples(path: &Path, examples: &TaughtExamples) -> Result<Vec<u8>, Error> {
    examples.to_bytes(path)
}
