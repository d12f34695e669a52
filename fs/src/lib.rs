//! Files: atomic writes, and parsing with errors that name the field ([`from_json`]).
//!
//! An atomic write: a file or folder appears whole, or what was there before stays.
//!
//! Everything is written to a temporary file or folder beside the destination, synced, and renamed to the
//! destination; then the parent folder is synced, so that the rename survives a power cut too. A process that
//! is killed leaves at most a hidden temporary file or folder, whose name starts with a dot.

mod file;
mod folder;
mod parse;

use std::fs::File;
use std::io;
use std::path::Path;

pub use file::{AtomicFile, write, write_with};
pub use folder::AtomicFolder;
pub use parse::{ParseError, deserialize, from_json, from_json_entries};

/// The folder that holds `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes what the system holds of a file or folder to the disk.
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// What names of temporary files and folders for `path` start with.
fn prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // File names are limited to 255 bytes, and the temporary one is longer.
    let start: String = name.chars().take(32).collect();
    format!(".{start}.partial-")
}

/// Why nothing can be created in `folder`, from tempfile's error, which names the temporary file and would
/// mislead.
fn without_name(folder: &Path, error: io::Error) -> io::Error {
    match folder.metadata() {
        Err(missing) => missing,
        Ok(_) => error.kind().into(),
    }
}
