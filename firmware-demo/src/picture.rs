//! When a picture is published.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pinhole::Image;

/// Minimum time between two pictures, also if the state changes with every frame.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Chooses the frames to publish: after a change of the state, and otherwise at an interval.
pub(crate) struct PictureSchedule {
    interval: Duration,
    /// When the last one was published, and which.
    last: Option<(Instant, Weak<Image>)>,
    /// Whether the state has changed since then.
    changed: bool,
}

impl PictureSchedule {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval: interval.max(MIN_INTERVAL),
            last: None,
            changed: false,
        }
    }

    /// The state changed with the frame that comes next.
    pub(crate) fn state_changed(&mut self) {
        self.changed = true;
    }

    /// Whether to publish the newest `frame` at the time `now`.
    pub(crate) fn is_due(&mut self, frame: &Arc<Image>, now: Instant) -> bool {
        let due = match &self.last {
            None => true,
            // The weak reference keeps its address from being used for another.
            Some((_, last)) if std::ptr::eq(last.as_ptr(), Arc::as_ptr(frame)) => false,
            Some((at, _)) => {
                let wait = match self.changed {
                    true => MIN_INTERVAL,
                    false => self.interval,
                };
                now.saturating_duration_since(*at) >= wait
            }
        };
        if due {
            self.last = Some((now, Arc::downgrade(frame)));
            self.changed = false;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_published_at_once_and_anything_else_at_the_interval() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let frame = || Arc::new(pinhole::RgbImage::new(1, 1, vec![0; 3]).unwrap().into());
        let mut schedule = PictureSchedule::new(Duration::from_secs(10));
        let first = frame();
        assert!(schedule.is_due(&first, at(0.0)));
        assert!(!schedule.is_due(&frame(), at(9.0)));
        // A still scene is not published again.
        assert!(!schedule.is_due(&first, at(20.0)));
        let second = frame();
        assert!(schedule.is_due(&second, at(20.0)));
        schedule.state_changed();
        // Not more than one per second, but then still that of a change.
        assert!(!schedule.is_due(&frame(), at(20.5)));
        assert!(schedule.is_due(&frame(), at(21.0)));
        assert!(!schedule.is_due(&frame(), at(23.0)));
        schedule.state_changed();
        assert!(schedule.is_due(&frame(), at(23.0)));
    }
}
