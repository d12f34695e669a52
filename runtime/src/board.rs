//! The board's temperature and throttling. A thread reads them, because the tool that reports throttling on a
//! Raspberry Pi can take a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::system::System;

const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Temperature and throttling.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BoardStatus {
    /// Temperature of the processor in degrees Celsius; `None` if the system does not report it.
    pub temperature_c: Option<f64>,
    /// Whether the board is throttled because of heat or low voltage.
    pub throttled: bool,
}

/// The thread that reads the board's status. Dropping it stops the thread.
pub struct BoardMonitor {
    status: Arc<Mutex<BoardStatus>>,
    stopped: Arc<AtomicBool>,
}

impl BoardMonitor {
    /// Starts the thread, which reads `system`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(system: System) -> std::io::Result<Self> {
        let monitor = Self {
            status: Arc::default(),
            stopped: Arc::default(),
        };
        let (status, stopped) = (monitor.status.clone(), monitor.stopped.clone());
        // Not joined: it may be waiting for the tool.
        std::thread::Builder::new()
            .name("board".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let now = BoardStatus {
                        temperature_c: system.temperature_c(),
                        throttled: system.throttling().is_some_and(|t| t.is_throttled()),
                    };
                    *status.lock().unwrap_or_else(PoisonError::into_inner) = now;
                    std::thread::sleep(POLL_INTERVAL);
                }
            })?;
        Ok(monitor)
    }

    /// The status as last read.
    pub fn status(&self) -> BoardStatus {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BoardMonitor {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
