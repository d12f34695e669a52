//! Publishes events to an MQTT broker (MQTT 3.1.1, plain or over TLS).
//!
//! Events are JSON with QoS 1 on the configured topic. `TOPIC/status` is `online` or `offline`, retained; the last will
//! sets it to `offline` when the connection is lost. `TOPIC/state` is the newest state as JSON, retained, so that a
//! subscriber knows it at once; it is sent again after each reconnection. While the broker is unreachable, events are
//! queued; they are sent in order after the reconnection. An event whose acknowledgement was lost is sent again, so
//! subscribers may receive it twice (at-least-once delivery).
//!
//! With `[mqtt.home_assistant]` there are three more retained messages: the announcement (`discovery.rs`), which is sent
//! again when Home Assistant starts, `TOPIC/diagnostics` as JSON, and `TOPIC/picture` as JPEG.

mod discovery;
mod error;
mod file;
mod options;
mod queue;
mod session;
mod tls;
mod topics;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pinhole::Image;
use serde::Serialize;

pub use error::MqttError;
pub(crate) use options::tls_hint;
pub use queue::{MAX_PAYLOAD, PublishCounters};

use crate::config::{HomeAssistantConfig, MqttConfig};
use queue::{Content, Queue};
use topics::Retained;

/// How long stopping waits until the queued events are sent.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes events from its own thread. Dropping it stops the thread as [`Publisher::stop`] does.
pub struct Publisher {
    config: MqttConfig,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Starts the thread, which connects. If the broker is unreachable or the password file cannot be read,
    /// [`PublishCounters::last_error`] has the reason and the thread retries, after 1 s at first and at most every 30 s.
    ///
    /// # Errors
    /// [`MqttError::Thread`].
    pub fn start(config: &MqttConfig) -> Result<Self, MqttError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(MqttError::Thread)?;
        let queue = Arc::new(Queue::new(config.keep));
        // What an earlier configuration left at the broker.
        let removed: &[Retained] = match &config.home_assistant {
            Some(home_assistant) if !home_assistant.enabled => &[
                Retained::Discovery,
                Retained::Picture,
                Retained::Diagnostics,
            ],
            Some(home_assistant) if home_assistant.picture_seconds == 0.0 => &[Retained::Picture],
            _ => &[],
        };
        for kind in removed {
            queue.retain(*kind, Content::Bytes(vec![]));
        }
        let thread = std::thread::Builder::new().name("mqtt".into());
        let thread = thread.spawn({
            let queue = Arc::clone(&queue);
            let config = config.clone();
            move || {
                runtime.block_on(session::run(&config, &queue));
                queue.disconnected();
                // Do not wait for a pending name lookup.
                runtime.shutdown_background();
            }
        });
        Ok(Self {
            thread: Some(thread.map_err(MqttError::Thread)?),
            config: config.clone(),
            queue,
        })
    }

    /// Checks what can be checked without the broker.
    ///
    /// # Errors
    /// Why no connection is possible.
    pub fn check(config: &MqttConfig) -> Result<(), MqttError> {
        options::options(config).map(drop)
    }

    /// Where the appliance is announced to Home Assistant.
    pub(crate) fn announcement_topic(config: &MqttConfig) -> String {
        Retained::Discovery.topic(config)
    }

    /// Sets the retained state, which is sent as JSON. This never waits. A previous one that was not sent yet is skipped.
    pub fn set_state(&self, state: &impl Serialize) {
        self.retain_json(Retained::State, state);
    }

    /// Announces the appliance to Home Assistant, with the classes of its bundle, if it is configured. This never waits.
    pub fn announce(&self, classes: &[String]) {
        if let Some(home_assistant) = self.home_assistant() {
            let message = discovery::message(&self.config, home_assistant, classes);
            self.queue
                .retain(Retained::Discovery, Content::Bytes(message));
        }
    }

    /// Sets the retained diagnostics, which are sent as JSON, if the appliance is announced. This never waits.
    pub fn set_diagnostics(&self, diagnostics: &impl Serialize) {
        if self.home_assistant().is_some() {
            self.retain_json(Retained::Diagnostics, diagnostics);
        }
    }

    /// Sets the retained picture, which is sent as JPEG, if the appliance is announced with one. This never waits. A
    /// previous one that was not sent yet is skipped.
    pub fn set_picture(&self, image: Arc<Image>) {
        if (self.home_assistant())
            .is_some_and(|home_assistant| home_assistant.picture_seconds > 0.0)
        {
            self.queue.retain(Retained::Picture, Content::Image(image));
        }
    }

    /// The configuration, if the appliance is to be announced.
    fn home_assistant(&self) -> Option<&HomeAssistantConfig> {
        let home_assistant = self.config.home_assistant.as_ref();
        home_assistant.filter(|home_assistant| home_assistant.enabled)
    }

    fn retain_json(&self, kind: Retained, value: &impl Serialize) {
        match serde_json::to_vec(value) {
            Ok(json) => self.queue.retain(kind, Content::Bytes(json)),
            Err(e) => (self.queue).set_error(format!("{kind:?}: cannot be written as JSON: {e}")),
        }
    }

    /// Queues an event, which is sent as JSON. This never waits. If the queue is full, the oldest event is counted as
    /// lost; so is an event of more than [`MAX_PAYLOAD`] bytes.
    pub fn publish(&self, event: &impl Serialize) {
        self.queue.push(serde_json::to_vec(event));
    }

    /// The current counters.
    pub fn counters(&self) -> PublishCounters {
        self.queue.counters()
    }

    /// Sends the queued events, for at most 2 s, publishes `offline`, and stops the thread.
    pub fn stop(mut self) -> PublishCounters {
        self.end();
        self.counters()
    }

    fn end(&mut self) {
        self.queue.stop(Instant::now() + STOP_TIMEOUT);
        if let Some(thread) = self.thread.take() {
            // A panic has already been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.end();
    }
}
