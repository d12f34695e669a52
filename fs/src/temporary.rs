//! Temporary files and folders beside a destination: named after it, and locked by the process that writes them, so
//! that what a killed process left can be told from what is in use.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::{NamedTempFile, TempDir};

/// What is being written.
const PARTIAL: &str = "partial";
/// What was at the destination.
const ASIDE: &str = "aside";
/// Number of random characters at the end of a temporary name.
const RANDOM: usize = 6;
/// Bytes of the destination's name in the temporary one: file names are limited to 255 bytes, on some file systems to 143.
const MAX_START: usize = 100;
/// Attempts to create a temporary before another process's sweep removes it.
const ATTEMPTS: usize = 16;

/// Creates a temporary file for `destination`, with the permissions of any new file, and locks it.
pub(crate) fn file(destination: &Path) -> io::Result<NamedTempFile> {
    sweep(destination);
    for _ in 0..ATTEMPTS {
        let file = builder(destination, PARTIAL, 0o666, |builder, parent| {
            builder.tempfile_in(parent)
        })?;
        if hold(file.as_file(), file.path()) {
            return Ok(file);
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Creates a temporary folder for `destination`, with the permissions of any new folder. It is locked by the handle.
pub(crate) fn folder(destination: &Path) -> io::Result<(TempDir, File)> {
    sweep(destination);
    for _ in 0..ATTEMPTS {
        let folder = builder(destination, PARTIAL, 0o777, |builder, parent| {
            builder.tempdir_in(parent)
        })?;
        let handle = match File::open(folder.path()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            handle => handle?,
        };
        if hold(&handle, folder.path()) {
            return Ok((folder, handle));
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Creates a folder to put the folder at `destination` in while it is replaced by two renames. If a process is killed
/// between them, the next [`sweep`] puts it back.
pub(crate) fn aside(destination: &Path) -> io::Result<TempDir> {
    builder(destination, ASIDE, 0o777, |builder, parent| {
        builder.tempdir_in(parent)
    })
}

fn builder<T>(
    destination: &Path,
    kind: &str,
    mode: u32,
    create: impl FnOnce(&tempfile::Builder, &Path) -> io::Result<T>,
) -> io::Result<T> {
    let (parent, prefix) = (parent(destination), prefix(destination, kind));
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).rand_bytes(RANDOM);
    // As of any new file or folder: the umask is subtracted.
    builder.permissions(Permissions::from_mode(mode));
    create(&builder, parent).map_err(|error| without_name(parent, error))
}

/// Locks a new temporary. `false` if a sweep of another process came first, which removes it.
fn hold(handle: &File, path: &Path) -> bool {
    match handle.try_lock() {
        Ok(()) => is_at(handle, path),
        Err(TryLockError::WouldBlock) => false,
        // A file system without locks: a sweep cannot lock it either, and leaves it.
        Err(TryLockError::Error(_)) => true,
    }
}

/// Whether `path` is the open file or folder, and not another one of that name.
pub(crate) fn is_at(handle: &File, path: &Path) -> bool {
    let (open, named) = (handle.metadata(), fs::symlink_metadata(path));
    open.is_ok_and(|open| named.is_ok_and(|named| same(&open, &named)))
}

/// Whether both are the same file or folder.
pub(crate) fn same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Removes the temporaries for `destination` that no process has locked: those of killed ones. A folder that was put
/// aside returns to the destination if nothing is there.
pub(crate) fn sweep(destination: &Path) {
    let Ok(entries) = fs::read_dir(parent(destination)) else {
        return;
    };
    let (partial, aside) = (prefix(destination, PARTIAL), prefix(destination, ASIDE));
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is = |prefix: &str| {
            let random = name.as_bytes().strip_prefix(prefix.as_bytes());
            random.is_some_and(|r| r.len() == RANDOM && r.iter().all(u8::is_ascii_alphanumeric))
        };
        // An error: another user's, or another process sweeps it.
        if is(&partial) {
            let _ = remove_unlocked(&entry, None);
        } else if is(&aside) && is_unique(destination) {
            let _ = remove_unlocked(&entry, Some(destination));
        }
    }
}

/// Removes a file or folder that no process has locked, or renames it to `back` if nothing is there.
fn remove_unlocked(entry: &fs::DirEntry, back: Option<&Path>) -> io::Result<()> {
    let (kind, path) = (entry.file_type()?, entry.path());
    // Opening anything else, such as a named pipe, could block.
    if !kind.is_dir() && !kind.is_file() {
        return Ok(());
    }
    let handle = File::open(&path)?;
    if handle.try_lock().is_err() || !is_at(&handle, &path) {
        return Ok(());
    }
    if let Some(back) = back.filter(|back| fs::symlink_metadata(back).is_err()) {
        return fs::rename(path, back);
    }
    match kind.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// The folder that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What names of temporary files and folders of a kind for `path` start with.
fn prefix(path: &Path, kind: &str) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let start = &name[..name.floor_char_boundary(MAX_START)];
    format!(".{start}.{kind}-")
}

/// Whether no other name has the same prefix.
fn is_unique(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.len() <= MAX_START)
}

/// Why nothing can be created in `folder`, from tempfile's error, which names the temporary file and would
/// mislead.
fn without_name(folder: &Path, error: io::Error) -> io::Error {
    match folder.metadata() {
        Err(missing) => missing,
        Ok(_) => match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => error.kind().into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exists(path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok()
    }

    /// Killed processes left 699 MB after 220 kills: what nobody has locked goes at the next start, and nothing else.
    #[test]
    fn what_a_killed_process_left_is_removed_at_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path(".a.partial-Ab3dEf/golden")).unwrap();
        fs::write(path(".a.partial-Ab3dEf/golden/x"), "half").unwrap();
        fs::write(path(".a.partial-123456"), "half").unwrap();
        let others = [
            ".a.partial-1234567",
            ".a.partial-12-456",
            ".b.partial-123456",
            "a",
        ];
        for other in others {
            fs::write(path(other), "").unwrap();
        }
        std::os::unix::fs::symlink("a", path(".a.partial-link00")).unwrap();
        let (in_use, lock) = folder(&path("a")).unwrap();
        let file_in_use = file(&path("a")).unwrap();
        assert!(!exists(&path(".a.partial-Ab3dEf")));
        assert!(!exists(&path(".a.partial-123456")));
        assert!(in_use.path().exists() && file_in_use.path().exists());
        for other in others.into_iter().chain([".a.partial-link00"]) {
            assert!(exists(&path(other)), "{other}");
        }
        // Killed now: the lock ends with the process.
        let (left, file_left) = (in_use.keep(), file_in_use.into_temp_path().keep().unwrap());
        drop(lock);
        folder(&path("a")).unwrap();
        assert!(!exists(&left) && !exists(&file_left));
    }
}
