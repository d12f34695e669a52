//! Cameras by V4L2.

use std::io::{Error as IoError, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use v4l::buffer::{Flags, Type};
use v4l::format::{Colorspace, FourCC, Quantization};
use v4l::io::mmap::Stream;
use v4l::io::traits::CaptureStream;
use v4l::video::Capture as _;

use super::Error;
use super::decode::Encoded;
use super::slot::Shared;
use super::source::{Came, Capture, LOOK};
use super::yuv::{Layout, Yuv};

const JPEG: [&[u8; 4]; 2] = [b"MJPG", b"JPEG"];
const YUYV: &[u8; 4] = b"YUYV";
/// `poll`'s event for data to read.
const POLLIN: i16 = 1;

/// A camera that delivers frames.
pub(super) struct Device {
    stream: Stream<'static>,
    format: v4l::Format,
    shared: Arc<Shared>,
    started: bool,
}

impl Device {
    pub(super) fn open(path: &Path, shared: Arc<Shared>) -> Result<Self, Error> {
        let failed = |reason: String| Error::Open {
            path: path.to_owned(),
            reason,
        };
        let failed_io = |e: IoError| failed(e.to_string());
        let device = v4l::Device::with_path(path).map_err(failed_io)?;
        let formats = device.enum_formats().map_err(failed_io)?;
        let offered = |code: &[u8; 4]| formats.iter().any(|f| f.fourcc == FourCC::new(code));
        let Some(code) = [JPEG[0], JPEG[1], YUYV]
            .into_iter()
            .find(|code| offered(code))
        else {
            let formats: Vec<String> = formats.iter().map(|f| f.fourcc.to_string()).collect();
            return Err(failed(format!(
                "expected a camera with MJPG, JPEG or YUYV, found {}; a Pi's CSI camera is read with \
                 `rpicam-vid --codec mjpeg -o - -t 0 | pinhole camera BUNDLE --mjpeg -`",
                formats.join(", ")
            )));
        };
        let mut format = device.format().map_err(failed_io)?;
        format.fourcc = FourCC::new(code);
        let format = device.set_format(&format).map_err(failed_io)?;
        if format.fourcc != FourCC::new(code) {
            return Err(failed(format!(
                "expected the format {}, found {}",
                FourCC::new(code),
                format.fourcc
            )));
        }
        let mut stream = Stream::with_buffers(&device, Type::VideoCapture, 4).map_err(failed_io)?;
        // Of the first frame, which is waited for without a look at whether the camera was stopped.
        let timeout = shared.timeout.unwrap_or(Duration::from_secs(30));
        stream.set_timeout(timeout.min(Duration::from_secs(30)));
        Ok(Self {
            stream,
            format,
            shared,
            started: false,
        })
    }

    /// Waits until a frame is there. After a time-out of the stream itself it cannot go on.
    fn wait(&self) -> std::io::Result<()> {
        let start = Instant::now();
        loop {
            if self.shared.stopped() {
                return Err(IoError::other("the camera was stopped"));
            }
            if self.stream.handle().poll(POLLIN, LOOK.as_millis() as i32)? > 0 {
                return Ok(());
            }
            if self
                .shared
                .timeout
                .is_some_and(|timeout| start.elapsed() >= timeout)
            {
                return Err(IoError::new(ErrorKind::TimedOut, "no frame in time"));
            }
        }
    }
}

impl Capture for Device {
    fn next(&mut self) -> std::io::Result<Option<Came>> {
        if self.started {
            self.wait()?;
        }
        self.started = true;
        let (buffer, metadata) = self.stream.next()?;
        let used = buffer.get(..metadata.bytesused as usize).unwrap_or(buffer);
        if metadata.flags.contains(Flags::ERROR) {
            return Ok(Some(Came::Corrupt {
                file: None,
                reason: "the driver marks the frame as damaged".into(),
            }));
        }
        Ok(Some(Came::Frame(
            match self.format.fourcc == FourCC::new(YUYV) {
                true => Encoded::Yuv(Yuv {
                    width: self.format.width,
                    height: self.format.height,
                    layout: Layout::Yuyv {
                        stride: self.format.stride,
                    },
                    full_range: match self.format.quantization {
                        Quantization::FullRange => true,
                        Quantization::LimitedRange => false,
                        Quantization::Default => {
                            matches!(self.format.colorspace, Colorspace::JPEG)
                        }
                    },
                    data: used.to_vec(),
                }),
                false => jpeg(used),
            },
        )))
    }
}

/// Some webcams leave the end marker out.
fn jpeg(bytes: &[u8]) -> Encoded {
    match bytes.windows(2).rev().any(|w| w == [0xFF, 0xD9]) {
        true => Encoded::Jpeg(bytes.to_vec()),
        false => Encoded::UnendedJpeg(bytes.to_vec()),
    }
}
