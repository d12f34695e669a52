//! The state that the threads of a camera share: a slot for one encoded frame, a slot for one decoded frame, and the
//! pending events.
//!
//! ```text
//! capture thread --(newest encoded frame)--> decode thread --(decoded frame)--> caller
//! ```
//! A frame of a live source replaces an older one in the slot. Other sources wait until the slot is free.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::error::CameraError;
use super::event::{FrameCounters, SourceEvent, SourceEventKind};
use super::frame::{CapturedFrame, EncodedFrame, Frame};

/// Most pending events.
const MAX_EVENTS: usize = 64;
/// Minimum time between two events for corrupt frames of a stream.
const CORRUPT_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// No frame is dropped for a newer one.
    every_frame: bool,
    /// A source has stalled after this time without a frame.
    pub(super) timeout: Option<Duration>,
}

struct State {
    encoded: Option<CapturedFrame>,
    decoded: Option<Frame>,
    /// When to decode the next frame of a live source; `None` until the caller is about to request one.
    decode_at: Option<Instant>,
    events: VecDeque<SourceEvent>,
    counters: FrameCounters,
    last_capture: Instant,
    stalled: bool,
    last_corrupt_event: Option<Instant>,
    capture_ended: bool,
    decode_ended: bool,
    stopped: bool,
    /// The next frame is passed on, still or not.
    refresh: bool,
    error: Option<CameraError>,
}

/// What [`Shared::wait_for_next`] returns.
pub(super) enum Next {
    Frame(Frame),
    Event(SourceEvent),
    Error(CameraError),
    End,
}

impl Shared {
    pub(super) fn new(every_frame: bool, timeout: Option<Duration>) -> Self {
        Self {
            state: Mutex::new(State {
                encoded: None,
                decoded: None,
                decode_at: None,
                events: VecDeque::new(),
                counters: FrameCounters::default(),
                last_capture: Instant::now(),
                stalled: false,
                last_corrupt_event: None,
                capture_ended: false,
                decode_ended: false,
                stopped: false,
                refresh: false,
                error: None,
            }),
            changed: Condvar::new(),
            every_frame,
            timeout,
        }
    }

    /// Ignores poisoning: a thread that panics leaves counters that are off by one at most.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        (self.changed.wait(state)).unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until<'a>(
        &self,
        state: MutexGuard<'a, State>,
        until: Instant,
    ) -> MutexGuard<'a, State> {
        let timeout = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(state, timeout);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn counters(&self) -> FrameCounters {
        self.lock().counters
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut FrameCounters)) {
        change(&mut self.lock().counters);
    }

    pub(super) fn stopped(&self) -> bool {
        self.lock().stopped
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    pub(super) fn refresh(&self) {
        self.lock().refresh = true;
    }

    /// Whether [`Shared::refresh`] was called since the last frame.
    pub(super) fn take_refresh(&self) -> bool {
        std::mem::take(&mut self.lock().refresh)
    }

    /// Sleeps for `pause`, or until the camera is stopped.
    pub(super) fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while !state.stopped && Instant::now() < until {
            state = self.wait_until(state, until);
        }
    }

    pub(super) fn push_event(&self, kind: SourceEventKind) {
        let mut state = self.lock();
        // Waits for the caller only if no frame may be dropped: the next frame matters more than an event.
        while self.every_frame && !state.stopped && state.events.len() >= MAX_EVENTS {
            state = self.wait(state);
        }
        push_event(&mut state, kind);
        drop(state);
        self.changed.notify_all();
    }

    /// Counts and reports a frame that cannot be used; of a stream, reports at most one per [`CORRUPT_INTERVAL`].
    pub(super) fn push_corrupt(&self, frame: u64, file: Option<PathBuf>, reason: String) {
        self.count_corrupt(|_| frame, file, reason);
    }

    /// Counts and reports a captured frame that is corrupt.
    pub(super) fn push_captured_corrupt(&self, file: Option<PathBuf>, reason: String) {
        self.count_corrupt(count_frame, file, reason);
    }

    /// Counts under one lock, so that the counters always add up.
    fn count_corrupt(
        &self,
        number: impl FnOnce(&mut State) -> u64,
        file: Option<PathBuf>,
        reason: String,
    ) {
        let (frame, report) = {
            let mut state = self.lock();
            let frame = number(&mut state);
            state.counters.corrupt += 1;
            let now = Instant::now();
            let report = file.is_some()
                || (state.last_corrupt_event).is_none_or(|last| now - last >= CORRUPT_INTERVAL);
            if report {
                state.last_corrupt_event = Some(now);
            }
            (frame, report)
        };
        if report {
            self.push_event(SourceEventKind::Corrupt {
                frame,
                file,
                reason,
            });
        }
    }

    /// Passes every `every`-th frame to the decoder: replaces the frame in the slot, or waits until the slot is free.
    /// Counts `read` and the outcome together, so that the counters always add up.
    pub(super) fn push_captured(&self, encoded: EncodedFrame, every: u64) {
        let (captured, time) = (Instant::now(), SystemTime::now());
        let mut state = self.lock();
        let selected = state.counters.read.is_multiple_of(every);
        while selected && self.every_frame && state.encoded.is_some() && !state.stopped {
            state = self.wait(state);
        }
        let number = count_frame(&mut state);
        if !selected {
            state.counters.skipped += 1;
        } else if state.stopped {
            state.counters.dropped += 1;
        } else {
            let frame = CapturedFrame {
                number,
                captured,
                time,
                encoded,
            };
            if state.encoded.replace(frame).is_some() {
                state.counters.dropped += 1;
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Returns the timeout and reports a stall if the source, opened at `since`, has stalled.
    pub(super) fn check_stall(&self, since: Instant) -> Option<Duration> {
        let timeout = self.timeout?;
        let mut state = self.lock();
        if state.last_capture.max(since).elapsed() < timeout {
            return None;
        }
        report_stall(&mut state, timeout);
        drop(state);
        self.changed.notify_all();
        Some(timeout)
    }

    /// Ends capturing, because of `error` or at the end of the source.
    pub(super) fn end_capture(&self, error: Option<CameraError>) {
        let mut state = self.lock();
        state.capture_ended = true;
        state.error = state.error.take().or(error);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for the frame to decode next, and of a live source for the time given to [`Shared::decode_at`]. `None` at
    /// the end.
    pub(super) fn next_captured(&self) -> Option<CapturedFrame> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let ready = state.decoded.is_none() && state.encoded.is_some();
            let wait = match state.decode_at {
                _ if self.every_frame => None,
                Some(at) => Some(at).filter(|at| *at > Instant::now()),
                None => {
                    state = self.wait(state);
                    continue;
                }
            };
            state = match wait {
                Some(until) if ready => self.wait_until(state, until),
                None if ready => {
                    let frame = state.encoded.take();
                    drop(state);
                    self.changed.notify_all();
                    return frame;
                }
                _ if state.capture_ended && state.encoded.is_none() => return None,
                _ => self.wait(state),
            };
        }
    }

    pub(super) fn push_decoded(&self, frame: Frame) {
        let mut state = self.lock();
        if state.stopped {
            state.counters.dropped += 1;
        } else {
            state.decoded = Some(frame);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends decoding, because of `error` or after the last frame.
    pub(super) fn end_decoding(&self, error: Option<CameraError>) {
        let mut state = self.lock();
        state.decode_ended = true;
        // Before the end of the source only after an error or a panic in the decoder.
        state.stopped |= !state.capture_ended;
        state.error = state.error.take().or(error);
        drop(state);
        self.changed.notify_all();
    }

    /// Allows decoding of the next frame from `at` on. Decoding earlier would only make the frame older.
    pub(super) fn decode_at(&self, at: Instant) {
        self.lock().decode_at = Some(at);
        self.changed.notify_all();
    }

    /// Waits for the next event or frame; events first. Reports a stall after the timeout without a frame.
    pub(super) fn wait_for_next(&self) -> Next {
        let mut state = self.lock();
        loop {
            if let Some(event) = state.events.pop_front() {
                self.changed.notify_all();
                return Next::Event(event);
            }
            if let Some(mut frame) = state.decoded.take() {
                if state.stopped {
                    state.counters.dropped += 1;
                    continue;
                }
                match frame.image {
                    Some(_) => state.counters.classified += 1,
                    None => state.counters.still += 1,
                }
                state.decode_at = None;
                self.changed.notify_all();
                frame.counters = state.counters;
                return Next::Frame(frame);
            }
            if state.decode_ended {
                // Nothing decodes a frame that was captured meanwhile.
                if state.encoded.take().is_some() {
                    state.counters.dropped += 1;
                }
                if state.capture_ended || state.stopped {
                    return state.error.take().map_or(Next::End, Next::Error);
                }
            }
            let waiting = state.encoded.is_none() && !state.capture_ended;
            let due = self.timeout.filter(|_| waiting && !state.stalled);
            state = match due.map(|timeout| (timeout, state.last_capture + timeout)) {
                Some((timeout, due)) if due <= Instant::now() => {
                    report_stall(&mut state, timeout);
                    state
                }
                Some((_, due)) => self.wait_until(state, due),
                None => self.wait(state),
            };
        }
    }
}

/// Counts and reports a stall, once until the next frame.
fn report_stall(state: &mut State, timeout: Duration) {
    if !std::mem::replace(&mut state.stalled, true) {
        state.counters.stalls += 1;
        push_event(state, SourceEventKind::Stalled { timeout });
    }
}

/// Counts a captured frame and ends a stall. Returns the frame number, from 0.
fn count_frame(state: &mut State) -> u64 {
    let number = state.counters.read;
    state.counters.read += 1;
    let now = Instant::now();
    if std::mem::take(&mut state.stalled) {
        let after = now - state.last_capture;
        push_event(state, SourceEventKind::Resumed { after });
    }
    state.last_capture = now;
    number
}

fn push_event(state: &mut State, kind: SourceEventKind) {
    if state.events.len() >= MAX_EVENTS {
        state.counters.unreported += 1;
        return;
    }
    state.events.push_back(SourceEvent {
        time: SystemTime::now(),
        kind,
    });
}
