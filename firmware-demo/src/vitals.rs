//! The board's temperature and throttling, looked at by a thread of its own: the tool that tells of throttling on a
//! Raspberry Pi can take a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pinhole::system::System;

const LOOK: Duration = Duration::from_secs(2);

/// How the board is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vitals {
    /// Of the processor, in degrees Celsius; `None` where the system does not tell.
    pub temperature_c: Option<f64>,
    /// Whether the board has slowed down, for heat or for want of power.
    pub throttled: bool,
}

/// Looks at the board until it is dropped.
pub struct Monitor {
    vitals: Arc<Mutex<Vitals>>,
    stopped: Arc<AtomicBool>,
}

impl Monitor {
    /// Starts to look at `system`.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(system: System) -> std::io::Result<Self> {
        let monitor = Self {
            vitals: Arc::default(),
            stopped: Arc::default(),
        };
        let (vitals, stopped) = (monitor.vitals.clone(), monitor.stopped.clone());
        // Not joined: it may be waiting for the tool.
        std::thread::Builder::new()
            .name("vitals".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let now = Vitals {
                        temperature_c: system.temperature_c(),
                        throttled: system.throttling().is_some_and(|t| t.is_throttled()),
                    };
                    *vitals.lock().unwrap_or_else(PoisonError::into_inner) = now;
                    std::thread::sleep(LOOK);
                }
            })?;
        Ok(monitor)
    }

    /// How the board was when it was last looked at.
    pub fn vitals(&self) -> Vitals {
        *self.vitals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
