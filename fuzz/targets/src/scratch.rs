//! Files for parsers that take a path. They are in memory where the system has a folder for that.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// The folder of this thread.
fn folder() -> PathBuf {
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| {
            let memory = Path::new("/dev/shm");
            let made = TempDir::new_in(memory).or_else(|_| TempDir::new());
            made.expect("a temporary folder")
        });
        folder.path().to_owned()
    })
}

/// Writes `bytes` as `name` in the folder of this thread, and returns its path.
pub(crate) fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, bytes).expect("a temporary file");
    path
}

/// An empty folder `name` in the folder of this thread.
pub(crate) fn empty_folder(name: &str) -> PathBuf {
    let path = folder().join(name);
    if path.exists() {
        fs::remove_dir_all(&path).expect("the folder of the last run");
    }
    fs::create_dir(&path).expect("a temporary folder");
    path
}
