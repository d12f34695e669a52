//! Folders of images and their subfolders, in the order of the paths; watched ones through inotify, or by polling where
//! that is impossible.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pinhole_preprocessing::is_hidden;

use super::capture::{Capture, CaptureSource, POLL_INTERVAL, Poll};
use super::error::CameraError;
use super::event::SourceEventKind;
use super::frame::EncodedFrame;
use super::image_files::{
    Completeness, Content, EXPECTED, FileId, Finder, ImageFile, Stamp, completeness, read,
};
use super::slot::Shared;
use super::watch::{Change, Watch};
use crate::standard_streams::printable_path;

/// How often a folder that cannot be watched through inotify is searched, at most.
const SCAN_INTERVAL: Duration = Duration::from_millis(200);
/// A search takes at most one part in so many of the time.
const SCAN_SHARE: u32 = 20;
/// How long a file must be unchanged before it is read if nothing else says that it is complete.
const SETTLE_TIME: Duration = Duration::from_millis(300);
/// How long an incomplete file must be unchanged before it counts as damaged.
const INCOMPLETE_TIMEOUT: Duration = Duration::from_secs(10);

/// A folder, watched or not.
pub(super) struct FolderSource {
    path: PathBuf,
    images: Images,
}

/// Which images of a folder are used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Images {
    /// Those that are there.
    Present,
    /// Those that are there, then new ones.
    PresentAndNew,
    /// Those that are written after the folder is opened.
    New,
}

impl FolderSource {
    pub(super) fn new(path: PathBuf) -> Self {
        let images = Images::Present;
        Self { path, images }
    }

    pub(super) fn watched(path: PathBuf) -> Self {
        let images = Images::PresentAndNew;
        Self { path, images }
    }

    pub(super) fn watched_from_now(path: PathBuf) -> Self {
        let images = Images::New;
        Self { path, images }
    }
}

impl CaptureSource for FolderSource {
    fn name(&self) -> String {
        printable_path(&self.path).into_owned()
    }

    fn is_live(&self) -> bool {
        false
    }

    fn can_reopen(&self) -> bool {
        self.images != Images::Present
    }

    fn open(&mut self, shared: &Arc<Shared>) -> Result<Box<dyn Capture>, CameraError> {
        let failed = |reason: String| CameraError::Open {
            path: self.path.clone(),
            reason,
        };
        if self.path.is_file() {
            return Err(failed("expected a folder, found a file".into()));
        }
        let mut finder = Finder::default();
        let capture: Box<dyn Capture> = if self.images != Images::Present {
            let mut folder = WatchedFolder::open(&self.path, finder, shared)
                .map_err(|e| failed(e.to_string()))?;
            if self.images == Images::New {
                folder.skip_present();
            }
            Box::new(folder)
        } else {
            let images = finder.find(&self.path, 0, &mut |_| {});
            let images = images.map_err(|e| failed(e.to_string()))?.images;
            if images.is_empty() {
                return Err(failed(format!("expected {EXPECTED}, found none")));
            }
            Box::new(Folder {
                images: images.into_iter(),
                finder,
                shared: shared.clone(),
            })
        };
        Ok(capture)
    }
}

/// The images that are in a folder.
struct Folder {
    images: std::vec::IntoIter<ImageFile>,
    finder: Finder,
    shared: Arc<Shared>,
}

impl Capture for Folder {
    fn next(&mut self) -> std::io::Result<Option<Poll>> {
        report_skipped(&mut self.finder, &self.shared);
        Ok(self.images.next().map(|image| match read(&image.path) {
            Ok(content) => frame(image.path, content.bytes),
            Err(e) => unreadable(image.path, &e),
        }))
    }
}

fn frame(path: PathBuf, bytes: Vec<u8>) -> Poll {
    Poll::Frame(EncodedFrame::File { path, bytes })
}

fn unreadable(path: PathBuf, error: &std::io::Error) -> Poll {
    Poll::Corrupt {
        file: Some(path),
        reason: format!("cannot read: {error}"),
    }
}

fn report_skipped(finder: &mut Finder, shared: &Shared) {
    for skipped in finder.take_skipped() {
        shared.push_event(SourceEventKind::SkippedFile {
            file: skipped.path,
            reason: skipped.reason,
        });
    }
}

/// The images that are in a folder, and those that are written later.
struct WatchedFolder {
    path: PathBuf,
    shared: Arc<Shared>,
    finder: Finder,
    /// `None` where the system cannot tell of changes: then the folder is searched again and again.
    watch: Option<Watch>,
    next_scan: Instant,
    ready: VecDeque<Candidate>,
    /// What was delivered of each file.
    delivered: HashMap<FileId, Delivered>,
    /// Number of files at the last search.
    found: usize,
    /// Files that may still be written to.
    unfinished: HashMap<PathBuf, Unfinished>,
    /// Symbolic links. A target elsewhere can change without a change in this folder.
    links: Vec<PathBuf>,
    next_link_check: Instant,
}

/// A file to be read.
struct Candidate {
    path: PathBuf,
    /// Whether it was closed or renamed, so that nothing more is written to it.
    finished: bool,
}

struct Delivered {
    stamp: Stamp,
    /// `None` for an image that was skipped: it has not been read.
    hash: Option<u64>,
}

struct Unfinished {
    /// `None` until it has been read once.
    stamp: Option<Stamp>,
    /// Since when it has this stamp.
    since: Instant,
    retry: Instant,
}

impl WatchedFolder {
    fn open(path: &Path, finder: Finder, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let now = Instant::now();
        let mut folder = Self {
            path: path.to_owned(),
            shared: shared.clone(),
            finder,
            watch: Watch::new(path),
            next_scan: now,
            ready: VecDeque::new(),
            delivered: HashMap::new(),
            found: 0,
            unfinished: HashMap::new(),
            links: vec![],
            next_link_check: now,
        };
        folder.scan()?;
        Ok(folder)
    }

    /// Takes the images that are there as delivered.
    fn skip_present(&mut self) {
        for candidate in std::mem::take(&mut self.ready) {
            if let Ok(found) = std::fs::metadata(&candidate.path) {
                let (stamp, hash) = (Stamp::new(&found), None);
                (self.delivered).insert(FileId::new(&found), Delivered { stamp, hash });
            }
        }
    }

    /// Searches the whole folder for files that are new or have changed.
    fn scan(&mut self) -> std::io::Result<()> {
        let start = Instant::now();
        let root = self.path.clone();
        let mut watch = self.watch.take().map(Watch::forget_folders);
        let listing = self
            .finder
            .find(&root, 0, &mut |folder| add(&mut watch, folder));
        self.watch = watch;
        let images = listing?.images;
        let ids: HashSet<FileId> = images.iter().map(|image| image.id).collect();
        self.delivered.retain(|id, _| ids.contains(id));
        self.found = images.len();
        self.links.clear();
        self.ready.clear();
        self.queue(images);
        self.next_scan = Instant::now() + SCAN_INTERVAL.max(start.elapsed() * SCAN_SHARE);
        Ok(())
    }

    /// Searches a folder that was added.
    fn scan_added(&mut self, folder: &Path) {
        let depth = folder.components().count() - self.path.components().count();
        let mut watch = self.watch.take();
        let listing = self
            .finder
            .find(folder, depth, &mut |folder| add(&mut watch, folder));
        self.watch = watch;
        // It may be gone again.
        self.queue(listing.unwrap_or_default().images);
    }

    fn is_delivered(&self, id: FileId, stamp: Stamp) -> bool {
        let delivered = self.delivered.get(&id);
        delivered.is_some_and(|delivered| delivered.stamp == stamp)
    }

    fn queue(&mut self, images: Vec<ImageFile>) {
        let now = Instant::now();
        for image in images {
            if image.is_link {
                self.links.push(image.path.clone());
            }
            let waits = (self.unfinished.get(&image.path)).is_some_and(|file| file.retry > now);
            if !waits && !self.is_delivered(image.id, image.stamp) {
                self.ready.push_back(Candidate {
                    path: image.path,
                    finished: false,
                });
            }
        }
    }

    /// Waits for changes, shortly.
    fn wait(&mut self) -> std::io::Result<()> {
        let changes = match &mut self.watch {
            Some(watch) => watch.wait(POLL_INTERVAL)?,
            None => {
                self.shared.sleep(POLL_INTERVAL);
                vec![]
            }
        };
        for change in changes {
            self.apply(change)?;
        }
        let now = Instant::now();
        // Files that were deleted are forgotten by a search.
        let outgrown = self.delivered.len() > 2 * self.found + 1024;
        if outgrown || (self.watch.is_none() && now >= self.next_scan) {
            self.scan()?;
        }
        if now >= self.next_link_check {
            self.next_link_check = now + SCAN_INTERVAL;
            self.check_links();
        }
        let due = self.unfinished.iter().filter(|(_, file)| file.retry <= now);
        let due = due.map(|(path, _)| Candidate {
            path: path.clone(),
            finished: false,
        });
        self.ready.extend(due);
        Ok(())
    }

    fn apply(&mut self, change: Change) -> std::io::Result<()> {
        match change {
            Change::Finished(path) if self.finder.is_image(&path) => {
                if path.is_symlink() && !self.links.contains(&path) {
                    self.links.push(path.clone());
                }
                self.unfinished.remove(&path);
                self.ready.push_back(Candidate {
                    path,
                    finished: true,
                });
            }
            Change::Written(path) if self.finder.is_image(&path) => {
                if path.is_symlink() {
                    return self.apply(Change::Finished(path));
                }
                let now = Instant::now();
                self.unfinished.entry(path).or_insert(Unfinished {
                    stamp: None,
                    since: now,
                    retry: now + SETTLE_TIME,
                });
            }
            Change::Finished(path) | Change::Written(path)
                if path.is_symlink() && path.is_dir() && !is_hidden(&path) =>
            {
                self.scan_added(&path);
            }
            Change::Finished(_) | Change::Written(_) => {}
            Change::FolderAdded(path) if is_hidden(&path) => {}
            Change::FolderAdded(path) => self.scan_added(&path),
            Change::Unknown => self.scan()?,
        }
        Ok(())
    }

    fn check_links(&mut self) {
        self.links.retain(|link| link.is_symlink());
        for link in &self.links {
            let Ok(metadata) = std::fs::metadata(link) else {
                continue;
            };
            let delivered = self.is_delivered(FileId::new(&metadata), Stamp::new(&metadata));
            if !delivered && metadata.is_file() && !self.unfinished.contains_key(link) {
                self.ready.push_back(Candidate {
                    path: link.clone(),
                    finished: false,
                });
            }
        }
    }

    /// Reads a file; `None` if it is incomplete, gone, or the same as before.
    fn read(&mut self, candidate: Candidate) -> Option<Poll> {
        let Candidate { path, finished } = candidate;
        let start = Instant::now();
        // Opening a named pipe would wait for a writer.
        let known = std::fs::metadata(&path)
            .ok()
            .filter(|found| found.is_file());
        let known = known.map(|found| (FileId::new(&found), Stamp::new(&found)));
        let Some((id, stamp)) = known.filter(|(id, stamp)| !self.is_delivered(*id, *stamp)) else {
            self.unfinished.remove(&path);
            return None;
        };
        let content = match read(&path) {
            Ok(content) => content,
            Err(e) => {
                self.unfinished.remove(&path);
                let hash = Some(0);
                self.delivered.insert(id, Delivered { stamp, hash });
                return Some(unreadable(path, &e));
            }
        };
        let Content { id, stamp, .. } = content;
        if !self.is_whole(&path, &content, finished) {
            if let Some(file) = self.unfinished.get_mut(&path) {
                // A large file that is still copied must not be read all the time.
                file.retry = Instant::now() + SETTLE_TIME.max(4 * start.elapsed());
            }
            return None;
        }
        self.unfinished.remove(&path);
        let mut hasher = DefaultHasher::new();
        hasher.write(&content.bytes);
        let hash = hasher.finish();
        let delivered = Delivered {
            stamp,
            hash: Some(hash),
        };
        let before = self.delivered.insert(id, delivered);
        // A rename, another link and other permissions change the time of change, but not the image.
        let same = before.is_some_and(|before| {
            before.hash.is_none_or(|before| before == hash)
                && before.stamp.modified == stamp.modified
        });
        (!same).then(|| frame(path, content.bytes))
    }

    /// Whether a file is read as it is. If not, it is tried again later.
    fn is_whole(&mut self, path: &Path, content: &Content, finished: bool) -> bool {
        let now = Instant::now();
        let before = self.unfinished.get(path);
        let since = before.filter(|before| before.stamp == Some(content.stamp));
        let since = since.map_or(now, |before| before.since);
        let whole = match completeness(&content.bytes) {
            Completeness::Complete => content.stable,
            Completeness::Unknown => content.stable && (finished || now - since >= SETTLE_TIME),
            Completeness::Incomplete => now - since >= INCOMPLETE_TIMEOUT,
        };
        if !whole {
            let file = Unfinished {
                stamp: Some(content.stamp),
                since,
                retry: now,
            };
            self.unfinished.insert(path.to_owned(), file);
        }
        whole
    }
}

/// Watches a folder too. If the system cannot, for example because it watches too many, the whole is polled.
fn add(watch: &mut Option<Watch>, folder: &Path) {
    if let Some(inner) = watch
        && inner.add(folder).is_err()
    {
        *watch = None;
    }
}

impl Capture for WatchedFolder {
    fn next(&mut self) -> std::io::Result<Option<Poll>> {
        loop {
            report_skipped(&mut self.finder, &self.shared);
            while let Some(candidate) = self.ready.pop_front() {
                if let Some(poll) = self.read(candidate) {
                    return Ok(Some(poll));
                }
            }
            if self.shared.stopped() {
                return Ok(None);
            }
            self.wait()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &[u8] = include_bytes!("../../../preprocessing/tests/golden/decode/rgb420.jpg");

    fn open(path: &Path) -> WatchedFolder {
        let shared = Arc::new(Shared::new(true, None));
        WatchedFolder::open(path, Finder::default(), &shared).unwrap()
    }

    fn next(folder: &mut WatchedFolder) -> PathBuf {
        match folder.next().unwrap() {
            Some(Poll::Frame(EncodedFrame::File { path, bytes })) => {
                assert!(bytes.starts_with(IMAGE));
                path
            }
            _ => panic!("expected an image"),
        }
    }

    /// A restart must not classify thousands of old images again.
    #[test]
    fn images_that_are_there_can_be_skipped() {
        let parent = tempfile::tempdir().unwrap();
        let [old, rewritten, new, moved] = ["old.jpg", "rewritten.jpg", "new.jpg", "moved.jpg"]
            .map(|name| parent.path().join(name));
        for path in [&old, &rewritten] {
            std::fs::write(path, IMAGE).unwrap();
        }
        for polled in [false, true] {
            let mut folder = open(parent.path());
            folder.skip_present();
            if polled {
                folder.watch = None;
            }
            assert!(next_within(&mut folder, Duration::from_millis(700)).is_none());
            std::fs::write(&new, IMAGE).unwrap();
            assert_eq!(next(&mut folder), new);
            // The same image, but written again.
            std::fs::write(&rewritten, IMAGE).unwrap();
            assert_eq!(next(&mut folder), rewritten);
            std::fs::rename(&old, &moved).unwrap();
            assert!(next_within(&mut folder, Duration::from_millis(700)).is_none());
            std::fs::rename(&moved, &old).unwrap();
            std::fs::remove_file(&new).unwrap();
        }
    }

    /// Where inotify is impossible, as on a network drive: a file that changes all the time is read, and new ones are.
    #[test]
    fn a_polled_folder_delivers_the_same() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a.jpg");
        std::fs::write(&path, IMAGE).unwrap();
        let mut folder = open(parent.path());
        assert!(folder.watch.take().is_some());
        assert_eq!(next(&mut folder), path);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for length in 1..20 {
                    std::fs::write(&path, [IMAGE, &vec![0; length]].concat()).unwrap();
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            for _ in 0..4 {
                assert_eq!(next(&mut folder), path);
            }
        });
        while next_within(&mut folder, Duration::from_secs(1)).is_some() {}
        let added = parent.path().join("day/b.jpg");
        std::fs::create_dir(parent.path().join("day")).unwrap();
        std::fs::write(&added, IMAGE).unwrap();
        assert_eq!(next(&mut folder), added);
        assert!(next_within(&mut folder, Duration::from_millis(600)).is_none());
    }

    fn next_within(folder: &mut WatchedFolder, time: Duration) -> Option<PathBuf> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            folder.wait().unwrap();
            while let Some(candidate) = folder.ready.pop_front() {
                let path = candidate.path.clone();
                if folder.read(candidate).is_some() {
                    return Some(path);
                }
            }
        }
        None
    }

    /// In parts of one processor.
    #[test]
    fn many_files_cost_little_while_nothing_changes() {
        let parent = tempfile::tempdir().unwrap();
        for number in 0..10_000 {
            std::fs::write(parent.path().join(format!("{number}.jpg")), IMAGE).unwrap();
        }
        for inotify in [true, false] {
            let mut folder = open(parent.path());
            if !inotify {
                folder.watch = None;
            }
            while let Some(candidate) = folder.ready.pop_front() {
                assert!(folder.read(candidate).is_some());
            }
            let used = || -> u64 {
                let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
                text.split(' ').next().unwrap().parse().unwrap()
            };
            let (start, before) = (Instant::now(), used());
            while start.elapsed() < Duration::from_secs(2) {
                folder.wait().unwrap();
            }
            let share = (used() - before) as f64 / start.elapsed().as_nanos() as f64;
            assert!(folder.ready.is_empty());
            let most = if inotify { 0.02 } else { 0.1 };
            assert!(share < most, "inotify {inotify}: {share}");
        }
    }
}
