//! Helpers for tests of MQTT.

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
