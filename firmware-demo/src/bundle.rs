//! The bundle thread: opens and tests the bundle, and again whenever its folder has changed. The bundle in use stays in
//! use until a new one has passed its self-test. A bundle that was refused is tried again after increasing pauses, also
//! unchanged: the cause may have been a disk, the memory or the permissions.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use pinhole::{Classifier, ClassifierBuilder};

use crate::access::{self, Access};
use crate::threads::join_within;

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

/// The bundle thread. Dropping it stops the thread.
pub struct BundleWatcher {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BundleWatcher {
    /// Opens the bundle in `folder`, now, whenever it has changed, and again after an error, and passes the result to
    /// `report` each time.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        folder: PathBuf,
        builder: ClassifierBuilder,
        report: impl Fn(Result<TestedBundle, RefusedBundle>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        let thread = std::thread::Builder::new()
            .name("bundle".into())
            .spawn(move || watch(&folder, builder, &report, &stop))?;
        Ok(Self {
            stopped,
            thread: Some(thread),
        })
    }
}

impl Drop for BundleWatcher {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            join_within(thread, STOP_TIMEOUT);
        }
    }
}

fn watch(
    folder: &Path,
    builder: ClassifierBuilder,
    report: &impl Fn(Result<TestedBundle, RefusedBundle>),
    stop: &AtomicBool,
) {
    let mut opened = fingerprint(folder);
    let mut retry = Retry::default();
    report(retry.attempt(open(folder, builder)));
    let mut before = opened.clone();
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(POLL_INTERVAL);
        let now = fingerprint(folder);
        let changed = now != opened && now == before;
        if changed {
            retry = Retry::default();
        }
        if !stop.load(Ordering::Relaxed) && (changed || retry.is_due()) {
            opened = now.clone();
            report(retry.attempt(open(folder, builder)));
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

/// Opens the bundle in `folder` and tests it.
///
/// # Errors
/// Why it cannot be used.
pub fn open(folder: &Path, builder: ClassifierBuilder) -> Result<TestedBundle, String> {
    let start = Instant::now();
    // Names who may not read it. Other errors are reported with their file below.
    if folder.exists() {
        access::check(folder, Access::List).map_err(|e| format!("{}: {e}", folder.display()))?;
        if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()) {
            return Err(format!(
                "{}: expected a bundle, found an empty folder; if a disk belongs there, mount it",
                folder.display()
            ));
        }
    }
    let classifier = builder.open(folder).map_err(|e| e.to_string())?;
    let load_time = start.elapsed();
    // The camera thread needs a stream: refuse a bundle without one here, while the old one is still in use.
    classifier.stream().map_err(|e| e.to_string())?;
    let test = classifier.self_test().map_err(|e| e.to_string())?;
    let failed = (test.images.iter()).find(|i| i.cosine.is_nan() || i.cosine < test.min_cosine);
    match failed {
        Some(image) => Err(format!(
            "{}: self-test of {}: expected a cosine of {} or more, found {}; export the bundle again",
            folder.display(),
            image.file,
            test.min_cosine,
            image.cosine
        )),
        None => Ok(TestedBundle {
            classifier: Arc::new(classifier),
            tested: test.images.len(),
            load_time,
        }),
    }
}

/// The folder's files with inode, size and modification time. Bundles have one subfolder (golden/).
fn fingerprint(folder: &Path) -> Vec<(PathBuf, u64, u64, Option<SystemTime>)> {
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
    files
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
