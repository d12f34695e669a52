//! Service notifications to systemd.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::console;

/// Notifies systemd. Without systemd this does nothing.
pub(crate) fn notify(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        console::err(&format!("systemd: cannot send the notification: {e}"));
    }
}

/// Sends the notifications for the unit's `WatchdogSec=`.
pub(crate) struct Watchdog {
    /// `None` if the unit has no watchdog.
    period: Option<Duration>,
    last: Instant,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        Self {
            // A delay of up to two periods is harmless.
            period: sd_notify::watchdog_enabled().map(|limit| limit / 3),
            last: Instant::now(),
        }
    }

    /// Sends a notification if one is due.
    pub(crate) fn keep_alive(&mut self) {
        if self
            .period
            .is_some_and(|period| self.last.elapsed() >= period)
        {
            self.last = Instant::now();
            notify(NotifyState::Watchdog);
        }
    }
}
