//! Waiting for threads.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Joins `thread` if it ends within `timeout`; otherwise it is abandoned, as it may hang in a driver or a file system.
/// Returns whether it has ended.
pub(crate) fn join_within<T>(thread: JoinHandle<T>, timeout: Duration) -> bool {
    let until = Instant::now() + timeout;
    while !thread.is_finished() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // A panic has already been printed.
    let _ = thread.join();
    true
}
