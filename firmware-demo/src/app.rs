//! The appliance. The caller's thread receives the events of all other threads and decides what the display, the log
//! and the broker get:
//!
//! ```text
//! bundle thread --(bundles)------------+--> caller --(screens)--> display thread --> panel
//! camera thread --(answers, reports)---+      |-----(records)--> log thread ------> files
//! board thread  --(temperature)--------+      |-----(events)---> MQTT thread -----> broker
//!                                             '-----(answers)--> web threads -----> browsers
//! ```
//!
//! The camera thread waits for the caller. The caller never waits for another thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pinhole::BoardMonitor;
use pinhole::camera::{FrameAnswer, FrameCounters, SourceEvent, SourceEventKind};
use pinhole::system::System;
use pinhole::{BundleWatcher, FolderState, RefusedBundle, TestedBundle};
use sd_notify::NotifyState;

use crate::bundle;
use crate::camera::{self, CameraControl, CameraEvent};
use crate::config::ApplianceConfig;
use crate::counters::{RunCounters, sum_frames};
use crate::display::{DisplayThread, OpenPanel};
use crate::log::RecordKind;
use crate::reporter::Reporter;
use crate::systemd::{Watchdog, notify};
use crate::text::Fonts;
use crate::validation::optional_duration;
use crate::view::{BUNDLE, CAMERA, Retry, View};
#[cfg(feature = "web")]
use crate::web::WebPage;

/// How often periodic work is done.
const TICK: Duration = Duration::from_millis(100);
/// When one frame takes longer than this, classification hangs and systemd's watchdog gets no more notifications.
const HANG: Duration = Duration::from_secs(60);
/// How much longer than the slowest frame so far a frame may take before the last answer is no longer shown as live.
const SLOW_FRAME: (u32, Duration) = (4, Duration::from_secs(3));
/// How long to wait for the camera thread to end.
const CAMERA_STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum time between two log records about damaged frames.
const DAMAGED_FRAME_INTERVAL: Duration = Duration::from_secs(60);
/// Capacity of the channel to the caller's thread. Each message may hold an image.
const MESSAGES: usize = 4;

/// An event for the caller's thread.
enum Message {
    Bundle(Result<TestedBundle, RefusedBundle>),
    Camera(CameraEvent),
}

/// Runs until the source ends or `stop` is set.
///
/// `open` opens the display, and reopens it after each failure. `fonts` must match the display (monochrome or colour).
/// `system` reports temperature and throttling.
///
/// # Errors
/// What prevents the start: a thread that cannot be started, or an invalid MQTT user or password. Later errors are
/// shown and logged, and the appliance continues.
pub fn run(
    config: &ApplianceConfig,
    open: OpenPanel,
    fonts: Fonts,
    system: System,
    stop: &AtomicBool,
) -> Result<RunCounters> {
    let start = Instant::now();
    let mut reporter = Reporter::start(config, start)?;
    let display = DisplayThread::start(open, fonts, config.screen.rate)
        .context("cannot start the display thread")?;
    let board = BoardMonitor::start(system).context("cannot start the board thread")?;
    #[cfg(not(feature = "web"))]
    if config.web.is_some() {
        reporter
            .info("web: ignored: this pinhole-firmware was built without the Cargo feature web");
    }
    let (sender, receiver) = sync_channel(MESSAGES);
    reporter.record(RecordKind::Start {
        version: env!("CARGO_PKG_VERSION").into(),
        bundle: config.bundle.display().to_string(),
    });
    let idle_after = optional_duration(config.screen.idle_seconds);
    let (board, camera_control) = (Arc::new(board), Arc::<CameraControl>::default());
    #[cfg(feature = "web")]
    let page = config.web.as_ref().and_then(|web| {
        let page = WebPage::new(config, web, board.clone(), &camera_control);
        page.map_err(|e| reporter.error("web", &e)).ok()
    });
    let mut appliance = Appliance {
        config,
        start,
        reporter,
        display,
        board,
        #[cfg(feature = "web")]
        page,
        camera_control,
        camera: None,
        sender: sender.clone(),
        view: View::new(folder_name(&config.bundle), idle_after),
        closed_frames: FrameCounters::default(),
        open_frames: FrameCounters::default(),
        damaged_frame_recorded: None,
        stalled: false,
        bytes_without_frame: false,
        slowest: None,
        frame_hangs: false,
        recorded: start,
        counters: RunCounters::default(),
        display_error: None,
    };
    appliance.show();
    let (folder, builder) = (config.bundle.clone(), config.classifier_builder());
    let watcher = BundleWatcher::start(
        folder.clone(),
        FolderState::default(),
        move || bundle::open(&folder, builder),
        move |result| {
            // There is no receiver once the appliance stops.
            let _ = sender.send(Message::Bundle(result));
        },
    )
    .context("cannot start the bundle thread")?;
    if let Some(note) = config.threads_note() {
        appliance.reporter.info(&note);
    }
    notify(NotifyState::Ready);
    let result = appliance.handle_events(&receiver, stop);
    notify(NotifyState::Stopping);
    appliance.stop_camera(&receiver);
    drop(receiver);
    drop(watcher);
    let counters = appliance.finish();
    result.map(|()| counters)
}

struct Appliance<'a> {
    config: &'a ApplianceConfig,
    start: Instant,
    reporter: Reporter,
    display: DisplayThread,
    board: Arc<BoardMonitor>,
    /// The page.
    #[cfg(feature = "web")]
    page: Option<WebPage>,
    camera_control: Arc<CameraControl>,
    /// The camera thread, which starts with the first bundle.
    camera: Option<JoinHandle<()>>,
    sender: SyncSender<Message>,
    view: View,
    /// Frames of cameras that were closed.
    closed_frames: FrameCounters,
    /// Frames of the open camera.
    open_frames: FrameCounters,
    /// When a damaged frame was last recorded.
    damaged_frame_recorded: Option<Instant>,
    /// Since the last answer: whether the source stalled, and whether bytes arrived that belong to no frame.
    stalled: bool,
    bytes_without_frame: bool,
    /// The longest classification so far; `None` before the first answer.
    slowest: Option<Duration>,
    /// Whether the current frame takes so long that it was reported.
    frame_hangs: bool,
    /// When an event or heartbeat was last recorded.
    recorded: Instant,
    counters: RunCounters,
    /// The last display error that was reported.
    display_error: Option<String>,
}

impl Appliance<'_> {
    /// Handles events until the source has ended or `stop` is set.
    fn handle_events(&mut self, receiver: &Receiver<Message>, stop: &AtomicBool) -> Result<()> {
        let mut watchdog = Watchdog::new();
        let mut last_tick = self.start;
        while !stop.load(Ordering::Relaxed) {
            match receiver.recv_timeout(TICK) {
                Ok(Message::Bundle(Ok(bundle))) => self.use_bundle(bundle)?,
                Ok(Message::Bundle(Err(refused))) => self.refuse_bundle(refused),
                Ok(Message::Camera(CameraEvent::Answer(answer))) => self.answered(*answer),
                Ok(Message::Camera(CameraEvent::Source(event))) => self.source_event(&event),
                Ok(Message::Camera(CameraEvent::Failed {
                    reason,
                    wait,
                    counters,
                })) => {
                    self.camera_closed(counters);
                    self.reporter.error("camera", &reason);
                    #[cfg(feature = "web")]
                    if let Some(page) = &self.page {
                        page.failed(&reason);
                    }
                    self.failed(CAMERA, reason, Retry::At(Instant::now() + wait));
                }
                Ok(Message::Camera(CameraEvent::Ended(counters))) => {
                    self.camera_closed(counters);
                    return Ok(());
                }
                // The thread always sends `Ended` first, unless it panicked.
                Err(RecvTimeoutError::Timeout)
                    if self.camera.as_ref().is_some_and(JoinHandle::is_finished) =>
                {
                    bail!("the camera thread panicked; its message is above");
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Impossible: `self` holds a sender.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if last_tick.elapsed() >= TICK {
                last_tick = Instant::now();
                self.tick();
            }
            if self.camera_control.busy_for(self.start) < HANG {
                watchdog.keep_alive();
            }
        }
        Ok(())
    }

    fn use_bundle(&mut self, bundle: TestedBundle) -> Result<()> {
        let manifest = bundle.classifier.manifest();
        let classes = manifest.classes.len();
        let name = format!(
            "{}, {classes} classes, {}",
            folder_name(&self.config.bundle),
            manifest.precision
        );
        self.counters.bundles_taken += 1;
        self.reporter
            .info(&format!("bundle: {name} ({})", manifest.model.name));
        self.reporter
            .record(RecordKind::Bundle { name: name.clone() });
        #[cfg(feature = "mqtt")]
        self.reporter.classes(self.config, &manifest.classes);
        self.view.bundle_accepted(name, &bundle);
        #[cfg(feature = "web")]
        if let Some(page) = &self.page {
            page.set_classifier(bundle.classifier.clone());
        }
        if self.camera.is_some() {
            self.camera_control.replace(bundle.classifier);
            return Ok(());
        }
        self.view.clear_error();
        self.show();
        let (config, control, start, sender) = (
            self.config.clone(),
            self.camera_control.clone(),
            self.start,
            self.sender.clone(),
        );
        let camera = std::thread::Builder::new()
            .name("camera".into())
            .spawn(move || {
                let send = |event| sender.send(Message::Camera(event)).is_ok();
                camera::run(&config, bundle.classifier, &control, start, &send);
            })
            .context("cannot start the camera thread")?;
        self.camera = Some(camera);
        Ok(())
    }

    /// The previous bundle, if there is one, stays in use.
    fn refuse_bundle(&mut self, refused: RefusedBundle) {
        let RefusedBundle {
            reason,
            wait,
            repeated,
        } = refused;
        if !repeated {
            self.counters.bundles_refused += 1;
            self.reporter.error("bundle", &reason);
        }
        if self.camera.is_some() {
            self.view.bundle_refused(&reason);
        } else {
            #[cfg(feature = "web")]
            if let Some(page) = self.page.as_ref().filter(|_| !repeated) {
                page.failed(&reason);
            }
            self.failed(BUNDLE, reason, Retry::At(Instant::now() + wait));
        }
    }

    fn answered(&mut self, answer: FrameAnswer) {
        self.open_frames = answer.counters;
        let latency = answer.latency.preprocess + answer.latency.encode + answer.latency.head;
        self.slowest = self.slowest.max(Some(latency));
        self.frame_hangs = false;
        (self.stalled, self.bytes_without_frame) = (false, false);
        if let Some(change) = &answer.tracked.change {
            self.counters.events += 1;
            self.recorded = Instant::now();
            let frame = self.closed_frames.read + answer.frame;
            self.reporter.event(&answer, change, frame);
        }
        #[cfg(feature = "web")]
        let answer = match &self.page {
            Some(page) => page.answered(answer),
            None => answer,
        };
        self.view.answered(answer);
        #[cfg(feature = "mqtt")]
        if let Some(frame) = self.view.frame() {
            self.reporter.picture(frame);
        }
        self.show();
    }

    fn source_event(&mut self, event: &SourceEvent) {
        #[cfg(feature = "web")]
        if let Some(page) = &self.page {
            page.source_event(event);
        }
        let text = event.kind.to_string();
        match &event.kind {
            SourceEventKind::SkippedBytes { .. } => self.bytes_without_frame = true,
            SourceEventKind::Stalled { .. } => self.stalled = true,
            _ => {}
        }
        match &event.kind {
            SourceEventKind::Corrupt { .. } | SourceEventKind::SkippedBytes { .. } => {
                let last = self.damaged_frame_recorded;
                if last.is_none_or(|last| last.elapsed() >= DAMAGED_FRAME_INTERVAL) {
                    self.damaged_frame_recorded = Some(Instant::now());
                    self.reporter.error("frame", &text);
                }
                // As with a region that is not inside of the frames.
                if self.slowest.is_none() && matches!(event.kind, SourceEventKind::Corrupt { .. }) {
                    self.failed(CAMERA, text, Retry::When("waiting for the next frame"));
                }
            }
            SourceEventKind::Stalled { .. } => {
                self.reporter.error("camera", &text);
                self.failed(CAMERA, text, Retry::When("waiting for a frame"));
            }
            SourceEventKind::Lost { reason, wait } => {
                // As with H.264, which arrives too slowly to be recognised before the timeout.
                let hint = match self.stalled && self.bytes_without_frame {
                    true => "; bytes arrive, but no JPEG image: is --codec mjpeg missing?",
                    false => "",
                };
                self.reporter.error("camera", &format!("{text}{hint}"));
                let retry = Retry::At(Instant::now() + *wait);
                self.failed(CAMERA, format!("{reason}{hint}"), retry);
            }
            SourceEventKind::Resumed { .. }
            | SourceEventKind::Reopened
            | SourceEventKind::SkippedFile { .. } => self.reporter.info(&text),
        }
    }

    fn failed(&mut self, title: &'static str, reason: String, retry: Retry) {
        self.view.failed(title, reason, retry);
        self.show();
    }

    fn camera_closed(&mut self, counters: FrameCounters) {
        self.closed_frames = sum_frames(&self.closed_frames, &counters);
        self.open_frames = FrameCounters::default();
    }

    /// Reports a frame whose classification hangs.
    fn check_frame(&mut self) {
        let busy = self.camera_control.busy_for(self.start);
        if self.frame_hangs || !hangs(busy, self.slowest) {
            return;
        }
        self.frame_hangs = true;
        let reason = format!("one frame has taken {:.0} s so far", busy.as_secs_f64());
        self.reporter.error("classification", &reason);
        self.failed(
            "Classification",
            reason,
            Retry::When("waiting for its answer"),
        );
    }

    /// Periodic work.
    fn tick(&mut self) {
        self.check_frame();
        let error = self.display.status().error;
        if error != self.display_error {
            match &error {
                Some(reason) => self.reporter.error("display", reason),
                None => self.reporter.info("display: works again"),
            }
            self.display_error = error;
        }
        self.reporter.poll();
        #[cfg(feature = "web")]
        match self.page.as_mut().and_then(WebPage::poll) {
            Some(Ok(note)) => self.reporter.info(&note),
            Some(Err(error)) => self.reporter.error("web", &error),
            None => {}
        }
        let interval = (self.config.log.as_ref())
            .and_then(|log| optional_duration(log.interval_seconds))
            .filter(|interval| self.recorded.elapsed() >= *interval);
        if interval.is_some() {
            self.recorded = Instant::now();
            let state = self.view.state().map(|state| state.name().to_owned());
            let counters = Box::new(self.counters());
            self.reporter
                .record(RecordKind::Heartbeat { state, counters });
        }
        self.show();
    }

    fn show(&mut self) {
        let screen = (self.view).screen(self.board.status(), self.reporter.log_error());
        self.display.set(screen);
        #[cfg(feature = "mqtt")]
        {
            self.reporter.state(self.view.report());
            let diagnostics = self.view.diagnostics(self.board.status());
            self.reporter.diagnostics(diagnostics);
        }
    }

    /// Stops the camera thread and handles its last events.
    fn stop_camera(&mut self, receiver: &Receiver<Message>) {
        self.camera_control.stop();
        let Some(camera) = self.camera.take() else {
            return;
        };
        let until = Instant::now() + CAMERA_STOP_TIMEOUT;
        while Instant::now() < until {
            match receiver.recv_timeout(TICK) {
                Ok(Message::Camera(CameraEvent::Answer(answer))) => self.answered(*answer),
                Ok(Message::Camera(
                    CameraEvent::Ended(counters) | CameraEvent::Failed { counters, .. },
                )) => self.camera_closed(counters),
                Ok(_) => {}
                Err(_) if camera.is_finished() => {
                    // A panic has already been printed.
                    let _ = camera.join();
                    return;
                }
                Err(_) => {}
            }
        }
        let seconds = CAMERA_STOP_TIMEOUT.as_secs();
        let reason = format!("its thread did not stop within {seconds} s and was abandoned");
        self.reporter.error("camera", &reason);
    }

    fn finish(mut self) -> RunCounters {
        let counters = Box::new(self.counters());
        self.reporter.record(RecordKind::End { counters });
        self.reporter.stop();
        self.counters()
    }

    fn counters(&self) -> RunCounters {
        let mut counters = self.counters.clone();
        counters.seconds = self.start.elapsed().as_secs_f64();
        counters.set_frames(&sum_frames(&self.closed_frames, &self.open_frames));
        let display = self.display.status();
        counters.screens_shown = display.shown;
        counters.display_failures = display.failures;
        self.reporter.set_counters(&mut counters);
        counters
    }
}

/// The last component of `path`.
fn folder_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Whether a frame that has been classified for `busy` takes suspiciously long. Before the first answer nothing is known
/// about the speed of the board, and no answer is shown that could be out of date.
fn hangs(busy: Duration, slowest: Option<Duration>) -> bool {
    let (factor, more) = SLOW_FRAME;
    slowest.is_some_and(|slowest| busy >= factor * slowest + more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_hangs_if_it_takes_much_longer_than_any_before() {
        let seconds = Duration::from_secs_f64;
        assert!(!hangs(seconds(50.0), None));
        assert!(!hangs(seconds(3.0), Some(seconds(0.1))));
        assert!(hangs(seconds(3.4), Some(seconds(0.1))));
        // A slow board is not broken.
        assert!(!hangs(seconds(20.0), Some(seconds(5.0))));
        assert!(hangs(seconds(23.0), Some(seconds(5.0))));
    }
}
