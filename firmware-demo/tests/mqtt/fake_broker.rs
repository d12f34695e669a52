//! Helpers for tests of MQTT.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pinhole_firmware::mqtt::{PublishCounters, Publisher};

/// Waits until the counters fit, for at most `within` seconds. They must add up at all times.
#[track_caller]
pub(crate) fn wait(
    publisher: &Publisher,
    within: u64,
    fits: impl Fn(&PublishCounters) -> bool,
) -> PublishCounters {
    let until = Instant::now() + Duration::from_secs(within);
    loop {
        let c = publisher.counters();
        assert_eq!(c.queued, c.sent + c.lost + c.waiting, "{c:?}");
        if fits(&c) {
            return c;
        }
        assert!(Instant::now() < until, "{c:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The broker's end of a connection; MQTT 3.1.1, chapter 3.
pub(crate) struct Broker(pub(crate) TcpStream);

#[derive(Debug, PartialEq)]
pub(crate) enum Packet {
    Connect(Vec<u8>),
    Publish(Message),
    Subscribe(String),
    Disconnect,
    Closed,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) retain: bool,
    pub(crate) id: u16,
}

impl Broker {
    /// Waits for a connection and reads CONNECT.
    pub(crate) fn accept(listener: &TcpListener) -> (Self, Vec<u8>) {
        listener.set_nonblocking(true).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(e) => assert!(Instant::now() < until, "no connection: {e}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.set_nonblocking(false).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut broker = Self(stream);
        match broker.read() {
            Packet::Connect(body) => (broker, body),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn connack(&mut self, code: u8) {
        self.0.write_all(&[0x20, 2, 0, code]).unwrap();
    }

    /// Accepts a connection, and the status `online`.
    pub(crate) fn welcome(listener: &TcpListener) -> Self {
        let (mut broker, _) = Self::accept(listener);
        broker.connack(0);
        assert_eq!(broker.status(), "online");
        broker
    }

    pub(crate) fn read(&mut self) -> Packet {
        let mut head = [0];
        match self.0.read(&mut head) {
            Ok(0) => return Packet::Closed,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Packet::Closed,
            other => assert_eq!(other.unwrap(), 1),
        }
        let mut len = 0;
        for shift in (0..).step_by(7) {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            len |= usize::from(byte[0] & 0x7F) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).unwrap();
        let number = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match head[0] >> 4 {
            1 => Packet::Connect(body),
            8 => {
                let end = 4 + usize::from(number(2));
                // The acknowledgement.
                self.0.write_all(&[0x90, 3, body[0], body[1], 0]).unwrap();
                Packet::Subscribe(text(&body[4..end]))
            }
            3 => {
                assert_eq!(head[0] & 0b0110, 0b0010, "QoS 1");
                let end = 2 + usize::from(number(0));
                Packet::Publish(Message {
                    topic: text(&body[2..end]),
                    payload: String::from_utf8_lossy(&body[end + 2..]).into_owned(),
                    retain: head[0] & 1 == 1,
                    id: number(end),
                })
            }
            12 => {
                // The answer to a ping.
                self.0.write_all(&[0xD0, 0]).unwrap();
                self.read()
            }
            14 => Packet::Disconnect,
            other => panic!("a packet of type {other}"),
        }
    }

    pub(crate) fn acknowledge(&mut self, id: u16) {
        let [high, low] = id.to_be_bytes();
        self.0.write_all(&[0x40, 2, high, low]).unwrap();
    }

    /// Sends a message at QoS 0.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str) {
        let body = [
            &[0, topic.len() as u8][..],
            topic.as_bytes(),
            payload.as_bytes(),
        ]
        .concat();
        let packet = [&[0x30, body.len() as u8][..], &body].concat();
        self.0.write_all(&packet).unwrap();
    }

    /// Reads a message.
    pub(crate) fn message(&mut self) -> Message {
        match self.read() {
            Packet::Publish(message) => message,
            other => panic!("expected a message, found {other:?}"),
        }
    }

    /// Reads and acknowledges a status.
    pub(crate) fn status(&mut self) -> String {
        let (topic, payload) = self.retained();
        assert_eq!(topic, "house/door/status");
        payload
    }

    /// Reads and acknowledges a retained message: its topic and payload.
    pub(crate) fn retained(&mut self) -> (String, String) {
        let message = self.message();
        assert!(message.retain, "{message:?}");
        self.acknowledge(message.id);
        (message.topic, message.payload)
    }

    /// Reads an event: its JSON and identifier.
    pub(crate) fn event(&mut self) -> (String, u16) {
        let message = self.message();
        assert_eq!(
            (message.topic.as_str(), message.retain),
            ("house/door", false)
        );
        (message.payload, message.id)
    }

    /// Reads and acknowledges events.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u64> {
        let take = |_| {
            let (payload, id) = self.event();
            self.acknowledge(id);
            payload.parse().unwrap()
        };
        (0..count).map(take).collect()
    }
}
