//! Chooses the screen from what has happened so far.

use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "mqtt")]
use pinhole::Image;
use pinhole::camera::{FrameAnswer, SceneState};
use pinhole::{BoardStatus, PreprocessConfig, Score, TestedBundle};

#[cfg(feature = "mqtt")]
use crate::log::{ClassScore, top_classes};
#[cfg(feature = "mqtt")]
use crate::report::{DiagnosticsReport, Health, StateReport};
use crate::screens::{
    BootScreen, BootStep, CroppedFrame, ErrorScreen, IdleScreen, LiveScreen, Screen,
};

/// Titles of the error screens of the camera and the bundle.
pub(crate) const CAMERA: &str = "Camera";
pub(crate) const BUNDLE: &str = "Bundle";

/// Weight of a new interval in the smoothed frame rate.
const RATE_WEIGHT: f64 = 0.1;

/// What the screens show.
pub(crate) struct View {
    boot: BootScreen,
    /// The last answer; rate, board status and notice are filled in when it is shown.
    live: Option<LiveScreen>,
    error: Option<CurrentError>,
    /// A problem that does not stop the classification.
    notice: Option<String>,
    /// The bundle's, for cropping frames.
    preprocessing: Option<Arc<PreprocessConfig>>,
    state_changed: Instant,
    /// Probability of the state's class when it changed, and what it is.
    probability: Option<(f32, Score)>,
    /// The most probable classes at that moment.
    #[cfg(feature = "mqtt")]
    top: Vec<ClassScore>,
    idle_after: Option<Duration>,
    rate: FrameRate,
}

/// Why nothing can be classified.
struct CurrentError {
    title: &'static str,
    reason: String,
    retry: Retry,
    since: Instant,
}

/// What happens next after an error.
pub(crate) enum Retry {
    /// Another attempt at this time.
    At(Instant),
    /// Waiting, such as "waiting for a frame".
    When(&'static str),
}

impl View {
    /// The boot screen for the bundle in the folder named `bundle`.
    pub(crate) fn new(bundle: String, idle_after: Option<Duration>) -> Self {
        let steps = ["bundle", "self-test", "camera"].map(|name| BootStep { name, result: None });
        Self {
            boot: BootScreen {
                bundle,
                steps: steps.to_vec(),
            },
            live: None,
            error: None,
            notice: None,
            preprocessing: None,
            state_changed: Instant::now(),
            probability: None,
            #[cfg(feature = "mqtt")]
            top: vec![],
            idle_after,
            rate: FrameRate::default(),
        }
    }

    /// A bundle is used from now on.
    pub(crate) fn bundle_accepted(&mut self, name: String, bundle: &TestedBundle) {
        self.preprocessing = Some(Arc::new(bundle.classifier.manifest().preprocessing.clone()));
        self.notice = None;
        self.boot.bundle = name;
        self.boot.steps[0].result = Some(format!("{:.1} s", bundle.load_time.as_secs_f64()));
        self.boot.steps[1].result = Some(format!("{} of {}", bundle.tested, bundle.tested));
    }

    /// A new bundle was refused and the previous one stays in use.
    pub(crate) fn bundle_refused(&mut self, reason: &str) {
        self.notice = Some(format!("new bundle refused: {reason}"));
    }

    /// A frame was classified.
    pub(crate) fn answered(&mut self, answer: FrameAnswer) {
        self.error = None;
        self.rate.tick();
        self.boot.steps[2]
            .result
            .get_or_insert_with(|| "ready".into());
        if answer.tracked.change.is_some() {
            self.state_changed = Instant::now();
            let best = answer.tracked.ranking.first();
            #[cfg(feature = "mqtt")]
            {
                self.top = top_classes(&answer.tracked.ranking);
            }
            self.probability = (best.filter(|_| !answer.tracked.unknown))
                .map(|c| (c.probability, answer.tracked.score));
        }
        let frame = (answer.image.zip(self.preprocessing.clone())).map(|(image, preprocessing)| {
            CroppedFrame {
                image: Arc::new(image),
                preprocessing,
            }
        });
        // A still frame has no image: it looks like the previous one.
        let previous = self.live.take().and_then(|live| live.frame);
        let top = answer.tracked.ranking.iter().take(3);
        self.live = Some(LiveScreen {
            state: answer.state,
            top: top.map(|c| (c.name.to_string(), c.probability)).collect(),
            frame: frame.or(previous),
            rate: 0.0,
            temperature_c: None,
            throttled: false,
            notice: None,
        });
    }

    /// Nothing can be classified until [`View::answered`] or [`View::clear_error`].
    pub(crate) fn failed(&mut self, title: &'static str, reason: String, retry: Retry) {
        let since = (self.error.as_ref()).map_or_else(Instant::now, |error| error.since);
        self.error = Some(CurrentError {
            title,
            reason,
            retry,
            since,
        });
        self.rate = FrameRate::default();
    }

    pub(crate) fn clear_error(&mut self) {
        self.error = None;
    }

    /// The current state; `None` without one and after an error.
    pub(crate) fn state(&self) -> Option<&SceneState> {
        let live = self.live.as_ref().filter(|_| self.error.is_none())?;
        live.state.as_ref()
    }

    /// What to publish.
    #[cfg(feature = "mqtt")]
    pub(crate) fn report(&self) -> StateReport {
        let error = self.error.as_ref();
        let reason = |of: &str| {
            let error = error.filter(|error| error.title == of)?;
            Some(error.reason.clone())
        };
        let state = self.state();
        let since = error.map_or(self.state_changed, |error| error.since);
        let (camera, bundle) = (reason(CAMERA), reason(BUNDLE).or(self.notice.clone()));
        let probability = self.probability.filter(|_| state.is_some());
        StateReport {
            class: state.map(|state| state.name().to_owned()),
            index: state.and_then(SceneState::index),
            probability: probability.map(|(value, _)| value),
            score: probability.map(|(_, score)| score.name()),
            top: match state {
                Some(_) => self.top.clone(),
                None => vec![],
            },
            since: std::time::SystemTime::now() - since.elapsed(),
            error: error.map(|error| format!("{}: {}", error.title, error.reason)),
            camera: Health {
                ok: camera.is_none() && self.live.is_some(),
                error: camera,
            },
            bundle: Health {
                ok: self.preprocessing.is_some(),
                error: bundle,
            },
        }
    }

    /// How the appliance is.
    #[cfg(feature = "mqtt")]
    pub(crate) fn diagnostics(&self, board: BoardStatus) -> DiagnosticsReport {
        DiagnosticsReport {
            temperature_c: board.temperature_c,
            frames_per_second: (self.rate.per_second * 100.0).round() / 100.0,
            throttled: board.throttled,
            bundle: (self.preprocessing.is_some()).then(|| self.boot.bundle.clone()),
        }
    }

    /// The frame of the newest answer, as it was classified; the previous one's if it is still.
    #[cfg(feature = "mqtt")]
    pub(crate) fn frame(&self) -> Option<&Arc<Image>> {
        self.live.as_ref()?.frame.as_ref().map(|frame| &frame.image)
    }

    /// The screen to show now. `log_error` is shown unless there is a notice.
    pub(crate) fn screen(&self, board: BoardStatus, log_error: Option<String>) -> Screen {
        if let Some(error) = &self.error {
            return Screen::Error(ErrorScreen {
                title: error.title,
                reason: error.reason.clone(),
                action: error.retry.to_string(),
            });
        }
        let Some(live) = &self.live else {
            return Screen::Boot(self.boot.clone());
        };
        let notice = self.notice.clone().or(log_error);
        let unchanged = self.state_changed.elapsed();
        if self.idle_after.is_some_and(|limit| unchanged >= limit) && notice.is_none() {
            return Screen::Idle(IdleScreen {
                state: live.state.clone(),
                unchanged,
                temperature_c: board.temperature_c,
            });
        }
        Screen::Live(LiveScreen {
            rate: self.rate.per_second,
            temperature_c: board.temperature_c,
            throttled: board.throttled,
            notice,
            ..live.clone()
        })
    }
}

impl std::fmt::Display for Retry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::When(waiting) => f.write_str(waiting),
            Self::At(at) => {
                let left = at.saturating_duration_since(Instant::now());
                write!(f, "again in {:.0} s", left.as_secs_f64().ceil())
            }
        }
    }
}

/// Classified frames per second, exponentially smoothed.
#[derive(Default)]
struct FrameRate {
    last: Option<Instant>,
    per_second: f64,
}

impl FrameRate {
    fn tick(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            let rate = 1.0 / (now - last).as_secs_f64().max(1e-6);
            // The first interval sets the rate, so that it does not rise slowly from 0.
            let weight = if self.per_second == 0.0 {
                1.0
            } else {
                RATE_WEIGHT
            };
            self.per_second += weight * (rate - self.per_second);
        }
    }
}
