//! The table of sources. A new kind of source is a file that implements [`CaptureSource`] (or builds a
//! [`StreamInput`]), and a constructor here.

use std::path::PathBuf;

use super::capture::CaptureSource;
use super::folder::FolderSource;
use super::stream::{StreamInput, StreamSource};

/// Where frames come from.
pub struct FrameSource(pub(super) Box<dyn CaptureSource>);

impl FrameSource {
    /// A Motion JPEG stream: concatenated JPEG images ([`MjpegReader`](super::MjpegReader)).
    pub fn mjpeg(input: StreamInput) -> Self {
        Self::new(StreamSource::new(input, super::mjpeg::capture))
    }

    /// A YUV4MPEG2 (Y4M) stream: raw frames, as mjpegtools and ffmpeg write them.
    pub fn y4m(input: StreamInput) -> Self {
        Self::new(StreamSource::new(input, super::y4m::capture))
    }

    /// The images of a folder, in the order of their names.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self::new(FolderSource::new(path.into()))
    }

    /// The images of a folder, then those that are added or rewritten later, each once it is complete.
    pub fn watched_folder(path: impl Into<PathBuf>) -> Self {
        Self::new(FolderSource::watched(path.into()))
    }

    /// The images that are added to a folder or rewritten from now on.
    pub fn watched_folder_from_now(path: impl Into<PathBuf>) -> Self {
        Self::new(FolderSource::watched_from_now(path.into()))
    }

    /// A network camera. Over `http` and `https`: MJPEG (`multipart/x-mixed-replace`), or a JPEG image that is fetched
    /// once per `interval`, with Basic and Digest authentication. Videos over HTTP, `rtsp`, `rtmp`, `srt` and others are
    /// read by ffmpeg, a child process as in [`StreamInput::Command`]. User and password are part of the URL; messages
    /// have the URL without them.
    ///
    /// # Errors
    /// `CameraError::Source` if `url` is no such URL.
    #[cfg(feature = "http")]
    pub fn url(url: &str, interval: std::time::Duration) -> Result<Self, super::CameraError> {
        Ok(Self::new(super::network::NetworkSource::new(
            url, interval,
        )?))
    }

    /// A V4L2 camera in its current resolution: MJPEG if it offers that, else YUYV.
    #[cfg(feature = "v4l")]
    pub fn device(path: impl Into<PathBuf>) -> Self {
        Self::new(super::device::DeviceSource::new(path.into()))
    }

    fn new(source: impl CaptureSource + 'static) -> Self {
        Self(Box::new(source))
    }

    /// Whether frames arrive in real time, so that only the newest one matters. Of regular files and folders every
    /// frame is used.
    pub fn is_live(&self) -> bool {
        self.0.is_live()
    }
}
