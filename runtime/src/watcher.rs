//! Watching a bundle: a thread opens and tests it again whenever its folder has changed. The bundle in use stays in use
//! until a new one has passed its self-test. A bundle that was refused is tried again after increasing pauses, also
//! unchanged: the cause may have been a disk, the memory or the permissions.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::{Classifier, ClassifierBuilder, Error};

/// Poll interval. A changed folder is opened when two polls found it in the same state, because it is then no longer
/// being copied.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long stopping waits for a bundle that is being opened.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause before a refused bundle is tried again. Each attempt costs as much time as a start.
const PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

/// A bundle was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedBundle {
    /// The error.
    pub reason: String,
    /// Pause before the next attempt.
    pub wait: Duration,
    /// Whether the same bundle was refused for the same reason before.
    pub repeated: bool,
}

/// A bundle that passed its self-test.
#[derive(Clone)]
pub struct TestedBundle {
    /// Ready to classify.
    pub classifier: Arc<Classifier>,
    /// Number of self-test images.
    pub tested: usize,
    /// Time to open it, without the self-test.
    pub load_time: Duration,
}

impl TestedBundle {
    /// Opens the bundle in `folder` and tests it, also that it can classify streams.
    ///
    /// # Errors
    /// As [`ClassifierBuilder::open`], [`Stream::new`](crate::Stream::new) and [`Classifier::self_test`];
    /// [`Error::SelfTest`].
    pub fn open(folder: impl AsRef<Path>, builder: ClassifierBuilder) -> Result<Self, Error> {
        let (start, folder) = (Instant::now(), folder.as_ref());
        let classifier = builder.open(folder)?;
        let load_time = start.elapsed();
        classifier.stream()?;
        let test = classifier.self_test()?;
        let failed = test
            .images
            .iter()
            .find(|i| i.cosine.is_nan() || i.cosine < test.min_cosine);
        if let Some(image) = failed {
            return Err(Error::SelfTest {
                bundle: folder.to_owned(),
                image: image.file.clone(),
                expected: test.min_cosine,
                found: image.cosine,
            });
        }
        Ok(Self {
            classifier: Arc::new(classifier),
            tested: test.images.len(),
            load_time,
        })
    }
}

/// The state of a bundle's folder at some time, to be compared with later ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderState(Vec<(PathBuf, u64, u64, Option<SystemTime>)>);

/// The thread that watches a bundle. Dropping it stops the thread.
///
/// ```no_run
/// use std::sync::mpsc::channel;
///
/// use pinhole::{BundleWatcher, Classifier, FolderState, TestedBundle};
///
/// let opened = FolderState::of("my-bundle");
/// let mut classifier = std::sync::Arc::new(Classifier::open("my-bundle")?);
/// let (sender, exchanged) = channel();
/// let open = || TestedBundle::open("my-bundle", Classifier::builder());
/// let report = move |result| drop(sender.send(result));
/// let _watcher = BundleWatcher::start("my-bundle", opened, open, report)?;
/// // Between two frames:
/// if let Ok(Ok(new)) = exchanged.try_recv() {
///     classifier = new.classifier;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BundleWatcher {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BundleWatcher {
    /// Calls `open` whenever `folder` is another one than `opened`, and again after an error, and passes the result to
    /// `report`. [`FolderState::default`] is that of no folder, so that `open` is called at once.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start<T, E: std::fmt::Display>(
        folder: impl Into<PathBuf>,
        opened: FolderState,
        open: impl Fn() -> Result<T, E> + Send + 'static,
        report: impl Fn(Result<T, RefusedBundle>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let (folder, stop) = (folder.into(), stopped.clone());
        let open = move || open().map_err(|e| e.to_string());
        let thread = std::thread::Builder::new()
            .name("bundle".into())
            .spawn(move || watch(&folder, opened, &open, &report, &stop))?;
        Ok(Self {
            stopped,
            thread: Some(thread),
        })
    }
}

impl Drop for BundleWatcher {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return;
        };
        thread.thread().unpark();
        let until = Instant::now() + STOP_TIMEOUT;
        // One that is opening a bundle is abandoned, as it may hang in a file system.
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn watch<T>(
    folder: &Path,
    mut opened: FolderState,
    open: &impl Fn() -> Result<T, String>,
    report: &impl Fn(Result<T, RefusedBundle>),
    stop: &AtomicBool,
) {
    let mut retry = Retry::default();
    let mut before = opened.clone();
    if opened == FolderState::default() {
        opened = FolderState::of(folder);
        before = opened.clone();
        report(retry.attempt(open()));
    }
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(POLL_INTERVAL);
        let now = FolderState::of(folder);
        let changed = now != opened && now == before;
        if changed {
            retry = Retry::default();
        }
        if !stop.load(Ordering::Relaxed) && (changed || retry.is_due()) {
            opened = now.clone();
            report(retry.attempt(open()));
        }
        before = now;
    }
}

/// When to try an unchanged bundle again.
#[derive(Default)]
struct Retry {
    /// Last error, the pause after it, and its end; `None` after a success.
    failed: Option<(String, Duration, Instant)>,
}

impl Retry {
    fn is_due(&self) -> bool {
        (self.failed.as_ref()).is_some_and(|(_, _, at)| Instant::now() >= *at)
    }

    fn attempt<T>(&mut self, result: Result<T, String>) -> Result<T, RefusedBundle> {
        let before = self.failed.take();
        result.map_err(|reason| {
            let wait =
                (before.as_ref()).map_or(PAUSES[0], |(_, pause, _)| PAUSES[1].min(*pause * 2));
            let repeated = before.is_some_and(|(before, ..)| before == reason);
            self.failed = Some((reason.clone(), wait, Instant::now() + wait));
            RefusedBundle {
                reason,
                wait,
                repeated,
            }
        })
    }
}

impl FolderState {
    /// The state of `folder` now: its files with inode, size and modification time. Bundles have one subfolder (golden/).
    pub fn of(folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref();
        let mut files = vec![];
        for folder in [folder.to_owned(), folder.join("golden")] {
            let Ok(entries) = std::fs::read_dir(&folder) else {
                continue;
            };
            // A bundle has far fewer files. This bounds the work in any other folder.
            for entry in entries.flatten().take(1000) {
                if let Ok(metadata) = entry.metadata() {
                    let (inode, size) = (metadata.ino(), metadata.len());
                    files.push((entry.path(), inode, size, metadata.modified().ok()));
                }
            }
        }
        files.sort();
        Self(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_bundle_is_tried_again_after_longer_and_longer_pauses() {
        let mut retry = Retry::default();
        assert!(!retry.is_due());
        let mut refuse = |reason: &str| {
            let refused = retry.attempt::<()>(Err(reason.into())).unwrap_err();
            assert!(!retry.is_due());
            (refused.wait.as_secs(), refused.repeated)
        };
        assert_eq!(refuse("a"), (5, false));
        assert_eq!(refuse("a"), (10, true));
        assert_eq!(refuse("b"), (20, false));
        assert_eq!(refuse("b"), (40, true));
        for _ in 0..5 {
            refuse("b");
        }
        assert_eq!(refuse("b"), (300, true));
        assert_eq!(retry.attempt(Ok(1)), Ok(1));
        assert!(!retry.is_due());
        let refused = retry.attempt::<()>(Err("b".into())).unwrap_err();
        assert_eq!((refused.wait.as_secs(), refused.repeated), (5, false));
        retry.failed.as_mut().unwrap().2 = Instant::now();
        assert!(retry.is_due());
    }
}
