//! Publishes events to an MQTT broker (MQTT 3.1.1, without TLS).
//!
//! Events are JSON with QoS 1 on the configured topic. `TOPIC/status` is `online` or `offline`, retained; the last will
//! sets it to `offline` when the connection is lost. `TOPIC/state` is the newest state as JSON, retained, so that a
//! subscriber knows it at once; it is sent again after each reconnection. While the broker is unreachable, events are
//! queued; they are sent in order after the reconnection. An event whose acknowledgement was lost is sent again, so
//! subscribers may receive it twice (at-least-once delivery).

mod queue;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rumqttc::{LastWill, MqttOptions, QoS};
use serde::Serialize;

pub use queue::{MAX_PAYLOAD, PublishCounters};

use crate::access::{self, Access};
use crate::config::MqttConfig;
use crate::validation::FieldError;
use queue::Queue;
use session::{OFFLINE, WINDOW};

/// How long stopping waits until the queued events are sent.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Keep-alive interval. A broker that is silent for up to twice as long counts as unreachable.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Maximum length of a password in MQTT, in bytes.
const MAX_PASSWORD: usize = 65535;

/// Publishes events from its own thread. Dropping it stops the thread as [`Publisher::stop`] does.
pub struct Publisher {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

/// Why there can be no connection to the broker, whatever its answer.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    /// The password file cannot be used.
    #[error("mqtt.password_file: {}: {reason}", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// The system's error, or what was expected and what was found.
        reason: String,
    },
    /// A field of the configuration cannot be used.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// There is a password without a user name.
    #[error("mqtt.user: expected the user name for mqtt.password_file, found none")]
    User,
    /// The thread cannot be started.
    #[error("mqtt: cannot start a thread: {0}")]
    Thread(std::io::Error),
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
        options(config).map(drop)
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

/// The options of a connection. Reads the password file.
fn options(config: &MqttConfig) -> Result<MqttOptions, MqttError> {
    config.check_host()?;
    let topic = &config.topic;
    let mut options = MqttOptions::new(config.client_id(), config.host.trim(), config.port);
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(WINDOW as u16)
        // The limit for sending includes topic and header. Nothing large is received.
        .set_max_packet_size(4096, MAX_PAYLOAD + 2048)
        .set_last_will(LastWill::new(
            format!("{topic}/status"),
            OFFLINE,
            QoS::AtLeastOnce,
            true,
        ));
    let password = match &config.password_file {
        Some(path) => password(path)?,
        None => String::new(),
    };
    match &config.user {
        Some(user) => {
            options.set_credentials(user, password);
        }
        None if config.password_file.is_some() => return Err(MqttError::User),
        None => {}
    }
    Ok(options)
}

/// Reads the password: the only line of the file.
fn password(path: &std::path::Path) -> Result<String, MqttError> {
    use std::io::Read;

    let failed = |reason: String| MqttError::Password {
        path: path.to_owned(),
        reason,
    };
    let mut text = vec![];
    // Opening a pipe would block.
    let is_file = std::fs::metadata(path).map(|metadata| metadata.is_file());
    let file = match is_file {
        Ok(true) => std::fs::File::open(path),
        Ok(false) => return Err(failed("expected a regular file".into())),
        Err(e) => Err(e),
    };
    file.and_then(|file| file.take(MAX_PASSWORD as u64 + 3).read_to_end(&mut text))
        .map_err(|e| {
            failed(format!(
                "cannot read: {}",
                access::explain(path, Access::Read, &e)
            ))
        })?;
    let text = String::from_utf8(text).map_err(|_| failed("expected UTF-8".into()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.len() > MAX_PASSWORD || line.contains(['\n', '\0']) {
        let lines = text.lines().count();
        return Err(failed(format!(
            "expected one line of 1 to {MAX_PASSWORD} bytes without NUL, found {lines} lines with {} bytes in total",
            text.len()
        )));
    }
    Ok(line.to_owned())
}
