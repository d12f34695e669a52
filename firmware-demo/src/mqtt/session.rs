//! Connections to the broker, one after the other.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::time::{Duration, Instant};

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing,
    Packet, QoS, StateError,
};

use super::queue::Queue;

/// Packets that may wait for an acknowledgement at a time.
pub(super) const WINDOW: usize = 16;

const ONLINE: &str = "online";
pub(super) const OFFLINE: &str = "offline";

/// Pauses until the broker is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// The same when the end was asked for.
const LAST_TRIES: Duration = Duration::from_millis(250);

/// Time for `offline` to be acknowledged, behind the time for the events.
const GOODBYE: Duration = Duration::from_millis(500);

/// Connects again and again until the end is due.
pub(super) async fn run(options: &MqttOptions, topic: &str, queue: &Queue) {
    let mut pause = FIRST_PAUSE;
    loop {
        // A new one each time. The old one would send what it has by itself, or drop it, as the broker keeps the
        // session or not; here the queue knows what was not acknowledged.
        let (client, eventloop) = AsyncClient::new(options.clone(), WINDOW);
        let mut session = Session {
            client,
            topic,
            queue,
            connected: false,
            worked: false,
            online: false,
            offline: Goodbye::NotYet,
            unnumbered: VecDeque::new(),
            numbered: HashMap::new(),
        };
        let ended = session.run(eventloop).await;
        queue.note_disconnected();
        let Err(error) = ended else {
            return;
        };
        let (host, port) = options.broker_address();
        queue.note_error(format!("{host}:{port}: {}", in_words(&error)));
        if session.worked {
            pause = FIRST_PAUSE;
        }
        let failed = Instant::now();
        loop {
            let stop = queue.stop_at();
            // Gone with the connection, the broker says "offline" itself.
            if stop.is_some_and(|stop| queue.is_empty() || Instant::now() >= stop) {
                return;
            }
            let again = failed + stop.map_or(pause, |_| LAST_TRIES);
            if Instant::now() >= again {
                break;
            }
            tokio::select! {
                () = queue.changed.notified() => {}
                () = tokio::time::sleep_until(again.into()) => {}
            }
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// What was given to the client.
enum Given {
    Event(u64),
    Online,
    Offline,
}

#[derive(PartialEq)]
enum Goodbye {
    NotYet,
    Given,
    /// `offline` was acknowledged, and the connection is being closed.
    Closing,
}

struct Session<'a> {
    client: AsyncClient,
    topic: &'a str,
    queue: &'a Queue,
    connected: bool,
    /// The broker has acknowledged something.
    worked: bool,
    online: bool,
    offline: Goodbye,
    /// Given, in that order, and not sent yet.
    unnumbered: VecDeque<Given>,
    /// Sent, by packet identifier.
    numbered: HashMap<u16, Given>,
}

impl Session<'_> {
    /// Runs until the connection fails; `Ok` when the end was asked for.
    async fn run(&mut self, mut eventloop: EventLoop) -> Result<(), ConnectionError> {
        loop {
            let event = {
                // Never dropped half way but at the end: what it was writing would be lost.
                let mut poll = pin!(eventloop.poll());
                loop {
                    self.give();
                    let stop = self.queue.stop_at();
                    if stop.is_some() && !self.connected && self.queue.is_empty() {
                        return Ok(());
                    }
                    tokio::select! {
                        event = &mut poll => break event,
                        () = self.queue.changed.notified() => {}
                        // When events are no longer waited for, `offline` goes out.
                        () = at(stop.filter(|stop| *stop > Instant::now())) => {}
                        () = at(stop.map(|stop| stop + GOODBYE)) => return Ok(()),
                    }
                }
            };
            match event {
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return Ok(()),
                Ok(event) => self.note(event),
                Err(error) => {
                    // Acknowledgements that came before.
                    for event in std::mem::take(&mut eventloop.state.events) {
                        self.note(event);
                    }
                    return match self.offline {
                        Goodbye::Closing => Ok(()),
                        _ => Err(error),
                    };
                }
            }
        }
    }

    /// Gives the client what it may have now.
    fn give(&mut self) {
        if !self.connected || self.offline != Goodbye::NotYet {
            return;
        }
        if !self.online {
            self.online = self.give_status(ONLINE, Given::Online);
        }
        let (client, topic) = (&self.client, self.topic);
        let unnumbered = &mut self.unnumbered;
        // Room is left for the status.
        while self.queue.give(WINDOW - 2, |event| {
            let payload = event.payload.clone();
            let taken = client.try_publish(topic, QoS::AtLeastOnce, false, payload);
            if taken.is_ok() {
                unnumbered.push_back(Given::Event(event.number));
            }
            taken.is_ok()
        }) {}
        let stop = self.queue.stop_at();
        let due = stop.is_some_and(|stop| self.queue.is_empty() || Instant::now() >= stop);
        if due && self.give_status(OFFLINE, Given::Offline) {
            self.offline = Goodbye::Given;
        }
    }

    fn give_status(&mut self, status: &str, given: Given) -> bool {
        let topic = format!("{}/status", self.topic);
        let taken = self
            .client
            .try_publish(topic, QoS::AtLeastOnce, true, status);
        if taken.is_ok() {
            self.unnumbered.push_back(given);
        }
        taken.is_ok()
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                self.connected = true;
                self.queue.note_connected();
            }
            // The client numbers in the order in which it was given them.
            Event::Outgoing(Outgoing::Publish(id)) => {
                if let Some(given) = self.unnumbered.pop_front() {
                    self.numbered.insert(id, given);
                }
            }
            Event::Incoming(Packet::PubAck(acknowledged)) => {
                self.worked = true;
                match self.numbered.remove(&acknowledged.pkid) {
                    Some(Given::Event(number)) => self.queue.acknowledge(number),
                    Some(Given::Offline) if self.client.try_disconnect().is_ok() => {
                        self.offline = Goodbye::Closing;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// Waits until `time`, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// What is wrong and what to do, where the client's words are its own.
fn in_words(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                "the broker refuses this user; see mqtt.user and mqtt.password_file".into()
            }
            ConnectReturnCode::BadClientId => {
                "the broker refuses this client's name; see mqtt.client_id".into()
            }
            ConnectReturnCode::RefusedProtocolVersion => {
                "the broker does not speak MQTT 3.1.1".into()
            }
            ConnectReturnCode::ServiceUnavailable => "the broker is not available".into(),
            ConnectReturnCode::Success => "the broker refuses".into(),
        },
        ConnectionError::Io(e) => e.to_string(),
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
            "no answer in time".into()
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => "no answer to a ping".into(),
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            "the broker has closed the connection; another client of the same mqtt.client_id \
             makes it do so"
                .into()
        }
        other => format!("this is no MQTT broker, or the connection is damaged: {other}"),
    }
}
