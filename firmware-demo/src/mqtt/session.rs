//! Connections to the broker.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::time::{Duration, Instant};

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing,
    Packet, QoS, StateError, TlsError, mqttbytes,
};

use super::options::{WINDOW, options, tls_hint};
use super::queue::{Content, MAX_RETAINED, Queue};
use super::topics::{self, OFFLINE, ONLINE, Retained};
use crate::config::MqttConfig;

/// Longest side in pixels and quality of published pictures.
const PICTURE_SIDE: u32 = 1280;
const PICTURE_QUALITY: u8 = 80;

/// First and longest pause before reconnecting.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// A connection that lasted this long was a success: the pauses start from the first again. A broker that accepts a
/// connection only to close it, as it does when two clients have the same identifier, must not be asked every second.
const STABLE: Duration = Duration::from_secs(60);

/// Pause before reconnecting once a stop was requested.
const STOP_PAUSE: Duration = Duration::from_millis(250);

/// Additional time after the stop deadline for the acknowledgement of `offline`.
const OFFLINE_TIMEOUT: Duration = Duration::from_millis(500);

/// Connects, and reconnects after errors, until the stop is due.
pub(super) async fn run(config: &MqttConfig, queue: &Queue) {
    let mut pause = FIRST_PAUSE;
    loop {
        // The password file may have been corrected meanwhile.
        let connected_for = match options(config) {
            Ok(options) => match connect(options, config, queue).await {
                Some(connected_for) => connected_for,
                None => return,
            },
            Err(error) => {
                queue.set_error(error.to_string());
                Duration::ZERO
            }
        };
        if connected_for >= STABLE {
            pause = FIRST_PAUSE;
        }
        let failed = Instant::now();
        loop {
            let stop = queue.stop_deadline();
            // The connection is lost, so the last will publishes `offline`.
            if stop.is_some_and(|stop| queue.is_empty() || Instant::now() >= stop) {
                return;
            }
            let retry_at = failed + stop.map_or(pause, |_| STOP_PAUSE);
            if Instant::now() >= retry_at {
                break;
            }
            tokio::select! {
                () = queue.changed.notified() => {}
                () = tokio::time::sleep_until(retry_at.into()) => {}
            }
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Connects and publishes until the connection fails. Returns how long it lasted; `None` after a stop request.
async fn connect(options: MqttOptions, config: &MqttConfig, queue: &Queue) -> Option<Duration> {
    // A new client for each connection. The old one would resend or drop its own events, depending on whether the broker
    // kept the session; here the queue knows which events are not acknowledged.
    let (client, eventloop) = AsyncClient::new(options, WINDOW);
    let mut session = Session {
        client,
        config,
        queue,
        connected: None,
        online: false,
        subscribed: false,
        offline: OfflineStatus::Pending,
        retained: HashMap::new(),
        unsent: VecDeque::new(),
        sent: HashMap::new(),
    };
    let ended = session.run(eventloop).await;
    queue.disconnected();
    let error = ended.err()?;
    let mut reason = format!(
        "{}:{}: {}",
        config.host.trim(),
        config.port,
        describe(&error)
    );
    if let Some(hint) = tls_hint(config) {
        reason += &format!("; mqtt.port: {hint}");
    }
    queue.set_error(reason);
    Some(session.connected.map_or(Duration::ZERO, |at| at.elapsed()))
}

/// A message that was passed to the client.
enum InFlight {
    Event(u64),
    Retained(Retained),
    Online,
    Offline,
}

#[derive(PartialEq)]
enum OfflineStatus {
    /// Not passed to the client yet.
    Pending,
    InFlight,
    /// Acknowledged, and the connection is being closed.
    Closing,
}

/// What the broker has of a retained message.
#[derive(Default)]
struct RetainedStatus {
    /// Number of the message that was passed to the client last.
    sent: u64,
    /// Whether it is not acknowledged yet.
    in_flight: bool,
}

struct Session<'a> {
    client: AsyncClient,
    config: &'a MqttConfig,
    queue: &'a Queue,
    /// When the broker accepted the connection.
    connected: Option<Instant>,
    online: bool,
    /// Whether Home Assistant's status was subscribed to, if there is one.
    subscribed: bool,
    offline: OfflineStatus,
    retained: HashMap<Retained, RetainedStatus>,
    /// Passed to the client but not sent yet, in order.
    unsent: VecDeque<InFlight>,
    /// Sent, by packet identifier.
    sent: HashMap<u16, InFlight>,
}

impl Session<'_> {
    /// Runs until the connection fails; `Ok` after a stop request.
    async fn run(&mut self, mut eventloop: EventLoop) -> Result<(), ConnectionError> {
        loop {
            let event = {
                // Not cancelled before it is ready, except at the end: a partly written packet would be lost.
                let mut poll = pin!(eventloop.poll());
                loop {
                    self.send();
                    let stop = self.queue.stop_deadline();
                    if stop.is_some() && self.connected.is_none() && self.queue.is_empty() {
                        return Ok(());
                    }
                    tokio::select! {
                        event = &mut poll => break event,
                        () = self.queue.changed.notified() => {}
                        // At the deadline, `offline` is sent without waiting for further events.
                        () = sleep_until(stop.filter(|stop| *stop > Instant::now())) => {}
                        () = sleep_until(stop.map(|stop| stop + OFFLINE_TIMEOUT)) => return Ok(()),
                    }
                }
            };
            match event {
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return Ok(()),
                Ok(event) => self.handle(event),
                Err(error) => {
                    // Acknowledgements that arrived before the error.
                    for event in std::mem::take(&mut eventloop.state.events) {
                        self.handle(event);
                    }
                    return match self.offline {
                        OfflineStatus::Closing => Ok(()),
                        _ => Err(error),
                    };
                }
            }
        }
    }

    /// Passes as much to the client as it may have now.
    fn send(&mut self) {
        if self.connected.is_none() || self.offline != OfflineStatus::Pending {
            return;
        }
        if !self.online {
            let topic = topics::status(self.config);
            self.online = self.send_retained(topic, ONLINE.into(), InFlight::Online);
        }
        if !self.subscribed {
            self.subscribed = self.subscribe();
        }
        for kind in Retained::ALL {
            self.send_newest(kind);
        }
        let (client, topic) = (&self.client, &self.config.topic);
        let unsent = &mut self.unsent;
        // Leave room for the retained and the status messages, and the subscription.
        while self
            .queue
            .send_next(WINDOW - 3 - Retained::ALL.len(), |event| {
                let payload = event.payload.clone();
                let accepted = client.try_publish(topic, QoS::AtLeastOnce, false, payload);
                if accepted.is_ok() {
                    unsent.push_back(InFlight::Event(event.number));
                }
                accepted.is_ok()
            })
        {}
        let stop = self.queue.stop_deadline();
        let all_sent = || {
            let newer = |kind| self.queue.newer(kind, self.sent(kind)).is_some();
            self.queue.is_empty() && !Retained::ALL.into_iter().any(newer)
        };
        let due = stop.is_some_and(|stop| all_sent() || Instant::now() >= stop);
        let topic = topics::status(self.config);
        if due && self.send_retained(topic, OFFLINE.into(), InFlight::Offline) {
            self.offline = OfflineStatus::InFlight;
        }
    }

    /// Subscribes to Home Assistant's status, if the appliance is announced.
    fn subscribe(&mut self) -> bool {
        match &self.config.home_assistant {
            Some(home_assistant) if home_assistant.enabled => {
                let topic = topics::home_assistant_status(home_assistant);
                (self.client.try_subscribe(topic, QoS::AtMostOnce)).is_ok()
            }
            _ => true,
        }
    }

    fn sent(&self, kind: Retained) -> u64 {
        self.retained.get(&kind).map_or(0, |status| status.sent)
    }

    /// Passes the newest message of a kind to the client, once the previous one is acknowledged.
    fn send_newest(&mut self, kind: Retained) {
        if self
            .retained
            .get(&kind)
            .is_some_and(|status| status.in_flight)
        {
            return;
        }
        let Some((number, content)) = self.queue.newer(kind, self.sent(kind)) else {
            return;
        };
        let payload = match content {
            Content::Bytes(bytes) => Some(bytes),
            Content::Image(image) => match image.to_rgb().to_jpeg(PICTURE_QUALITY, PICTURE_SIDE) {
                Ok(jpeg) if jpeg.len() <= MAX_RETAINED => Some(jpeg),
                Ok(jpeg) => {
                    let found = jpeg.len();
                    let reason = format!("expected at most {MAX_RETAINED} bytes, found {found}");
                    self.queue.set_error(format!("picture: {reason}"));
                    None
                }
                Err(e) => {
                    self.queue.set_error(format!("picture: {e}"));
                    None
                }
            },
        };
        let in_flight = payload.is_some();
        let topic = kind.topic(self.config);
        if payload
            .is_none_or(|payload| self.send_retained(topic, payload, InFlight::Retained(kind)))
        {
            let sent = number;
            (self.retained).insert(kind, RetainedStatus { sent, in_flight });
        }
    }

    fn send_retained(&mut self, topic: String, payload: Vec<u8>, message: InFlight) -> bool {
        let accepted = self
            .client
            .try_publish(topic, QoS::AtLeastOnce, true, payload);
        if accepted.is_ok() {
            self.unsent.push_back(message);
        }
        accepted.is_ok()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                self.connected = Some(Instant::now());
                self.queue.connected();
            }
            // The client assigns packet identifiers in the order in which it received the messages.
            Event::Outgoing(Outgoing::Publish(id)) => {
                if let Some(message) = self.unsent.pop_front() {
                    self.sent.insert(id, message);
                }
            }
            // Home Assistant has started, and has forgotten what is not retained.
            Event::Incoming(Packet::Publish(message))
                if !message.retain && *message.payload == *ONLINE.as_bytes() =>
            {
                self.retained.entry(Retained::Discovery).or_default().sent = 0;
            }
            Event::Incoming(Packet::PubAck(acknowledged)) => {
                match self.sent.remove(&acknowledged.pkid) {
                    Some(InFlight::Event(number)) => self.queue.acknowledge(number),
                    Some(InFlight::Retained(kind)) => {
                        self.retained.entry(kind).or_default().in_flight = false;
                    }
                    Some(InFlight::Offline) if self.client.try_disconnect().is_ok() => {
                        self.offline = OfflineStatus::Closing;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// Sleeps until `time`; for ever if it is `None`.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// The error with what to do about it.
fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                "the broker refuses this user; check mqtt.user and mqtt.password_file".into()
            }
            ConnectReturnCode::BadClientId => {
                "the broker refuses the client identifier; change mqtt.client_id".into()
            }
            ConnectReturnCode::RefusedProtocolVersion => {
                "the broker does not support MQTT 3.1.1".into()
            }
            ConnectReturnCode::ServiceUnavailable => "the broker is not available".into(),
            ConnectReturnCode::Success => "the broker refuses the connection".into(),
        },
        ConnectionError::Io(e)
        | ConnectionError::MqttState(
            StateError::Io(e) | StateError::Deserialization(mqttbytes::Error::Io(e)),
        ) => explain_tls(e),
        ConnectionError::Tls(e) => match e {
            TlsError::Io(e) => explain_tls(e),
            e => e.to_string(),
        },
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
            "no response in time".into()
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => "no response to a ping".into(),
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            "the broker closed the connection, as it does when another client has the same \
             mqtt.client_id"
                .into()
        }
        other => {
            format!("expected an MQTT broker, found an invalid packet or another protocol: {other}")
        }
    }
}

/// An error of the connection, with what to do if it is one of TLS.
fn explain_tls(error: &std::io::Error) -> String {
    let tls = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(e)) => {
            format!(
                "the broker's certificate is not accepted: {e}; check mqtt.tls.ca_file and mqtt.host"
            )
        }
        Some(rustls::Error::AlertReceived(e)) => format!(
            "the broker ends the TLS connection: {e:?}; check mqtt.tls.certificate_file and mqtt.tls.key_file"
        ),
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("expected TLS, found another protocol: {error}; check mqtt.port")
        }
        _ => error.to_string(),
    }
}
