//! The page and the HTTP API, if the configuration has them. They begin before the first bundle, so that one can be sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pinhole::camera::{FrameAnswer, SourceEvent};
use pinhole::{BoardMonitor, Classifier, UnknownThresholds};
use pinhole_web::{Keeper, Live, LogLevel, Server, ServerOptions, Settings, StoredPassword};

use crate::camera::{CameraControl, Steering, region, tracker};
use crate::config::{ApplianceConfig, WebConfig};

/// Pause before an address that cannot be listened on is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// The options of the server.
///
/// # Errors
/// What is wrong with the password file.
pub(crate) fn options(config: &WebConfig) -> Result<ServerOptions, String> {
    let password = config.password_file.as_deref().map(StoredPassword::read);
    let password = password.transpose();
    Ok(ServerOptions {
        password: password.map_err(|e| format!("web.password_file: {e}"))?,
        names: config.host_names.clone(),
        ..ServerOptions::new(config.listen)
    })
}

/// A page.
pub(crate) struct WebPage {
    live: Live,
    config: WebConfig,
    server: ServerState,
}

enum ServerState {
    Runs {
        _server: Server,
    },
    /// It could not be started.
    Waits {
        /// The next attempt.
        at: Instant,
        /// Why not; `None` before the first attempt.
        reason: Option<String>,
    },
}

impl WebPage {
    /// Lets the page change what `control`'s camera does. [`WebPage::poll`] begins to serve it.
    ///
    /// # Errors
    /// Why it cannot; the appliance continues without it.
    pub(crate) fn new(
        config: &ApplianceConfig,
        web: &WebConfig,
        board: Arc<BoardMonitor>,
        control: &CameraControl,
    ) -> Result<Self, String> {
        // Those of the first bundle, or of the configuration, come with that bundle.
        let thresholds = UnknownThresholds::default();
        let settings = Settings::new(&tracker(config), thresholds, region(config));
        let live = Live::new(
            &config.bundle,
            config.classifier_builder(),
            settings,
            Keeper::Configuration,
            board,
        );
        let live = live.map_err(|e| e.to_string())?;
        let steering = live.clone();
        control.steer(move || {
            let settings = steering.settings();
            Steering {
                tracker: settings.tracker(),
                thresholds: settings.thresholds(),
                region: settings.region(),
            }
        });
        Ok(Self {
            live,
            config: web.clone(),
            server: ServerState::Waits {
                at: Instant::now(),
                reason: None,
            },
        })
    }

    /// Begins to serve, if it does not yet and it is time to try. What there is to report: that it serves, or a reason
    /// why not that was not reported before.
    pub(crate) fn poll(&mut self) -> Option<Result<String, String>> {
        let ServerState::Waits { at, reason } = &mut self.server else {
            return None;
        };
        if Instant::now() < *at {
            return None;
        }
        let started = options(&self.config)
            .and_then(|options| Server::start(options, &self.live).map_err(|e| e.to_string()));
        match started {
            Ok(server) => {
                let note = format!("listening on {}", server.address());
                self.live.log(LogLevel::Info, &note);
                self.server = ServerState::Runs { _server: server };
                Some(Ok(format!("web: {note}")))
            }
            Err(error) => {
                *at = Instant::now() + PAUSE;
                let seconds = PAUSE.as_secs();
                let error = format!("{error}; trying again every {seconds} s");
                let new = reason.as_ref() != Some(&error);
                *reason = Some(error.clone());
                new.then_some(Err(error))
            }
        }
    }

    pub(crate) fn set_classifier(&self, classifier: Arc<Classifier>) {
        self.live.set_classifier(classifier);
        self.live.log(LogLevel::Info, "a new bundle is in use");
    }

    /// A frame was classified. The image is copied, because the display has it too: returns what the display shows, cut to the
    /// region.
    pub(crate) fn answered(&self, mut answer: FrameAnswer) -> FrameAnswer {
        self.live.answer(answer.clone());
        let region = self.live.settings().region();
        if let (Some(region), Some(image)) = (region, &answer.image)
            // None if the region has just been changed, and this frame was still another.
            && let Some(cut) = region.crop(image)
        {
            answer.image = Some(cut);
        }
        answer
    }

    pub(crate) fn source_event(&self, event: &SourceEvent) {
        self.live.source_event(event);
    }

    /// Nothing can be classified for now.
    pub(crate) fn failed(&self, reason: &str) {
        self.live.failed(reason);
    }
}
