//! The queue of events for the broker, and its newest retained messages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pinhole::Image;
use tokio::sync::Notify;

use super::topics::Retained;

/// Maximum size of an event in bytes: 64 KiB.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// Maximum size of a retained message in bytes: 1 MiB. An announcement with many classes, or a picture.
pub(super) const MAX_RETAINED: usize = 1 << 20;

/// The content of a retained message.
#[derive(Clone)]
pub(super) enum Content {
    /// Ready to be sent; an empty one removes the message from the broker.
    Bytes(Vec<u8>),
    /// Becomes a JPEG file when it is sent.
    Image(Arc<Image>),
}

/// Counters of events. `queued` is the sum of `sent`, `lost` and `waiting`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishCounters {
    /// Events passed to the publisher.
    pub queued: u64,
    /// Events acknowledged by the broker.
    pub sent: u64,
    /// Events dropped because the queue was full or they were too long. One that was in flight may still have arrived.
    pub lost: u64,
    /// Events waiting for the broker or its acknowledgement.
    pub waiting: u64,
    /// Whether the broker is connected.
    pub connected: bool,
    /// The last error. It is kept after the reconnection.
    pub last_error: Option<String>,
}

/// The events that are not acknowledged yet, oldest first.
pub(super) struct Queue {
    state: Mutex<State>,
    keep: usize,
    /// Notified of each new event and of the stop request.
    pub(super) changed: Notify,
}

struct State {
    waiting: VecDeque<QueuedEvent>,
    /// Number of events in flight: the first ones of `waiting`.
    in_flight: usize,
    next: u64,
    counters: PublishCounters,
    stop_deadline: Option<Instant>,
    /// The newest retained messages, each with the number of messages set before it and it.
    retained: BTreeMap<Retained, (u64, Content)>,
    /// Number of retained messages set so far.
    version: u64,
}

/// An event in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueuedEvent {
    pub(super) number: u64,
    pub(super) payload: Vec<u8>,
}

impl Queue {
    /// A queue for at most `keep` events, and at least one.
    pub(super) fn new(keep: usize) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                in_flight: 0,
                next: 0,
                counters: PublishCounters::default(),
                stop_deadline: None,
                retained: BTreeMap::new(),
                version: 0,
            }),
            keep: keep.max(1),
            changed: Notify::new(),
        }
    }

    /// The state stays valid when a thread panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, payload: serde_json::Result<Vec<u8>>) {
        let mut state = self.lock();
        state.counters.queued += 1;
        let reason = match payload {
            Ok(payload) if payload.len() <= MAX_PAYLOAD => {
                state.push(payload, self.keep);
                drop(state);
                self.changed.notify_one();
                return;
            }
            Ok(payload) => format!(
                "event: expected at most {MAX_PAYLOAD} bytes, found {}",
                payload.len()
            ),
            Err(e) => format!("event: cannot be written as JSON: {e}"),
        };
        state.counters.lost += 1;
        state.counters.last_error = Some(reason);
    }

    /// Sets a retained message. A previous one of the kind that was not sent yet is skipped.
    pub(super) fn retain(&self, kind: Retained, content: Content) {
        let mut state = self.lock();
        let len = match &content {
            Content::Bytes(bytes) => bytes.len(),
            Content::Image(_) => 0,
        };
        if len <= MAX_RETAINED {
            state.version += 1;
            let version = state.version;
            state.retained.insert(kind, (version, content));
        } else {
            let found = format!("expected at most {MAX_RETAINED} bytes, found {len}");
            state.counters.last_error = Some(format!("{kind:?}: {found}").to_lowercase());
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The newest message of a kind and its number, if that is larger than `sent`.
    pub(super) fn newer(&self, kind: Retained, sent: u64) -> Option<(u64, Content)> {
        let state = self.lock();
        let newest = state.retained.get(&kind);
        newest.filter(|(version, _)| *version > sent).cloned()
    }

    pub(super) fn counters(&self) -> PublishCounters {
        let state = self.lock();
        PublishCounters {
            waiting: state.waiting.len() as u64,
            ..state.counters.clone()
        }
    }

    /// Requests the stop: when all events are sent, at the latest at `deadline`.
    pub(super) fn stop(&self, deadline: Instant) {
        self.lock().stop_deadline.get_or_insert(deadline);
        self.changed.notify_one();
    }

    /// Deadline of the stop, if one was requested.
    pub(super) fn stop_deadline(&self) -> Option<Instant> {
        self.lock().stop_deadline
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Passes the oldest event that is not in flight to `send`, unless `window` events are in flight. Returns whether it was
    /// sent.
    pub(super) fn send_next(&self, window: usize, send: impl FnOnce(&QueuedEvent) -> bool) -> bool {
        let state = &mut *self.lock();
        let next = state.waiting.get(state.in_flight);
        let sent = state.in_flight < window && next.is_some_and(send);
        state.in_flight += usize::from(sent);
        sent
    }

    /// The broker acknowledged an event, which may already have been dropped.
    pub(super) fn acknowledge(&self, number: u64) {
        let state = &mut *self.lock();
        let mut in_flight = state.waiting.iter().take(state.in_flight);
        if let Some(at) = in_flight.position(|event| event.number == number) {
            state.waiting.remove(at);
            state.in_flight -= 1;
            state.counters.sent += 1;
        }
    }

    pub(super) fn connected(&self) {
        self.lock().counters.connected = true;
    }

    /// Events in flight have to be sent again.
    pub(super) fn disconnected(&self) {
        let mut state = self.lock();
        state.counters.connected = false;
        state.in_flight = 0;
    }

    pub(super) fn set_error(&self, reason: String) {
        self.lock().counters.last_error = Some(reason);
    }
}

impl State {
    fn push(&mut self, payload: Vec<u8>, keep: usize) {
        if self.waiting.len() >= keep {
            // Prefer an event that was not sent yet: those in flight will most likely arrive.
            let all_in_flight = self.in_flight >= self.waiting.len();
            let oldest = if all_in_flight { 0 } else { self.in_flight };
            self.in_flight -= usize::from(all_in_flight);
            self.waiting.remove(oldest);
            self.counters.lost += 1;
        }
        let number = self.next;
        self.next += 1;
        self.waiting.push_back(QueuedEvent { number, payload });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &Queue, n: u8) {
        queue.push(Ok(vec![n]));
    }

    /// Sends as many events as the window allows and returns them.
    fn send(queue: &Queue, window: usize) -> Vec<QueuedEvent> {
        let mut sent = vec![];
        while queue.send_next(window, |event| {
            sent.push(event.clone());
            true
        }) {}
        sent
    }

    fn payloads(events: &[QueuedEvent]) -> Vec<u8> {
        events.iter().map(|event| event.payload[0]).collect()
    }

    /// Checks queued, sent, lost and waiting.
    #[track_caller]
    fn assert_counts(queue: &Queue, expected: [u64; 4]) {
        let c = queue.counters();
        assert_eq!([c.queued, c.sent, c.lost, c.waiting], expected);
        assert_eq!(c.queued, c.sent + c.lost + c.waiting);
    }

    #[test]
    fn a_full_queue_drops_the_oldest_events() {
        let queue = Queue::new(3);
        for n in 0..5 {
            push(&queue, n);
        }
        assert_counts(&queue, [5, 0, 2, 3]);
        assert_eq!(payloads(&send(&queue, 10)), [2, 3, 4]);
    }

    #[test]
    fn events_in_flight_are_dropped_last() {
        let queue = Queue::new(3);
        for n in 0..3 {
            push(&queue, n);
        }
        let in_flight = send(&queue, 2);
        assert_eq!(payloads(&in_flight), [0, 1]);
        // Drops 2, which was not sent.
        push(&queue, 3);
        assert_counts(&queue, [4, 0, 1, 3]);
        queue.acknowledge(in_flight[0].number);
        assert_counts(&queue, [4, 1, 1, 2]);
        assert_eq!(payloads(&send(&queue, 2)), [3]);
        push(&queue, 4);
        assert_eq!(payloads(&send(&queue, 3)), [4]);
        // All are in flight: drops 1 and ignores its late acknowledgement.
        push(&queue, 5);
        assert_counts(&queue, [6, 1, 2, 3]);
        queue.acknowledge(in_flight[1].number);
        assert_counts(&queue, [6, 1, 2, 3]);
        assert_eq!(payloads(&send(&queue, 3)), [5]);
    }

    /// In the original order, without those that were acknowledged.
    #[test]
    fn events_in_flight_are_sent_again_after_a_reconnection() {
        let queue = Queue::new(9);
        for n in 0..4 {
            push(&queue, n);
        }
        let in_flight = send(&queue, 3);
        queue.acknowledge(in_flight[1].number);
        queue.disconnected();
        // From the previous connection.
        queue.acknowledge(in_flight[2].number);
        assert_counts(&queue, [4, 1, 0, 3]);
        assert_eq!(payloads(&send(&queue, 9)), [0, 2, 3]);
    }

    #[test]
    fn an_event_that_was_not_sent_stays_in_the_queue() {
        let queue = Queue::new(9);
        push(&queue, 0);
        assert!(!queue.send_next(1, |_| false));
        assert!(queue.send_next(1, |_| true));
        assert!(!queue.send_next(1, |_| true));
    }

    #[test]
    fn an_event_that_cannot_be_sent_is_lost_and_reported() {
        let queue = Queue::new(9);
        queue.push(Ok(vec![b'x'; MAX_PAYLOAD]));
        queue.push(Ok(vec![b'x'; MAX_PAYLOAD + 1]));
        assert_counts(&queue, [2, 0, 1, 1]);
        let error = queue.counters().last_error.unwrap();
        assert!(
            error.contains("65536") && error.contains("65537"),
            "{error}"
        );
        queue.push(serde_json::to_vec(&std::collections::HashMap::from([(
            [1],
            2,
        )])));
        assert_counts(&queue, [3, 0, 2, 1]);
        let error = queue.counters().last_error.unwrap();
        assert!(error.contains("as JSON: key must be a string"), "{error}");
    }
}
