//! What is known of the running camera. The loop that classifies writes it, the server reads it; neither waits for the
//! other longer than it takes to copy a few pointers.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use pinhole::camera::{FrameAnswer, FrameCounters, SceneState, SourceEvent, SourceEventKind};
use pinhole::internal::FrameLine;
use pinhole::{
    BoardMonitor, BoardStatus, Classification, Classifier, ClassifierBuilder, Error, Image, Stream,
};
use serde::Serialize;
use tokio::sync::watch;

use crate::error::WebError;
use crate::pictures::{LiveFrame, Pictures};
use crate::settings::{Keeper, Settings};

/// Classes in the answers of the server.
const TOP: usize = 50;
/// Changes of the state that are kept, and for how long.
const CHANGES: usize = 2000;
const HISTORY: Duration = Duration::from_secs(3600);
/// Lines of the log that are kept.
const LOG: usize = 200;

/// Where the bundle is, and how it is opened.
#[derive(Clone)]
pub(crate) struct BundlePlace {
    pub(crate) folder: PathBuf,
    pub(crate) builder: ClassifierBuilder,
}

/// A running camera as the server shows it. Clones are the same camera.
#[derive(Clone)]
pub struct Live {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    start: Instant,
    /// Name of the bundle's folder.
    bundle: String,
    place: BundlePlace,
    control: Mutex<Control>,
    /// Counts the changes of `control`.
    generation: AtomicU64,
    now: Mutex<Now>,
    /// Counts what there is to tell subscribers.
    changed: watch::Sender<u64>,
    pub(crate) pictures: Arc<Pictures>,
    board: Arc<BoardMonitor>,
    keeper: Keeper,
}

struct Control {
    settings: Settings,
    /// `None` before the first bundle.
    classifier: Option<Arc<Classifier>>,
}

/// What the loop writes.
struct Now {
    /// The newest answer, without its image.
    answer: Option<Arc<FrameAnswer>>,
    answered: Option<Instant>,
    /// Answers per second, smoothed.
    rate: f64,
    /// Share of the time in which frames are classified, smoothed.
    busy: f64,
    /// Size of the frames.
    frame: Option<(u32, u32)>,
    counters: FrameCounters,
    camera: CameraState,
    changes: VecDeque<Change>,
    log: VecDeque<LogLine>,
}

/// How the camera is.
#[derive(Clone, Debug, PartialEq)]
enum CameraState {
    /// There is none: only images that are sent are classified.
    None,
    /// It has delivered nothing yet.
    Starting,
    Works,
    Fails(String),
    Ended(String),
}

/// A change of the state.
#[derive(Clone, Serialize)]
struct Change {
    /// RFC 3339, UTC.
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    /// The class or "unknown".
    state: String,
    /// Its index in the bundle's list; null for "unknown".
    index: Option<usize>,
    /// Smoothed probability of the best class in that frame.
    probability: f32,
}

/// What kind of line of the log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something happened.
    Info,
    /// Something does not work.
    Error,
}

#[derive(Clone, Serialize)]
struct LogLine {
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    level: LogLevel,
    text: String,
}

fn rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// A camera that has delivered nothing yet. Bundles in `folder` are opened by `builder`; the first one comes by
    /// [`Live::set_classifier`]. `settings` are those to start with, and `keeper` is where the user changes these. `board`
    /// reports temperature and throttling.
    ///
    /// # Errors
    /// [`WebError::Thread`].
    pub fn new(
        folder: &Path,
        builder: ClassifierBuilder,
        settings: Settings,
        keeper: Keeper,
        board: Arc<BoardMonitor>,
    ) -> Result<Self, WebError> {
        let pictures = Arc::new(Pictures::new());
        pictures.start()?;
        let name = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = name.file_name().unwrap_or_default().to_string_lossy();
        let shared = Shared {
            start: Instant::now(),
            bundle: name.into_owned(),
            place: BundlePlace {
                folder: folder.to_owned(),
                builder,
            },
            control: Mutex::new(Control {
                settings,
                classifier: None,
            }),
            generation: AtomicU64::new(0),
            now: Mutex::new(Now {
                answer: None,
                answered: None,
                rate: 0.0,
                busy: 0.0,
                frame: None,
                counters: FrameCounters::default(),
                camera: CameraState::Starting,
                changes: VecDeque::new(),
                log: VecDeque::new(),
            }),
            changed: watch::Sender::new(0),
            pictures,
            board,
            keeper,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// What classifies the camera's frames: with the newest bundle, settings and region.
    ///
    /// # Errors
    /// [`WebError::NoBundle`]; as [`Stream::new`].
    pub fn classifier(&self) -> Result<LiveClassifier, WebError> {
        let control = lock(&self.shared.control);
        let classifier = control.classifier.clone().ok_or(WebError::NoBundle)?;
        let mut stream = Stream::new(classifier)?;
        stream.set_unknown_thresholds(control.settings.thresholds());
        Ok(LiveClassifier {
            stream,
            generation: self.shared.generation.load(Ordering::Acquire),
            settings: control.settings.clone(),
            shared: self.shared.clone(),
        })
    }

    /// The settings now. [`LiveClassifier`] classifies by them itself; [`Settings::tracker`] is for
    /// [`Pipeline::set_tracker_options`](pinhole::camera::Pipeline::set_tracker_options).
    pub fn settings(&self) -> Settings {
        lock(&self.shared.control).settings.clone()
    }

    /// Counts the changes of settings, region and bundle.
    pub fn changes(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Uses another bundle from the next frame on. Thresholds that were not changed are those of the new bundle.
    pub fn set_classifier(&self, classifier: Arc<Classifier>) {
        self.shared.set_classifier(classifier);
    }

    /// Tells the server an answer.
    pub fn answer(&self, mut answer: FrameAnswer) {
        let image = answer.image.take();
        let time = answer.time;
        {
            let mut now = lock(&self.shared.now);
            let instant = Instant::now();
            if let Some(last) = now.answered.replace(instant) {
                let seconds = (instant - last).as_secs_f64().max(1e-6);
                now.rate += 0.1 * (1.0 / seconds - now.rate);
                let latency = &answer.latency;
                let classified = latency.preprocess + latency.encode + latency.head;
                let share = (classified.as_secs_f64() / seconds).min(1.0);
                now.busy += 0.1 * (share - now.busy);
            }
            if let Some(image) = &image {
                now.frame = Some(image.original_size());
            }
            if let Some(change) = &answer.tracked.change {
                let best = answer.tracked.ranking.first();
                now.change(Change {
                    time: answer.time,
                    state: change.to.name().to_owned(),
                    index: change.to.index(),
                    probability: best.map_or(0.0, |best| best.probability),
                });
            }
            now.counters = answer.counters;
            now.camera = CameraState::Works;
            now.answer = Some(Arc::new(answer));
        }
        if let Some(image) = image {
            let control = lock(&self.shared.control);
            let region = control.settings.region();
            let classifier = control.classifier.clone();
            drop(control);
            if let Some(classifier) = classifier {
                self.shared.pictures.put(LiveFrame {
                    image: Arc::new(image),
                    region,
                    time,
                    classifier,
                });
            }
        }
        self.shared.notify();
    }

    /// Tells the server an event of the source.
    pub fn source_event(&self, event: &SourceEvent) {
        let text = event.kind.to_string();
        let (level, state) = match &event.kind {
            // The next answer ends it.
            SourceEventKind::Stalled { .. }
            | SourceEventKind::Lost { .. }
            | SourceEventKind::Corrupt { .. } => {
                (LogLevel::Error, Some(CameraState::Fails(text.clone())))
            }
            SourceEventKind::SkippedBytes { .. } => (LogLevel::Error, None),
            _ => (LogLevel::Info, None),
        };
        if let Some(state) = state {
            lock(&self.shared.now).camera = state;
        }
        self.shared.log(event.time, level, &text);
    }

    /// Tells the server that nothing can be classified for now, and why.
    pub fn failed(&self, reason: &str) {
        lock(&self.shared.now).camera = CameraState::Fails(reason.into());
        self.log(LogLevel::Error, reason);
    }

    /// Tells the server that there is no camera: it classifies what is sent to it.
    pub fn no_camera(&self) {
        lock(&self.shared.now).camera = CameraState::None;
        self.shared.notify();
    }

    /// Tells the server that the source has ended, and why.
    pub fn ended(&self, reason: &str) {
        lock(&self.shared.now).camera = CameraState::Ended(reason.into());
        self.log(LogLevel::Info, reason);
    }

    /// Adds a line to the log of the page.
    pub fn log(&self, level: LogLevel, text: &str) {
        self.shared.log(SystemTime::now(), level, text);
    }
}

impl Now {
    fn change(&mut self, change: Change) {
        let old = change.time.checked_sub(HISTORY);
        // The last one before the hour says what the state was when it began.
        while self.changes.len() >= CHANGES
            || self
                .changes
                .get(1)
                .is_some_and(|second| old.is_some_and(|old| second.time < old))
        {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Answers per second, which falls when none arrive.
    fn rate(&self) -> f64 {
        let since = self
            .answered
            .map_or(0.0, |last| last.elapsed().as_secs_f64());
        match since {
            s if s > 2.0 => self.rate.min(1.0 / s),
            _ => self.rate,
        }
    }
}

impl Shared {
    fn notify(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    fn controlled(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.notify();
    }

    pub(crate) fn log(&self, time: SystemTime, level: LogLevel, text: &str) {
        let mut now = lock(&self.now);
        if now.log.len() == LOG {
            now.log.pop_front();
        }
        // A line is for people: a reason of a library may be long.
        let text: String = text.chars().take(500).collect();
        now.log.push_back(LogLine { time, level, text });
        drop(now);
        self.notify();
    }

    /// Wakes at every answer and event.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Name of the bundle's folder, as a file can be named.
    pub(crate) fn file_name(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name: String = self
            .bundle
            .chars()
            .map(|c| if plain(c) { c } else { '-' })
            .collect();
        match name.trim_matches('.') {
            "" => "bundle".into(),
            name => name.chars().take(60).collect(),
        }
    }

    pub(crate) fn place(&self) -> &BundlePlace {
        &self.place
    }

    /// Uses another bundle from the next frame on. Thresholds that were not changed are those of the new bundle.
    pub(crate) fn set_classifier(&self, classifier: Arc<Classifier>) {
        let mut control = lock(&self.control);
        let thresholds = (control.classifier.as_ref()).map(|c| c.unknown_thresholds());
        if thresholds.is_none_or(|thresholds| control.settings.thresholds() == thresholds) {
            let new = classifier.unknown_thresholds();
            control.settings.min_similarity = new.min_similarity;
            control.settings.min_margin = new.min_margin;
        }
        control.classifier = Some(classifier);
        drop(control);
        self.controlled();
    }

    /// The bundle that is in use; `None` before the first one.
    pub(crate) fn classifier(&self) -> Option<Arc<Classifier>> {
        lock(&self.control).classifier.clone()
    }

    /// Replaces the fields that a JSON object names.
    ///
    /// # Errors
    /// The field, what was expected and what was found.
    pub(crate) fn change_settings(&self, json: &[u8]) -> Result<Settings, String> {
        let frame = lock(&self.now).frame;
        let mut control = lock(&self.control);
        let merged = control.settings.merged(json, frame)?;
        control.settings = merged.clone();
        drop(control);
        self.controlled();
        let text = serde_json::to_string(&merged).map_err(|e| e.to_string())?;
        self.log(
            SystemTime::now(),
            LogLevel::Info,
            &format!("settings changed to {text}"),
        );
        Ok(merged)
    }

    /// How much of the time the camera leaves, 0.1 at least.
    pub(crate) fn free_share(&self) -> f64 {
        let now = lock(&self.now);
        match now.answered {
            Some(last) if last.elapsed() < Duration::from_secs(2) => (1.0 - now.busy).max(0.1),
            _ => 1.0,
        }
    }

    /// Whether frames are classified, or there is no camera.
    pub(crate) fn health(&self) -> Result<(), String> {
        match &lock(&self.now).camera {
            CameraState::None | CameraState::Works => Ok(()),
            CameraState::Starting => Err("no frame yet".into()),
            CameraState::Fails(reason) | CameraState::Ended(reason) => Err(reason.clone()),
        }
    }

    pub(crate) fn state_json(&self) -> String {
        let (answer, rate, frame, counters, camera) = {
            let now = lock(&self.now);
            let answer = now.answer.clone();
            (
                answer,
                now.rate(),
                now.frame,
                now.counters,
                now.camera.clone(),
            )
        };
        let (settings, classifier) = {
            let control = lock(&self.control);
            (control.settings.clone(), control.classifier.clone())
        };
        let manifest = classifier.as_ref().map(|classifier| classifier.manifest());
        let (works, error) = match camera {
            CameraState::Works => ("works", None),
            CameraState::None => ("none", None),
            CameraState::Starting => ("starting", None),
            CameraState::Fails(reason) => ("fails", Some(reason)),
            CameraState::Ended(reason) => ("ended", Some(reason)),
        };
        let BoardStatus {
            temperature_c,
            throttled,
        } = self.board.status();
        let state = State {
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: self.start.elapsed().as_secs_f64(),
            bundle: BundleState {
                name: &self.bundle,
                model: manifest.map(|manifest| &*manifest.model.name),
                precision: manifest.map(|manifest| manifest.precision.to_string()),
                score: manifest.map(|manifest| manifest.score.name()),
                classes: manifest.map_or(&[], |manifest| &manifest.classes),
            },
            camera: CameraJson {
                state: works,
                error,
                frame_size: frame.map(|(w, h)| [w, h]),
            },
            frames_per_second: rate,
            answer: answer.as_deref().map(|answer| {
                let time = humantime::format_rfc3339_millis(answer.time).to_string();
                FrameLine::new(answer, TOP, time, self.start)
            }),
            frames: Frames {
                read: counters.read,
                classified: counters.classified,
                still: counters.still,
                skipped: counters.skipped,
                dropped: counters.dropped,
                corrupt: counters.corrupt,
            },
            board: BoardState {
                temperature_c,
                throttled,
            },
            keep: Keep {
                by: self.keeper,
                text: settings.kept_by(self.keeper),
            },
            settings,
        };
        serde_json::to_string(&state).unwrap_or_default()
    }

    pub(crate) fn history_json(&self) -> String {
        let changes: Vec<Change> = lock(&self.now).changes.iter().cloned().collect();
        let oldest = SystemTime::now().checked_sub(HISTORY);
        // Keeps the one that was the state when the hour began.
        let first = changes
            .iter()
            .skip(1)
            .take_while(|c| oldest.is_some_and(|o| c.time < o))
            .count();
        serde_json::json!({ "changes": &changes[first.min(changes.len())..] }).to_string()
    }

    pub(crate) fn log_json(&self) -> String {
        let lines: Vec<LogLine> = lock(&self.now).log.iter().cloned().collect();
        serde_json::json!({ "lines": lines }).to_string()
    }

    /// Prometheus' text format, version 0.0.4.
    pub(crate) fn metrics(&self) -> String {
        use std::fmt::Write;
        let (answer, rate, counters) = {
            let now = lock(&self.now);
            (now.answer.clone(), now.rate(), now.counters)
        };
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
            let _ = writeln!(
                out,
                "# HELP pinhole_{name} {help}\n# TYPE pinhole_{name} {kind}"
            );
            for (labels, value) in samples {
                let _ = writeln!(out, "pinhole_{name}{labels} {value}");
            }
        };
        let plain = |value: f64| [(String::new(), value)];
        let up = f64::from(u8::from(self.health().is_ok()));
        metric("up", "gauge", "Whether frames are classified.", &plain(up));
        let outcomes = [
            ("classified", counters.classified),
            ("still", counters.still),
            ("skipped", counters.skipped),
            ("dropped", counters.dropped),
            ("corrupt", counters.corrupt),
        ];
        let samples = outcomes.map(|(name, n)| (format!("{{outcome=\"{name}\"}}"), n as f64));
        metric(
            "frames_total",
            "counter",
            "Frames of the camera by outcome.",
            &samples,
        );
        metric(
            "frames_per_second",
            "gauge",
            "Answers per second.",
            &plain(rate),
        );
        if let Some(answer) = &answer {
            let latency = &answer.latency;
            let stages = [
                ("decode", answer.decode),
                ("preprocess", latency.preprocess),
                ("encode", latency.encode),
                ("head", latency.head),
            ];
            let samples =
                stages.map(|(name, d)| (format!("{{stage=\"{name}\"}}"), d.as_secs_f64()));
            metric(
                "latency_seconds",
                "gauge",
                "Time of each stage of the last frame.",
                &samples,
            );
            let classes = answer.tracked.ranking.iter().take(TOP);
            let samples: Vec<_> = classes
                .map(|c| {
                    let labels = format!("{{class=\"{}\",index=\"{}\"}}", label(&c.name), c.index);
                    (labels, f64::from(c.probability))
                })
                .collect();
            metric(
                "probability",
                "gauge",
                "Smoothed probability of the best classes.",
                &samples,
            );
            let state = answer.state.as_ref().map_or("", SceneState::name);
            let sample = (format!("{{class=\"{}\"}}", label(state)), 1.0);
            metric("state", "gauge", "The state, as the label.", &[sample]);
        }
        let board = self.board.status();
        if let Some(celsius) = board.temperature_c {
            metric(
                "temperature_celsius",
                "gauge",
                "Temperature of the processor.",
                &plain(celsius),
            );
        }
        let throttled = f64::from(u8::from(board.throttled));
        metric(
            "throttled",
            "gauge",
            "Whether the processor is throttled.",
            &plain(throttled),
        );
        out
    }
}

/// The value of a label, escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.pictures.stop();
    }
}

/// `/api/state`; its fields are a contract.
#[derive(Serialize)]
struct State<'a> {
    version: &'static str,
    uptime_s: f64,
    bundle: BundleState<'a>,
    camera: CameraJson,
    frames_per_second: f64,
    answer: Option<FrameLine<'a>>,
    frames: Frames,
    board: BoardState,
    settings: Settings,
    keep: Keep,
}

/// What keeps the settings when the program ends.
#[derive(Serialize)]
struct Keep {
    by: Keeper,
    /// Options, or lines of the configuration.
    text: String,
}

#[derive(Serialize)]
struct BundleState<'a> {
    name: &'a str,
    /// `None` before the first bundle.
    model: Option<&'a str>,
    precision: Option<String>,
    score: Option<&'static str>,
    classes: &'a [String],
}

#[derive(Serialize)]
struct CameraJson {
    state: &'static str,
    error: Option<String>,
    frame_size: Option<[u32; 2]>,
}

#[derive(Serialize)]
struct Frames {
    read: u64,
    classified: u64,
    still: u64,
    skipped: u64,
    dropped: u64,
    corrupt: u64,
}

#[derive(Serialize)]
struct BoardState {
    temperature_c: Option<f64>,
    throttled: bool,
}

/// Classifies the frames of the camera: with the newest bundle, settings and region.
pub struct LiveClassifier {
    shared: Arc<Shared>,
    stream: Stream<Arc<Classifier>>,
    settings: Settings,
    generation: u64,
}

impl LiveClassifier {
    /// Classifies the region of a frame.
    ///
    /// # Errors
    /// As [`Stream::classify`]; [`pinhole::ImageError::Region`] if the frame is too small for the region.
    pub fn classify(&mut self, image: &Image) -> Result<Classification, Error> {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            let control = lock(&self.shared.control);
            let (classifier, settings) = (control.classifier.clone(), control.settings.clone());
            drop(control);
            let new = |c: &Arc<Classifier>| !std::ptr::eq(self.stream.classifier(), &**c);
            if let Some(classifier) = classifier.filter(new) {
                self.stream = Stream::new(classifier)?;
            }
            self.stream.set_unknown_thresholds(settings.thresholds());
            self.settings = settings;
        }
        match self.settings.region() {
            None => self.stream.classify(image),
            Some(region) => self.stream.classify(region.checked_view(image)?),
        }
    }
}
