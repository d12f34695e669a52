//! Atomic writes of folders.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{parent, prefix, sync, without_name};

/// A folder that appears under its name when it is complete.
///
/// Dropped without [`AtomicFolder::replace`] or [`AtomicFolder::create_new`], it leaves nothing.
#[derive(Debug)]
pub struct AtomicFolder {
    destination: PathBuf,
    folder: TempDir,
}

impl AtomicFolder {
    /// Creates the temporary folder beside `destination`. Where `destination` is a link to a folder, that folder
    /// is replaced later, not the link.
    ///
    /// # Errors
    /// The parent folder does not exist or cannot be written to.
    pub fn create(destination: &Path) -> io::Result<Self> {
        let destination = fs::canonicalize(destination).unwrap_or_else(|_| destination.to_owned());
        let folder = temporary(&destination)?;
        Ok(Self {
            destination,
            folder,
        })
    }

    /// The temporary folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Syncs all that is in the folder and renames it to its destination, where there must be nothing.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], also for an empty folder; those of syncing and renaming. Nothing is left
    /// then.
    pub fn create_new(self) -> io::Result<()> {
        sync_all(self.path())?;
        rename_new(self.path(), &self.destination)?;
        // The folder has moved: nothing is left for TempDir to remove.
        let _ = self.folder.keep();
        sync(parent(&self.destination))
    }

    /// Syncs all that is in the folder and exchanges it with the folder at its destination, which is removed and
    /// whose permissions the new one gets: at any moment one of the two whole folders is there. Where the file
    /// system cannot exchange two folders, a power cut between two renames leaves both under temporary names.
    ///
    /// # Errors
    /// There is no folder at the destination; those of syncing and renaming. The old folder stays then.
    pub fn replace(self) -> io::Result<()> {
        let old = fs::metadata(&self.destination)?;
        fs::set_permissions(self.path(), old.permissions())?;
        sync_all(self.path())?;
        if exchange(self.path(), &self.destination).is_err() {
            replace_by_renames(self.path(), &self.destination)?;
        }
        sync(parent(&self.destination))
        // Dropping the temporary folder removes the old one.
    }
}

fn temporary(destination: &Path) -> io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&prefix(destination))
        // As any new folder: the umask is subtracted.
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(parent(destination))
        .map_err(|error| without_name(parent(destination), error))
}

/// Syncs the files and folders in `folder`, and the folder itself.
fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        } else {
            sync(&entry.path())?;
        }
    }
    sync(folder)
}

/// Renames a folder to a name that nothing has.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system or the kernel has no such rename.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return Ok(done?),
        }
    }
    // A rename would replace an empty folder.
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Puts the folder `new` in the place of `old`, which is removed.
fn replace_by_renames(new: &Path, old: &Path) -> io::Result<()> {
    let aside = temporary(old)?;
    // A rename replaces an empty folder.
    fs::rename(old, aside.path())?;
    if let Err(error) = fs::rename(new, old) {
        fs::rename(aside.path(), old)?;
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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

    fn filled(destination: &Path, text: &str) -> AtomicFolder {
        let folder = AtomicFolder::create(destination).unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/file"), text).unwrap();
        folder
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let folder = filled(&path, "1");
        assert!(!path.exists());
        drop(folder);
        assert!(names(root.path()).is_empty());
        filled(&path, "1").create_new().unwrap();
        assert_eq!(fs::read(path.join("sub/file")).unwrap(), b"1");
        assert_eq!(names(root.path()), ["a"]);
        let plain = root.path().join("plain");
        fs::create_dir(&plain).unwrap();
        assert_eq!(mode(&path), mode(&plain));
    }

    #[test]
    fn create_new_does_not_replace_even_an_empty_folder() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let folder = filled(&path, "1");
        fs::create_dir(&path).unwrap();
        let error = folder.create_new().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(names(&path).is_empty());
        assert_eq!(names(root.path()), ["a"]);
    }

    #[test]
    fn replace_exchanges_the_folders_and_removes_the_old_one() {
        let root = tempfile::tempdir().unwrap();
        let (path, link) = (root.path().join("a"), root.path().join("link"));
        let error = filled(&path, "0").replace().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        filled(&path, "1").create_new().unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        fs::write(path.join("old"), "").unwrap();
        std::os::unix::fs::symlink("a", &link).unwrap();
        filled(&link, "2").replace().unwrap();
        assert_eq!(names(root.path()), ["a", "link"]);
        assert_eq!(names(&path), ["sub"]);
        assert_eq!(fs::read(path.join("sub/file")).unwrap(), b"2");
        assert_eq!(mode(&path), 0o750);
    }

    #[test]
    fn replace_without_exchange_keeps_the_old_folder_on_an_error() {
        let root = tempfile::tempdir().unwrap();
        let (new, old) = (root.path().join("new"), root.path().join("old"));
        fs::create_dir(&old).unwrap();
        fs::write(old.join("file"), "").unwrap();
        replace_by_renames(&new, &old).unwrap_err();
        assert_eq!(names(&old), ["file"]);
        fs::create_dir(&new).unwrap();
        replace_by_renames(&new, &old).unwrap();
        assert!(names(&old).is_empty());
        assert_eq!(names(root.path()), ["old"]);
    }
}
