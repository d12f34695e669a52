//! Files: atomic writes, and parsing with errors that name the field ([`from_json`]).
//!
//! An atomic write: a file or folder appears whole, or what was there before stays.
//!
//! Everything is written to a temporary file or folder beside the destination, synced, and renamed to the
//! destination; then the parent folder is synced, so that the rename survives a power cut too. A process that
//! is killed leaves at most a hidden temporary file or folder, `.NAME.partial-XXXXXX`. It was locked by the
//! process, so the next one that writes to the same destination sees that it is unused, and removes it.
//!
//! New files have 0666 less the umask, new folders 0777 less the umask. What replaces a file or folder has its
//! permissions, and its owner and group where the process may give them. [`FolderLock`] is for processes that read
//! a folder and then replace it.

mod file;
mod folder;
mod lock;
mod parse;
mod permissions;
mod temporary;

use std::fs::File;
use std::io;
use std::path::Path;

pub use file::{AtomicFile, write, write_with};
pub use folder::AtomicFolder;
pub use lock::{FolderLock, LockError};
pub use parse::{ParseError, deserialize, from_json, from_json_entries};

/// Writes what the system holds of a file or folder to the disk.
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
