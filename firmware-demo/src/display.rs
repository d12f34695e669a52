//! The display's thread: draws the newest screen and shows it, at most as often as the configuration says. A display
//! that fails is told of once and initialised again, with growing pauses; nobody waits for it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::canvas::Canvas;
use crate::panel::{Error, Panel};
use crate::screens::{Screen, draw};
use crate::text::Fonts;

/// First and longest pause before a display that failed is initialised again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// How a display is opened; `None` where there is none.
pub type Open = Box<dyn FnMut() -> Result<Option<Box<dyn Panel>>, Error> + Send>;

/// What became of the screens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Pictures shown.
    pub shown: u64,
    /// Times that the display failed.
    pub failures: u64,
    /// Why it shows nothing now; `None` if it does.
    pub failing: Option<String>,
}

/// The display's thread. Dropping it stops the thread behind the last picture.
pub struct Display {
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
    /// Counts the screens that were set.
    version: u64,
    status: Status,
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Display {
    /// Starts the thread, which opens the display. `fonts` must be for as many colours as it has; at most `rate`
    /// pictures a second are shown.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(open: Open, fonts: Fonts, rate: f64) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut showing = Showing {
            shared: shared.clone(),
            open,
            fonts,
            panel: None,
            pause: PAUSES[0],
            again: Instant::now(),
            subject: String::new(),
            since: Instant::now(),
        };
        let period = Duration::from_secs_f64(1.0 / rate);
        let thread = std::thread::Builder::new()
            .name("display".into())
            .spawn(move || showing.run(period))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Shows `screen` as soon as there is time; one that was not shown yet is passed over.
    pub fn set(&self, screen: Screen) {
        let mut state = self.shared.lock();
        state.screen = Some(screen);
        state.version += 1;
        self.shared.changed.notify_all();
    }

    /// What became of the screens.
    pub fn status(&self) -> Status {
        self.shared.lock().status.clone()
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

struct Showing {
    shared: Arc<Shared>,
    open: Open,
    fonts: Fonts,
    panel: Option<Box<dyn Panel>>,
    /// Pause before the display is opened again, and until when the present one lasts.
    pause: Duration,
    again: Instant,
    /// What the screen is about, and since when: texts that turn begin anew with another.
    subject: String,
    since: Instant,
}

impl Showing {
    fn run(&mut self, period: Duration) {
        let mut drawn = 0;
        loop {
            let next = Instant::now() + period;
            let (screen, version, stopped) = {
                let state = self.shared.lock();
                (state.screen.clone(), state.version, state.stopped)
            };
            if let Some(screen) = &screen
                && (version > drawn || moves(screen))
            {
                match self.show(screen) {
                    Ok(true) => drawn = version,
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

    /// Whether `screen` was shown; not while the display rests after a failure, or where there is none.
    fn show(&mut self, screen: &Screen) -> Result<bool, Error> {
        if self.panel.is_none() {
            if Instant::now() < self.again {
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
        status.failing = None;
        Ok(true)
    }

    fn failed(&mut self, error: &Error) {
        self.panel = None;
        self.again = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSES[1]);
        let status = &mut self.shared.lock().status;
        status.failures += 1;
        status.failing = Some(error.to_string());
    }
}

/// Whether the screen is another one later, though nothing new is told.
fn moves(screen: &Screen) -> bool {
    match screen {
        Screen::Boot(_) | Screen::Error(_) => false,
        Screen::Live(_) | Screen::Idle(_) => true,
    }
}

/// What a screen is about.
fn subject(screen: &Screen) -> String {
    match screen {
        Screen::Boot(_) => "boot".into(),
        Screen::Live(live) => {
            let state = live.state.as_ref().map_or("", |state| state.name());
            format!("live {state} {}", live.notice.as_deref().unwrap_or(""))
        }
        Screen::Error(problem) => format!("error {}", problem.title),
        Screen::Idle(_) => "idle".into(),
    }
}
