//! inotify: the system tells of changes in folders.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Error;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// File systems whose files other machines or programs can change without this system's knowledge: NFS, SMB, CIFS, 9P,
/// FUSE, AFS, Ceph (statfs(2)).
const REMOTE: [u64; 8] = [
    0x6969,
    0x517B,
    0xFE53_4D42,
    0xFF53_4D42,
    0x0102_1997,
    0x6573_5546,
    0x5346_414F,
    0x00C3_6400,
];

/// Watched folders.
pub(super) struct Watch {
    inotify: OwnedFd,
    root: PathBuf,
    /// By watch descriptor.
    folders: HashMap<i32, PathBuf>,
}

/// A change in a watched folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A file was written and closed, or renamed into the folder.
    Finished(PathBuf),
    /// A file was created or written to.
    Written(PathBuf),
    /// A folder was created, or renamed into the folder.
    FolderAdded(PathBuf),
    /// There were too many changes, or a folder was renamed: everything must be searched again.
    Unknown,
}

impl Watch {
    /// `None` if the system cannot tell of the changes in `root`.
    pub(super) fn new(root: &Path) -> Option<Self> {
        let system = rustix::fs::statfs(root).ok()?;
        // The type's width and sign depend on the architecture; magic numbers have 32 bits.
        if REMOTE.contains(&(system.f_type as u64 & 0xFFFF_FFFF)) {
            return None;
        }
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        Some(Self {
            inotify: inotify::init(flags).ok()?,
            root: root.to_owned(),
            folders: HashMap::new(),
        })
    }

    /// Watches `folder`, without its subfolders.
    pub(super) fn add(&mut self, folder: &Path) -> std::io::Result<()> {
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(&self.inotify, folder, flags)?;
        self.folders.insert(watch, folder.to_owned());
        Ok(())
    }

    /// Stops watching, so that the folders can be added again under their present paths.
    pub(super) fn forget_folders(mut self) -> Self {
        for (watch, _) in self.folders.drain() {
            // An error means that the folder is gone.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
        self
    }

    /// The changes so far; waits for one up to `wait`.
    ///
    /// # Errors
    /// If the outermost folder is gone.
    pub(super) fn wait(&mut self, wait: Duration) -> std::io::Result<Vec<Change>> {
        let timeout = Timespec {
            tv_sec: wait.as_secs().cast_signed(),
            tv_nsec: wait.subsec_nanos().into(),
        };
        match poll(
            &mut [PollFd::new(&self.inotify, PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(0) | Err(Errno::INTR) => return Ok(vec![]),
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut changes = vec![];
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(changes),
                Err(e) => return Err(e.into()),
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                changes.push(Change::Unknown);
                continue;
            }
            let Some(folder) = self.folders.get(&event.wd()) else {
                continue;
            };
            let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
            if flags.intersects(gone) {
                if *folder == self.root {
                    return Err(Error::other("the folder was deleted or renamed"));
                }
                changes.push(Change::Unknown);
                continue;
            }
            let Some(name) = event.file_name() else {
                continue;
            };
            let path = folder.join(OsStr::from_bytes(name.to_bytes()));
            let is_folder = flags.contains(ReadFlags::ISDIR);
            if flags.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) && !is_folder {
                changes.push(Change::Finished(path));
            } else if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) && is_folder {
                changes.push(Change::FolderAdded(path));
            } else if flags.intersects(ReadFlags::CREATE | ReadFlags::MODIFY) && !is_folder {
                changes.push(Change::Written(path));
            }
        }
    }
}
