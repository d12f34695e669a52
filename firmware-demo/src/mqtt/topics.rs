//! The topics, and the status.

use sha2::{Digest, Sha256};

use crate::config::{HomeAssistantConfig, MqttConfig};

/// The status while the appliance runs.
pub(super) const ONLINE: &str = "online";

/// The status after the last will.
pub(super) const OFFLINE: &str = "offline";

/// A retained message, of which only the newest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Retained {
    /// What Home Assistant needs to know of the appliance.
    Discovery,
    /// The frame of the newest answer. Before the state, so that what reacts to a change finds its picture.
    Picture,
    /// The state.
    State,
    /// Temperature, frame rate, throttling and bundle.
    Diagnostics,
}

impl Retained {
    /// In the order in which they are sent.
    pub(super) const ALL: [Self; 4] = [
        Self::Discovery,
        Self::Picture,
        Self::State,
        Self::Diagnostics,
    ];

    /// The topic.
    pub(super) fn topic(self, config: &MqttConfig) -> String {
        let subtopic = match self {
            Self::Discovery => {
                let default = HomeAssistantConfig::default();
                let home_assistant = config.home_assistant.as_ref().unwrap_or(&default);
                return format!(
                    "{}/device/{}/config",
                    home_assistant.prefix,
                    device_id(config)
                );
            }
            Self::Picture => "picture",
            Self::State => "state",
            Self::Diagnostics => "diagnostics",
        };
        format!("{}/{subtopic}", config.topic)
    }
}

/// The topic of the status, which is also the last will's.
pub(super) fn status(config: &MqttConfig) -> String {
    format!("{}/status", config.topic)
}

/// Where Home Assistant says [`ONLINE`] after its start.
pub(super) fn home_assistant_status(home_assistant: &HomeAssistantConfig) -> String {
    format!("{}/status", home_assistant.prefix)
}

/// The device's identifier, of letters, digits, `_` and `-`: the client identifier, which is unique at the broker.
pub(super) fn device_id(config: &MqttConfig) -> String {
    let client = config.client_id();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !client.is_empty() && client.chars().all(allowed) {
        return client;
    }
    let replaced: String = (client.chars().take(64))
        .map(|c| if allowed(c) { c } else { '_' })
        .collect();
    format!("{replaced}_{}", short_hash(&client))
}

/// Eight hexadecimal digits that stand for `name`.
pub(super) fn short_hash(name: &str) -> String {
    let hash = Sha256::digest(name);
    hash.iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
