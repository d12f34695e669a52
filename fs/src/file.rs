//! Atomic writes of files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::permissions::inherit;
use crate::sync;
use crate::temporary::{self, parent};

/// A file that appears under its name when it is complete.
///
/// Dropped without [`AtomicFile::replace`] or [`AtomicFile::create_new`], it leaves nothing. What a process that was
/// killed leaves is removed when the next one writes to the same destination.
#[derive(Debug)]
pub struct AtomicFile {
    destination: PathBuf,
    file: NamedTempFile,
}

impl AtomicFile {
    /// Creates the temporary file beside `destination`. Where `destination` is a link to a file, that file is
    /// replaced later, not the link.
    ///
    /// # Errors
    /// The folder does not exist or cannot be written to.
    pub fn create(destination: &Path) -> io::Result<Self> {
        let destination = fs::canonicalize(destination).unwrap_or_else(|_| destination.to_owned());
        let file = temporary::file(&destination)?;
        Ok(Self { destination, file })
    }

    /// The temporary file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Syncs the file and renames it to its destination. A file that is there is replaced, and the new one gets
    /// its permissions, and its owner and group where this process may give them.
    ///
    /// # Errors
    /// The disk is full, or the destination is a folder. What was there stays.
    pub fn replace(self) -> io::Result<()> {
        if let Ok(old) = fs::metadata(&self.destination) {
            inherit(self.file.path(), &old)?;
        }
        self.file.as_file().sync_all()?;
        self.file.persist(&self.destination).map_err(|e| e.error)?;
        sync(parent(&self.destination))
    }

    /// Syncs the file and renames it to its destination, where there must be nothing.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`]; the disk is full.
    pub fn create_new(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        let persisted = self.file.persist_noclobber(&self.destination);
        persisted.map_err(|e| e.error)?;
        sync(parent(&self.destination))
    }
}

/// Writes `bytes` to `path` atomically, as [`write_with`].
///
/// # Errors
/// The system's.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes a file atomically by `write`, which is not buffered. A file at `path` is replaced as by
/// [`AtomicFile::replace`]. What cannot be replaced, such as a device or a pipe, is written to as it is.
///
/// # Errors
/// Those of `write`, and the system's. What was at `path` stays.
pub fn write_with<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        return write(&mut OpenOptions::new().write(true).open(path)?);
    }
    let mut file = AtomicFile::create(path)?;
    write(file.file())?;
    Ok(file.replace()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fs::Permissions;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_failed_write_leaves_nothing_new_and_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let fail = |path: &Path| {
            write_with(path, |file| {
                file.write_all(b"half")?;
                Err(io::Error::other("stop"))
            })
        };
        assert_eq!(fail(&path).unwrap_err().to_string(), "stop");
        assert!(names(folder.path()).is_empty());
        write(&path, b"old").unwrap();
        assert_eq!(fail(&path).unwrap_err().to_string(), "stop");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.json"]);
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn a_new_file_has_the_usual_permissions_and_a_replaced_one_keeps_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (path, plain) = (folder.path().join("a"), folder.path().join("plain"));
        write(&path, b"1").unwrap();
        fs::write(&plain, b"1").unwrap();
        assert_eq!(mode(&path), mode(&plain));
        for kept in [0o600, 0o664] {
            fs::set_permissions(&path, Permissions::from_mode(kept)).unwrap();
            write(&path, b"2").unwrap();
            assert_eq!(mode(&path), kept);
        }
    }

    #[test]
    fn a_link_still_points_to_the_file_that_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        fs::write(&path, b"old").unwrap();
        std::os::unix::fs::symlink("a", &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_device_is_written_to() {
        write(Path::new("/dev/null"), b"x").unwrap();
    }

    #[test]
    fn create_new_does_not_replace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut file = AtomicFile::create(&path).unwrap();
        file.file().write_all(b"mine").unwrap();
        fs::write(&path, b"another's").unwrap();
        let error = file.create_new().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        assert_eq!(names(folder.path()), ["a"]);
        fs::remove_file(&path).unwrap();
        AtomicFile::create(&path).unwrap().create_new().unwrap();
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn errors_do_not_name_the_temporary_file() {
        let error = write(Path::new("/nowhere/at/all"), b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
    }
}
