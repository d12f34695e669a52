//! The appliance as a whole. One thread, the caller's, is told of everything that happens and decides what the screen,
//! the log and the broker get of it:
//!
//! ```text
//! bundle thread --(bundles)------------+--> caller --(screens)--> display thread --> panel
//! camera thread --(answers, reports)---+      |-----(records)--> log thread ------> files
//! vitals thread --(temperature)--------+      '-----(events)---> MQTT thread -----> broker
//! ```
//!
//! The camera's thread waits for the caller, who waits for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pinhole::camera::{Answer, Counters, Report, ReportKind};
use pinhole::system::System;
use pinhole::{Classifier, PreprocessConfig};
use sd_notify::NotifyState;

use crate::bundle::{Opened, Outcome, Watch};
use crate::config::Config;
use crate::display::{self, Display};
use crate::log::What;
use crate::outlets::Outlets;
use crate::screens::{Boot, Idle, Live, Picture, Problem, Screen, Step};
use crate::text::Fonts;
use crate::totals::Totals;
use crate::vitals::Monitor;
use crate::watching::{self, Shared, Told};

/// How often is looked at the clock, and whether to stop.
const TICK: Duration = Duration::from_millis(100);
/// A frame that takes longer than this will never be answered: the watchdog is not told that all is well.
const STUCK: Duration = Duration::from_secs(60);
/// How long the camera's thread has to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Least time between two records of damaged frames.
const DAMAGED: Duration = Duration::from_secs(60);
/// Messages that wait for the caller, each with an image.
const WAITING: usize = 4;

/// What is told to the caller's thread.
enum Message {
    Bundle(Outcome),
    Camera(Told),
}

/// Runs until the source ends or `stop` is set.
///
/// `open` opens the display, again after each failure; `fonts` are for as many colours as it has. `system` tells of
/// temperature and throttling.
///
/// # Errors
/// What keeps the appliance from starting: threads, an option of the log or the broker. Everything that happens later
/// is told on the screen and in the log, and the appliance goes on.
pub fn run(
    config: &Config,
    open: display::Open,
    fonts: Fonts,
    system: System,
    stop: &AtomicBool,
) -> Result<Totals> {
    let start = Instant::now();
    let mut outlets = Outlets::start(config, start)?;
    let display = Display::start(open, fonts, config.screen.rate)
        .context("cannot start the display's thread")?;
    let monitor = Monitor::start(system).context("cannot start the thread vitals")?;
    let (tell, told) = sync_channel(WAITING);
    let mut builder = Classifier::builder();
    if let Some(threads) = config.threads {
        builder = builder.threads(threads);
    }
    if let Some(least) = config.thresholds.min_similarity {
        builder = builder.min_similarity(least);
    }
    if let Some(least) = config.thresholds.min_margin {
        builder = builder.min_margin(least);
    }
    outlets.record(What::Start {
        version: env!("CARGO_PKG_VERSION").into(),
        bundle: config.bundle.display().to_string(),
    });
    let mut appliance = Appliance {
        config,
        start,
        outlets,
        display,
        monitor,
        shared: Arc::default(),
        boot: Boot {
            bundle: name_of(&config.bundle),
            steps: vec![step("bundle"), step("self-test"), step("camera")],
        },
        rule: None,
        watching: None,
        live: None,
        problem: None,
        notice: None,
        changed: start,
        rate: Rate::default(),
        past: Counters::default(),
        present: Counters::default(),
        damaged: None,
        recorded: start,
        totals: Totals::default(),
        display_failing: None,
    };
    appliance.show();
    let watch = {
        let tell = tell.clone();
        Watch::start(config.bundle.clone(), builder, move |outcome| {
            // Nobody listens once the appliance stops.
            let _ = tell.send(Message::Bundle(outcome));
        })
    }
    .context("cannot start the bundle's thread")?;
    notify(&[NotifyState::Ready]);
    let ended = appliance.serve(&tell, &told, stop);
    notify(&[NotifyState::Stopping]);
    appliance.stop(&told);
    drop(told);
    drop(watch);
    let totals = appliance.end();
    ended.map(|()| totals)
}

struct Appliance<'a> {
    config: &'a Config,
    start: Instant,
    outlets: Outlets,
    display: Display,
    monitor: Monitor,
    shared: Arc<Shared>,
    boot: Boot,
    /// How the bundle crops a frame.
    rule: Option<Arc<PreprocessConfig>>,
    /// The camera's thread, once there is a bundle.
    watching: Option<JoinHandle<()>>,
    live: Option<Live>,
    /// Why nothing can be classified, and when that is tried again.
    problem: Option<(&'static str, String, Retry)>,
    /// What is wrong though the classification goes on.
    notice: Option<String>,
    /// When the state changed.
    changed: Instant,
    rate: Rate,
    /// Frames of cameras that were closed, and of the one that is open.
    past: Counters,
    present: Counters,
    /// When a damaged frame was last recorded.
    damaged: Option<Instant>,
    /// When the last record was made.
    recorded: Instant,
    totals: Totals,
    display_failing: Option<String>,
}

/// When something that fails is tried again.
enum Retry {
    At(Instant),
    With(&'static str),
}

impl Appliance<'_> {
    /// Takes what is told until the source has ended or `stop` is set.
    fn serve(
        &mut self,
        tell: &std::sync::mpsc::SyncSender<Message>,
        told: &Receiver<Message>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let watchdog = sd_notify::watchdog_enabled().map(|period| period / 3);
        let mut barked = self.start;
        let mut ticked = self.start;
        while !stop.load(Ordering::Relaxed) {
            match told.recv_timeout(TICK) {
                Ok(Message::Bundle(Ok(opened))) => self.take_bundle(opened, tell)?,
                Ok(Message::Bundle(Err(reason))) => self.refuse_bundle(reason),
                Ok(Message::Camera(Told::Answer(answer))) => self.take_answer(*answer),
                Ok(Message::Camera(Told::Report(report))) => self.take_report(&report),
                Ok(Message::Camera(Told::Failed {
                    reason,
                    wait,
                    counters,
                })) => {
                    self.close_camera(counters);
                    self.outlets.error("camera", &reason);
                    self.fail("Camera", reason, Retry::At(Instant::now() + wait));
                }
                Ok(Message::Camera(Told::Ended(counters))) => {
                    self.close_camera(counters);
                    return Ok(());
                }
                // It tells its end before it ends.
                Err(RecvTimeoutError::Timeout)
                    if self.watching.as_ref().is_some_and(JoinHandle::is_finished) =>
                {
                    bail!("the camera's thread failed; its last words are above");
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Not while `tell` is there.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick();
            }
            if let Some(period) = watchdog
                && barked.elapsed() >= period
                && self.shared.busy(self.start) < STUCK
            {
                barked = Instant::now();
                notify(&[NotifyState::Watchdog]);
            }
        }
        Ok(())
    }

    fn take_bundle(
        &mut self,
        opened: Opened,
        tell: &std::sync::mpsc::SyncSender<Message>,
    ) -> Result<()> {
        let manifest = opened.classifier.manifest();
        let classes = manifest.classes.len();
        let name = format!(
            "{}, {classes} classes, {}",
            name_of(&self.config.bundle),
            manifest.precision
        );
        self.totals.bundles_taken += 1;
        self.rule = Some(Arc::new(manifest.preprocessing.clone()));
        self.notice = None;
        self.outlets
            .say(&format!("bundle: {name} ({})", manifest.model.name));
        self.outlets.record(What::Bundle { name: name.clone() });
        self.boot.bundle = name;
        self.boot.steps[0].result = Some(format!("{:.1} s", opened.opening.as_secs_f64()));
        self.boot.steps[1].result = Some(format!("{} of {}", opened.tested, opened.tested));
        if self.watching.is_some() {
            self.shared.replace(opened.classifier);
            return Ok(());
        }
        self.problem = None;
        self.show();
        let (config, shared, start, tell) = (
            self.config.clone(),
            self.shared.clone(),
            self.start,
            tell.clone(),
        );
        let watching = std::thread::Builder::new()
            .name("camera".into())
            .spawn(move || {
                let tell = |told| tell.send(Message::Camera(told)).is_ok();
                watching::run(&config, opened.classifier, &shared, start, &tell);
            })
            .context("cannot start the camera's thread")?;
        self.watching = Some(watching);
        Ok(())
    }

    /// The bundle before, if there is one, stays.
    fn refuse_bundle(&mut self, reason: String) {
        self.totals.bundles_refused += 1;
        self.outlets.error("bundle", &reason);
        if self.watching.is_some() {
            self.notice = Some(format!("new bundle refused: {reason}"));
        } else {
            self.fail("Bundle", reason, Retry::With("waiting for another"));
        }
    }

    fn take_answer(&mut self, answer: Answer) {
        self.present = answer.counters;
        self.problem = None;
        self.rate.tick();
        if self.boot.steps[2].result.is_none() {
            self.boot.steps[2].result = Some("ready".into());
        }
        if let Some(change) = &answer.tracked.change {
            self.changed = Instant::now();
            self.totals.events += 1;
            self.recorded = Instant::now();
            let frame = self.past.read + answer.frame;
            self.outlets.event(&answer, change, frame);
        }
        let top = answer.tracked.ranking.iter().take(3);
        let picture = answer.image.zip(self.rule.clone());
        let before = self.live.take().and_then(|live| live.picture);
        self.live = Some(Live {
            state: answer.state,
            top: top.map(|c| (c.name.clone(), c.probability)).collect(),
            // A still frame shows what the one before did.
            picture: picture
                .map(|(image, rule)| Picture {
                    image: Arc::new(image),
                    rule,
                })
                .or(before),
            rate: 0.0,
            temperature_c: None,
            throttled: false,
            notice: None,
        });
        self.show();
    }

    fn take_report(&mut self, report: &Report) {
        let text = report.kind.to_string();
        match &report.kind {
            ReportKind::Corrupt { .. } | ReportKind::SkippedBytes { .. } => {
                let due = self.damaged.is_none_or(|last| last.elapsed() >= DAMAGED);
                if due {
                    self.damaged = Some(Instant::now());
                    self.outlets.error("frame", &text);
                }
            }
            ReportKind::Stalled { .. } => {
                self.outlets.error("camera", &text);
                self.fail("Camera", text, Retry::With("waiting for a frame"));
            }
            ReportKind::Lost { reason, wait } => {
                self.outlets.error("camera", &text);
                let again = Retry::At(Instant::now() + *wait);
                self.fail("Camera", reason.clone(), again);
            }
            ReportKind::Resumed { .. } | ReportKind::Reopened => self.outlets.say(&text),
        }
    }

    fn fail(&mut self, title: &'static str, reason: String, retry: Retry) {
        self.problem = Some((title, reason, retry));
        self.rate = Rate::default();
        self.show();
    }

    /// The camera's frames are counted with those of the ones before.
    fn close_camera(&mut self, counters: Counters) {
        self.past = sum(&self.past, &counters);
        self.present = Counters::default();
    }

    /// What the clock asks for.
    fn tick(&mut self) {
        let status = self.display.status();
        if status.failing != self.display_failing {
            if let Some(reason) = &status.failing {
                self.outlets.error("display", reason);
            } else {
                self.outlets.say("display: it works again");
            }
            self.display_failing = status.failing;
        }
        self.outlets.look();
        let interval = self.config.log.as_ref().map_or(0.0, |l| l.interval_seconds);
        if interval > 0.0 && self.recorded.elapsed().as_secs_f64() >= interval {
            self.recorded = Instant::now();
            let live = self.live.as_ref().filter(|_| self.problem.is_none());
            let state = live.and_then(|live| live.state.as_ref());
            let state = state.map(|state| state.name().to_owned());
            let totals = Box::new(self.totals());
            self.outlets.record(What::StillThere { state, totals });
        }
        self.show();
    }

    fn show(&mut self) {
        self.display.set(self.screen());
    }

    fn screen(&self) -> Screen {
        if let Some((title, reason, retry)) = &self.problem {
            let action = match retry {
                Retry::With(what) => (*what).to_owned(),
                Retry::At(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    format!("again in {:.0} s", left.as_secs_f64().ceil())
                }
            };
            return Screen::Error(Problem {
                title,
                reason: reason.clone(),
                action,
            });
        }
        let Some(live) = &self.live else {
            return Screen::Boot(self.boot.clone());
        };
        let vitals = self.monitor.vitals();
        let idle = self.config.screen.idle_seconds;
        let since = self.changed.elapsed();
        let notice = (self.notice.clone()).or_else(|| self.outlets.notice());
        if idle > 0.0 && since.as_secs_f64() >= idle && notice.is_none() {
            return Screen::Idle(Idle {
                state: live.state.clone(),
                since,
                temperature_c: vitals.temperature_c,
            });
        }
        Screen::Live(Live {
            rate: self.rate.per_second,
            temperature_c: vitals.temperature_c,
            throttled: vitals.throttled,
            notice,
            ..live.clone()
        })
    }

    /// Ends the camera's thread, and takes what it tells meanwhile.
    fn stop(&mut self, told: &Receiver<Message>) {
        self.shared.stop();
        let Some(watching) = self.watching.take() else {
            return;
        };
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match told.recv_timeout(TICK) {
                Ok(Message::Camera(Told::Answer(answer))) => self.take_answer(*answer),
                Ok(Message::Camera(Told::Ended(counters) | Told::Failed { counters, .. })) => {
                    self.close_camera(counters);
                }
                Ok(_) => {}
                Err(_) if watching.is_finished() => {
                    // A thread that panicked has said so.
                    let _ = watching.join();
                    return;
                }
                Err(_) => {}
            }
        }
        self.outlets
            .error("camera", "its thread does not end; left alone");
    }

    fn end(mut self) -> Totals {
        let totals = Box::new(self.totals());
        self.outlets.record(What::End { totals });
        self.outlets.stop();
        self.totals()
    }

    fn totals(&self) -> Totals {
        let mut totals = self.totals.clone();
        let display = self.display.status();
        totals.seconds = self.start.elapsed().as_secs_f64();
        totals.count_frames(&sum(&self.past, &self.present));
        totals.screens_shown = display.shown;
        totals.display_failures = display.failures;
        self.outlets.count(&mut totals);
        totals
    }
}

/// Answers a second, smoothed over ten.
#[derive(Default)]
struct Rate {
    last: Option<Instant>,
    per_second: f64,
}

impl Rate {
    fn tick(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            let rate = 1.0 / (now - last).as_secs_f64().max(1e-6);
            // The first one as it is: it need not be smoothed up from nothing.
            let weight = if self.per_second == 0.0 { 1.0 } else { 0.1 };
            self.per_second += weight * (rate - self.per_second);
        }
    }
}

fn step(name: &'static str) -> Step {
    Step { name, result: None }
}

fn name_of(path: &std::path::Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn sum(a: &Counters, b: &Counters) -> Counters {
    Counters {
        read: a.read + b.read,
        classified: a.classified + b.classified,
        still: a.still + b.still,
        skipped: a.skipped + b.skipped,
        dropped: a.dropped + b.dropped,
        corrupt: a.corrupt + b.corrupt,
        skipped_bytes: a.skipped_bytes + b.skipped_bytes,
        stalls: a.stalls + b.stalls,
        reopened: a.reopened + b.reopened,
        unreported: a.unreported + b.unreported,
    }
}

/// Tells systemd, where it started the program.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        eprintln!("systemd cannot be told {state:?}: {e}");
    }
}
