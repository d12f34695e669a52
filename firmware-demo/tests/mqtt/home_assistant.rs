//! The announcement to Home Assistant, at a fake broker: when it is sent, and what follows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pinhole::system::System;
use pinhole::{Image, RgbImage};
use pinhole_firmware::config::{ApplianceConfig, HomeAssistantConfig, MqttConfig};
use pinhole_firmware::mqtt::Publisher;
use pinhole_firmware::{app, text::Fonts};
use serde_json::Value;

use crate::fake_broker::{Broker, Packet, listen};
use crate::support::assets;

const CONFIG: &str = "homeassistant/device/door-7/config";

fn config(port: u16, home_assistant: HomeAssistantConfig) -> MqttConfig {
    MqttConfig {
        host: "127.0.0.1".into(),
        port,
        topic: "house/door".into(),
        client_id: Some("door-7".into()),
        user: None,
        password_file: None,
        keep: 10,
        tls: None,
        home_assistant: Some(home_assistant),
    }
}

fn classes(message: &str) -> Value {
    let message: Value = serde_json::from_str(message).unwrap();
    message["components"]["class"]["options"].clone()
}

#[test]
fn it_is_announced_again_when_home_assistant_starts_and_when_classes_change() {
    let (listener, port) = listen();
    let publisher = Publisher::start(&config(port, HomeAssistantConfig::default())).unwrap();
    publisher.announce(&["cat".into()]);
    let mut broker = Broker::welcome(&listener);
    assert_eq!(
        broker.read(),
        Packet::Subscribe("homeassistant/status".into())
    );
    let (topic, message) = broker.retained();
    assert_eq!(topic, CONFIG);
    assert_eq!(classes(&message), serde_json::json!(["cat", "unknown"]));

    broker.publish("homeassistant/status", "offline");
    broker.publish("homeassistant/status", "online");
    assert_eq!(broker.retained(), (CONFIG.into(), message.clone()));

    publisher.announce(&["cat".into(), "dog".into()]);
    let (_, changed) = broker.retained();
    assert_eq!(
        classes(&changed),
        serde_json::json!(["cat", "dog", "unknown"])
    );

    // What reacts to a state finds its picture.
    let image = Arc::new(Image::from(RgbImage::new(40, 30, vec![90; 3600]).unwrap()));
    publisher.set_picture(image);
    publisher.set_state(&serde_json::json!({"class": "dog"}));
    publisher.set_diagnostics(&serde_json::json!({"throttled": false}));
    let mut topics = vec![];
    for _ in 0..3 {
        let (topic, payload) = broker.retained();
        assert_eq!(topic == "house/door/picture", payload.contains("JFIF"));
        topics.push(topic);
    }
    topics.sort();
    let expected = [
        "house/door/diagnostics",
        "house/door/picture",
        "house/door/state",
    ];
    assert_eq!(topics, expected);

    // All of it after a reconnection, the picture before the state.
    drop(broker);
    let mut broker = Broker::welcome(&listener);
    assert!(matches!(broker.read(), Packet::Subscribe(_)));
    let topics: Vec<String> = (0..4).map(|_| broker.retained().0).collect();
    let expected = [
        CONFIG,
        "house/door/picture",
        "house/door/state",
        "house/door/diagnostics",
    ];
    assert_eq!(topics, expected);
    // A hostile status does not end the connection.
    broker.publish("homeassistant/status", "\u{0}");
    publisher.publish(&1);
    assert_eq!(broker.event().0, "1");
}

/// An empty message removes the device, and nothing of it stays at the broker.
#[test]
fn it_is_removed_when_switched_off() {
    let (listener, port) = listen();
    let off = HomeAssistantConfig {
        enabled: false,
        ..HomeAssistantConfig::default()
    };
    let publisher = Publisher::start(&config(port, off)).unwrap();
    publisher.announce(&["cat".into()]);
    publisher.set_picture(Arc::new(Image::from(
        RgbImage::new(1, 1, vec![0; 3]).unwrap(),
    )));
    publisher.set_diagnostics(&1);
    publisher.set_state(&2);
    let mut broker = Broker::welcome(&listener);
    let sent: Vec<(String, String)> = (0..4).map(|_| broker.retained()).collect();
    let expected = [
        (CONFIG, ""),
        ("house/door/picture", ""),
        ("house/door/state", "2"),
        ("house/door/diagnostics", ""),
    ];
    assert_eq!(
        sent,
        expected.map(|(topic, payload)| (topic.to_owned(), payload.to_owned()))
    );
}

/// If this fails, what the camera saw stays at the broker after pictures were switched off.
#[test]
fn the_last_picture_is_removed_when_pictures_are_switched_off() {
    let (listener, port) = listen();
    let without = HomeAssistantConfig {
        picture_seconds: 0.0,
        ..HomeAssistantConfig::default()
    };
    let publisher = Publisher::start(&config(port, without)).unwrap();
    publisher.set_state(&2);
    let mut broker = Broker::welcome(&listener);
    assert!(matches!(broker.read(), Packet::Subscribe(_)));
    let sent: Vec<(String, String)> = (0..2).map(|_| broker.retained()).collect();
    assert!(
        sent.contains(&("house/door/picture".into(), String::new())),
        "{sent:?}"
    );
}

/// The whole appliance: the demo bundle's classes, and diagnostics and a picture of its frames.
#[test]
fn the_appliance_announces_its_bundle() {
    let (listener, port) = listen();
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "bundle = {:?}\nthreads = 1\n[source]\nmjpeg = {:?}\n[mqtt]\nhost = \"127.0.0.1\"\nport = {port}\n\
         topic = \"house/door\"\nclient_id = \"door-7\"\n[mqtt.home_assistant]\nbinary_sensors = [\"red heart\"]\n",
        assets("demo"),
        assets("scenes.mjpeg"),
    );
    let config = ApplianceConfig::parse(&text, &folder.path().join("firmware.toml")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let fonts = Fonts::new(&[], false).unwrap();
        app::run(
            &config,
            Box::new(|| Ok(None)),
            fonts,
            System::new("/nowhere"),
            &stopped,
        )
        .unwrap()
    });
    let mut broker = Broker::welcome(&listener);
    let (mut announced, mut diagnostics, mut picture) = (None, None, false);
    while announced.is_none() || diagnostics.is_none() || !picture {
        let message = match broker.read() {
            Packet::Publish(message) => message,
            Packet::Subscribe(_) => continue,
            other => panic!("{other:?}"),
        };
        broker.acknowledge(message.id);
        match message.topic.as_str() {
            CONFIG => announced = Some(message.payload),
            "house/door/diagnostics" if message.payload.contains("classes") => {
                diagnostics = Some(message.payload);
            }
            "house/door/picture" => picture = message.payload.contains("JFIF"),
            _ => {}
        }
    }
    let announced: Value = serde_json::from_str(&announced.unwrap()).unwrap();
    let manifest = std::fs::read(assets("demo").join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let names = manifest["classes"].as_array().unwrap();
    let options = announced["components"]["class"]["options"]
        .as_array()
        .unwrap();
    assert!(names.iter().all(|name| options.contains(name)));
    let is_heart = (announced["components"].as_object().unwrap().values())
        .find(|component| component["name"] == "red heart")
        .unwrap();
    assert_eq!(
        is_heart["default_entity_id"],
        "binary_sensor.pinhole_red_heart"
    );
    let diagnostics: Value = serde_json::from_str(&diagnostics.unwrap()).unwrap();
    assert!(diagnostics["temperature_c"].is_null(), "{diagnostics}");
    assert!(
        diagnostics["frames_per_second"].is_number(),
        "{diagnostics}"
    );
    assert_eq!(diagnostics["throttled"], false);
    let bundle = format!("demo, {} classes", names.len());
    assert!(diagnostics["bundle"].as_str().unwrap().starts_with(&bundle));
    stop.store(true, Ordering::Relaxed);
    drop((broker, listener));
    thread.join().unwrap();
}
