//! Publishing to a fake broker: what is sent, and what happens to events when the broker is unreachable, silent, faulty or
//! disconnects.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use pinhole_firmware::config::{ApplianceConfig, MqttConfig};
use pinhole_firmware::mqtt::{PublishCounters, Publisher};

use crate::fake_broker::{Broker, Packet, listen, wait};

fn config(port: u16, keep: usize) -> MqttConfig {
    MqttConfig {
        host: "127.0.0.1".into(),
        port,
        topic: "house/door".into(),
        client_id: None,
        user: None,
        password_file: None,
        keep,
        tls: None,
        home_assistant: None,
    }
}

fn numbers(c: &PublishCounters) -> [u64; 4] {
    [c.queued, c.sent, c.lost, c.waiting]
}

/// Other programs read these topics and payloads: they are a contract.
#[test]
fn topics_and_payloads() {
    let (listener, port) = listen();
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "s3cret word\n").unwrap();
    let config = MqttConfig {
        client_id: Some("door-7".into()),
        user: Some("camera".into()),
        password_file: Some(password),
        ..config(port, 10)
    };
    let publisher = Publisher::start(&config).unwrap();
    let (mut broker, connect) = Broker::accept(&listener);
    let field = |text: &str| [&[0, text.len() as u8][..], text.as_bytes()].concat();
    let expected = [
        field("MQTT"),
        // 3.1.1; user, password, retained will at QoS 1, clean session; keep-alive.
        vec![4, 0b1110_1110, 0, 10],
        field("door-7"),
        field("house/door/status"),
        field("offline"),
        field("camera"),
        field("s3cret word"),
    ];
    assert_eq!(connect, expected.concat());
    broker.connack(0);
    assert_eq!(broker.status(), "online");
    wait(&publisher, 20, |c| c.connected);
    publisher.publish(&serde_json::json!({"from": null, "to": "grüne Tür"}));
    let (event, id) = broker.event();
    assert_eq!(event, r#"{"from":null,"to":"grüne Tür"}"#);
    publisher.set_state(&serde_json::json!({"class": "grüne Tür"}));
    let state = ("house/door/state".into(), r#"{"class":"grüne Tür"}"#.into());
    assert_eq!(broker.retained(), state);
    assert_eq!(numbers(&publisher.counters()), [1, 0, 0, 1]);
    broker.acknowledge(id);
    let c = wait(&publisher, 20, |c| c.sent == 1);
    assert_eq!((c.connected, c.last_error), (true, None));
    // The appliance itself publishes `offline`.
    let stop = std::thread::spawn(|| publisher.stop());
    assert_eq!(broker.status(), "offline");
    assert_eq!(broker.read(), Packet::Disconnect);
    let c = stop.join().unwrap();
    assert_eq!((numbers(&c), c.connected), ([1, 1, 0, 0], false));
}

/// In order, before newer events.
#[test]
fn events_that_were_not_acknowledged_are_sent_again() {
    let (listener, port) = listen();
    let publisher = Publisher::start(&config(port, 1000)).unwrap();
    for n in 0..100 {
        publisher.publish(&n);
    }
    let mut broker = Broker::welcome(&listener);
    assert_eq!(broker.take(3), [0, 1, 2]);
    // Acknowledged out of order, and the last on this connection.
    let (_, _) = broker.event();
    let (four, id) = broker.event();
    assert_eq!(four, "4");
    broker.acknowledge(id);
    wait(&publisher, 20, |c| c.sent == 4);
    drop(broker);
    let c = wait(&publisher, 20, |c| !c.connected);
    assert_eq!(numbers(&c), [100, 4, 0, 96]);
    let error_text = c.last_error.unwrap();
    assert!(
        error_text.contains(&format!("127.0.0.1:{port}: ")),
        "{error_text}"
    );
    let mut broker = Broker::welcome(&listener);
    let rest = broker.take(96);
    assert_eq!(rest[0], 3);
    assert_eq!(rest[1..], (5..100).collect::<Vec<u64>>());
    let c = wait(&publisher, 20, |c| c.waiting == 0);
    assert_eq!(numbers(&c), [100, 100, 0, 0]);
}

/// The newest events are kept, and sent after the reconnection.
#[test]
fn without_a_broker_the_oldest_events_are_dropped() {
    let (listener, port) = listen();
    drop(listener);
    let publisher = Publisher::start(&config(port, 20)).unwrap();
    for n in 0..50 {
        publisher.publish(&n);
    }
    let c = wait(&publisher, 20, |c| c.last_error.is_some());
    assert_eq!(numbers(&c), [50, 0, 30, 20]);
    let error_text = c.last_error.unwrap();
    assert!(error_text.contains("Connection refused"), "{error_text}");
    let start = Instant::now();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut broker = Broker::welcome(&listener);
    assert!(start.elapsed() < Duration::from_millis(2500), "{start:?}");
    assert_eq!(broker.take(20), (30..50).collect::<Vec<u64>>());
    let c = wait(&publisher, 20, |c| c.waiting == 0);
    assert_eq!(numbers(&c), [50, 20, 30, 0]);
}

/// The broker accepts the connection and is silent.
#[test]
fn no_call_waits_for_a_broker_that_hangs() {
    let (listener, port) = listen();
    let publisher = Publisher::start(&config(port, 10)).unwrap();
    let silent = listener.accept().unwrap();
    let start = Instant::now();
    for n in 0..1000 {
        publisher.publish(&n);
    }
    assert!(start.elapsed() < Duration::from_millis(500), "{start:?}");
    let c = wait(&publisher, 20, |c| c.last_error.is_some());
    assert!(c.last_error.unwrap().contains("no response in time"));
    drop(silent);
    let start = Instant::now();
    let c = publisher.stop();
    let took = start.elapsed();
    assert!((1500..3000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(numbers(&c), [1000, 0, 990, 10]);
}

/// The broker receives events and acknowledges none. `offline` is still sent in time.
#[test]
fn stopping_does_not_wait_for_ever() {
    let (listener, port) = listen();
    let publisher = Publisher::start(&config(port, 10)).unwrap();
    publisher.publish(&0);
    let mut broker = Broker::welcome(&listener);
    assert_eq!(broker.event().0, "0");
    let start = Instant::now();
    let stop = std::thread::spawn(|| publisher.stop());
    assert_eq!(broker.status(), "offline");
    let took = start.elapsed();
    assert!((1900..2500).contains(&took.as_millis()), "{took:?}");
    assert_eq!(broker.read(), Packet::Disconnect);
    assert_eq!(numbers(&stop.join().unwrap()), [1, 0, 0, 1]);
}

#[test]
fn stopping_with_an_empty_queue_is_immediate() {
    let (listener, port) = listen();
    drop(listener);
    let publisher = Publisher::start(&config(port, 10)).unwrap();
    wait(&publisher, 20, |c| c.last_error.is_some());
    let start = Instant::now();
    drop(publisher);
    assert!(start.elapsed() < Duration::from_millis(500), "{start:?}");
}

/// The broker may be unreachable only for a moment.
#[test]
fn stopping_reconnects_to_send_the_queue() {
    let (listener, port) = listen();
    drop(listener);
    let publisher = Publisher::start(&config(port, 10)).unwrap();
    publisher.publish(&7);
    wait(&publisher, 20, |c| c.last_error.is_some());
    let stop = std::thread::spawn(|| publisher.stop());
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut broker = Broker::welcome(&listener);
    assert_eq!(broker.take(1), [7]);
    assert_eq!(broker.status(), "offline");
    assert_eq!(numbers(&stop.join().unwrap()), [1, 1, 0, 0]);
}

/// So is a server that is not an MQTT broker.
#[test]
fn a_broker_that_refuses_is_reported_and_retried() {
    for (code, part) in [
        (1, "MQTT 3.1.1"),
        (2, "mqtt.client_id"),
        (4, "mqtt.password_file"),
        (5, "mqtt.user"),
    ] {
        let (listener, port) = listen();
        let publisher = Publisher::start(&config(port, 10)).unwrap();
        publisher.publish(&1);
        let (mut broker, _) = Broker::accept(&listener);
        broker.connack(code);
        let error_text = wait(&publisher, 20, |c| c.last_error.is_some())
            .last_error
            .unwrap();
        assert!(error_text.contains(part), "{error_text}");
        let (mut broker, _) = Broker::accept(&listener);
        broker.0.write_all(&[0xFF; 5]).unwrap();
        let error_text = wait(&publisher, 20, |c| {
            c.last_error.as_ref() != Some(&error_text)
        });
        let error_text = error_text.last_error.unwrap();
        assert!(
            error_text.contains("expected an MQTT broker"),
            "{error_text}"
        );
        let mut broker = Broker::welcome(&listener);
        assert_eq!(broker.take(1), [1]);
        wait(&publisher, 20, |c| c.sent == 1);
    }
}

/// Invalid packets, and acknowledgements of messages that were never sent.
#[test]
fn invalid_packets_are_survived() {
    for nonsense in [
        &b"\xFF\xFF\xFF\xFF\xFF"[..],
        &[0x40, 2, 0xFF, 0xFF],
        &[0x40, 2, 0, 0],
    ] {
        let (listener, port) = listen();
        let publisher = Publisher::start(&config(port, 10)).unwrap();
        let mut broker = Broker::welcome(&listener);
        wait(&publisher, 20, |c| c.connected);
        broker.0.write_all(nonsense).unwrap();
        let c = wait(&publisher, 20, |c| !c.connected);
        assert!(c.last_error.is_some());
        publisher.publish(&1);
        assert_eq!(Broker::welcome(&listener).take(1), [1]);
    }
}

/// The name is invalid, so that no name server is asked.
#[test]
fn a_host_name_that_does_not_resolve_is_reported() {
    let host = "x".repeat(64);
    let config = MqttConfig {
        host: host.clone(),
        ..config(1883, 10)
    };
    let publisher = Publisher::start(&config).unwrap();
    let c = wait(&publisher, 20, |c| c.last_error.is_some());
    let error_text = c.last_error.unwrap();
    assert!(
        error_text.starts_with(&format!("{host}:1883: failed to lookup")),
        "{error_text}"
    );
}

#[test]
fn an_ipv6_address_works() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        eprintln!("SKIPPED: this machine has no IPv6");
        return;
    };
    let config = MqttConfig {
        host: "::1".into(),
        ..config(listener.local_addr().unwrap().port(), 10)
    };
    let publisher = Publisher::start(&config).unwrap();
    Broker::welcome(&listener);
    drop(publisher);
}

#[test]
fn an_unusable_password_file_is_an_error_that_names_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    let error = |user: Option<&str>| {
        let config = MqttConfig {
            user: user.map(Into::into),
            password_file: Some(path.clone()),
            ..config(1, 1)
        };
        Publisher::check(&config).unwrap_err().to_string()
    };
    let error_text = error(Some("camera"));
    let start = format!(
        "mqtt.password_file: {}: cannot read: No such file",
        path.display()
    );
    assert!(error_text.starts_with(&start), "{error_text}");
    for (bytes, part) in [
        (&b""[..], "expected one line"),
        (b"\r\n", "expected one line"),
        (b"one\ntwo\n", "found 2 lines"),
        (b"\xFF", "expected UTF-8"),
        (&[b'x'; 70_000], "expected one line"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error_text = error(Some("camera"));
        assert!(error_text.contains(part), "{error_text}");
    }
    std::fs::write(&path, "right").unwrap();
    assert!(error(None).starts_with("mqtt.user: "));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(error(Some("camera")).contains("expected a regular file"));
}

/// A subscriber that comes later, or a broker that keeps nothing, knows the newest state.
#[test]
fn the_state_is_retained_and_sent_again_after_a_reconnection() {
    let (listener, port) = listen();
    let publisher = Publisher::start(&config(port, 10)).unwrap();
    for n in 0..5 {
        publisher.set_state(&n);
    }
    publisher.publish(&7);
    let mut broker = Broker::welcome(&listener);
    let state = |text: &str| ("house/door/state".to_owned(), text.to_owned());
    // Older states are not sent. States do not wait behind events.
    assert_eq!(broker.retained(), state("4"));
    assert_eq!(broker.take(1), [7]);
    publisher.set_state(&5);
    assert_eq!(broker.retained(), state("5"));
    drop(broker);
    let mut broker = Broker::welcome(&listener);
    assert_eq!(broker.retained(), state("5"));
    publisher.set_state(&6);
    // Before `offline`.
    let stop = std::thread::spawn(|| publisher.stop());
    assert_eq!(broker.retained(), state("6"));
    assert_eq!(broker.status(), "offline");
    let counters = stop.join().unwrap();
    assert_eq!(numbers(&counters), [1, 1, 0, 0]);
}

/// A broker that accepts every connection and closes it again, as for two clients with one identifier.
#[test]
fn connections_that_do_not_last_are_tried_less_and_less_often() {
    let (listener, port) = listen();
    let _publisher = Publisher::start(&config(port, 10)).unwrap();
    let start = Instant::now();
    for _ in 0..3 {
        drop(Broker::welcome(&listener));
    }
    // Pauses of 1 s and 2 s.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(2900), "{took:?}");
}

#[test]
fn a_password_file_that_appears_later_is_used() {
    let (listener, port) = listen();
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    let config = MqttConfig {
        user: Some("camera".into()),
        password_file: Some(password_file.clone()),
        ..config(port, 10)
    };
    let publisher = Publisher::start(&config).unwrap();
    let c = wait(&publisher, 20, |c| c.last_error.is_some());
    let error_text = c.last_error.unwrap();
    assert!(
        error_text.starts_with("mqtt.password_file: "),
        "{error_text}"
    );
    std::fs::write(&password_file, "late\n").unwrap();
    let (_, connect) = Broker::accept(&listener);
    assert!(connect.ends_with(b"late"), "{connect:?}");
}

#[test]
fn a_host_with_more_than_a_name_is_an_error_that_says_where_the_rest_belongs() {
    let error = |host: &str| {
        let config = MqttConfig {
            host: host.into(),
            ..config(1, 1)
        };
        Publisher::check(&config).err().map(|e| e.to_string())
    };
    for host in [
        "broker.local",
        "192.168.1.2",
        "::1",
        "2001:db8::5",
        " broker ",
    ] {
        assert_eq!(error(host), None, "{host}");
    }
    for (host, name, parts) in [
        ("mqtt://broker.local", "broker.local", &[][..]),
        ("broker.local:1884", "broker.local", &["mqtt.port (1884)"]),
        ("tcp://10.0.0.2:1883", "10.0.0.2", &["mqtt.port (1883)"]),
        ("[::1]", "::1", &[]),
        ("[::1]:1883", "::1", &["mqtt.port (1883)"]),
        (
            "mqtts://broker.local:8883/",
            "broker.local",
            &["[mqtt.tls]"],
        ),
        (
            "mqtt://me:s3cret@broker.local:1883",
            "broker.local",
            &["mqtt.user and mqtt.password_file"],
        ),
    ] {
        let error_text = error(host).unwrap_or_else(|| panic!("{host}: expected an error"));
        let expected =
            format!("mqtt.host: expected a name or an address alone, such as \"{name}\"");
        assert!(error_text.starts_with(&expected), "{error_text}");
        for part in parts {
            assert!(error_text.contains(part), "{error_text}");
        }
        assert!(!error_text.contains("s3cret"), "{error_text}");
    }
}

/// What a TLS port answers looks like another protocol, or nothing at all.
#[test]
fn errors_on_a_port_of_tls_say_so() {
    let Ok(listener) = TcpListener::bind("127.0.0.1:8883") else {
        eprintln!("SKIPPED: port 8883 is in use");
        return;
    };
    let publisher = Publisher::start(&config(8883, 10)).unwrap();
    let (mut broker, _) = Broker::accept(&listener);
    // A TLS alert: handshake failure.
    broker.0.write_all(&[0x15, 3, 3, 0, 2, 2, 40]).unwrap();
    drop(broker);
    let c = wait(&publisher, 20, |c| c.last_error.is_some());
    let error_text = c.last_error.unwrap();
    assert!(
        error_text.contains("8883 is usually a port for TLS"),
        "{error_text}"
    );
}

/// Two boards with the defaults must not disconnect each other.
#[test]
fn the_defaults_name_this_machine() {
    let text = "bundle = 'b'\nsource.mjpeg = '-'\nmqtt.host = 'h'";
    let config = ApplianceConfig::parse(text, std::path::Path::new("a.toml")).unwrap();
    let mqtt = config.mqtt.unwrap();
    let name = mqtt.topic.strip_prefix("pinhole/").unwrap();
    assert_eq!(name.len(), 12, "{name}");
    assert!(name.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    assert_eq!(mqtt.client_id(), format!("pinhole-{name}"));
    let set = MqttConfig {
        client_id: Some("door".into()),
        ..mqtt
    };
    assert_eq!(set.client_id(), "door");
}
