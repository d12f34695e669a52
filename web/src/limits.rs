//! How long clients may take.

use std::time::Duration;

/// How long clients may take. Who takes longer is disconnected.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a request's head, also while a connection waits for the next request.
    pub head: Duration,
    /// For a request's body.
    pub body: Duration,
    /// For taking anything of what is sent to it.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(15),
            body: Duration::from_secs(20),
            write: Duration::from_secs(15),
        }
    }
}
