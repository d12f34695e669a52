//! Reports results and errors: to standard output and error, the log and the broker.

#[cfg(feature = "mqtt")]
use std::sync::Arc;
#[cfg(feature = "mqtt")]
use std::time::Duration;
use std::time::Instant;

use anyhow::{Context, Result};
#[cfg(feature = "mqtt")]
use pinhole::Image;
use pinhole::Score;
use pinhole::camera::{FrameAnswer, StateChange};

use crate::config::ApplianceConfig;
use crate::console;
use crate::counters::RunCounters;
use crate::log::{LogStatus, LogWriter, RecordKind, top_classes};
#[cfg(feature = "mqtt")]
use crate::mqtt::{PublishCounters, Publisher};
#[cfg(feature = "mqtt")]
use crate::picture::PictureSchedule;
#[cfg(feature = "mqtt")]
use crate::report::{DiagnosticsReport, StateReport};

/// How often the diagnostics are published while nothing important changes.
#[cfg(feature = "mqtt")]
const DIAGNOSTICS_INTERVAL: Duration = Duration::from_secs(30);

/// The log, the broker, and standard output and error.
pub(crate) struct Reporter {
    log: Option<LogWriter>,
    /// Status of the log after it was closed.
    closed_log: Option<LogStatus>,
    /// Number of records passed to the log.
    records: u64,
    /// The log error that was last printed.
    log_error: Option<String>,
    #[cfg(feature = "mqtt")]
    start: Instant,
    #[cfg(feature = "mqtt")]
    publisher: Option<Publisher>,
    /// Counters of the publisher after it was stopped.
    #[cfg(feature = "mqtt")]
    stopped_publisher: Option<PublishCounters>,
    /// The state that was last published.
    #[cfg(feature = "mqtt")]
    published: Option<StateReport>,
    /// The diagnostics that were last published, and when.
    #[cfg(feature = "mqtt")]
    diagnostics: Option<(DiagnosticsReport, Instant)>,
    #[cfg(feature = "mqtt")]
    pictures: PictureSchedule,
    /// The broker error that was last printed.
    #[cfg(feature = "mqtt")]
    broker_error: Option<String>,
}

impl Reporter {
    /// Opens the outputs of the configuration. `start` is when the program started.
    pub(crate) fn start(config: &ApplianceConfig, start: Instant) -> Result<Self> {
        #[cfg(not(feature = "mqtt"))]
        if config.mqtt.is_some() {
            console::err(
                "mqtt: ignored: this pinhole-firmware was built without the Cargo feature mqtt",
            );
        }
        Ok(Self {
            log: (config.log.as_ref())
                .map(|log| LogWriter::start(log, start))
                .transpose()
                .context("cannot start the log thread")?,
            closed_log: None,
            records: 0,
            log_error: None,
            #[cfg(feature = "mqtt")]
            start,
            #[cfg(feature = "mqtt")]
            publisher: config.mqtt.as_ref().and_then(start_publisher),
            #[cfg(feature = "mqtt")]
            stopped_publisher: None,
            #[cfg(feature = "mqtt")]
            published: None,
            #[cfg(feature = "mqtt")]
            diagnostics: None,
            #[cfg(feature = "mqtt")]
            pictures: PictureSchedule::new(picture_interval(config)),
            #[cfg(feature = "mqtt")]
            broker_error: None,
        })
    }

    /// Prints a line to standard error, which is the journal under systemd.
    pub(crate) fn info(&self, text: &str) {
        console::err(text);
    }

    /// Appends a record to the log.
    pub(crate) fn record(&mut self, kind: RecordKind) {
        if let Some(log) = &self.log {
            self.records += 1;
            log.write(kind);
        }
    }

    /// Reports an error of `component` after which the appliance continues.
    pub(crate) fn error(&mut self, component: &str, text: &str) {
        console::err(&format!("{component}: {text}"));
        self.record(RecordKind::Error {
            component: component.into(),
            text: text.into(),
        });
    }

    /// Reports a change of state. `frame` is the number of the frame since the start.
    pub(crate) fn event(&mut self, answer: &FrameAnswer, change: &StateChange, frame: u64) {
        let best = answer.tracked.ranking.first();
        let probability = best.map_or(0.0, |best| best.probability);
        let kind = match answer.tracked.score {
            Score::Softmax => "",
            Score::Sigmoid { .. } => " by itself",
        };
        console::out(&format!(
            "{} ({:.0} %{kind})",
            change.to.name(),
            100.0 * probability
        ));
        let event = RecordKind::Event {
            from: change.from.as_ref().map(|seen| seen.name().to_owned()),
            to: change.to.name().to_owned(),
            top: top_classes(&answer.tracked.ranking),
            score: Some(answer.tracked.score.name().to_owned()),
            frame,
        };
        #[cfg(feature = "mqtt")]
        if let Some(publisher) = &self.publisher {
            self.pictures.state_changed();
            publisher.publish(&crate::log::ResultRecord::now(event.clone(), self.start));
        }
        self.record(event);
    }

    /// Publishes the state if there is something new in it.
    #[cfg(feature = "mqtt")]
    pub(crate) fn state(&mut self, state: StateReport) {
        let Some(publisher) = &self.publisher else {
            return;
        };
        let before = self.published.as_ref();
        if before.is_none_or(|before| state.differs(before)) {
            publisher.set_state(&state);
            self.published = Some(state);
        }
    }

    /// A bundle with these classes is in use.
    #[cfg(feature = "mqtt")]
    pub(crate) fn classes(&self, config: &ApplianceConfig, classes: &[String]) {
        let home_assistant = config.mqtt.as_ref().and_then(|m| m.home_assistant.as_ref());
        if let Some(home_assistant) = home_assistant.filter(|configured| configured.enabled)
            && let Err(e) = home_assistant.check_classes(classes)
        {
            self.info(&e.to_string());
        }
        if let Some(publisher) = &self.publisher {
            publisher.announce(classes);
        }
    }

    /// Publishes the diagnostics, at an interval and when something important changes.
    #[cfg(feature = "mqtt")]
    pub(crate) fn diagnostics(&mut self, report: DiagnosticsReport) {
        let Some(publisher) = &self.publisher else {
            return;
        };
        if (self.diagnostics.as_ref()).is_none_or(|(before, at)| {
            report.differs(before) || at.elapsed() >= DIAGNOSTICS_INTERVAL
        }) {
            publisher.set_diagnostics(&report);
            self.diagnostics = Some((report, Instant::now()));
        }
    }

    /// Publishes the frame of the newest answer if it is time for one.
    #[cfg(feature = "mqtt")]
    pub(crate) fn picture(&mut self, frame: &Arc<Image>) {
        if let Some(publisher) = &self.publisher
            && self.pictures.is_due(frame, Instant::now())
        {
            publisher.set_picture(frame.clone());
        }
    }

    /// Prints errors of the log and the broker that began or ended since the last call.
    pub(crate) fn poll(&mut self) {
        let log_error = (self.log.as_ref().map(LogWriter::status))
            .filter(|status| status.failing)
            .and_then(|status| status.last_error);
        if log_error != self.log_error {
            self.info(log_error.as_deref().unwrap_or("log: works again"));
            self.log_error = log_error;
        }
        #[cfg(feature = "mqtt")]
        if let Some(publisher) = &self.publisher {
            let counters = publisher.counters();
            let broker_error = counters.last_error.filter(|_| !counters.connected);
            if broker_error != self.broker_error {
                let text = broker_error.as_deref().unwrap_or("connected");
                self.info(&format!("mqtt: {text}"));
                self.broker_error = broker_error;
            }
        }
    }

    /// The current error of the log, as of the last [`Reporter::poll`].
    pub(crate) fn log_error(&self) -> Option<String> {
        self.log_error.clone()
    }

    /// Writes and sends what is waiting, for at most some seconds.
    pub(crate) fn stop(&mut self) {
        #[cfg(feature = "mqtt")]
        if let Some(publisher) = self.publisher.take() {
            self.stopped_publisher = Some(publisher.stop());
        }
        self.closed_log = self.log.take().map(LogWriter::stop);
    }

    /// Sets the counters of records and events.
    pub(crate) fn set_counters(&self, counters: &mut RunCounters) {
        counters.records = self.records;
        counters.lines_lost = console::lost();
        let open = self.log.as_ref().map(LogWriter::status);
        if let Some(status) = open.or_else(|| self.closed_log.clone()) {
            (counters.records_written, counters.records_lost) = (status.written, status.lost);
        }
        #[cfg(feature = "mqtt")]
        if let Some(published) = (self.publisher.as_ref().map(Publisher::counters))
            .or_else(|| self.stopped_publisher.clone())
        {
            counters.published = published.queued;
            (counters.published_sent, counters.published_lost) = (published.sent, published.lost);
            counters.published_waiting = published.waiting;
        }
    }
}

#[cfg(feature = "mqtt")]
fn picture_interval(config: &ApplianceConfig) -> Duration {
    let home_assistant = config.mqtt.as_ref().and_then(|m| m.home_assistant.as_ref());
    let seconds = home_assistant.map_or(0.0, |home_assistant| home_assistant.picture_seconds);
    Duration::from_secs_f64(seconds)
}

/// The appliance does not need the broker.
#[cfg(feature = "mqtt")]
fn start_publisher(config: &crate::config::MqttConfig) -> Option<Publisher> {
    Publisher::start(config)
        .inspect_err(|e| console::err(&format!("{e}; continuing without the broker")))
        .ok()
}
