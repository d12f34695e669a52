//! A lock on a folder that is read and then replaced.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::temporary::{is_at, sweep};

/// How often a lock that another process holds is tried.
const POLL: Duration = Duration::from_millis(50);
/// A shorter wait is not reported.
const SHORT: Duration = Duration::from_millis(500);

/// The only right to change a folder, among processes that ask for it. It ends when this is dropped, or with the
/// process.
///
/// The folder itself is locked, by a handle, so that no lock file is left. A process that replaces the folder
/// ([`AtomicFolder::replace_keeping`](crate::AtomicFolder::replace_keeping)) moves the lock out of the way with the old
/// folder; those that wait find the new one. Readers need no lock. On a file system without locks (NFS without
/// `lockd`), every process gets the right.
#[derive(Debug)]
pub struct FolderLock {
    _handle: File,
}

/// Why a folder was not locked.
#[derive(Debug)]
pub enum LockError {
    /// The folder cannot be opened.
    Io(io::Error),
    /// Another process held the lock all the time. It is described as "process 1234 (pinhole)" or, where that is not
    /// known, "another process".
    Held(String),
}

impl FolderLock {
    /// Locks the folder at `path`, and waits for at most `patience` while others have it. `waiting` is called once, with
    /// a description of the holder as in [`LockError::Held`], if that takes longer than half a second.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn acquire(
        path: &Path,
        patience: Duration,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<Self, LockError> {
        let start = Instant::now();
        let mut announced = false;
        loop {
            let open = File::open(path).or_else(|_| {
                // A process may have been killed while it replaced the folder by two renames.
                sweep(path);
                File::open(path)
            });
            let handle = open.map_err(LockError::Io)?;
            let holder = match handle.try_lock() {
                Err(TryLockError::Error(_)) => return Ok(Self { _handle: handle }),
                Ok(()) => {
                    let named = std::fs::canonicalize(path).map_err(LockError::Io)?;
                    if is_at(&handle, &named) {
                        return Ok(Self { _handle: handle });
                    }
                    // The folder was replaced since it was opened, by a process that is not known.
                    None
                }
                Err(TryLockError::WouldBlock) => holder(&handle),
            };
            let holder = || holder.clone().unwrap_or("another process".into());
            if start.elapsed() >= patience {
                return Err(LockError::Held(holder()));
            }
            if !announced && start.elapsed() >= SHORT {
                waiting(&holder());
                announced = true;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Who has locked the file, from the kernel's list.
fn holder(handle: &File) -> Option<String> {
    let inode = handle.metadata().ok()?.ino().to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF", with "->" after the number of one that waits.
    let pid = locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields[..] else {
            return None;
        };
        (file.rsplit(':').next() == Some(&inode)).then(|| pid.to_owned())
    })?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("process {pid} ({})", name.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AtomicFolder;

    const NOW: Duration = Duration::ZERO;
    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_lock_excludes_others_and_names_its_holder() {
        let root = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(root.path(), NOW, &mut |_| panic!("free")).unwrap();
        let Err(LockError::Held(holder)) = FolderLock::acquire(root.path(), NOW, &mut |_| {})
        else {
            panic!("locked twice");
        };
        // Not every sandbox has the list.
        let listed = std::fs::read_to_string("/proc/locks").is_ok_and(|l| l.contains("FLOCK"));
        if listed {
            assert!(
                holder.starts_with(&format!("process {} (", std::process::id())),
                "{holder}"
            );
        }
        drop(first);
        FolderLock::acquire(root.path(), NOW, &mut |_| panic!("free")).unwrap();
        let missing = FolderLock::acquire(&root.path().join("none"), NOW, &mut |_| {});
        assert!(matches!(missing, Err(LockError::Io(_))));
    }

    /// Each of eight adds its number to what it has read and replaces the folder: none is lost.
    #[test]
    fn changes_at_once_are_done_one_after_the_other() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("folder");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("list"), "").unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let _lock = FolderLock::acquire(path, SOON, &mut |_| {}).unwrap();
                    let list = std::fs::read_to_string(path.join("list")).unwrap();
                    let new = AtomicFolder::create(path).unwrap();
                    std::fs::write(new.path().join("list"), format!("{list}{number}")).unwrap();
                    new.replace_keeping(&|name| name != Path::new("list"))
                        .unwrap();
                });
            }
        });
        let list = std::fs::read_to_string(path.join("list")).unwrap();
        let mut numbers: Vec<char> = list.chars().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, ['0', '1', '2', '3', '4', '5', '6', '7']);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
