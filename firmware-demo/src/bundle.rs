//! The bundle's thread: opens and tests the bundle, and again whenever its folder has become another one. What was
//! opened before goes on being used until the new one has passed its self-test.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use pinhole::{Builder, Classifier};

/// How often the folder is looked at. A change counts once it has been the same in two looks: a copy is over then.
const LOOK: Duration = Duration::from_secs(1);

/// What came of opening the bundle.
pub type Outcome = Result<Opened, String>;

/// A bundle that passed its self-test.
#[derive(Clone)]
pub struct Opened {
    /// Ready to classify.
    pub classifier: Arc<Classifier>,
    /// Images of the self-test.
    pub tested: usize,
    /// Time that opening took, without the self-test.
    pub opening: Duration,
}

/// The bundle's thread. Dropping it stops the thread.
pub struct Watch {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Opens the bundle in `folder`, now and whenever it has changed, and tells the outcome each time.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(
        folder: PathBuf,
        builder: Builder,
        tell: impl Fn(Outcome) + Send + 'static,
    ) -> std::io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        let thread = std::thread::Builder::new()
            .name("bundle".into())
            .spawn(move || watch(&folder, builder, &tell, &stop))?;
        Ok(Self {
            stopped,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn watch(folder: &Path, builder: Builder, tell: &impl Fn(Outcome), stop: &AtomicBool) {
    let mut tried = fingerprint(folder);
    tell(open(folder, builder));
    let mut before = tried.clone();
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(LOOK);
        let now = fingerprint(folder);
        if now != tried && now == before {
            tried = now.clone();
            tell(open(folder, builder));
        }
        before = now;
    }
}

/// Opens the bundle in `folder` and tests it.
///
/// # Errors
/// Why it cannot be used, in words.
pub fn open(folder: &Path, builder: Builder) -> Outcome {
    let start = std::time::Instant::now();
    let classifier = builder.open(folder).map_err(|e| e.to_string())?;
    let opening = start.elapsed();
    // What the camera's thread will ask for: a bundle that lacks it is refused here, while the old one goes on.
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
        None => Ok(Opened {
            classifier: Arc::new(classifier),
            tested: test.images.len(),
            opening,
        }),
    }
}

/// What tells that a folder has become another one: its files with their inodes, sizes and times. Bundles have one
/// folder inside (golden/).
fn fingerprint(folder: &Path) -> Vec<(PathBuf, u64, u64, Option<SystemTime>)> {
    let mut files = vec![];
    for folder in [folder.to_owned(), folder.join("golden")] {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        // Many more files than a bundle has are no bundle: enough of them to see a change.
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
