//! Classifying camera frames.
//!
//! ```text
//! capture thread --(newest encoded frame)--> decode thread --(pixels)--> caller: classify, smooth, report
//! ```
//!
//! - A live source ([`FrameSource::is_live`]) never queues: a new frame replaces the previous one, which counts as
//!   dropped, while both are still encoded. A frame is decoded just before the caller is expected to be ready for it,
//!   so that decoding overlaps with classification and no decoded frame gets old. Other sources lose no frame; each is
//!   decoded while the previous one is classified.
//! - Frames of a still scene can be skipped ([`CameraOptions::still_threshold`]). Answers are smoothed, and a class
//!   must lead for some frames before it becomes the state ([`TrackerOptions`]).
//! - A source that stalls, ends or delivers corrupt frames is reported, and reopened if possible ([`SourceEvent`]).
//!
//! [`Camera`] yields frames; [`Pipeline`] classifies them.

#[cfg(feature = "http")]
mod authentication;
mod capture;
mod capture_thread;
mod content;
mod decode_thread;
#[cfg(feature = "v4l")]
mod device;
mod error;
mod event;
mod folder;
mod frame;
mod image_files;
mod mjpeg;
#[cfg(feature = "http")]
mod network;
mod options;
mod pipeline;
mod program;
mod region;
mod slot;
mod source;
mod still;
mod stream;
mod threads;
mod track;
mod watch;
mod y4m;

#[cfg(feature = "http")]
#[doc(hidden)]
pub use authentication::answer_challenge;
pub use error::CameraError;
pub use event::{FrameCounters, SourceEvent, SourceEventKind};
pub use frame::Frame;
#[doc(hidden)]
pub use image_files::images_in;
pub use mjpeg::{MAX_JPEG_BYTES, MjpegChunk, MjpegReader};
pub use options::CameraOptions;
pub use pipeline::{FrameAnswer, Pipeline, PipelineEvent};
pub use region::Region;
pub use source::FrameSource;
pub use stream::StreamInput;
pub use threads::{Camera, CameraEvent, StopHandle};
pub use track::{SceneState, StateChange, Tracker, TrackerOptions, TrackerOutput};
pub(crate) use y4m::count_y4m_frames;
