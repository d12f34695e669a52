//! The table `[mqtt.home_assistant]`.

use serde::Deserialize;

use crate::validation::{FieldError, require, require_seconds};

/// Announcement to Home Assistant by MQTT device discovery.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HomeAssistantConfig {
    /// Whether the appliance is announced. `false` removes its device from Home Assistant, and its picture from the broker.
    pub enabled: bool,
    /// Name of the device. Entity identifiers begin with it: `sensor.NAME_class`.
    pub name: String,
    /// Home Assistant's discovery prefix. Its status is expected on this topic with `/status` appended.
    pub prefix: String,
    /// Classes with a binary sensor each, which is on while the class is the state.
    pub binary_sensors: Vec<String>,
    /// Seconds between two pictures while the state does not change; 0 to publish none. A change publishes one at once.
    pub picture_seconds: f64,
}

impl Default for HomeAssistantConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            name: "Pinhole".into(),
            prefix: "homeassistant".into(),
            binary_sensors: vec![],
            picture_seconds: 10.0,
        }
    }
}

impl HomeAssistantConfig {
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        let name = &self.name;
        require(
            name.chars().any(char::is_alphanumeric) && name.chars().count() <= 100,
            "mqtt.home_assistant.name",
            "1 to 100 characters, one of them a letter or a digit",
            format_args!("{name:?}"),
        )?;
        let prefix = &self.prefix;
        require(
            (1..=1000).contains(&prefix.len()) && !prefix.contains(['#', '+', '\0']),
            "mqtt.home_assistant.prefix",
            "1 to 1000 bytes without #, + and NUL",
            format_args!("{prefix:?}"),
        )?;
        let classes = &self.binary_sensors;
        require(
            classes.len() <= 100,
            "mqtt.home_assistant.binary_sensors",
            "at most 100 classes",
            classes.len(),
        )?;
        require_seconds("mqtt.home_assistant.picture_seconds", self.picture_seconds)
    }

    /// The classes in [`Self::binary_sensors`] that are not among `classes`, with what was expected.
    ///
    /// # Errors
    /// The field, and the first such name.
    pub fn check_classes(&self, classes: &[String]) -> Result<(), FieldError> {
        let missing = (self.binary_sensors.iter()).find(|name| !classes.contains(name));
        let found = missing.map_or("", String::as_str);
        require(
            missing.is_none(),
            "mqtt.home_assistant.binary_sensors",
            "classes of the bundle (`pinhole classes BUNDLE` lists them)",
            format_args!("{found:?}"),
        )
    }
}
