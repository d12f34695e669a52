//! [`Camera`]: the capture and decode threads, and the iterator over their results.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::capture_thread::CaptureThread;
use super::decode_thread::DecodeThread;
use super::error::CameraError;
use super::event::{FrameCounters, SourceEvent};
use super::frame::Frame;
use super::options::CameraOptions;
use super::slot::{Next, Shared};
use super::source::FrameSource;
use super::still::StillGate;

/// An open camera: an iterator of [`CameraEvent`]s. Dropping it stops its threads.
pub struct Camera {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    pacer: Pacer,
    ended: bool,
}

/// What a [`Camera`] yields.
#[derive(Clone, Debug)]
pub enum CameraEvent {
    /// A frame.
    Frame(Frame),
    /// Something happened to the source.
    Source(SourceEvent),
}

/// Controls a camera from another thread, for example from a signal handler's.
#[derive(Clone)]
pub struct StopHandle(Arc<Shared>);

impl StopHandle {
    /// Ends the iterator of the camera.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// Classifies the next frame even if it is still: for a changed bundle, region or thresholds.
    pub fn refresh(&self) {
        self.0.refresh();
    }

    /// Whether the camera was stopped.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped()
    }
}

impl Camera {
    /// Opens the source and starts the threads.
    ///
    /// # Errors
    /// [`CameraError::Option`], [`CameraError::Open`], [`CameraError::Thread`].
    pub fn open(mut source: FrameSource, options: CameraOptions) -> Result<Self, CameraError> {
        options.check()?;
        let live = options.live.unwrap_or_else(|| source.is_live());
        let shared = Arc::new(Shared::new(!live, options.timeout));
        let capture = source.0.open(&shared)?;
        let interruptible = source.0.is_interruptible();
        let mut decode = options.decode;
        if let (Some(reduction), Some(region)) = (&mut decode.reduction, options.region) {
            reduction.part = Some((region.width, region.height));
        }
        let decode_thread = DecodeThread {
            options: decode,
            region: options.region,
            gate: options.still_threshold.map(StillGate::new),
        };
        let capture_thread = CaptureThread {
            source,
            every: options.every,
            pause: options.reopen_pause,
        };
        let mut camera = Self {
            shared,
            threads: vec![],
            pacer: Pacer::default(),
            ended: false,
        };
        camera.start("decode", true, |shared| {
            let mut exit = OnExit::new(|error| shared.end_decoding(error));
            exit.error = decode_thread.run(shared).err();
        })?;
        camera.start("capture", interruptible, move |shared| {
            let mut exit = OnExit::new(|error| shared.end_capture(error));
            exit.error = capture_thread.run(capture, shared).err();
        })?;
        Ok(camera)
    }

    fn start(
        &mut self,
        name: &'static str,
        join: bool,
        run: impl FnOnce(&Arc<Shared>) + Send + 'static,
    ) -> Result<(), CameraError> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&shared))
            .map_err(|error| CameraError::Thread { name, error })?;
        if join {
            self.threads.push(thread);
        }
        Ok(())
    }

    /// A handle that stops the camera from another thread.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(self.shared.clone())
    }

    /// The counters so far.
    pub fn counters(&self) -> FrameCounters {
        self.shared.counters()
    }

    /// Counts a frame as corrupt instead of classified.
    pub(super) fn reject(&self, frame: &Frame, reason: String) {
        self.shared.count(|c| c.classified -= 1);
        self.shared
            .push_corrupt(frame.number, frame.file.clone(), reason);
    }
}

impl Iterator for Camera {
    /// The iterator ends after an error.
    type Item = Result<CameraEvent, CameraError>;

    /// Waits for the next frame or event; `None` at the end.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let now = Instant::now();
        self.pacer.request(now);
        self.shared.decode_at(now);
        match self.shared.wait_for_next() {
            Next::Frame(frame) => {
                if frame.image.is_some()
                    && let Some(at) = self.pacer.deliver(Instant::now(), frame.decode)
                {
                    self.shared.decode_at(at);
                }
                Some(Ok(CameraEvent::Frame(frame)))
            }
            Next::Event(event) => Some(Ok(CameraEvent::Source(event))),
            Next::Error(e) => {
                self.ended = true;
                Some(Err(e))
            }
            Next::End => {
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
            // A panic has already been printed.
            let _ = thread.join();
        }
    }
}

/// Predicts when the caller requests the next frame, from the time that it was busy with the last two.
#[derive(Default)]
struct Pacer {
    delivered: Option<Instant>,
    last: Option<Duration>,
    second_last: Option<Duration>,
}

impl Pacer {
    /// The caller requests a frame.
    fn request(&mut self, now: Instant) {
        if let Some(delivered) = self.delivered.take() {
            self.second_last = self.last.replace(now - delivered);
        }
    }

    /// A frame is delivered to the caller. Returns when to start decoding the next one, given the decoding time;
    /// `None` until two busy times are known. Uses the longer one: a frame decoded too early gets old, one decoded
    /// too late costs a short wait.
    fn deliver(&mut self, now: Instant, decode: Duration) -> Option<Instant> {
        self.delivered = Some(now);
        let busy = self.last?.max(self.second_last?);
        Some(now + busy.saturating_sub(decode))
    }
}

/// Reports how a thread ended, even if it panicked.
struct OnExit<F: FnMut(Option<CameraError>)> {
    report: F,
    error: Option<CameraError>,
}

impl<F: FnMut(Option<CameraError>)> OnExit<F> {
    fn new(report: F) -> Self {
        Self {
            report,
            error: None,
        }
    }
}

impl<F: FnMut(Option<CameraError>)> Drop for OnExit<F> {
    fn drop(&mut self) {
        (self.report)(self.error.take());
    }
}
