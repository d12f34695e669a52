//! The table `[mqtt]`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::validation::{FieldError, require};

/// Events over MQTT.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// Host name or address of the broker.
    pub host: String,
    /// Port of the broker.
    #[serde(default = "port")]
    pub port: u16,
    /// Topic of the events. The appliance's status is published on this topic with `/status` appended.
    #[serde(default = "topic")]
    pub topic: String,
    /// Client identifier, unique at the broker; the topic if `None`.
    pub client_id: Option<String>,
    /// User name, if the broker requires one.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Maximum number of events to keep while the broker is unreachable. When more arrive, the oldest are dropped and
    /// counted.
    #[serde(default = "keep")]
    pub keep: usize,
}

fn port() -> u16 {
    1883
}

fn topic() -> String {
    "pinhole".into()
}

fn keep() -> usize {
    1000
}

impl MqttConfig {
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        let host = &self.host;
        let valid = !host.trim().is_empty();
        require(
            valid,
            "mqtt.host",
            "a name or an address",
            format_args!("{host:?}"),
        )?;
        require(self.port > 0, "mqtt.port", "1 to 65535", self.port)?;
        let topic = &self.topic;
        // MQTT 3.1.1, 4.7: a topic name for publishing has no wildcards.
        require(
            (1..=1000).contains(&topic.len()) && !topic.contains(['#', '+', '\0']),
            "mqtt.topic",
            "1 to 1000 bytes without #, + and NUL",
            format_args!("{topic:?}"),
        )?;
        let valid = (1..=1_000_000).contains(&self.keep);
        require(valid, "mqtt.keep", "1 to 1000000", self.keep)
    }
}
