//! Events that wait for the broker.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// Most bytes of an event: 64 KiB.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// What became of the events. `queued` is the sum of the three counters after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events given to the publisher.
    pub queued: u64,
    /// That the broker has acknowledged.
    pub sent: u64,
    /// That made room for newer ones, or are too long. One that was on its way may have arrived nonetheless.
    pub lost: u64,
    /// That wait for the broker or for its acknowledgement.
    pub waiting: u64,
    /// Whether the broker is connected.
    pub connected: bool,
    /// What went wrong last, in words; it stays when things work again.
    pub last_error: Option<String>,
}

/// The events that wait, the oldest first.
pub(super) struct Queue {
    state: Mutex<State>,
    keep: usize,
    /// Told of each event and of the end.
    pub(super) changed: Notify,
}

struct State {
    waiting: VecDeque<Event>,
    /// How many of the oldest are on their way.
    given: usize,
    next: u64,
    counters: Counters,
    stop: Option<Instant>,
}

/// An event that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) number: u64,
    pub(super) payload: Vec<u8>,
}

impl Queue {
    /// A queue of at most `keep` events, at least 1.
    pub(super) fn new(keep: usize) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                given: 0,
                next: 0,
                counters: Counters::default(),
                stop: None,
            }),
            keep: keep.max(1),
            changed: Notify::new(),
        }
    }

    /// A thread that panicked has left whole numbers.
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
                "an event: expected {MAX_PAYLOAD} bytes or less, found {}",
                payload.len()
            ),
            Err(e) => format!("an event cannot be written as JSON: {e}"),
        };
        state.counters.lost += 1;
        state.counters.last_error = Some(reason);
    }

    pub(super) fn counters(&self) -> Counters {
        let state = self.lock();
        Counters {
            waiting: state.waiting.len() as u64,
            ..state.counters.clone()
        }
    }

    /// Asks for the end, at `at` whatever waits.
    pub(super) fn stop(&self, at: Instant) {
        self.lock().stop.get_or_insert(at);
        self.changed.notify_one();
    }

    /// When the end is due, if it was asked for.
    pub(super) fn stop_at(&self) -> Option<Instant> {
        self.lock().stop
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Gives the oldest event that is not on its way to `send`, unless `window` are; whether it was taken.
    pub(super) fn give(&self, window: usize, send: impl FnOnce(&Event) -> bool) -> bool {
        let state = &mut *self.lock();
        let next = state.waiting.get(state.given);
        let taken = state.given < window && next.is_some_and(send);
        state.given += usize::from(taken);
        taken
    }

    /// The broker has acknowledged an event. It may be lost already.
    pub(super) fn acknowledge(&self, number: u64) {
        let state = &mut *self.lock();
        let mut given = state.waiting.iter().take(state.given);
        if let Some(at) = given.position(|event| event.number == number) {
            state.waiting.remove(at);
            state.given -= 1;
            state.counters.sent += 1;
        }
    }

    pub(super) fn note_connected(&self) {
        self.lock().counters.connected = true;
    }

    /// What was on its way is to be sent again.
    pub(super) fn note_disconnected(&self) {
        let mut state = self.lock();
        state.counters.connected = false;
        state.given = 0;
    }

    pub(super) fn note_error(&self, reason: String) {
        self.lock().counters.last_error = Some(reason);
    }
}

impl State {
    fn push(&mut self, payload: Vec<u8>, keep: usize) {
        if self.waiting.len() >= keep {
            // Rather one that was not sent yet; what is on its way will most likely arrive.
            let all_given = self.given >= self.waiting.len();
            let oldest = if all_given { 0 } else { self.given };
            self.given -= usize::from(all_given);
            self.waiting.remove(oldest);
            self.counters.lost += 1;
        }
        let number = self.next;
        self.next += 1;
        self.waiting.push_back(Event { number, payload });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &Queue, n: u8) {
        queue.push(Ok(vec![n]));
    }

    /// Gives out as many as go, and returns them.
    fn give(queue: &Queue, window: usize) -> Vec<Event> {
        let mut given = vec![];
        while queue.give(window, |event| {
            given.push(event.clone());
            true
        }) {}
        given
    }

    fn payloads(events: &[Event]) -> Vec<u8> {
        events.iter().map(|event| event.payload[0]).collect()
    }

    /// queued, sent, lost, waiting
    #[track_caller]
    fn assert_counts(queue: &Queue, expected: [u64; 4]) {
        let c = queue.counters();
        assert_eq!([c.queued, c.sent, c.lost, c.waiting], expected);
        assert_eq!(c.queued, c.sent + c.lost + c.waiting);
    }

    #[test]
    fn the_oldest_make_room() {
        let queue = Queue::new(3);
        for n in 0..5 {
            push(&queue, n);
        }
        assert_counts(&queue, [5, 0, 2, 3]);
        assert_eq!(payloads(&give(&queue, 10)), [2, 3, 4]);
    }

    #[test]
    fn what_is_on_its_way_makes_room_last() {
        let queue = Queue::new(3);
        for n in 0..3 {
            push(&queue, n);
        }
        let given = give(&queue, 2);
        assert_eq!(payloads(&given), [0, 1]);
        // 2 is lost, which was not sent.
        push(&queue, 3);
        assert_counts(&queue, [4, 0, 1, 3]);
        queue.acknowledge(given[0].number);
        assert_counts(&queue, [4, 1, 1, 2]);
        assert_eq!(payloads(&give(&queue, 2)), [3]);
        push(&queue, 4);
        assert_eq!(payloads(&give(&queue, 3)), [4]);
        // All are on their way: 1 is lost, and its late acknowledgement counts no more.
        push(&queue, 5);
        assert_counts(&queue, [6, 1, 2, 3]);
        queue.acknowledge(given[1].number);
        assert_counts(&queue, [6, 1, 2, 3]);
        assert_eq!(payloads(&give(&queue, 3)), [5]);
    }

    /// In the order of the events, those that were acknowledged not among them.
    #[test]
    fn what_was_on_its_way_is_sent_again() {
        let queue = Queue::new(9);
        for n in 0..4 {
            push(&queue, n);
        }
        let given = give(&queue, 3);
        queue.acknowledge(given[1].number);
        queue.note_disconnected();
        // Of the connection before.
        queue.acknowledge(given[2].number);
        assert_counts(&queue, [4, 1, 0, 3]);
        assert_eq!(payloads(&give(&queue, 9)), [0, 2, 3]);
    }

    #[test]
    fn what_is_not_taken_waits() {
        let queue = Queue::new(9);
        push(&queue, 0);
        assert!(!queue.give(1, |_| false));
        assert!(queue.give(1, |_| true));
        assert!(!queue.give(1, |_| true));
    }

    #[test]
    fn what_cannot_be_sent_is_lost_and_told() {
        let queue = Queue::new(9);
        queue.push(Ok(vec![b'x'; MAX_PAYLOAD]));
        queue.push(Ok(vec![b'x'; MAX_PAYLOAD + 1]));
        assert_counts(&queue, [2, 0, 1, 1]);
        let told = queue.counters().last_error.unwrap();
        assert!(told.contains("65536") && told.contains("65537"), "{told}");
        queue.push(serde_json::to_vec(&std::collections::HashMap::from([(
            [1],
            2,
        )])));
        assert_counts(&queue, [3, 0, 2, 1]);
        let told = queue.counters().last_error.unwrap();
        assert!(told.contains("as JSON: key must be a string"), "{told}");
    }
}
