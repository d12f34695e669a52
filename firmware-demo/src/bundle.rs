//! The bundle thread: opens and tests the bundle, and again whenever its folder has changed. The bundle in use stays in
//! use until a new one has passed its self-test.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use pinhole::{Classifier, ClassifierBuilder};

use crate::threads::join_within;

/// Poll interval. A changed folder is opened when two polls found it in the same state, because it is then no longer
/// being copied.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long stopping waits for a bundle that is being opened.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Opens the bundle in `folder`, now and whenever it has changed, and passes the result to `report` each time.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        folder: PathBuf,
        builder: ClassifierBuilder,
        report: impl Fn(Result<TestedBundle, String>) + Send + 'static,
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
    report: &impl Fn(Result<TestedBundle, String>),
    stop: &AtomicBool,
) {
    let mut opened = fingerprint(folder);
    report(open(folder, builder));
    let mut before = opened.clone();
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(POLL_INTERVAL);
        let now = fingerprint(folder);
        if now != opened && now == before {
            opened = now.clone();
            report(open(folder, builder));
        }
        before = now;
    }
}

/// Opens the bundle in `folder` and tests it.
///
/// # Errors
/// Why it cannot be used.
pub fn open(folder: &Path, builder: ClassifierBuilder) -> Result<TestedBundle, String> {
    let start = std::time::Instant::now();
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
