//! The camera's thread: opens the camera, classifies what it sees and tells the answers; opens it again where it
//! cannot be opened or has failed. A new bundle is taken between two frames.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pinhole::Classifier;
use pinhole::camera::{
    Answer, Camera, Counters, Input, Options, Pipeline, Region, Report, Source, Stopper,
    TrackerOptions, Update,
};

use crate::config::{self, Config};

/// First and longest pause before a camera that cannot be opened is tried again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What the camera's thread tells.
pub(crate) enum Told {
    /// A frame was answered.
    Answer(Box<Answer>),
    /// Something happened to the source.
    Report(Report),
    /// The camera cannot be opened or has failed; it is opened again after a pause.
    Failed {
        /// Why, in words.
        reason: String,
        /// The pause.
        wait: Duration,
        /// Frames of the camera that was open until now.
        counters: Counters,
    },
    /// No more frames will come: the source's end, or the thread was stopped.
    Ended(Counters),
}

/// What the camera's thread shares with the others.
#[derive(Default)]
pub(crate) struct Shared {
    /// A bundle to be taken in the place of the one before.
    replacement: Mutex<Option<Arc<Classifier>>>,
    stopper: Mutex<Option<Stopper>>,
    stopped: AtomicBool,
    wake: Condvar,
    asleep: Mutex<()>,
    /// Since when a frame has been being classified, in milliseconds of `start`, 0 for none.
    busy: AtomicU64,
}

impl Shared {
    /// Has the next frame classified by `classifier`.
    pub(crate) fn replace(&self, classifier: Arc<Classifier>) {
        *lock(&self.replacement) = Some(classifier);
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(stopper) = &*lock(&self.stopper) {
            stopper.stop();
        }
        let _asleep = lock(&self.asleep);
        self.wake.notify_all();
    }

    /// For how long the present frame has been being classified.
    pub(crate) fn busy(&self, start: Instant) -> Duration {
        match self.busy.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => (start.elapsed()).saturating_sub(Duration::from_millis(since)),
        }
    }

    fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut asleep = lock(&self.asleep);
        while !self.stopped.load(Ordering::SeqCst) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.wake.wait_timeout(asleep, left);
            asleep = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until the source has ended for good, the thread is stopped, or nobody listens to `tell`, which answers whether
/// somebody does. `start` is what [`Shared::busy`] counts from.
pub(crate) fn run(
    config: &Config,
    classifier: Arc<Classifier>,
    shared: &Shared,
    start: Instant,
    tell: &dyn Fn(Told) -> bool,
) {
    let mut classifier = classifier;
    let mut pause = PAUSES[0];
    while !shared.stopped.load(Ordering::SeqCst) {
        let (counters, failed) = match watch(config, &mut classifier, shared, start, tell) {
            (counters, Ok(())) => {
                tell(Told::Ended(counters));
                return;
            }
            (counters, Err(reason)) => (counters, reason),
        };
        if counters.read > 0 {
            pause = PAUSES[0];
        }
        let told = Told::Failed {
            reason: failed,
            wait: pause,
            counters,
        };
        if !tell(told) {
            return;
        }
        shared.sleep(pause);
        pause = (pause * 2).min(PAUSES[1]);
    }
    tell(Told::Ended(Counters::default()));
}

/// Opens the camera and classifies until it ends or fails. A classifier that came meanwhile is left in `classifier`.
fn watch(
    config: &Config,
    classifier: &mut Arc<Classifier>,
    shared: &Shared,
    start: Instant,
    tell: &dyn Fn(Told) -> bool,
) -> (Counters, Result<(), String>) {
    let opened = source(config)
        .and_then(|source| Camera::open(source, options(config)).map_err(|e| e.to_string()));
    let camera = match opened {
        Ok(camera) => camera,
        Err(reason) => return (Counters::default(), Err(reason)),
    };
    *lock(&shared.stopper) = Some(camera.stopper());
    if shared.stopped.load(Ordering::SeqCst) {
        return (Counters::default(), Ok(()));
    }
    let mut stream = match pinhole::Stream::new(classifier.clone()) {
        Ok(stream) => stream,
        Err(e) => return (Counters::default(), Err(e.to_string())),
    };
    let classify = |image: &pinhole::RgbImage| {
        let since = start.elapsed().as_millis() as u64;
        shared.busy.store(since.max(1), Ordering::Relaxed);
        if let Some(new) = lock(&shared.replacement).take() {
            *classifier = new.clone();
            stream = pinhole::Stream::new(new)?;
        }
        let answer = stream.classify(image);
        shared.busy.store(0, Ordering::Relaxed);
        answer
    };
    let thresholds = &config.thresholds;
    let tracker = TrackerOptions {
        smoothing: thresholds.smoothing,
        hysteresis: thresholds.hysteresis,
        margin: thresholds.lead,
    };
    let mut pipeline = Pipeline::new(camera, classify, tracker);
    let ended = pipeline.by_ref().try_for_each(|update| {
        let told = match update.map_err(|e| e.to_string())? {
            Update::Answer(answer) => Told::Answer(answer),
            Update::Report(report) => Told::Report(report),
        };
        match tell(told) {
            true => Ok(()),
            false => Err("nobody listens".to_owned()),
        }
    });
    shared.busy.store(0, Ordering::Relaxed);
    (pipeline.camera().counters(), ended)
}

fn options(config: &Config) -> Options {
    let source = &config.source;
    Options {
        // A folder has no rate of its own.
        timeout: match source.folder {
            Some(_) => None,
            None => config::duration(source.timeout_seconds),
        },
        every: source.every,
        region: source.region.map(|[x, y, width, height]| Region {
            x,
            y,
            width,
            height,
        }),
        still_threshold: source.still_threshold,
        ..Options::default()
    }
}

fn source(config: &Config) -> Result<Source, String> {
    let source = &config.source;
    let input = |path: &std::path::Path| match path.as_os_str() == "-" {
        true => Input::Stdin,
        false => Input::Path(path.to_owned()),
    };
    Ok(
        match (
            &source.command,
            &source.mjpeg,
            &source.y4m,
            &source.folder,
            &source.device,
        ) {
            (Some(command), ..) => {
                let mut words = command.iter();
                let program = words.next().ok_or("source.command: expected a program")?;
                let mut program = Command::new(program);
                program.args(words);
                if config.folder != std::path::Path::new("") {
                    program.current_dir(&config.folder);
                }
                Source::Mjpeg(Input::Command(Box::new(program)))
            }
            (_, Some(path), ..) => Source::Mjpeg(input(path)),
            (_, _, Some(path), ..) => Source::Y4m(input(path)),
            (.., Some(path), _) => Source::Folder {
                path: path.clone(),
                watch: true,
            },
            (.., Some(path)) => device(path)?,
            _ => return Err("source: expected one, found none".into()),
        },
    )
}

#[cfg(feature = "v4l")]
fn device(path: &std::path::Path) -> Result<Source, String> {
    Ok(Source::Device(path.to_owned()))
}

#[cfg(not(feature = "v4l"))]
fn device(path: &std::path::Path) -> Result<Source, String> {
    let path = path.display();
    Err(format!(
        "source.device {path}: this pinhole-firmware was built without the feature v4l; use source.command = \
         [\"ffmpeg\", \"-loglevel\", \"error\", \"-f\", \"v4l2\", \"-i\", \"{path}\", \"-c:v\", \"mjpeg\", \"-f\", \
         \"mjpeg\", \"-\"]"
    ))
}
