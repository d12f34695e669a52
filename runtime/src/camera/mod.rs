//! Classifying what a camera sees.
//!
//! ```text
//! capture thread --(newest encoded frame)--> decode thread --(pixels)--> caller: classify, smooth, report
//! ```
//!
//! - A live source ([`Source::is_live`]) never queues: a new frame takes the place of the one before, which
//!   counts as dropped, while it is still encoded. A frame is decoded just before the caller is ready for it,
//!   as far as its last few turns tell, so that decoding overlaps with classification and no decoded frame
//!   waits. Of a source that is not live every frame is used, decoded one ahead.
//! - A still scene can be passed over ([`StillGate`]); answers are smoothed, and a class has to hold on before
//!   it becomes the state ([`Tracker`]).
//! - A source that stalls, ends or brings damaged frames is reported, and opened again where it can be.
//!
//! [`Camera`] brings frames; [`Pipeline`] classifies them.

mod capture;
mod decode;
#[cfg(feature = "v4l")]
mod device;
mod folder;
mod mjpeg;
mod pipeline;
mod program;
mod report;
mod slot;
mod source;
mod still;
mod track;
mod y4m;
mod yuv;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use pinhole_preprocessing::{DecodeOptions, RgbImage};

pub use decode::{Region, decode_unended};
pub use folder::MAX_FILE;
pub use mjpeg::{MAX_JPEG, MjpegReader, Piece};
pub use pipeline::{Answer, Pipeline, Update};
pub use report::{Counters, Error, Report, ReportKind};
pub use source::{Input, Source};
pub use still::{StillGate, Thumbnail};
pub use track::{Change, Seen, Tracked, Tracker, TrackerOptions};
pub use y4m::{MAX_RAW, RawPiece, Y4mReader};
pub use yuv::{Layout, Yuv, to_rgb};

use capture::Capturing;
use decode::Decoder;
use slot::{Shared, Taken};

/// How a [`Camera`] works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the newest frame is what counts, or every frame; as [`Source::is_live`] says when not given.
    pub live: Option<bool>,
    /// Use every n-th frame, at least 1.
    pub every: u64,
    /// The part of each frame to look at; all of it when not given.
    pub region: Option<Region>,
    /// Pass over frames that differ from the last one classified by no more than this much luma (0..255) in any
    /// of 16 x 16 cells ([`StillGate`]); no frame when not given.
    pub still_threshold: Option<f32>,
    /// A source without a frame for longer than this has stalled; never when not given. That is told; a program
    /// ([`Input::Command`]) is started again too.
    pub timeout: Option<Duration>,
    /// The first pause before a source is opened again; each further one is twice as long, up to 30 times this.
    pub reopen_pause: Duration,
    /// How images are decoded.
    pub decode: DecodeOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            live: None,
            every: 1,
            region: None,
            still_threshold: None,
            timeout: Some(Duration::from_secs(5)),
            reopen_pause: Duration::from_secs(1),
            decode: DecodeOptions::default(),
        }
    }
}

/// Brings frames: an iterator of [`Item`]s. Dropping it stops its threads.
pub struct Camera {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    pace: Pace,
    ended: bool,
}

/// What a camera brings.
#[derive(Clone, Debug)]
pub enum Item {
    /// A frame.
    Frame(Frame),
    /// Something happened to the source.
    Report(Report),
}

/// A decoded frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Number of the frame, from 0; every frame that came is counted.
    pub number: u64,
    /// The file, if frames are files.
    pub file: Option<PathBuf>,
    /// When the frame's last byte was there.
    pub captured: Instant,
    /// The same by the clock on the wall.
    pub time: SystemTime,
    /// Time that decoding took.
    pub decode: Duration,
    /// The region of interest; `None` if it shows what the last frame with an image did.
    pub image: Option<RgbImage>,
    /// What became of the frames so far.
    pub counters: Counters,
}

/// Stops a camera from another thread, such as one that waits for a signal.
#[derive(Clone)]
pub struct Stopper(Arc<Shared>);

impl Stopper {
    /// Ends the camera's frames.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Camera {
    /// Opens the source and starts the threads.
    ///
    /// # Errors
    /// [`Error::Option`], [`Error::Open`], [`Error::Thread`].
    pub fn open(mut source: Source, options: Options) -> Result<Self, Error> {
        options.check()?;
        let live = options.live.unwrap_or_else(|| source.is_live());
        let shared = Arc::new(Shared::new(!live, options.timeout));
        let open = source.open(&shared)?;
        let can_be_stopped = source.can_be_stopped();
        let decoder = Decoder {
            options: options.decode,
            region: options.region,
            gate: options.still_threshold.map(StillGate::new),
        };
        let capturing = Capturing {
            source,
            every: options.every,
            pause: options.reopen_pause,
        };
        let mut camera = Self {
            shared,
            threads: vec![],
            pace: Pace::default(),
            ended: false,
        };
        camera.start("decode", true, |shared| {
            let mut end = AtEnd::new(|error| shared.end_decoding(error));
            end.error = decoder.run(shared).err();
        })?;
        camera.start("capture", can_be_stopped, move |shared| {
            let mut end = AtEnd::new(|error| shared.end_capture(error));
            end.error = capturing.run(open, shared).err();
        })?;
        Ok(camera)
    }

    fn start(
        &mut self,
        name: &'static str,
        join: bool,
        run: impl FnOnce(&Arc<Shared>) + Send + 'static,
    ) -> Result<(), Error> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&shared))
            .map_err(|error| Error::Thread { name, error })?;
        if join {
            self.threads.push(thread);
        }
        Ok(())
    }

    /// A handle that stops the camera.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.shared.clone())
    }

    /// What became of the frames so far.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Takes back that a frame was classified: nothing can be made of it.
    fn refuse(&self, frame: &Frame, reason: String) {
        self.shared.count(|c| c.classified -= 1);
        self.shared
            .corrupt(frame.number, frame.file.clone(), reason);
    }
}

impl Iterator for Camera {
    /// After an error the iterator ends.
    type Item = Result<Item, Error>;

    /// Waits for the next frame or report; `None` at the end.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let now = Instant::now();
        self.pace.is_back(now);
        self.shared.want_at(now);
        match self.shared.take() {
            Taken::Frame(frame) => {
                if frame.image.is_some()
                    && let Some(at) = self.pace.is_off(Instant::now(), frame.decode)
                {
                    self.shared.want_at(at);
                }
                Some(Ok(Item::Frame(frame)))
            }
            Taken::Report(report) => Some(Ok(Item::Report(report))),
            Taken::Error(e) => {
                self.ended = true;
                Some(Err(e))
            }
            Taken::End => {
                self.ended = true;
                None
            }
        }
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Foresees when the caller comes back for a frame, from how long it took the last times.
#[derive(Default)]
struct Pace {
    left: Option<Instant>,
    last: Option<Duration>,
    before: Option<Duration>,
}

impl Pace {
    fn is_back(&mut self, now: Instant) {
        if let Some(left) = self.left.take() {
            self.before = self.last.replace(now - left);
        }
    }

    /// When to decode the next frame, given how long that takes; `None` until two turns are known. The longer of
    /// the two counts: a frame decoded too early grows old, one decoded too late costs a little waiting.
    fn is_off(&mut self, now: Instant, decode: Duration) -> Option<Instant> {
        self.left = Some(now);
        let busy = self.last?.max(self.before?);
        Some(now + busy.saturating_sub(decode))
    }
}

/// Tells how a thread ended, also if it panics.
struct AtEnd<F: FnMut(Option<Error>)> {
    tell: F,
    error: Option<Error>,
}

impl<F: FnMut(Option<Error>)> AtEnd<F> {
    fn new(tell: F) -> Self {
        Self { tell, error: None }
    }
}

impl<F: FnMut(Option<Error>)> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.tell)(self.error.take());
    }
}

impl Options {
    fn check(&self) -> Result<(), Error> {
        let wrong = |option, expected, found: String| {
            Err(Error::Option {
                option,
                expected,
                found,
            })
        };
        if self.every == 0 {
            return wrong("every", "1 or more", "0".into());
        }
        match self.still_threshold {
            Some(t) if !(0.0..=255.0).contains(&t) => {
                wrong("still threshold", "0 to 255", t.to_string())
            }
            _ => Ok(()),
        }
    }
}
