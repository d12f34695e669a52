//! What tests of the events share.

use std::time::{Duration, Instant};

use pinhole_firmware::mqtt::{Counters, Publisher};

/// Waits until the counters are as they should be, which they must be within so many seconds. They add up at all times.
#[track_caller]
pub(crate) fn wait(
    publisher: &Publisher,
    within: u64,
    fits: impl Fn(&Counters) -> bool,
) -> Counters {
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
