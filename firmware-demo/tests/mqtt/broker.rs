//! Publishing to a real broker, mosquitto: its restart, passwords, and the last will.
//!
//! Without mosquitto these tests are skipped with a message. With `PINHOLE_MOSQUITTO=required`, as in
//! `tests/firmware/run`, they fail instead, and the broker stays stopped for a minute instead of seconds.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use pinhole::{Image, RgbImage};
use pinhole_firmware::config::{HomeAssistantConfig, MqttConfig, TlsConfig};
use pinhole_firmware::mqtt::Publisher;
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

use crate::fake_broker::wait;

const TOPIC: &str = "house/door";

fn required() -> bool {
    std::env::var("PINHOLE_MOSQUITTO").is_ok_and(|value| value == "required")
}

/// The certificates that `tests/tls/make` made.
fn tls_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls")
}

/// Whom a broker accepts.
enum Clients {
    Anonymous,
    /// One user with a password.
    User([&'static str; 2]),
    /// Everybody, over TLS.
    Tls,
    /// Who has a certificate, over TLS.
    Certificate,
}

/// mosquitto on its own port, with its files in a temporary folder.
struct Mosquitto {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Mosquitto {
    /// Whom it accepts. `None` if mosquitto is not installed.
    fn start(clients: Clients) -> Option<Self> {
        if let Err(e) = Command::new(program("mosquitto")).arg("-h").output() {
            assert!(!required(), "mosquitto: {e}");
            // Not by `eprintln`: the test harness hides its output when a test passes.
            let _ = writeln!(
                std::io::stderr(),
                "\nSKIPPED: mosquitto is not installed (Debian: apt-get install mosquitto)"
            );
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let path = folder.path().display();
        // Sessions survive a restart, so that a subscriber that reconnects late misses nothing.
        let mut config = format!(
            "listener {port} 127.0.0.1\npersistence true\npersistence_location {path}/\nuser root\n"
        );
        let tls = format!(
            "allow_anonymous true\ncertfile {0}/broker.pem\nkeyfile {0}/broker.key\n",
            tls_folder().display()
        );
        config += &match clients {
            Clients::Anonymous => "allow_anonymous true\n".into(),
            Clients::Tls => tls,
            Clients::Certificate => {
                let ca = tls_folder().join("ca.pem");
                format!("{tls}cafile {}\nrequire_certificate true\n", ca.display())
            }
            Clients::User([name, password]) => {
                let users = folder.path().join("users");
                let made = Command::new("mosquitto_passwd")
                    .args(["-b", "-c"])
                    .arg(&users)
                    .args([name, password])
                    .output()
                    .unwrap();
                assert!(made.status.success(), "{made:?}");
                format!("password_file {}\n", users.display())
            }
        };
        std::fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
        let mut broker = Self {
            folder,
            port,
            process: None,
        };
        broker.launch();
        Some(broker)
    }

    /// Starts the stopped broker.
    fn launch(&mut self) {
        let log = self.folder.path().join("log");
        let process = Command::new(program("mosquitto"))
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = std::fs::read_to_string(&log).unwrap();
            assert!(Instant::now() < until, "mosquitto does not listen: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let id = process.id().to_string();
            // SIGTERM, so that it saves its sessions.
            let status = Command::new("kill").arg(id).status();
            assert!(status.unwrap().success());
            process.wait().unwrap();
        }
    }

    fn config(&self, keep: usize) -> MqttConfig {
        MqttConfig {
            host: "127.0.0.1".into(),
            port: self.port,
            topic: TOPIC.into(),
            client_id: None,
            user: None,
            password_file: None,
            keep,
            tls: None,
            home_assistant: None,
        }
    }

    /// Receives all messages under the topic: topic, payload, whether it was retained.
    fn subscribe(&self, id: &str) -> Receiver<(String, String, bool)> {
        let mut options = MqttOptions::new(id, "127.0.0.1", self.port);
        options.set_clean_session(false);
        let (client, mut connection) = Client::new(options, 10);
        client
            .subscribe(format!("{TOPIC}/#"), QoS::AtLeastOnce)
            .unwrap();
        let announcements = "homeassistant/device/+/config";
        client.subscribe(announcements, QoS::AtLeastOnce).unwrap();
        let (sender, receiver) = channel();
        let (subscribed, ready) = channel();
        std::thread::spawn(move || {
            // The connection ends when the client is dropped.
            let _client = client;
            for event in connection.iter() {
                let gone = match event {
                    Ok(Event::Incoming(Packet::Publish(p))) => {
                        let payload = String::from_utf8_lossy(&p.payload).into_owned();
                        sender.send((p.topic, payload, p.retain)).is_err()
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        let _ = subscribed.send(());
                        false
                    }
                    Err(_) => {
                        std::thread::sleep(Duration::from_millis(50));
                        false
                    }
                    Ok(_) => false,
                };
                if gone {
                    return;
                }
            }
        });
        for _ in 0..2 {
            ready.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        receiver
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Debian installs it in a folder that is only in the PATH of root.
fn program(name: &str) -> String {
    let path = format!("/usr/sbin/{name}");
    match Path::new(&path).exists() {
        true => path,
        false => name.into(),
    }
}

#[track_caller]
fn next(subscriber: &Receiver<(String, String, bool)>) -> (String, String, bool) {
    subscriber.recv_timeout(Duration::from_secs(20)).unwrap()
}

/// The payloads of the next events.
#[track_caller]
fn take(subscriber: &Receiver<(String, String, bool)>, count: u32) -> Vec<u32> {
    let number = |_| loop {
        let (topic, payload, _) = next(subscriber);
        if topic == TOPIC {
            return payload.parse().unwrap();
        }
    };
    (0..count).map(number).collect()
}

fn status(text: &str, retained: bool) -> (String, String, bool) {
    (format!("{TOPIC}/status"), text.into(), retained)
}

/// Of the events while the broker was stopped, exactly the last `keep` arrive, in order; the others are counted as lost.
#[test]
fn a_restarted_broker_receives_the_newest_events() {
    let Some(mut broker) = Mosquitto::start(Clients::Anonymous) else {
        return;
    };
    let away = Duration::from_secs(if required() { 60 } else { 3 });
    let subscriber = broker.subscribe("subscriber");
    let publisher = Publisher::start(&broker.config(20)).unwrap();
    assert_eq!(next(&subscriber), status("online", false));
    for n in 0..5u32 {
        publisher.publish(&n);
    }
    assert_eq!(take(&subscriber, 5), [0, 1, 2, 3, 4]);
    wait(&publisher, 10, |c| c.sent == 5);

    broker.stop();
    let stopped = Instant::now();
    wait(&publisher, 10, |c| !c.connected);
    let mut slowest = Duration::ZERO;
    for n in 5..55u32 {
        let start = Instant::now();
        publisher.publish(&n);
        slowest = slowest.max(start.elapsed());
        std::thread::sleep(away / 50);
    }
    let c = publisher.counters();
    assert_eq!([c.queued, c.sent, c.lost, c.waiting], [55, 5, 30, 20]);
    assert!(c.last_error.is_some());
    std::thread::sleep(away.saturating_sub(stopped.elapsed()));
    println!(
        "stopped for {:.1} s; the slowest publish took {slowest:?}",
        stopped.elapsed().as_secs_f64()
    );
    broker.launch();
    // The publisher reconnects at least every 30 s.
    let c = wait(&publisher, 45, |c| c.waiting == 0);
    assert_eq!([c.queued, c.sent, c.lost, c.waiting], [55, 25, 30, 0]);
    assert!(slowest < Duration::from_millis(100), "{slowest:?}");
    assert_eq!(take(&subscriber, 20), (35..55).collect::<Vec<_>>());

    publisher.stop();
    let late = broker.subscribe("late");
    assert_eq!(next(&late), status("offline", true));
}

/// The last message of each topic, once there are `count` topics.
#[track_caller]
fn topics(
    subscriber: &Receiver<(String, String, bool)>,
    count: usize,
) -> BTreeMap<String, (String, bool)> {
    let mut topics = BTreeMap::new();
    while topics.len() < count {
        let (topic, payload, retained) = next(subscriber);
        topics.insert(topic, (payload, retained));
    }
    topics
}

/// A subscriber that comes later, as Home Assistant after its restart, and one that comes after the broker's restart, know
/// the announcement, the state, the diagnostics and the picture; the appliance has sent nothing since.
#[test]
fn home_assistant_knows_the_state_after_any_restart() {
    let Some(mut broker) = Mosquitto::start(Clients::Anonymous) else {
        return;
    };
    let config = MqttConfig {
        client_id: Some("door-7".into()),
        home_assistant: Some(HomeAssistantConfig::default()),
        ..broker.config(20)
    };
    let announcement = "homeassistant/device/door-7/config".to_owned();
    let publisher = Publisher::start(&config).unwrap();
    publisher.announce(&["cat".into(), "dog".into()]);
    publisher.set_state(&serde_json::json!({"class": "cat"}));
    publisher.set_diagnostics(&serde_json::json!({"throttled": false}));
    publisher.set_picture(Arc::new(Image::from(
        RgbImage::new(8, 8, vec![7; 192]).unwrap(),
    )));
    publisher.publish(&1);
    // Events are sent after what is retained.
    wait(&publisher, 10, |c| c.sent == 1);
    std::thread::sleep(Duration::from_millis(200));
    for restarted in [false, true] {
        if restarted {
            broker.stop();
            broker.launch();
        }
        let known = topics(&broker.subscribe(&format!("late-{restarted}")), 5);
        let state = (r#"{"class":"cat"}"#.to_owned(), true);
        assert_eq!(known[&format!("{TOPIC}/state")], state);
        let (message, retained) = &known[&announcement];
        assert!(*retained);
        let message: serde_json::Value = serde_json::from_str(message).unwrap();
        let options = serde_json::json!(["cat", "dog", "unknown"]);
        assert_eq!(message["components"]["class"]["options"], options);
        assert!(known[&format!("{TOPIC}/picture")].0.contains("JFIF"));
        let diagnostics = (r#"{"throttled":false}"#.to_owned(), true);
        assert_eq!(known[&format!("{TOPIC}/diagnostics")], diagnostics);
        // Home Assistant ignores a retained event: there is none.
        assert!(!known.contains_key(TOPIC));
    }
    publisher.stop();

    // Switched off: nothing is left but the state.
    let off = MqttConfig {
        home_assistant: Some(HomeAssistantConfig {
            enabled: false,
            ..HomeAssistantConfig::default()
        }),
        ..config
    };
    let publisher = Publisher::start(&off).unwrap();
    publisher.publish(&2);
    wait(&publisher, 45, |c| c.sent == 1);
    publisher.stop();
    let known = topics(&broker.subscribe("after"), 2);
    let expected = [format!("{TOPIC}/state"), format!("{TOPIC}/status")];
    assert_eq!(known.into_keys().collect::<Vec<_>>(), expected);
}

#[test]
fn a_wrong_password_is_reported_and_the_right_one_accepted() {
    let Some(broker) = Mosquitto::start(Clients::User(["camera", "right"])) else {
        return;
    };
    let password_file = broker.folder.path().join("password");
    let config = MqttConfig {
        user: Some("camera".into()),
        password_file: Some(password_file.clone()),
        ..broker.config(10)
    };
    for (password, right) in [("wrong\n", false), ("right\n", true)] {
        std::fs::write(&password_file, password).unwrap();
        let publisher = Publisher::start(&config).unwrap();
        publisher.publish(&1);
        let c = wait(&publisher, 10, |c| c.last_error.is_some() || c.sent == 1);
        assert_eq!(c.sent == 1, right, "{c:?}");
        let error_text = c.last_error.unwrap_or_default();
        assert_eq!(
            error_text.contains("refuses this user"),
            !right,
            "{error_text}"
        );
    }
}

/// Publishes an event; returns the error if it did not arrive.
fn publish_over_tls(broker: &Mosquitto, host: &str, tls: TlsConfig) -> Result<(), String> {
    let config = MqttConfig {
        host: host.into(),
        tls: Some(tls),
        ..broker.config(10)
    };
    let publisher = Publisher::start(&config).unwrap();
    publisher.publish(&1);
    let c = wait(&publisher, 10, |c| c.last_error.is_some() || c.sent == 1);
    match c.last_error {
        Some(reason) => Err(reason),
        None => Ok(()),
    }
}

#[test]
fn tls_needs_the_authority_of_the_broker() {
    let Some(broker) = Mosquitto::start(Clients::Tls) else {
        return;
    };
    let with_ca = |name: &str| TlsConfig {
        ca_file: Some(tls_folder().join(name)),
        ..TlsConfig::default()
    };
    for host in ["localhost", "127.0.0.1"] {
        assert_eq!(publish_over_tls(&broker, host, with_ca("ca.pem")), Ok(()));
    }
    for (host, tls, expected) in [
        // Signed by another authority, and by none of the system's.
        (
            "127.0.0.1",
            with_ca("other-ca.pem"),
            "certificate is not accepted",
        ),
        ("127.0.0.1", TlsConfig::default(), "mqtt.tls"),
        ("127.0.0.1", with_ca("none.pem"), "mqtt.tls.ca_file: "),
        (
            "127.0.0.1",
            with_ca("make"),
            "expected certificates in PEM, found none",
        ),
    ] {
        let reason = publish_over_tls(&broker, host, tls).unwrap_err();
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
    // A plain connection to the port.
    let publisher = Publisher::start(&broker.config(10)).unwrap();
    let c = wait(&publisher, 10, |c| c.last_error.is_some());
    assert_eq!(c.sent, 0);
}

#[test]
fn a_broker_may_require_a_certificate() {
    let Some(broker) = Mosquitto::start(Clients::Certificate) else {
        return;
    };
    let file = |name: &str| Some(tls_folder().join(name));
    let with_key = |certificate: &str, key: &str| TlsConfig {
        ca_file: file("ca.pem"),
        certificate_file: file(certificate),
        key_file: file(key),
    };
    let right = with_key("client.pem", "client.key");
    assert_eq!(publish_over_tls(&broker, "localhost", right), Ok(()));
    let without = TlsConfig {
        ca_file: file("ca.pem"),
        ..TlsConfig::default()
    };
    for (tls, expected) in [
        (without, "mqtt.tls.certificate_file"),
        (with_key("client.pem", "client.pem"), "mqtt.tls.key_file: "),
        (with_key("client.pem", "broker.key"), "mqtt.tls.key_file: "),
    ] {
        let reason = publish_over_tls(&broker, "localhost", tls).unwrap_err();
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
}

#[test]
fn the_last_will_of_a_killed_appliance_is_offline() {
    let Some(broker) = Mosquitto::start(Clients::Anonymous) else {
        return;
    };
    let subscriber = broker.subscribe("subscriber");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "broker::publishes_until_it_is_killed",
            "--ignored",
        ])
        .env("PINHOLE_TEST_PORT", broker.port.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(next(&subscriber), status("online", false));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(next(&subscriber), status("offline", false));
}

#[test]
#[ignore = "started by the test above"]
fn publishes_until_it_is_killed() {
    let port = std::env::var("PINHOLE_TEST_PORT").unwrap();
    let _publisher = Publisher::start(&MqttConfig {
        host: "127.0.0.1".into(),
        port: port.parse().unwrap(),
        topic: TOPIC.into(),
        client_id: None,
        user: None,
        password_file: None,
        keep: 10,
        tls: None,
        home_assistant: None,
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(60));
}
