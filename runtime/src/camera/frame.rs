//! Frames, encoded and decoded.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use pinhole_preprocessing::RgbImage;

use super::event::FrameCounters;
use super::yuv::YuvFrame;

/// A frame as the source delivers it.
pub(super) enum EncodedFrame {
    /// A JPEG, maybe without its end marker: the decoder finds out whether it is complete.
    Jpeg(Vec<u8>),
    File {
        path: PathBuf,
        bytes: Vec<u8>,
    },
    Yuv(YuvFrame),
}

/// An encoded frame with its number and capture time.
pub(super) struct CapturedFrame {
    pub(super) number: u64,
    pub(super) captured: Instant,
    pub(super) time: SystemTime,
    pub(super) encoded: EncodedFrame,
}

/// A decoded frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Frame number, from 0; counts every frame that the source delivered.
    pub number: u64,
    /// The file, if frames are files.
    pub file: Option<PathBuf>,
    /// When the last byte of the frame arrived.
    pub captured: Instant,
    /// The same as wall-clock time.
    pub time: SystemTime,
    /// Decoding time.
    pub decode: Duration,
    /// The region of interest; `None` if it shows the same scene as the last frame with an image.
    pub image: Option<RgbImage>,
    /// Counters at this frame.
    pub counters: FrameCounters,
}
