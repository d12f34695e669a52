//! Permissions and owners, of new files and of those that replace others.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

/// The permissions of new files and folders: 0666 and 0777 less the umask, or as the parent folder's access control list
/// says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewModes {
    folder: u32,
}

impl NewModes {
    /// Those of a folder that was created with 0777. (The umask itself cannot be read without changing it.)
    pub(crate) fn of_folder(new: &Path) -> io::Result<Self> {
        let folder = fs::metadata(new)?.mode() & 0o777;
        Ok(Self { folder })
    }

    /// Gives a file or folder these permissions, if it has others: libraries create some files for their owner only.
    pub(crate) fn apply(self, path: &Path, found: &Metadata) -> io::Result<()> {
        let wanted = match found.is_dir() {
            true => self.folder,
            false if found.is_file() => self.folder & 0o666,
            false => return Ok(()),
        };
        // The bits above are inherited from the parent folder.
        let mode = found.mode() & !0o777 | wanted;
        match found.mode() == mode {
            true => Ok(()),
            false => fs::set_permissions(path, Permissions::from_mode(mode)),
        }
    }
}

/// Gives a file or folder the permissions of the `old` one that it replaces, and its owner and group where this process
/// may give them.
pub(crate) fn inherit(path: &Path, old: &Metadata) -> io::Result<()> {
    if old.is_symlink() {
        return Ok(());
    }
    let new = fs::symlink_metadata(path)?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        // Only root gives files away; others may choose among their groups.
        if chown(path, Some(old.uid()), Some(old.gid())).is_err() {
            let _ = chown(path, None, Some(old.gid()));
        }
    }
    // After the change of owner, which clears bits.
    match fs::symlink_metadata(path)?.mode() == old.mode() {
        true => Ok(()),
        false => fs::set_permissions(path, old.permissions()),
    }
}
