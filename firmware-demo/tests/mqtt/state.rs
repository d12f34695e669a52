//! The retained state of the whole appliance at a fake broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pinhole::system::System;
use pinhole_firmware::app;
use pinhole_firmware::config::ApplianceConfig;
use pinhole_firmware::text::Fonts;
use serde_json::Value;

use crate::fake_broker::{Broker, listen};
use crate::support::{self, assets};

/// The next state, between other messages.
fn next_state(broker: &mut Broker) -> Value {
    loop {
        let message = broker.message();
        broker.acknowledge(message.id);
        if message.topic == "house/door/state" {
            assert!(message.retain);
            return serde_json::from_str(&message.payload).unwrap();
        }
    }
}

/// The states up to one that `is` what is expected.
fn until(broker: &mut Broker, expected: &str, is: impl Fn(&Value) -> bool) -> Value {
    let mut seen = vec![];
    for _ in 0..20 {
        let state = next_state(broker);
        if is(&state) {
            return state;
        }
        seen.push(state.to_string());
    }
    panic!("expected {expected}, found {}", seen.join("\n"));
}

#[test]
fn the_state_follows_changes_failures_and_recoveries() {
    let (listener, port) = listen();
    let folder = tempfile::tempdir().unwrap();
    support::copy(&assets("demo"), &folder.path().join("bundle"));
    // Shows the scenes, and fails until it is started again.
    let camera = format!(
        "cat '{}'; sleep 1; exit 3",
        assets("scenes.mjpeg").display()
    );
    let text = format!(
        "bundle = \"bundle\"\nthreads = 1\n[thresholds]\nsmoothing = 0.0\nhysteresis = 1\n[source]\ncommand = [\"sh\", \"-c\", {camera:?}]\n\
         [mqtt]\nhost = \"127.0.0.1\"\nport = {port}\ntopic = \"house/door\"\n"
    );
    let config = ApplianceConfig::parse(&text, &folder.path().join("firmware.toml")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let fonts = Fonts::new(&[], false).unwrap();
        let open = Box::new(|| Ok(None));
        app::run(&config, open, fonts, System::new("/nowhere"), &stopped).unwrap()
    });
    let mut broker = Broker::welcome(&listener);
    let class = until(&mut broker, "a class", |state| !state["class"].is_null());
    let unknown = class["class"] == "unknown";
    assert_eq!(class["probability"].is_null(), unknown, "{class}");
    let named = |index: &serde_json::Value| {
        let manifest = std::fs::read(folder.path().join("bundle/manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        manifest["classes"][index.as_u64().unwrap() as usize].clone()
    };
    if unknown {
        assert!(class["index"].is_null(), "{class}");
    } else {
        assert_eq!(named(&class["index"]), class["class"], "{class}");
    }
    assert_eq!(
        class["score"].as_str(),
        (!unknown).then_some("softmax"),
        "{class}"
    );
    let top = class["top"].as_array().unwrap();
    assert!(top.len() == 3, "{class}");
    assert!(unknown || top[0]["class"] == class["class"], "{class}");
    let since = class["since"].as_str().unwrap();
    assert!(since.starts_with("20") && since.ends_with('Z'), "{class}");
    assert!(class["error"].is_null(), "{class}");
    let works = serde_json::json!({"ok": true, "error": null});
    assert_eq!(
        (&class["camera"], &class["bundle"]),
        (&works, &works),
        "{class}"
    );

    let failed = until(&mut broker, "an error", |state| !state["error"].is_null());
    assert_eq!(failed["error"], "Camera: sh: exit status 3", "{failed}");
    assert!(
        failed["class"].is_null()
            && failed["probability"].is_null()
            && failed["top"] == serde_json::json!([]),
        "{failed}"
    );
    let camera = serde_json::json!({"ok": false, "error": "sh: exit status 3"});
    assert_eq!(
        (&failed["camera"], &failed["bundle"]),
        (&camera, &works),
        "{failed}"
    );

    let again = until(&mut broker, "a class again", |state| {
        !state["class"].is_null()
    });
    assert!(again["error"].is_null(), "{again}");
    // A new bundle that is refused does not stop the old one.
    std::fs::write(folder.path().join("bundle/manifest.json"), "{}").unwrap();
    let refused = until(&mut broker, "a refused bundle", |state| {
        !state["bundle"]["error"].is_null()
    });
    assert_eq!(refused["bundle"]["ok"], true, "{refused}");
    assert!(
        refused["bundle"]["error"]
            .as_str()
            .unwrap()
            .contains("manifest.json"),
        "{refused}"
    );

    // The whole state again after a reconnection.
    drop(broker);
    let mut broker = Broker::welcome(&listener);
    assert!(!next_state(&mut broker)["bundle"]["error"].is_null());
    stop.store(true, Ordering::Relaxed);
    drop(broker);
    thread.join().unwrap();
}
