//! What the threads of a camera share: one slot for an encoded frame, one for a decoded one, and what is told.
//!
//! ```text
//! capture thread --(newest encoded frame)--> decode thread --(decoded frame)--> caller
//! ```
//! A live source's frame takes the place of an older one that nobody has fetched. Other sources wait until
//! their frame has been fetched.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::decode::Encoded;
use super::report::{Counters, Report, ReportKind};
use super::{Error, Frame};

/// Reports kept for a caller that does not take them.
const MAX_REPORTS: usize = 64;
/// Least time between two reports of corrupt frames of a stream.
const CORRUPT_PAUSE: Duration = Duration::from_secs(1);

/// An encoded frame with what is known about it.
pub(super) struct Captured {
    pub(super) number: u64,
    pub(super) at: Instant,
    pub(super) time: SystemTime,
    pub(super) encoded: Encoded,
}

/// When the decoder may start on a frame.
#[derive(Clone, Copy)]
enum Want {
    Never,
    At(Instant),
}

pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    every_frame: bool,
    /// Time without a frame after which the source has stalled.
    pub(super) timeout: Option<Duration>,
}

struct State {
    encoded: Option<Captured>,
    decoded: Option<Frame>,
    want: Want,
    reports: VecDeque<Report>,
    counters: Counters,
    last_capture: Instant,
    stalled: bool,
    last_corrupt: Option<Instant>,
    captured_all: bool,
    decoded_all: bool,
    stopped: bool,
    error: Option<Error>,
}

/// What a caller finds; see [`Shared::take`].
pub(super) enum Taken {
    Frame(Frame),
    Report(Report),
    Error(Error),
    End,
}

impl Shared {
    /// `every_frame`: no frame is dropped for a newer one.
    pub(super) fn new(every_frame: bool, timeout: Option<Duration>) -> Self {
        Self {
            state: Mutex::new(State {
                encoded: None,
                decoded: None,
                want: Want::Never,
                reports: VecDeque::new(),
                counters: Counters::default(),
                last_capture: Instant::now(),
                stalled: false,
                last_corrupt: None,
                captured_all: false,
                decoded_all: false,
                stopped: false,
                error: None,
            }),
            changed: Condvar::new(),
            every_frame,
            timeout,
        }
    }

    /// A thread that panicked leaves counters that are off by one at most.
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

    pub(super) fn counters(&self) -> Counters {
        self.lock().counters
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.lock().counters);
    }

    pub(super) fn stopped(&self) -> bool {
        self.lock().stopped
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Sleeps for `pause`, or until the camera is stopped.
    pub(super) fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while !state.stopped && Instant::now() < until {
            state = self.wait_until(state, until);
        }
    }

    pub(super) fn report(&self, kind: ReportKind) {
        let mut state = self.lock();
        // Not so long as nobody reads: a report is worth less than the next frame.
        while self.every_frame && !state.stopped && state.reports.len() >= MAX_REPORTS {
            state = self.wait(state);
        }
        push(&mut state, kind);
        drop(state);
        self.changed.notify_all();
    }

    /// Counts a decoded or undecodable frame of no use and reports it, of a stream at most once in a second.
    pub(super) fn corrupt(&self, frame: u64, file: Option<PathBuf>, reason: String) {
        let tell = {
            let mut state = self.lock();
            state.counters.corrupt += 1;
            let now = Instant::now();
            let tell = file.is_some()
                || (state.last_corrupt).is_none_or(|last| now - last >= CORRUPT_PAUSE);
            if tell {
                state.last_corrupt = Some(now);
            }
            tell
        };
        if tell {
            self.report(ReportKind::Corrupt {
                frame,
                file,
                reason,
            });
        }
    }

    /// A frame came that cannot be split off.
    pub(super) fn came_corrupt(&self, file: Option<PathBuf>, reason: String) {
        let number = came(&mut self.lock());
        self.corrupt(number, file, reason);
    }

    /// A frame came: every `every`-th goes to the decoder, in the place of the one before or when that was
    /// fetched. Read and what becomes of it are counted in one step, so that the counters always add up.
    pub(super) fn came(&self, encoded: Encoded, every: u64) {
        let (at, time) = (Instant::now(), SystemTime::now());
        let mut state = self.lock();
        let wanted = state.counters.read.is_multiple_of(every);
        while wanted && self.every_frame && state.encoded.is_some() && !state.stopped {
            state = self.wait(state);
        }
        let number = came(&mut state);
        if !wanted {
            state.counters.skipped += 1;
        } else if state.stopped {
            state.counters.dropped += 1;
        } else {
            let frame = Captured {
                number,
                at,
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

    /// Whether a source that was opened at `since` has stalled, which is told then. Returns the time-out.
    pub(super) fn stalled(&self, since: Instant) -> Option<Duration> {
        let timeout = self.timeout?;
        let mut state = self.lock();
        if state.last_capture.max(since).elapsed() < timeout {
            return None;
        }
        stall(&mut state, timeout);
        drop(state);
        self.changed.notify_all();
        Some(timeout)
    }

    /// No more frames will come, because of `error` or because the source ended.
    pub(super) fn end_capture(&self, error: Option<Error>) {
        let mut state = self.lock();
        state.captured_all = true;
        state.error = state.error.take().or(error);
        drop(state);
        self.changed.notify_all();
    }

    /// The frame to decode next, once the caller wants one (see [`Shared::want_at`]); `None` at the end.
    pub(super) fn next_encoded(&self) -> Option<Captured> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let ready = state.decoded.is_none() && state.encoded.is_some();
            let wait = match state.want {
                _ if self.every_frame => None,
                Want::At(at) => Some(at).filter(|at| *at > Instant::now()),
                Want::Never => {
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
                _ if state.captured_all && state.encoded.is_none() => return None,
                _ => self.wait(state),
            };
        }
    }

    pub(super) fn put_decoded(&self, frame: Frame) {
        let mut state = self.lock();
        if state.stopped {
            state.counters.dropped += 1;
        } else {
            state.decoded = Some(frame);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// No more frames will be decoded, because of `error` or because all are.
    pub(super) fn end_decoding(&self, error: Option<Error>) {
        let mut state = self.lock();
        state.decoded_all = true;
        // Earlier than the end of the source only for an error, or a panic in the decoder.
        state.stopped |= !state.captured_all;
        state.error = state.error.take().or(error);
        drop(state);
        self.changed.notify_all();
    }

    /// The caller will be ready for a frame at `at`. Decoding does not start earlier than that: the frame
    /// would be older by as much when it is classified.
    pub(super) fn want_at(&self, at: Instant) {
        self.lock().want = Want::At(at);
        self.changed.notify_all();
    }

    /// What comes next for the caller: reports before frames, and what is left before the end. Reports a stall
    /// once no frame came for the time-out.
    pub(super) fn take(&self) -> Taken {
        let mut state = self.lock();
        loop {
            if let Some(report) = state.reports.pop_front() {
                self.changed.notify_all();
                return Taken::Report(report);
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
                state.want = Want::Never;
                self.changed.notify_all();
                frame.counters = state.counters;
                return Taken::Frame(frame);
            }
            if state.decoded_all {
                // Stopped, or the decoder is gone: what was captured meanwhile is of no use.
                if state.encoded.take().is_some() {
                    state.counters.dropped += 1;
                }
                if state.captured_all || state.stopped {
                    return state.error.take().map_or(Taken::End, Taken::Error);
                }
            }
            let waiting = state.encoded.is_none() && !state.captured_all;
            let due = self.timeout.filter(|_| waiting && !state.stalled);
            state = match due.map(|timeout| (timeout, state.last_capture + timeout)) {
                Some((timeout, due)) if due <= Instant::now() => {
                    stall(&mut state, timeout);
                    state
                }
                Some((_, due)) => self.wait_until(state, due),
                None => self.wait(state),
            };
        }
    }
}

/// Counts and reports a stall, once until a frame comes.
fn stall(state: &mut State, timeout: Duration) {
    if !std::mem::replace(&mut state.stalled, true) {
        state.counters.stalls += 1;
        push(state, ReportKind::Stalled { timeout });
    }
}

/// Counts a frame: the source is alive. Returns the frame's number, from 0.
fn came(state: &mut State) -> u64 {
    let number = state.counters.read;
    state.counters.read += 1;
    let now = Instant::now();
    if std::mem::take(&mut state.stalled) {
        let after = now - state.last_capture;
        push(state, ReportKind::Resumed { after });
    }
    state.last_capture = now;
    number
}

fn push(state: &mut State, kind: ReportKind) {
    if state.reports.len() >= MAX_REPORTS {
        state.counters.unreported += 1;
        return;
    }
    state.reports.push_back(Report {
        at: SystemTime::now(),
        kind,
    });
}
