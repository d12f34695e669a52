//! The table `[mqtt]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::home_assistant::HomeAssistantConfig;
use crate::identity::machine_name;
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
    /// Topic of the events; `pinhole/` and a name of this machine by default. The appliance's status and state are
    /// published on this topic with `/status` and `/state` appended.
    #[serde(default = "topic")]
    pub topic: String,
    /// Client identifier, unique at the broker; `pinhole-` and a name of this machine if `None`.
    pub client_id: Option<String>,
    /// User name, if the broker requires one.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Maximum number of events to keep while the broker is unreachable. When more arrive, the oldest are dropped and
    /// counted.
    #[serde(default = "keep")]
    pub keep: usize,
    /// TLS; a plain connection if `None`.
    pub tls: Option<TlsConfig>,
    /// Announcement to Home Assistant; none if `None`.
    pub home_assistant: Option<HomeAssistantConfig>,
}

/// TLS to the broker.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// File with the certificates of the authorities (PEM) that may have signed the broker's; the system's if `None`.
    pub ca_file: Option<PathBuf>,
    /// File with the appliance's own certificate (PEM), if the broker requires one.
    pub certificate_file: Option<PathBuf>,
    /// File with the private key of that certificate (PEM).
    pub key_file: Option<PathBuf>,
}

impl TlsConfig {
    fn validate(&self) -> Result<(), FieldError> {
        let (field, missing) = match (&self.certificate_file, &self.key_file) {
            (Some(_), None) => ("mqtt.tls.key_file", "the key of certificate_file"),
            (None, Some(_)) => ("mqtt.tls.certificate_file", "the certificate of key_file"),
            _ => return Ok(()),
        };
        require(false, field, missing, "none")
    }
}

fn port() -> u16 {
    1883
}

fn topic() -> String {
    format!("pinhole/{}", machine_name())
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
        if let Some(id) = &self.client_id {
            // MQTT 3.1.1, 1.5.3.
            require(
                id.len() <= 1000 && !id.contains('\0'),
                "mqtt.client_id",
                "at most 1000 bytes without NUL",
                format_args!("{id:?}"),
            )?;
        }
        let valid = (1..=1_000_000).contains(&self.keep);
        require(valid, "mqtt.keep", "1 to 1000000", self.keep)?;
        self.tls.as_ref().map_or(Ok(()), TlsConfig::validate)?;
        (self.home_assistant.as_ref()).map_or(Ok(()), HomeAssistantConfig::validate)
    }

    pub(super) fn resolve_paths(&mut self, folder: &Path) {
        let tls = self.tls.as_mut();
        let tls = tls.map(|tls| {
            [
                &mut tls.ca_file,
                &mut tls.certificate_file,
                &mut tls.key_file,
            ]
        });
        let files = tls.into_iter().flatten().chain([&mut self.password_file]);
        for file in files.flatten() {
            *file = folder.join(&*file);
        }
    }

    /// The files with secrets, each with its field.
    #[cfg(feature = "mqtt")]
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let key = self.tls.as_ref().and_then(|tls| tls.key_file.as_deref());
        [
            ("mqtt.password_file", self.password_file.as_deref()),
            ("mqtt.tls.key_file", key),
        ]
        .into_iter()
        .filter_map(|(field, path)| Some((field, path?)))
    }

    /// The client identifier. By default it differs between machines, because a broker disconnects a client when another
    /// one connects with the same identifier. At most 23 characters, which every broker accepts (MQTT 3.1.1, 3.1.3.1).
    pub fn client_id(&self) -> String {
        let id = self.client_id.clone();
        id.unwrap_or_else(|| format!("pinhole-{}", machine_name()))
    }
}
