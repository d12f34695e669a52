//! A camera, a classifier and a tracker in one.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use pinhole_preprocessing::RgbImage;

use super::track::{Seen, Tracked, Tracker, TrackerOptions};
use super::{Camera, Counters, Error, Item, Report};
use crate::{Classification, Latency};

/// Classifies what a camera brings, until its source ends: an iterator of [`Update`]s.
///
/// ```no_run
/// use pinhole::camera::{Camera, Input, Options, Pipeline, Source, TrackerOptions, Update};
///
/// let classifier = pinhole::Classifier::open("assets/demo")?;
/// let mut stream = classifier.stream()?;
/// let camera = Camera::open(Source::Mjpeg(Input::Stdin), Options::default())?;
/// for update in Pipeline::new(camera, |image| stream.classify(image), TrackerOptions::default()) {
///     if let Update::Answer(answer) = update? {
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

/// What a pipeline tells.
#[derive(Clone, Debug)]
pub enum Update {
    /// A frame was answered.
    Answer(Box<Answer>),
    /// Something happened to the source.
    Report(Report),
}

/// The answer for a frame.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Number of the frame, from 0; every frame that came is counted.
    pub frame: u64,
    /// The file, if frames are files.
    pub file: Option<PathBuf>,
    /// When the frame's last byte was there.
    pub captured: Instant,
    /// The same by the clock on the wall.
    pub time: SystemTime,
    /// Age of the frame when it was answered.
    pub age: Duration,
    /// What the tracker makes of the frame.
    pub tracked: Tracked,
    /// What the camera sees, as the tracker says.
    pub state: Option<Seen>,
    /// The frame was not classified because it shows what was classified before: that answer stands.
    pub still: bool,
    /// What was classified; `None` for a still frame.
    pub image: Option<RgbImage>,
    /// Time that decoding took.
    pub decode: Duration,
    /// Time that classification took; zeros for a still frame.
    pub latency: Latency,
    /// What became of the frames so far.
    pub counters: Counters,
}

impl<F> Pipeline<F>
where
    F: FnMut(&RgbImage) -> Result<Classification, crate::Error>,
{
    /// A pipeline that classifies with `classify`.
    pub fn new(camera: Camera, classify: F, options: TrackerOptions) -> Self {
        Self {
            camera,
            classify,
            tracker: Tracker::new(options),
            last: None,
        }
    }

    /// The camera.
    pub fn camera(&self) -> &Camera {
        &self.camera
    }
}

impl<F> Iterator for Pipeline<F>
where
    F: FnMut(&RgbImage) -> Result<Classification, crate::Error>,
{
    /// After an error that a camera cannot go on after, the iterator ends.
    type Item = Result<Update, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let frame = match self.camera.next()? {
                Ok(Item::Frame(frame)) => frame,
                Ok(Item::Report(report)) => return Some(Ok(Update::Report(report))),
                Err(e) => return Some(Err(e)),
            };
            let mut latency = Latency::default();
            if let Some(image) = &frame.image {
                match (self.classify)(image) {
                    Ok(answer) => {
                        latency = answer.latency;
                        self.last = Some(answer);
                    }
                    // An image whose sides the preprocessing rule does not fit: the next one may be better.
                    Err(crate::Error::Image(e)) => {
                        self.camera.refuse(&frame, e.to_string());
                        continue;
                    }
                    Err(e) => {
                        self.camera.stopper().stop();
                        return Some(Err(e.into()));
                    }
                }
            }
            let Some(last) = &self.last else {
                continue;
            };
            let tracked = self.tracker.update(last);
            return Some(Ok(Update::Answer(Box::new(Answer {
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
