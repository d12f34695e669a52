//! For tests of this repository: the parsers by themselves. Unstable: anything in it can change in any release.

use std::path::Path;

use crate::{Error, Golden, Head, Manifest, read};

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
