//! JPEG pictures of the newest frame, made by a thread of their own and only while somebody watches.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use pinhole::camera::Region;
use pinhole::{Classifier, Image, RgbImage};
use tokio::sync::watch;

use crate::error::WebError;

/// Least time between two pictures.
const INTERVAL: Duration = Duration::from_millis(100);
/// Longest side of a picture of the whole frame, and its quality.
const MAX_SIDE: u32 = 960;
const QUALITY: u8 = 80;

/// What a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// The whole frame.
    Frame,
    /// What the encoder sees: the region, resized and cropped.
    Encoder,
}

const VIEWS: [View; 2] = [View::Frame, View::Encoder];

/// A frame as it was classified.
#[derive(Clone)]
pub(crate) struct LiveFrame {
    pub(crate) image: Arc<Image>,
    pub(crate) region: Option<Region>,
    pub(crate) time: SystemTime,
    pub(crate) classifier: Arc<Classifier>,
}

impl LiveFrame {
    /// What the encoder sees of it, u8 [S, S, 3].
    ///
    /// # Errors
    /// It is too small or too large to be preprocessed.
    pub(crate) fn pixels(&self) -> Result<Vec<u8>, String> {
        let view = match self.region {
            Some(region) => region.view(&self.image),
            None => Some((&*self.image).into()),
        };
        let view = view.ok_or("the region is not inside of the frame")?;
        let pixels = self
            .classifier
            .preprocess(view)
            .map_err(|e| e.to_string())?;
        Ok(pixels.data)
    }
}

/// A picture.
pub(crate) struct Picture {
    pub(crate) jpeg: Bytes,
    /// When its frame was captured.
    pub(crate) time: SystemTime,
    /// When it was made.
    pub(crate) made: Instant,
}

/// The newest frame and the pictures of it.
pub(crate) struct Pictures {
    slot: Mutex<Slot>,
    wake: Condvar,
    newest: [watch::Sender<Option<Arc<Picture>>>; 2],
}

#[derive(Default)]
struct Slot {
    frame: Option<LiveFrame>,
    /// Whether there is a frame since the last pictures.
    fresh: bool,
    stopped: bool,
}

impl Pictures {
    pub(crate) fn new() -> Self {
        Self {
            slot: Mutex::default(),
            wake: Condvar::new(),
            newest: [watch::Sender::new(None), watch::Sender::new(None)],
        }
    }

    /// Starts the thread.
    pub(crate) fn start(self: &Arc<Self>) -> Result<(), WebError> {
        let pictures = self.clone();
        let thread = std::thread::Builder::new().name("pictures".into());
        let spawned = thread.spawn(move || {
            crate::threads::yield_to_classification();
            pictures.run();
        });
        spawned.map(drop).map_err(|error| WebError::Thread {
            name: "pictures",
            error,
        })
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new frame, which replaces the last one.
    pub(crate) fn put(&self, frame: LiveFrame) {
        let mut slot = self.lock();
        (slot.frame, slot.fresh) = (Some(frame), true);
        drop(slot);
        self.wake.notify_one();
    }

    /// The pictures from now on. They are made while there is a receiver.
    pub(crate) fn subscribe(&self, view: View) -> watch::Receiver<Option<Arc<Picture>>> {
        let receiver = self.newest[view as usize].subscribe();
        let stale = |p: &Arc<Picture>| p.made.elapsed() > INTERVAL * 2;
        if (receiver.borrow().as_ref()).is_none_or(stale) {
            // Of a still scene or a slow source the last frame is shown again.
            let mut slot = self.lock();
            slot.fresh = slot.frame.is_some();
            drop(slot);
            self.wake.notify_one();
        }
        receiver
    }

    /// The newest frame.
    pub(crate) fn frame(&self) -> Option<LiveFrame> {
        self.lock().frame.clone()
    }

    fn run(&self) {
        loop {
            let start = Instant::now();
            let Some(frame) = self.next() else {
                return;
            };
            for view in VIEWS {
                let newest = &self.newest[view as usize];
                if newest.receiver_count() == 0 {
                    continue;
                }
                // A frame that cannot be shown, because it is too small or too large, is not.
                if let Some(jpeg) = encode(&frame, view) {
                    newest.send_replace(Some(Arc::new(Picture {
                        jpeg: jpeg.into(),
                        time: frame.time,
                        made: Instant::now(),
                    })));
                }
            }
            std::thread::sleep(INTERVAL.saturating_sub(start.elapsed()));
        }
    }

    /// Waits for a frame that somebody wants to see; `None` at the end.
    fn next(&self) -> Option<LiveFrame> {
        let mut slot = self.lock();
        loop {
            if slot.stopped {
                return None;
            }
            let watched = self.newest.iter().any(|n| n.receiver_count() > 0);
            if slot.fresh && watched {
                slot.fresh = false;
                return slot.frame.clone();
            }
            let waited = self.wake.wait(slot);
            slot = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn encode(frame: &LiveFrame, view: View) -> Option<Vec<u8>> {
    match view {
        View::Frame => frame.image.to_rgb().to_jpeg(QUALITY, MAX_SIDE).ok(),
        View::Encoder => {
            let side = frame.classifier.manifest().model.image_size;
            let image = RgbImage::new(side, side, frame.pixels().ok()?).ok()?;
            image.to_jpeg(90, MAX_SIDE).ok()
        }
    }
}
