//! The page and the HTTP API, if the configuration has them. They begin with the first bundle.

use std::sync::Arc;

use pinhole::camera::{FrameAnswer, SourceEvent};
use pinhole::{BoardMonitor, Classifier};
use pinhole_web::{Live, LogLevel, Server, ServerOptions, Settings, StoredPassword};

use crate::camera::{CameraControl, tracker};
use crate::config::{ApplianceConfig, WebConfig};

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

/// A page that is served.
pub(crate) struct WebPage {
    live: Live,
    _server: Server,
}

impl WebPage {
    /// Begins to serve, and lets the page change what `control`'s camera does.
    ///
    /// # Errors
    /// Why it cannot; the appliance continues without it.
    pub(crate) fn start(
        config: &ApplianceConfig,
        web: &WebConfig,
        classifier: Arc<Classifier>,
        board: Arc<BoardMonitor>,
        control: &CameraControl,
    ) -> Result<Self, String> {
        let thresholds = classifier.unknown_thresholds();
        let settings = Settings::new(&tracker(config), thresholds, None);
        let live = Live::new(
            &config.bundle,
            config.classifier_builder(),
            classifier,
            settings,
            board,
        );
        let live = live.map_err(|e| e.to_string())?;
        // The camera cuts out the configuration's region, for the display too.
        live.fix_region();
        let server = Server::start(options(web)?, &live).map_err(|e| e.to_string())?;
        live.log(
            LogLevel::Info,
            &format!("listening on {}", server.address()),
        );
        let steering = live.clone();
        control.steer(move || (steering.tracker(), steering.thresholds()));
        Ok(Self {
            live,
            _server: server,
        })
    }

    pub(crate) fn set_classifier(&self, classifier: Arc<Classifier>) {
        self.live.set_classifier(classifier);
        self.live.log(LogLevel::Info, "a new bundle is in use");
    }

    /// A frame was classified. The image is copied, because the display has it too.
    pub(crate) fn answered(&self, answer: &FrameAnswer) {
        self.live.answer(answer.clone());
    }

    pub(crate) fn source_event(&self, event: &SourceEvent) {
        self.live.source_event(event);
    }

    /// Nothing can be classified for now.
    pub(crate) fn failed(&self, reason: &str) {
        self.live.failed(reason);
    }
}
