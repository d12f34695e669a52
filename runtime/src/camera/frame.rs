//! Frames, encoded and decoded.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use pinhole_preprocessing::{Error, Image, YuvImage, YuvLayout, YuvRange};

use super::event::FrameCounters;

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

/// A frame in luma and chroma.
pub(super) struct YuvFrame {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) layout: YuvLayout,
    pub(super) range: YuvRange,
    pub(super) data: Vec<u8>,
}

impl YuvFrame {
    /// # Errors
    /// [`Error::Shape`] if the data does not match the layout.
    pub(super) fn into_image(self) -> Result<Image, Error> {
        YuvImage::new(self.width, self.height, self.layout, self.range, self.data).map(Image::from)
    }
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
    pub image: Option<Image>,
    /// Counters at this frame.
    pub counters: FrameCounters,
}
