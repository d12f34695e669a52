//! Events to an MQTT broker (MQTT 3.1.1, without TLS).
//!
//! Events are JSON at QoS 1 on the topic. `topic/status` is `online` or `offline`, retained; the broker sets it to
//! `offline` too when the appliance vanishes. Events wait while the broker is away, and are sent in order when it is
//! back. One whose acknowledgement was lost with the connection is sent again: subscribers may see an event twice,
//! and none is missing that counts as sent.

mod queue;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rumqttc::{LastWill, MqttOptions, QoS};
use serde::Serialize;

pub use queue::{Counters, MAX_PAYLOAD};

use crate::config;
use queue::Queue;
use session::{OFFLINE, WINDOW};

/// How long the end waits for the broker to take what waits.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// A broker that is silent for up to twice as long is away.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The password's file is read no further: MQTT has no longer ones.
const MAX_PASSWORD: usize = 65535;

/// Publishes events from a thread of its own. Dropping it ends that as [`Publisher::stop`] does.
pub struct Publisher {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

/// Why a publisher cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The password cannot be had.
    #[error("mqtt.password_file: {}: {reason}", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// The system's answer, or what was expected and what was found.
        reason: String,
    },
    /// A password alone means nothing.
    #[error("mqtt.user: expected the name that mqtt.password_file goes with, found none")]
    User,
    /// The system gives no thread.
    #[error("mqtt: cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl Publisher {
    /// Starts the thread, which connects. A broker that is away is no error: [`Publisher::counters`] tells, and it
    /// is tried again, after 1 s at first and after 30 s at most.
    ///
    /// # Errors
    /// [`Error`]; all name the field.
    pub fn start(config: &config::Mqtt) -> Result<Self, Error> {
        let options = options(config)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let queue = Arc::new(Queue::new(config.keep));
        let thread = std::thread::Builder::new().name("mqtt".into());
        let thread = thread.spawn({
            let queue = Arc::clone(&queue);
            let topic = config.topic.clone();
            move || {
                runtime.block_on(session::run(&options, &topic, &queue));
                queue.note_disconnected();
                // A name that is still looked up is left alone.
                runtime.shutdown_background();
            }
        });
        Ok(Self {
            thread: Some(thread.map_err(Error::Thread)?),
            queue,
        })
    }

    /// Has an event sent, as JSON. It never waits: where as many events wait as may, the oldest is lost, and
    /// counted; and so is one of more than [`MAX_PAYLOAD`] bytes.
    pub fn publish(&self, event: &impl Serialize) {
        self.queue.push(serde_json::to_vec(event));
    }

    /// What became of the events so far.
    pub fn counters(&self) -> Counters {
        self.queue.counters()
    }

    /// Sends what waits, for at most 2 s, says `offline`, and ends the thread.
    pub fn stop(mut self) -> Counters {
        self.end();
        self.counters()
    }

    fn end(&mut self) {
        self.queue.stop(Instant::now() + LAST_WAIT);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.end();
    }
}

fn options(config: &config::Mqtt) -> Result<MqttOptions, Error> {
    let topic = &config.topic;
    let id = config.client_id.as_ref().unwrap_or(topic);
    let mut options = MqttOptions::new(id, &config.host, config.port);
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(WINDOW as u16)
        // Topic and header come on top. Nothing is subscribed to.
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
        None if config.password_file.is_some() => return Err(Error::User),
        None => {}
    }
    Ok(options)
}

/// The first line of the file; there may be no other.
fn password(path: &std::path::Path) -> Result<String, Error> {
    use std::io::Read;

    let failed = |reason: String| Error::Password {
        path: path.to_owned(),
        reason,
    };
    let mut text = vec![];
    // A pipe would be waited for.
    let is_file = std::fs::metadata(path).map(|metadata| metadata.is_file());
    let file = match is_file {
        Ok(true) => std::fs::File::open(path),
        Ok(false) => return Err(failed("expected a file".into())),
        Err(e) => Err(e),
    };
    file.and_then(|file| file.take(MAX_PASSWORD as u64 + 3).read_to_end(&mut text))
        .map_err(|e| failed(format!("cannot read: {e}")))?;
    let text = String::from_utf8(text).map_err(|_| failed("expected UTF-8".into()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.len() > MAX_PASSWORD || line.contains(['\n', '\0']) {
        let lines = text.lines().count();
        return Err(failed(format!(
            "expected one line of 1 to {MAX_PASSWORD} bytes without NUL, found {lines} lines of {} bytes in all",
            text.len()
        )));
    }
    Ok(line.to_owned())
}
