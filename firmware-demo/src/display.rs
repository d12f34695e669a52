//! The display thread: draws the newest screen and shows it, at most at the configured rate. A display that fails is
//! reinitialised after increasing pauses. No other thread waits for it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::canvas::Canvas;
use crate::panel::{Panel, PanelError};
use crate::screens::{ErrorScreen, Screen, draw};
use crate::text::Fonts;
use crate::threads::join_within;

/// First and longest pause before a failed display is reinitialised.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// An answer that was not confirmed for this long by [`DisplayThread::set`] is no longer shown as live.
const STALE_AFTER: Duration = Duration::from_secs(3);
/// How long to wait for the last picture when the thread stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Opens the display; `None` if there is none.
pub type OpenPanel = Box<dyn FnMut() -> Result<Option<Box<dyn Panel>>, PanelError> + Send>;

/// Status of the display.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisplayStatus {
    /// Number of pictures shown.
    pub shown: u64,
    /// Number of failures.
    pub failures: u64,
    /// The current error; `None` if the display works.
    pub error: Option<String>,
}

/// The display thread. Dropping it shows the last screen and stops the thread.
pub struct DisplayThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    screen: Option<Screen>,
    /// When it was set.
    set_at: Option<Instant>,
    /// Number of screens set so far.
    version: u64,
    status: DisplayStatus,
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DisplayThread {
    /// Starts the thread, which opens the display. `fonts` must match the display (monochrome or colour). At most `rate`
    /// pictures per second are shown.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(open: OpenPanel, fonts: Fonts, rate: f64) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut worker = Worker {
            shared: shared.clone(),
            open,
            fonts,
            panel: None,
            pause: PAUSES[0],
            retry_at: Instant::now(),
            subject: String::new(),
            since: Instant::now(),
        };
        let period = Duration::from_secs_f64(1.0 / rate);
        let thread = std::thread::Builder::new()
            .name("display".into())
            .spawn(move || worker.run(period))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Sets the screen to show next. A previous one that was not shown yet is skipped. Call this all the time, also with an
    /// unchanged screen: an answer of a caller that has been silent for seconds is replaced by an error.
    pub fn set(&self, screen: Screen) {
        let mut state = self.shared.lock();
        state.screen = Some(screen);
        state.set_at = Some(Instant::now());
        state.version += 1;
        self.shared.changed.notify_all();
    }

    /// The current status.
    pub fn status(&self) -> DisplayStatus {
        self.shared.lock().status.clone()
    }
}

impl Drop for DisplayThread {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            join_within(thread, STOP_TIMEOUT);
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    open: OpenPanel,
    fonts: Fonts,
    panel: Option<Box<dyn Panel>>,
    /// Length of the next pause, and end of the current one.
    pause: Duration,
    retry_at: Instant,
    /// What is shown, and since when: a new subject restarts scrolling texts.
    subject: String,
    since: Instant,
}

impl Worker {
    fn run(&mut self, period: Duration) {
        let mut drawn = (0, false);
        loop {
            let next = Instant::now() + period;
            let (screen, version, stale, stopped) = {
                let state = self.shared.lock();
                let silence = state.set_at.map_or(Duration::ZERO, |at| at.elapsed());
                let stale = silence >= STALE_AFTER && state.screen.as_ref().is_some_and(is_live);
                let screen = match stale {
                    true => Some(stale_screen()),
                    false => state.screen.clone(),
                };
                (screen, state.version, stale, state.stopped)
            };
            if let Some(screen) = &screen
                && ((version, stale) != drawn || is_live(screen))
            {
                match self.show(screen) {
                    Ok(true) => drawn = (version, stale),
                    Ok(false) => {}
                    Err(e) => self.failed(&e),
                }
            }
            if stopped {
                return;
            }
            let mut state = self.shared.lock();
            while !state.stopped {
                let left = next.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let waited = self.shared.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Shows `screen`. Returns `false` during the pause after a failure.
    fn show(&mut self, screen: &Screen) -> Result<bool, PanelError> {
        if self.panel.is_none() {
            if Instant::now() < self.retry_at {
                return Ok(false);
            }
            self.panel = (self.open)()?;
        }
        let Some(panel) = &mut self.panel else {
            return Ok(true);
        };
        let subject = subject(screen);
        if subject != self.subject {
            (self.subject, self.since) = (subject, Instant::now());
        }
        let mut canvas = Canvas::new(panel.size());
        let monochrome = panel.is_monochrome();
        let shown = self.since.elapsed();
        draw(screen, &mut canvas, &mut self.fonts, monochrome, shown);
        panel.show(&canvas)?;
        self.pause = PAUSES[0];
        let status = &mut self.shared.lock().status;
        status.shown += 1;
        status.error = None;
        Ok(true)
    }

    fn failed(&mut self, error: &PanelError) {
        self.panel = None;
        self.retry_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSES[1]);
        let status = &mut self.shared.lock().status;
        status.failures += 1;
        status.error = Some(error.to_string());
    }
}

/// Whether the screen shows an answer. Its picture changes over time: texts scroll, or move.
fn is_live(screen: &Screen) -> bool {
    match screen {
        Screen::Boot(_) | Screen::Error(_) => false,
        Screen::Live(_) | Screen::Idle(_) => true,
    }
}

/// Shown instead of an answer that may be out of date.
fn stale_screen() -> Screen {
    Screen::Error(ErrorScreen {
        title: "Not responding",
        reason: format!(
            "the program has been stuck for more than {} s",
            STALE_AFTER.as_secs()
        ),
        action: "the last answer is out of date".into(),
    })
}

/// What a screen shows, as a key.
fn subject(screen: &Screen) -> String {
    match screen {
        Screen::Boot(_) => "boot".into(),
        Screen::Live(live) => {
            let state = live.state.as_ref().map_or("", |state| state.name());
            format!("live {state} {}", live.notice.as_deref().unwrap_or(""))
        }
        Screen::Error(error) => format!("error {}", error.title),
        Screen::Idle(_) => "idle".into(),
    }
}
