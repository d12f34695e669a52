//! V4L2 cameras.

use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pinhole_preprocessing::{YuvLayout, YuvRange};
use v4l::buffer::{Flags, Type};
use v4l::format::{Colorspace, FourCC, Quantization};
use v4l::io::mmap::Stream;
use v4l::io::traits::CaptureStream;
use v4l::video::Capture as _;

use super::capture::{Capture, CaptureSource, POLL_INTERVAL, Poll};
use super::error::CameraError;
use super::frame::{EncodedFrame, YuvFrame};
use super::slot::Shared;

const JPEG: [&[u8; 4]; 2] = [b"MJPG", b"JPEG"];
const YUYV: &[u8; 4] = b"YUYV";
/// The event of `poll` for readable data.
const POLLIN: i16 = 1;

/// The path of a V4L2 device, such as `/dev/video0`.
pub(super) struct DeviceSource {
    path: PathBuf,
}

impl DeviceSource {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl CaptureSource for DeviceSource {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn can_reopen(&self) -> bool {
        true
    }

    fn open(&mut self, shared: &Arc<Shared>) -> Result<Box<dyn Capture>, CameraError> {
        Ok(Box::new(DeviceCapture::open(&self.path, shared.clone())?))
    }
}

struct DeviceCapture {
    stream: Stream<'static>,
    format: v4l::Format,
    shared: Arc<Shared>,
    started: bool,
}

impl DeviceCapture {
    fn open(path: &Path, shared: Arc<Shared>) -> Result<Self, CameraError> {
        let failed = |reason: String| CameraError::Open {
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
        // For the first frame, whose wait does not check whether the camera was stopped.
        let timeout = shared.timeout.unwrap_or(Duration::from_secs(30));
        stream.set_timeout(timeout.min(Duration::from_secs(30)));
        Ok(Self {
            stream,
            format,
            shared,
            started: false,
        })
    }

    /// Waits for a frame. After a timeout of the stream itself, the stream cannot continue.
    fn wait(&self) -> std::io::Result<()> {
        let start = Instant::now();
        loop {
            if self.shared.stopped() {
                return Err(IoError::other("the camera was stopped"));
            }
            if self
                .stream
                .handle()
                .poll(POLLIN, POLL_INTERVAL.as_millis() as i32)?
                > 0
            {
                return Ok(());
            }
            if self
                .shared
                .timeout
                .is_some_and(|timeout| start.elapsed() >= timeout)
            {
                return Err(IoError::new(
                    ErrorKind::TimedOut,
                    "no frame within the timeout",
                ));
            }
        }
    }
}

impl Capture for DeviceCapture {
    fn next(&mut self) -> std::io::Result<Option<Poll>> {
        if self.started {
            self.wait()?;
        }
        self.started = true;
        let (buffer, metadata) = self.stream.next()?;
        let used = buffer.get(..metadata.bytesused as usize).unwrap_or(buffer);
        if metadata.flags.contains(Flags::ERROR) {
            return Ok(Some(Poll::Corrupt {
                file: None,
                reason: "the driver reports the frame as damaged".into(),
            }));
        }
        Ok(Some(Poll::Frame(
            if self.format.fourcc == FourCC::new(YUYV) {
                EncodedFrame::Yuv(YuvFrame {
                    width: self.format.width,
                    height: self.format.height,
                    layout: YuvLayout::Yuyv {
                        stride: self.format.stride,
                    },
                    range: match (self.format.quantization, self.format.colorspace) {
                        (Quantization::FullRange, _)
                        | (Quantization::Default, Colorspace::JPEG) => YuvRange::Full,
                        (Quantization::LimitedRange | Quantization::Default, _) => {
                            YuvRange::Limited
                        }
                    },
                    data: used.to_vec(),
                })
            } else {
                EncodedFrame::Jpeg(used.to_vec())
            },
        )))
    }
}
