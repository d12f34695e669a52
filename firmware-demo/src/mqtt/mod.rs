//! Publishes events to an MQTT broker (MQTT 3.1.1, without TLS).
//!
//! Events are JSON with QoS 1 on the configured topic. `TOPIC/status` is `online` or `offline`, retained; the last will
//! sets it to `offline` when the connection is lost. `TOPIC/state` is the newest state as JSON, retained, so that a
//! subscriber knows it at once; it is sent again after each reconnection. While the broker is unreachable, events are
//! queued; they are sent in order after the reconnection. An event whose acknowledgement was lost is sent again, so
//! subscribers may receive it twice (at-least-once delivery).

mod options;
mod queue;
mod session;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use options::MqttError;
pub(crate) use options::tls_hint;
pub use queue::{MAX_PAYLOAD, PublishCounters};

use crate::config::MqttConfig;
use queue::Queue;

/// How long stopping waits until the queued events are sent.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes events from its own thread. Dropping it stops the thread as [`Publisher::stop`] does.
pub struct Publisher {
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

    /// Sets the retained state, which is sent as JSON. This never waits. A previous one that was not sent yet is skipped.
    pub fn set_state(&self, state: &impl Serialize) {
        self.queue.set_state(serde_json::to_vec(state));
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
