//! The camera thread: opens the camera, classifies its frames and sends the answers to the caller. It reopens a camera
//! that failed. A new bundle replaces the old one between two frames.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pinhole::camera::{
    Camera, CameraOptions, FrameAnswer, FrameCounters, FrameSource, Pipeline, PipelineEvent,
    Region, SourceEvent, StopHandle, StreamInput, TrackerOptions,
};
use pinhole::{Classifier, DecodeOptions, PreprocessConfig, Reduction, UnknownThresholds};

use crate::access::{self, Access};
use crate::config::ApplianceConfig;
use crate::validation::optional_duration;

/// First and longest pause before a failed camera is reopened.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// An event of the camera thread.
pub(crate) enum CameraEvent {
    /// A frame was classified.
    Answer(Box<FrameAnswer>),
    /// The source reported something.
    Source(SourceEvent),
    /// The camera cannot be opened or has failed. It is reopened after a pause.
    Failed {
        /// The error.
        reason: String,
        /// The pause.
        wait: Duration,
        /// Frames since the camera was opened.
        counters: FrameCounters,
    },
    /// The source has ended or the thread was stopped.
    Ended(FrameCounters),
}

/// What the page changes while the camera runs.
pub(crate) struct Steering {
    /// How answers become a state.
    pub(crate) tracker: TrackerOptions,
    /// When they are "unknown".
    pub(crate) thresholds: UnknownThresholds,
    /// The part of each frame that is classified.
    pub(crate) region: Option<Region>,
}

type Steer = dyn Fn() -> Steering + Send + Sync;

/// Controls the camera thread from other threads.
#[derive(Default)]
pub(crate) struct CameraControl {
    /// The next classifier.
    replacement: Mutex<Option<Arc<Classifier>>>,
    stopper: Mutex<Option<StopHandle>>,
    stopped: AtomicBool,
    /// Wakes the thread from the pause before it reopens the camera.
    wake: Condvar,
    pause: Mutex<()>,
    /// What the page has set.
    steer: OnceLock<Box<Steer>>,
    /// When the classification of the current frame began, in milliseconds since `start`; 0 without one.
    busy_since: AtomicU64,
}

impl CameraControl {
    /// Uses `classifier` from the next frame on.
    pub(crate) fn replace(&self, classifier: Arc<Classifier>) {
        *lock(&self.replacement) = Some(classifier);
        if let Some(camera) = &*lock(&self.stopper) {
            camera.refresh();
        }
    }

    /// Asks `steer` before each frame for the options in place of the configuration's, if it is called before the camera is
    /// opened. Answers have the whole frame then. The first one counts.
    #[cfg(feature = "web")]
    pub(crate) fn steer(&self, steer: impl Fn() -> Steering + Send + Sync + 'static) {
        let _ = self.steer.set(Box::new(steer));
    }

    /// Stops the thread.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(stopper) = &*lock(&self.stopper) {
            stopper.stop();
        }
        let _pause = lock(&self.pause);
        self.wake.notify_all();
    }

    /// How long the classification of the current frame has taken so far.
    pub(crate) fn busy_for(&self, start: Instant) -> Duration {
        match self.busy_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => (start.elapsed()).saturating_sub(Duration::from_millis(since)),
        }
    }

    fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut guard = lock(&self.pause);
        while !self.stopped.load(Ordering::SeqCst) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.wake.wait_timeout(guard, left);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until the source has ended, the thread is stopped, or `send` returns `false` because the receiver is gone.
/// `start` is the start time for [`CameraControl::busy_for`].
pub(crate) fn run(
    config: &ApplianceConfig,
    classifier: Arc<Classifier>,
    control: &CameraControl,
    start: Instant,
    send: &dyn Fn(CameraEvent) -> bool,
) {
    let mut classifier = classifier;
    let mut pause = PAUSES[0];
    while !control.stopped.load(Ordering::SeqCst) {
        let (counters, reason) =
            match classify_frames(config, &mut classifier, control, start, send) {
                (counters, Ok(())) => {
                    send(CameraEvent::Ended(counters));
                    return;
                }
                (counters, Err(reason)) => (counters, reason),
            };
        if counters.read > 0 {
            pause = PAUSES[0];
        }
        let failed = CameraEvent::Failed {
            reason,
            wait: pause,
            counters,
        };
        if !send(failed) {
            return;
        }
        control.sleep(pause);
        pause = (pause * 2).min(PAUSES[1]);
    }
    send(CameraEvent::Ended(FrameCounters::default()));
}

/// Opens the camera and classifies its frames until it ends or fails. `classifier` is updated if it is replaced.
fn classify_frames(
    config: &ApplianceConfig,
    classifier: &mut Arc<Classifier>,
    control: &CameraControl,
    start: Instant,
    send: &dyn Fn(CameraEvent) -> bool,
) -> (FrameCounters, Result<(), String>) {
    let preprocessing = classifier.manifest().preprocessing.clone();
    let opened = source(config).and_then(|source| {
        Camera::open(source, options(config, control, &preprocessing))
            .map_err(|e| with_advice(e.to_string(), config))
    });
    let camera = match opened {
        Ok(camera) => camera,
        Err(reason) => return (FrameCounters::default(), Err(reason)),
    };
    *lock(&control.stopper) = Some(camera.stop_handle());
    if control.stopped.load(Ordering::SeqCst) {
        return (FrameCounters::default(), Ok(()));
    }
    let mut stream = match pinhole::Stream::new(classifier.clone()) {
        Ok(stream) => stream,
        Err(e) => return (FrameCounters::default(), Err(e.to_string())),
    };
    let classify = |image: &pinhole::Image| {
        let since = start.elapsed().as_millis() as u64;
        control.busy_since.store(since.max(1), Ordering::Relaxed);
        if let Some(new) = lock(&control.replacement).take() {
            *classifier = new.clone();
            stream = pinhole::Stream::new(new)?;
        }
        let answer = match control.steer.get().map(|steer| steer()) {
            Some(steering) => {
                stream.set_unknown_thresholds(steering.thresholds);
                match steering.region {
                    None => stream.classify(image),
                    Some(region) => (region.checked_view(image).map_err(Into::into))
                        .and_then(|view| stream.classify(view)),
                }
            }
            None => stream.classify(image),
        };
        control.busy_since.store(0, Ordering::Relaxed);
        answer
    };
    let mut pipeline = Pipeline::new(camera, classify, tracker(config));
    let mut ended = Ok(());
    let mut steered = None;
    while let Some(event) = pipeline.next() {
        if let Some(steer) = control.steer.get() {
            let steering = steer();
            pipeline.set_tracker_options(steering.tracker);
            let new = (steering.thresholds, steering.region);
            if steered.replace(new) != Some(new) {
                pipeline.camera().stop_handle().refresh();
            }
        }
        let event = match event {
            Ok(PipelineEvent::Answer(answer)) => CameraEvent::Answer(answer),
            Ok(PipelineEvent::Source(event)) => CameraEvent::Source(event),
            Err(e) => {
                ended = Err(e.to_string());
                break;
            }
        };
        if !send(event) {
            ended = Err("the receiver is gone".to_owned());
            break;
        }
    }
    control.busy_since.store(0, Ordering::Relaxed);
    (pipeline.camera().counters(), ended)
}

/// How answers become a state.
pub(crate) fn tracker(config: &ApplianceConfig) -> TrackerOptions {
    let thresholds = &config.thresholds;
    TrackerOptions {
        smoothing: thresholds.smoothing,
        hysteresis: thresholds.hysteresis,
        hysteresis_time: Duration::from_secs_f64(thresholds.hysteresis_seconds),
        margin: thresholds.margin,
        cool_down: Duration::from_secs_f64(thresholds.cool_down_seconds),
    }
}

/// The error of opening the source, with who needs which permission if it lacks one.
fn with_advice(error: String, config: &ApplianceConfig) -> String {
    let source = &config.source;
    let (path, access) = match (&source.folder, &source.device) {
        (Some(folder), _) => (Some(folder), Access::List),
        (_, Some(device)) => (Some(device), Access::ReadWrite),
        _ => (source.mjpeg.as_ref().or(source.y4m.as_ref()), Access::Read),
    };
    match path.and_then(|path| access::missing(path, access)) {
        Some(advice) => format!("{error}; {advice}"),
        None => error,
    }
}

/// The configuration's region.
pub(crate) fn region(config: &ApplianceConfig) -> Option<Region> {
    (config.source.region).map(|[x, y, width, height]| Region {
        x,
        y,
        width,
        height,
    })
}

fn options(
    config: &ApplianceConfig,
    control: &CameraControl,
    preprocessing: &PreprocessConfig,
) -> CameraOptions {
    let source = &config.source;
    let mut decode = DecodeOptions::default();
    if source.fast_decode {
        decode.reduction = Some(Reduction::to(preprocessing));
    }
    CameraOptions {
        // A folder has no frame rate.
        timeout: match source.folder {
            Some(_) => None,
            None => optional_duration(source.timeout_seconds),
        },
        every: source.every,
        // The page shows whole frames, and changes the region.
        region: region(config).filter(|_| control.steer.get().is_none()),
        still_threshold: source.still_threshold,
        decode,
        ..CameraOptions::default()
    }
}

/// The source of the configuration, not opened yet.
///
/// # Errors
/// This build lacks it.
pub(crate) fn source(config: &ApplianceConfig) -> Result<FrameSource, String> {
    let source = &config.source;
    let input = |path: &std::path::Path| match path.as_os_str() == "-" {
        true => StreamInput::Stdin,
        false => StreamInput::Path(path.to_owned()),
    };
    if let Some(url) = &source.url {
        let interval = Duration::from_secs_f64(source.interval_seconds);
        return FrameSource::url(url, interval).map_err(|e| format!("source.url: {e}"));
    }
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
                FrameSource::mjpeg(StreamInput::Command(Box::new(program)))
            }
            (_, Some(path), ..) => FrameSource::mjpeg(input(path)),
            (_, _, Some(path), ..) => FrameSource::y4m(input(path)),
            (.., Some(path), _) if source.existing => FrameSource::watched_folder(path),
            (.., Some(path), _) => FrameSource::watched_folder_from_now(path),
            (.., Some(path)) => device(path)?,
            _ => return Err("source: expected a source, found none".into()),
        },
    )
}

#[cfg(feature = "v4l")]
fn device(path: &std::path::Path) -> Result<FrameSource, String> {
    Ok(FrameSource::device(path))
}

#[cfg(not(feature = "v4l"))]
fn device(path: &std::path::Path) -> Result<FrameSource, String> {
    let path = path.display();
    Err(format!(
        "source.device {path}: this pinhole-firmware was built without the feature v4l; use source.command = \
         [\"ffmpeg\", \"-loglevel\", \"error\", \"-f\", \"v4l2\", \"-i\", \"{path}\", \"-c:v\", \"mjpeg\", \"-f\", \
         \"mjpeg\", \"-\"]"
    ))
}
