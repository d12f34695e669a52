//! Home Assistant's MQTT device discovery: the message that describes the appliance and its entities.
//!
//! <https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery>, and for each platform the page
//! `<platform>.mqtt`. Templates are Jinja, which Home Assistant evaluates.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::topics::{self, OFFLINE, ONLINE, Retained, short_hash};
use crate::config::{HomeAssistantConfig, MqttConfig};

/// The state that stands for none of the classes.
const UNKNOWN: &str = "unknown";

/// Maximum length of a state in Home Assistant, in characters.
const MAX_STATE_CHARS: usize = 255;

/// With more classes, or longer names in bytes, the sensor is plain text, and there is no event entity: both would list all
/// of them.
const MAX_OPTIONS: usize = 1000;
const MAX_OPTION_BYTES: usize = 64 << 10;

/// Maximum length of a part of an entity identifier, in characters; all of it may have 255.
const MAX_SLUG_CHARS: usize = 80;

/// The message for [`Retained::Discovery`].
#[derive(Serialize)]
struct DeviceDiscovery {
    device: Device,
    origin: Origin,
    /// Holds for all components that have none of their own.
    availability: Vec<Value>,
    /// By a key that stays the same for ever.
    components: BTreeMap<String, Value>,
}

#[derive(Serialize)]
struct Device {
    identifiers: [String; 1],
    name: String,
    manufacturer: &'static str,
    model: &'static str,
    sw_version: &'static str,
}

#[derive(Serialize)]
struct Origin {
    name: &'static str,
    sw_version: &'static str,
}

/// Removes an entity of an earlier announcement: Home Assistant keeps what a message does not name.
fn removed(platform: &str) -> Value {
    json!({ "platform": platform })
}

/// The message as JSON for a bundle with `classes`.
pub(super) fn message(
    config: &MqttConfig,
    home_assistant: &HomeAssistantConfig,
    classes: &[String],
) -> Vec<u8> {
    let entities = Entities {
        id: topics::device_id(config),
        slug: slug(&home_assistant.name),
        state: Retained::State.topic(config),
        diagnostics: Retained::Diagnostics.topic(config),
    };
    let status = json!({
        "topic": topics::status(config), "payload_available": ONLINE, "payload_not_available": OFFLINE
    });
    // While nothing can be classified, the class is not known.
    let answers = json!({
        "topic": entities.state,
        "value_template": format!("{{{{ '{OFFLINE}' if value_json.error else '{ONLINE}' }}}}"),
    });
    let while_it_answers = [status.clone(), answers];
    let mut components = BTreeMap::new();
    let mut add = |key: &str, value: Value| {
        components.insert(key.to_owned(), value);
    };

    let options = options(classes);
    let bytes: usize = options.iter().map(String::len).sum();
    let lists_options = options.len() <= MAX_OPTIONS && bytes <= MAX_OPTION_BYTES;
    let mut class = entities.component("sensor", "class", "Class");
    class["icon"] = json!("mdi:shape");
    class["state_topic"] = json!(entities.state);
    class["value_template"] = json!(format!(
        "{{{{ (value_json.class or 'None')[:{MAX_STATE_CHARS}] }}}}"
    ));
    class["json_attributes_topic"] = json!(entities.state);
    class["json_attributes_template"] = json!(
        "{{ {'probability': value_json.probability, 'since': value_json.since, 'top': value_json.top} | to_json }}"
    );
    class["availability"] = json!(while_it_answers);
    class["availability_mode"] = json!("all");
    if lists_options {
        class["device_class"] = json!("enum");
        class["options"] = json!(options);
        let mut change = entities.component("event", "change", "Change");
        change["icon"] = json!("mdi:eye-refresh");
        change["state_topic"] = json!(config.topic);
        change["event_types"] = json!(options);
        change["value_template"] = json!(format!(
            "{{{{ dict(value_json, event_type=value_json.to[:{MAX_STATE_CHARS}]) | to_json }}}}"
        ));
        add("change", change);
    } else {
        add("change", removed("event"));
    }
    add("class", class);

    for name in &home_assistant.binary_sensors {
        // Two names may have the same slug, or none.
        let key = format!("is_{}", short_hash(name));
        if !classes.contains(name) {
            add(&key, removed("binary_sensor"));
            continue;
        }
        let readable = Some(slug(name)).filter(|slug| !slug.is_empty());
        let readable = readable.as_deref().unwrap_or(&key);
        let mut is_class = entities.component("binary_sensor", readable, name);
        is_class["unique_id"] = json!(format!("{}_{key}", entities.id));
        is_class["state_topic"] = json!(entities.state);
        is_class["value_template"] = json!(format!(
            "{{{{ 'ON' if value_json.class == {} else 'OFF' }}}}",
            json!(name)
        ));
        is_class["availability"] = json!(while_it_answers);
        is_class["availability_mode"] = json!("all");
        add(&key, is_class);
    }

    if home_assistant.picture_seconds > 0.0 {
        let mut picture = entities.component("image", "picture", "Picture");
        picture["image_topic"] = json!(Retained::Picture.topic(config));
        picture["content_type"] = json!("image/jpeg");
        add("picture", picture);
    } else {
        add("picture", removed("image"));
    }

    let mut temperature = entities.diagnostic("sensor", "temperature", "Temperature");
    temperature["value_template"] = json!("{{ value_json.temperature_c }}");
    temperature["device_class"] = json!("temperature");
    temperature["state_class"] = json!("measurement");
    temperature["unit_of_measurement"] = json!("°C");
    temperature["suggested_display_precision"] = json!(0);
    add("temperature", temperature);

    let mut rate = entities.diagnostic("sensor", "frame_rate", "Frame rate");
    rate["icon"] = json!("mdi:speedometer");
    rate["value_template"] = json!("{{ value_json.frames_per_second }}");
    rate["state_class"] = json!("measurement");
    rate["unit_of_measurement"] = json!("fps");
    rate["suggested_display_precision"] = json!(1);
    add("frame_rate", rate);

    let mut throttled = entities.diagnostic("binary_sensor", "throttled", "Throttled");
    throttled["value_template"] = json!("{{ 'ON' if value_json.throttled else 'OFF' }}");
    throttled["device_class"] = json!("problem");
    add("throttled", throttled);

    let mut bundle = entities.diagnostic("sensor", "bundle", "Bundle");
    bundle["icon"] = json!("mdi:package-variant");
    bundle["value_template"] = json!(format!(
        "{{{{ (value_json.bundle or 'None')[:{MAX_STATE_CHARS}] }}}}"
    ));
    add("bundle", bundle);

    let version = env!("CARGO_PKG_VERSION");
    let message = DeviceDiscovery {
        device: Device {
            identifiers: [entities.id],
            name: home_assistant.name.trim().into(),
            manufacturer: "Pinhole",
            model: "Camera classifier",
            sw_version: version,
        },
        origin: Origin {
            name: "Pinhole",
            sw_version: version,
        },
        availability: vec![status],
        components,
    };
    // Without maps whose keys are no texts, JSON cannot fail.
    serde_json::to_vec(&message).unwrap_or_default()
}

/// What the entities have in common.
struct Entities {
    id: String,
    slug: String,
    state: String,
    diagnostics: String,
}

impl Entities {
    /// The fields of every component.
    fn component(&self, platform: &str, key: &str, name: &str) -> Value {
        json!({
            "platform": platform,
            "unique_id": format!("{}_{key}", self.id),
            "default_entity_id": format!("{platform}.{}_{key}", self.slug),
            "name": name,
        })
    }

    fn diagnostic(&self, platform: &str, key: &str, name: &str) -> Value {
        let mut component = self.component(platform, key, name);
        component["entity_category"] = json!("diagnostic");
        component["state_topic"] = json!(self.diagnostics);
        component
    }
}

/// The states, each once, as long as Home Assistant takes them.
fn options(classes: &[String]) -> Vec<String> {
    let mut options: Vec<String> = vec![];
    let mut known = std::collections::HashSet::new();
    for name in classes.iter().map(String::as_str).chain([UNKNOWN]) {
        let option: String = name.chars().take(MAX_STATE_CHARS).collect();
        if known.insert(option.clone()) {
            options.push(option);
        }
    }
    options
}

/// `name` for an entity identifier. Home Assistant transliterates what is not ASCII.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in (name.chars().flat_map(char::to_lowercase)).take(MAX_SLUG_CHARS) {
        if c.is_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('_') {
            slug.push('_');
        }
    }
    slug.trim_end_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(text: &str) -> (MqttConfig, HomeAssistantConfig) {
        let table = format!(
            "host = \"broker\"\ntopic = \"house/door\"\nclient_id = \"pinhole-door\"\n[home_assistant]\n{text}"
        );
        let config: MqttConfig = toml::from_str(&table).unwrap();
        let home_assistant = config.home_assistant.clone().unwrap();
        (config, home_assistant)
    }

    fn parse(text: &str, classes: &[&str]) -> Value {
        let (config, home_assistant) = configs(text);
        let classes: Vec<String> = classes.iter().map(|name| (*name).to_owned()).collect();
        serde_json::from_slice(&message(&config, &home_assistant, &classes)).unwrap()
    }

    /// Every field is one that Home Assistant documents for the platform; other programs see the same message, so it is a
    /// contract.
    #[test]
    fn the_message_is_what_home_assistant_documents() {
        let (config, home_assistant) = configs("");
        assert_eq!(
            Retained::Discovery.topic(&config),
            "homeassistant/device/pinhole-door/config"
        );
        assert_eq!(
            topics::home_assistant_status(&home_assistant),
            "homeassistant/status"
        );
        let message = parse(
            "name = \"Kitchen counter\"\nbinary_sensors = [\"a \\\"black\\\" cat\"]",
            &["a \"black\" cat", "toast"],
        );
        let version = env!("CARGO_PKG_VERSION");
        let status = json!({
            "topic": "house/door/status", "payload_available": "online", "payload_not_available": "offline"
        });
        let while_it_answers = json!([status, {
            "topic": "house/door/state",
            "value_template": "{{ 'offline' if value_json.error else 'online' }}",
        }]);
        let states = ["a \"black\" cat", "toast", "unknown"];
        let expected = json!({
            "device": {
                "identifiers": ["pinhole-door"], "name": "Kitchen counter", "manufacturer": "Pinhole",
                "model": "Camera classifier", "sw_version": version,
            },
            "origin": {"name": "Pinhole", "sw_version": version},
            "availability": [status],
            "components": {
                "class": {
                    "platform": "sensor", "unique_id": "pinhole-door_class",
                    "default_entity_id": "sensor.kitchen_counter_class", "name": "Class", "icon": "mdi:shape",
                    "device_class": "enum", "options": states, "state_topic": "house/door/state",
                    "value_template": "{{ (value_json.class or 'None')[:255] }}",
                    "json_attributes_topic": "house/door/state",
                    "json_attributes_template": "{{ {'probability': value_json.probability, \
                        'since': value_json.since, 'top': value_json.top} | to_json }}",
                    "availability": while_it_answers, "availability_mode": "all",
                },
                "change": {
                    "platform": "event", "unique_id": "pinhole-door_change",
                    "default_entity_id": "event.kitchen_counter_change", "name": "Change",
                    "icon": "mdi:eye-refresh", "state_topic": "house/door", "event_types": states,
                    "value_template": "{{ dict(value_json, event_type=value_json.to[:255]) | to_json }}",
                },
                "is_6fd4bb29": {
                    "platform": "binary_sensor", "unique_id": "pinhole-door_is_6fd4bb29",
                    "default_entity_id": "binary_sensor.kitchen_counter_a_black_cat",
                    "name": "a \"black\" cat", "state_topic": "house/door/state",
                    "value_template":
                        "{{ 'ON' if value_json.class == \"a \\\"black\\\" cat\" else 'OFF' }}",
                    "availability": while_it_answers, "availability_mode": "all",
                },
                "picture": {
                    "platform": "image", "unique_id": "pinhole-door_picture",
                    "default_entity_id": "image.kitchen_counter_picture", "name": "Picture",
                    "image_topic": "house/door/picture", "content_type": "image/jpeg",
                },
                "temperature": {
                    "platform": "sensor", "unique_id": "pinhole-door_temperature",
                    "default_entity_id": "sensor.kitchen_counter_temperature", "name": "Temperature",
                    "entity_category": "diagnostic", "state_topic": "house/door/diagnostics",
                    "value_template": "{{ value_json.temperature_c }}", "device_class": "temperature",
                    "state_class": "measurement", "unit_of_measurement": "°C",
                    "suggested_display_precision": 0,
                },
                "frame_rate": {
                    "platform": "sensor", "unique_id": "pinhole-door_frame_rate",
                    "default_entity_id": "sensor.kitchen_counter_frame_rate", "name": "Frame rate",
                    "entity_category": "diagnostic", "icon": "mdi:speedometer",
                    "state_topic": "house/door/diagnostics",
                    "value_template": "{{ value_json.frames_per_second }}", "state_class": "measurement",
                    "unit_of_measurement": "fps", "suggested_display_precision": 1,
                },
                "throttled": {
                    "platform": "binary_sensor", "unique_id": "pinhole-door_throttled",
                    "default_entity_id": "binary_sensor.kitchen_counter_throttled", "name": "Throttled",
                    "entity_category": "diagnostic", "state_topic": "house/door/diagnostics",
                    "value_template": "{{ 'ON' if value_json.throttled else 'OFF' }}",
                    "device_class": "problem",
                },
                "bundle": {
                    "platform": "sensor", "unique_id": "pinhole-door_bundle",
                    "default_entity_id": "sensor.kitchen_counter_bundle", "name": "Bundle",
                    "entity_category": "diagnostic", "icon": "mdi:package-variant",
                    "state_topic": "house/door/diagnostics",
                    "value_template": "{{ (value_json.bundle or 'None')[:255] }}",
                },
            },
        });
        for field in ["device", "origin", "availability"] {
            assert_eq!(message[field], expected[field], "{field}");
        }
        let keys = |message: &Value| {
            let components = message["components"].as_object().unwrap();
            components.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&message), keys(&expected));
        for (key, component) in message["components"].as_object().unwrap() {
            assert_eq!(*component, expected["components"][key], "{key}");
        }
        assert_eq!(message.as_object().unwrap().len(), 4);
    }

    /// The entities that the documentation and its automations name are those of its configuration.
    #[test]
    fn the_documentation_names_the_entities() {
        let page = include_str!("../../../docs/home-assistant.md");
        let (_, rest) = page.split_once("[mqtt.home_assistant]\n").unwrap();
        let (fields, _) = rest.split_once("```").unwrap();
        let message = parse(fields, &["cat", "empty counter"]);
        let components = message["components"].as_object().unwrap();
        let entities: Vec<&str> = (components.values())
            .map(|component| component["default_entity_id"].as_str().unwrap())
            .collect();
        let words = page.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
        let named: Vec<&str> = words
            .map(|word| word.trim_end_matches('.'))
            .filter(|word| {
                let platforms = ["sensor.", "binary_sensor.", "image.", "event."];
                platforms.iter().any(|platform| word.starts_with(platform))
            })
            .collect();
        assert!(named.len() >= 12, "{named:?}");
        for entity in &named {
            assert!(entities.contains(entity), "{entity}: {entities:?}");
        }
        assert!(entities.iter().all(|entity| named.contains(entity)));
    }

    #[test]
    fn a_picture_and_binary_sensors_are_announced_on_request() {
        let message = parse(
            "picture_seconds = 0.0\nbinary_sensors = [\"dog\"]",
            &["cat"],
        );
        let components = message["components"].as_object().unwrap();
        // The dog is no class of this bundle. What an earlier message announced is removed.
        let dog = format!("is_{}", short_hash("dog"));
        let expected = [
            "bundle",
            "change",
            "class",
            "frame_rate",
            &dog,
            "picture",
            "temperature",
            "throttled",
        ];
        assert_eq!(components.keys().collect::<Vec<_>>(), expected);
        assert_eq!(components[&dog], json!({"platform": "binary_sensor"}));
        assert_eq!(components["picture"], json!({"platform": "image"}));
    }

    /// Names that appear twice, that Home Assistant would cut off, and "unknown" as a class.
    #[test]
    fn each_state_is_an_option_once() {
        let long = "x".repeat(300);
        let message = parse("", &["cat", &long, "unknown", "cat"]);
        let expected = json!(["cat", "x".repeat(255), "unknown"]);
        assert_eq!(message["components"]["class"]["options"], expected);
        assert_eq!(message["components"]["change"]["event_types"], expected);
    }

    #[test]
    fn too_many_classes_make_a_plain_sensor() {
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let names: Vec<&str> = many.iter().map(String::as_str).collect();
        let without = |classes: &[&str]| {
            let message = parse("", classes);
            let class = &message["components"]["class"];
            assert_eq!(class["device_class"].is_null(), class["options"].is_null());
            assert_eq!(
                class["options"].is_null(),
                message["components"]["change"] == json!({"platform": "event"})
            );
            class["options"].is_null()
        };
        assert!(!without(&names[1..]));
        assert!(without(&names));
        let long: Vec<String> = (0..260)
            .map(|n| format!("{n}{}", "x".repeat(252)))
            .collect();
        assert!(without(
            &long.iter().map(String::as_str).collect::<Vec<_>>()
        ));
    }

    #[test]
    fn identifiers_have_allowed_characters_and_differ() {
        let id = |client_id: &str| {
            let (config, _) = configs("");
            topics::device_id(&MqttConfig {
                client_id: Some(client_id.into()),
                ..config
            })
        };
        assert_eq!(id("door-7_B"), "door-7_B");
        let (space, slash) = (id("door 7"), id("door/7"));
        assert!(space.starts_with("door_7_") && slash.starts_with("door_7_"));
        assert_ne!(space, slash);
        assert_eq!(id("").len(), 9);
        assert_eq!(slug("  The Cat's -- place 2 "), "the_cat_s_place_2");
        assert_eq!(slug("Küche"), "küche");
        assert_eq!(slug("!?"), "");
        assert_eq!(slug(&"x".repeat(300)).len(), 80);
        let message = parse("binary_sensors = [\"!?\"]", &["!?"]);
        let key = format!("is_{}", short_hash("!?"));
        assert_eq!(
            message["components"][&key]["default_entity_id"],
            format!("binary_sensor.pinhole_{key}")
        );
    }
}
