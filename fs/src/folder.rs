//! Atomic writes of folders.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::permissions::{NewModes, inherit};
use crate::sync;
use crate::temporary::{self, parent, same};

/// A folder that appears under its name when it is complete.
///
/// Dropped without [`AtomicFolder::replace`] or [`AtomicFolder::create_new`], it leaves nothing. What a process that was
/// killed leaves is removed when the next one writes to the same destination.
#[derive(Debug)]
pub struct AtomicFolder {
    destination: PathBuf,
    folder: TempDir,
    modes: NewModes,
    /// Held while the folder is in use, so that no other process removes it. Released after the folder's removal.
    _lock: File,
}

impl AtomicFolder {
    /// Creates the temporary folder beside `destination`. Where `destination` is a link to a folder, that folder
    /// is replaced later, not the link.
    ///
    /// # Errors
    /// The parent folder does not exist or cannot be written to; [`io::ErrorKind::ResourceBusy`] if the destination is a
    /// mount point, which cannot be replaced.
    pub fn create(destination: &Path) -> io::Result<Self> {
        let destination = fs::canonicalize(destination).unwrap_or_else(|_| destination.to_owned());
        if is_mount_point(&destination) {
            return Err(mount_point());
        }
        let (folder, lock) = temporary::folder(&destination)?;
        Ok(Self {
            modes: NewModes::of_folder(folder.path())?,
            destination,
            folder,
            _lock: lock,
        })
    }

    /// The temporary folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives all that is in the folder the permissions of new files and folders (0666 and 0777 less the umask), syncs it
    /// and renames the folder to its destination, where there must be nothing.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], also for an empty folder; those of syncing and renaming. Nothing is left
    /// then.
    pub fn create_new(self) -> io::Result<()> {
        complete(self.path(), None, self.modes)?;
        rename_new(self.path(), &self.destination)?;
        // The folder has moved: nothing is left for TempDir to remove.
        let _ = self.folder.keep();
        sync(parent(&self.destination))
    }

    /// [`AtomicFolder::replace_keeping`] nothing of the old folder.
    ///
    /// # Errors
    /// As for that.
    pub fn replace(self) -> io::Result<()> {
        self.replace_keeping(&|_| false)
    }

    /// Syncs all that is in the folder and exchanges it with the folder at its destination, which is removed: at any
    /// moment one of the two whole folders is there. Where the file system cannot exchange two folders, a power cut
    /// between two renames leaves both under temporary names; the next write to the destination puts the old one back.
    ///
    /// The folder and its files get the permissions of those that they replace, and their owner and group where this
    /// process may give them; the others get those of new files. Files of the old folder that the new one does not have
    /// stay if `keep` says so of their path in the folder: they are the same files in both while both exist (or copies,
    /// where the file system has no hard links).
    ///
    /// # Errors
    /// There is no folder at the destination; a file cannot be kept; those of syncing and renaming. The old folder stays
    /// then.
    pub fn replace_keeping(self, keep: &dyn Fn(&Path) -> bool) -> io::Result<()> {
        let (new, destination) = (self.path(), self.destination.as_path());
        let found = fs::metadata(destination)?;
        complete(new, Some(destination), self.modes)?;
        // Late, so that it sees what others wrote meanwhile.
        take_over(destination, new, Path::new(""), keep)?;
        inherit(new, &found)?;
        sync(new)?;
        let aside = match exchange(new, destination) {
            Ok(()) => None,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(mount_point()),
            Err(_) => Some(replace_by_renames(new, destination)?),
        };
        let old = aside.as_ref().map_or(new, |aside| aside.path());
        // What was written to the old folder at the last moment.
        if let Err(error) = take_over(old, destination, Path::new(""), keep) {
            let old = aside.unwrap_or(self.folder).keep();
            let reason = format!("{error}; it stays in {}", old.display());
            return Err(io::Error::new(error.kind(), reason));
        }
        sync(parent(destination))
        // Dropping the temporary folder removes the old one.
    }
}

/// Gives the entries of the new folder `new` their permissions, and syncs them and the folder: those of their
/// counterparts in `old` if it is given, else `modes`.
fn complete(new: &Path, old: Option<&Path>, modes: NewModes) -> io::Result<()> {
    for entry in fs::read_dir(new)? {
        let entry = entry?;
        let (path, found) = (entry.path(), entry.metadata()?);
        let old = old.map(|old| old.join(entry.file_name()));
        let replaced = old.as_ref().and_then(|old| fs::symlink_metadata(old).ok());
        let replaced = replaced.filter(|old| old.file_type() == found.file_type());
        match &replaced {
            // In both folders: as it is, and synced long ago.
            Some(old) if same(old, &found) => continue,
            Some(old) => inherit(&path, old)?,
            None => modes.apply(&path, &found)?,
        }
        if found.is_dir() {
            complete(&path, old.filter(|_| replaced.is_some()).as_deref(), modes)?;
        } else if found.is_file() {
            sync(&path)?;
        }
    }
    sync(new)
}

/// Puts into the folder `to` what `from` has and it has not, except the files that are not to be kept. `inside` is the
/// path of both in the folder that is replaced.
fn take_over(
    from: &Path,
    to: &Path,
    inside: &Path,
    keep: &dyn Fn(&Path) -> bool,
) -> io::Result<()> {
    let mut changed = false;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let inside = inside.join(entry.file_name());
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let (found, there) = (entry.metadata()?, fs::symlink_metadata(&to).ok());
        if found.is_dir() {
            if is_mount_point(&from) {
                return Err(named(&inside, mount_point()));
            }
            if there.is_none() {
                fs::create_dir(&to).map_err(|e| named(&inside, e))?;
                changed = true;
            }
            take_over(&from, &to, &inside, keep)?;
            if there.is_none() {
                inherit(&to, &found)?;
            }
        } else if there.is_none() && keep(&inside) {
            // A hard link is the file itself, with its owner, times and open handles.
            if fs::hard_link(&from, &to).is_err() {
                copy(&from, &to, &found).map_err(|e| named(&inside, e))?;
            }
            changed = true;
        }
    }
    if changed {
        sync(to)?;
    }
    Ok(())
}

/// Copies a file where the file system has no hard links, or this process may not make one.
fn copy(from: &Path, to: &Path, found: &Metadata) -> io::Result<()> {
    if found.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(from)?, to);
    }
    if !found.is_file() {
        return Err(io::Error::other("it is no file, and cannot be copied"));
    }
    fs::copy(from, to)?;
    let modified = found.modified()?;
    let file = File::options().write(true).open(to)?;
    file.set_modified(modified)?;
    file.sync_all()?;
    inherit(to, found)
}

/// The error, with the path that it is about.
fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn mount_point() -> io::Error {
    let text = "it is a mount point, which cannot be replaced as a whole; mount the folder above it instead, or change a \
                copy of the folder and copy that back";
    io::Error::new(io::ErrorKind::ResourceBusy, text)
}

#[cfg(target_os = "linux")]
fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
fn is_mount_point(_: &Path) -> bool {
    false
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

/// Puts the folder `new` in the place of `old`, which is then at the temporary path. If the process ends between the two
/// renames, the next one that writes to `old` puts it back ([`temporary::aside`]).
fn replace_by_renames(new: &Path, old: &Path) -> io::Result<TempDir> {
    // Against another process's sweep; the caller may have locked it already.
    let lock = File::open(old)?;
    let _ = lock.try_lock();
    let aside = temporary::aside(old)?;
    // A rename replaces an empty folder.
    fs::rename(old, aside.path())?;
    if let Err(error) = fs::rename(new, old) {
        fs::rename(aside.path(), old)?;
        return Err(error);
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

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
        let aside = replace_by_renames(&new, &old).unwrap();
        assert!(names(&old).is_empty());
        assert_eq!(names(aside.path()), ["file"]);
        drop(aside);
        assert_eq!(names(root.path()), ["old"]);
    }

    /// Without this the old folder would be swept as if it were half-written: there would be none.
    #[test]
    fn an_old_folder_without_its_new_one_is_put_back() {
        let root = tempfile::tempdir().unwrap();
        let (old, aside) = (
            root.path().join("old"),
            root.path().join(".old.aside-a1b2c3"),
        );
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("file"), "").unwrap();
        drop(AtomicFolder::create(&old).unwrap());
        assert_eq!(names(&old), ["file"]);
        // The new one is there: the old one is not needed.
        fs::create_dir(&aside).unwrap();
        drop(AtomicFolder::create(&old).unwrap());
        assert_eq!(names(&old), ["file"]);
        assert_eq!(names(root.path()), ["old"]);
    }

    /// A library wrote one file for its owner only, so that another user could not open the bundle.
    #[test]
    fn all_of_a_new_folder_has_the_usual_permissions() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let folder = filled(&path, "1");
        let private = |name: &str, mode| {
            let path = folder.path().join(name);
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        private("sub/file", 0o600);
        private("sub", 0o700);
        folder.create_new().unwrap();
        fs::write(root.path().join("plain"), "").unwrap();
        assert_eq!(
            mode(&path.join("sub/file")),
            mode(&root.path().join("plain"))
        );
        assert_eq!(mode(&path.join("sub")), mode(&path));
    }

    #[test]
    fn what_is_replaced_keeps_its_permissions_and_owner() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        filled(&path, "1").create_new().unwrap();
        // Only root can give files away.
        let is_root = std::os::unix::fs::chown(path.join("sub"), Some(1234), Some(1235)).is_ok();
        if is_root {
            std::os::unix::fs::chown(path.join("sub/file"), Some(1236), Some(1237)).unwrap();
            std::os::unix::fs::chown(&path, Some(1238), Some(1239)).unwrap();
        }
        for (name, mode) in [("sub/file", 0o640), ("sub", 0o750), ("", 0o711)] {
            fs::set_permissions(path.join(name), Permissions::from_mode(mode)).unwrap();
        }
        let all = ["", "sub", "sub/file"].map(|name| path.join(name));
        let state = || {
            let found = all.each_ref().map(|path| fs::metadata(path).unwrap());
            found.map(|found| (found.mode(), found.uid(), found.gid()))
        };
        let before = state();
        filled(&path, "2").replace().unwrap();
        assert_eq!(fs::read(path.join("sub/file")).unwrap(), b"2");
        assert_eq!(state(), before);
    }

    /// Notes and photos that a user had put into a bundle's folder were deleted with the old one.
    #[test]
    fn files_that_are_kept_are_the_same_files() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        filled(&path, "1").create_new().unwrap();
        for folder in ["photos/2026", "empty"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        let kept = ["notes.txt", "photos/2026/a.jpg", "sub/more"];
        for name in kept.into_iter().chain(["dropped"]) {
            fs::write(path.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", path.join("link")).unwrap();
        fs::set_permissions(path.join("photos"), Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(path.join("notes.txt"), Permissions::from_mode(0o444)).unwrap();
        let inode = |name: &str| fs::metadata(path.join(name)).unwrap().ino();
        let before = kept.map(inode);
        let ours = |name: &Path| name == Path::new("dropped") || name.starts_with("sub/file");
        filled(&path, "2")
            .replace_keeping(&|name| !ours(name))
            .unwrap();
        assert_eq!(fs::read(path.join("sub/file")).unwrap(), b"2");
        assert_eq!(kept.map(inode), before);
        assert_eq!(
            names(&path),
            ["empty", "link", "notes.txt", "photos", "sub"]
        );
        assert_eq!(mode(&path.join("photos")), 0o700);
        assert_eq!(mode(&path.join("notes.txt")), 0o444);
        assert_eq!(names(root.path()), ["a"]);
    }

    /// Where hard links are not possible.
    #[test]
    fn a_copy_has_content_time_and_permissions() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::write(&from, "text").unwrap();
        fs::set_permissions(&from, Permissions::from_mode(0o640)).unwrap();
        let then = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options()
            .write(true)
            .open(&from)
            .unwrap()
            .set_modified(then)
            .unwrap();
        copy(&from, &to, &fs::symlink_metadata(&from).unwrap()).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"text");
        assert_eq!(mode(&to), 0o640);
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), then);
        let link = root.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        copy(
            &link,
            &root.path().join("l"),
            &fs::symlink_metadata(&link).unwrap(),
        )
        .unwrap();
        assert_eq!(
            fs::read_link(root.path().join("l")).unwrap(),
            Path::new("nowhere")
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_mount_point_is_refused_with_the_way_out() {
        let error = AtomicFolder::create(Path::new("/proc")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert!(
            error.to_string().contains("mount the folder above it"),
            "{error}"
        );
    }
}
