//! Classifies the frames of a camera.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use pinhole_preprocessing::Image;

use super::error::CameraError;
use super::event::{FrameCounters, SourceEvent};
use super::threads::{Camera, CameraEvent};
use super::track::{SceneState, Tracker, TrackerOptions, TrackerOutput};
use crate::classification::{Classification, Latency};
use crate::error::Error;

/// Classifies and smooths the frames of a camera until its source ends: an iterator of [`PipelineEvent`]s.
///
/// ```no_run
/// use pinhole::camera::{
///     Camera, CameraOptions, FrameSource, Pipeline, PipelineEvent, StreamInput, TrackerOptions,
/// };
///
/// let classifier = pinhole::Classifier::open("assets/demo")?;
/// let mut stream = classifier.stream()?;
/// let camera = Camera::open(FrameSource::mjpeg(StreamInput::Stdin), CameraOptions::default())?;
/// for event in Pipeline::new(camera, |image| stream.classify(image), TrackerOptions::default()) {
///     if let PipelineEvent::Answer(answer) = event? {
///         println!("{:?} ({:.0} ms old)", answer.state, answer.age.as_secs_f64() * 1e3);
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pipeline<F> {
    camera: Camera,
    classify: F,
    tracker: Tracker,
    last: Option<Classification>,
}

/// What a [`Pipeline`] yields.
#[derive(Clone, Debug)]
pub enum PipelineEvent {
    /// The answer for a frame.
    Answer(Box<FrameAnswer>),
    /// Something happened to the source.
    Source(SourceEvent),
}

/// The answer for a frame.
#[derive(Clone, Debug)]
pub struct FrameAnswer {
    /// Frame number, from 0; counts every frame that the source delivered.
    pub frame: u64,
    /// The file, if frames are files.
    pub file: Option<PathBuf>,
    /// When the last byte of the frame arrived.
    pub captured: Instant,
    /// The same as wall-clock time.
    pub time: SystemTime,
    /// Time from `captured` to this answer.
    pub age: Duration,
    /// The smoothed ranking.
    pub tracked: TrackerOutput,
    /// The state of the scene; `None` until a class has led for long enough.
    pub state: Option<SceneState>,
    /// The scene is still: the frame was not classified, and the last answer stands.
    pub still: bool,
    /// The classified image; `None` for a still frame.
    pub image: Option<Image>,
    /// Decoding time.
    pub decode: Duration,
    /// Classification time; zeros for a still frame.
    pub latency: Latency,
    /// Counters at this frame.
    pub counters: FrameCounters,
}

impl<F> Pipeline<F>
where
    F: FnMut(&Image) -> Result<Classification, Error>,
{
    /// Classifies each frame with `classify`.
    pub fn new(camera: Camera, classify: F, options: TrackerOptions) -> Self {
        Self {
            camera,
            classify,
            tracker: Tracker::new(options),
            last: None,
        }
    }

    /// Smooths with other options from the next frame on. The state stays.
    pub fn set_tracker_options(&mut self, options: TrackerOptions) {
        self.tracker.set_options(options);
    }

    /// The camera.
    pub fn camera(&self) -> &Camera {
        &self.camera
    }
}

impl<F> Iterator for Pipeline<F>
where
    F: FnMut(&Image) -> Result<Classification, Error>,
{
    /// The iterator ends after an error.
    type Item = Result<PipelineEvent, CameraError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let frame = match self.camera.next()? {
                Ok(CameraEvent::Frame(frame)) => frame,
                Ok(CameraEvent::Source(event)) => return Some(Ok(PipelineEvent::Source(event))),
                Err(e) => return Some(Err(e)),
            };
            let mut latency = Latency::default();
            if let Some(image) = &frame.image {
                match (self.classify)(image) {
                    Ok(answer) => {
                        latency = answer.latency;
                        self.last = Some(answer);
                    }
                    // An image of a size that cannot be preprocessed; the next one may fit.
                    Err(Error::Image(e)) => {
                        self.camera.reject(&frame, e.to_string());
                        // The last answer is not that of a scene like this one.
                        self.camera.stop_handle().refresh();
                        continue;
                    }
                    Err(e) => {
                        self.camera.stop_handle().stop();
                        return Some(Err(e.into()));
                    }
                }
            }
            let Some(last) = &self.last else {
                continue;
            };
            let tracked = self.tracker.update(last, frame.captured);
            return Some(Ok(PipelineEvent::Answer(Box::new(FrameAnswer {
                frame: frame.number,
                file: frame.file,
                captured: frame.captured,
                time: frame.time,
                age: frame.captured.elapsed(),
                tracked,
                state: self.tracker.state().cloned(),
                still: frame.image.is_none(),
                image: frame.image,
                decode: frame.decode,
                latency,
                counters: frame.counters,
            }))));
        }
    }
}
