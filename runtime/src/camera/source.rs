//! Where frames come from.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Error;
use super::decode::Encoded;
use super::folder::FolderReader;
use super::mjpeg::{MAX_JPEG, MjpegReader, Piece};
use super::program::{Frames, Program};
use super::slot::Shared;
use super::y4m::{RawPiece, Y4mReader};

/// How long a wait for input lasts until the camera looks whether it was stopped.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Where frames come from.
pub enum Source {
    /// JPEG frames one after the other ([`MjpegReader`]).
    Mjpeg(Input),
    /// Raw frames ([`Y4mReader`]).
    Y4m(Input),
    /// The images of a folder in the order of their names.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Go on with images that are added or rewritten, once each is whole.
        watch: bool,
    },
    /// A camera by V4L2, as it is set up: MJPEG where it has that, else YUYV.
    #[cfg(feature = "v4l")]
    Device(PathBuf),
}

/// Where the bytes of a stream come from.
pub enum Input {
    /// Standard input.
    Stdin,
    /// A file, a named pipe or a device.
    Path(PathBuf),
    /// The standard output of a program, such as `rpicam-vid --codec mjpeg -o - -t 0`. It is started again when it
    /// ends, and when it brings no frame for longer than [`Options::timeout`](super::Options::timeout): that must
    /// be longer than the program takes until its first frame. [`Report`](super::Report)s tell its exit status.
    ///
    /// It has no input and a process group of its own. The whole group is ended, by SIGTERM and after at most a
    /// second by SIGKILL, before the program is started again, and when the camera stops or is dropped; a camera
    /// whose own process is killed leaves it alone, to end at its next write.
    ///
    /// Its standard error is this process's unless the command says otherwise. Under systemd that is the journal,
    /// where its messages stand beside the reports; programs that write a line a frame should be told to be quiet
    /// (`--verbose 0` for rpicam-vid), as the journal drops messages of a service that writes too many.
    Command(Box<Command>),
    /// Anything else. A camera that is stopped leaves the thread that reads it alone until the read returns.
    Reader(Box<dyn Read + Send>),
}

/// What a source brings next.
pub(super) enum Came {
    Frame(Encoded),
    Corrupt {
        file: Option<PathBuf>,
        reason: String,
    },
}

/// An open source.
pub(super) trait Capture: Send {
    /// Waits for what comes next; `None` at the end. An error too where the camera was stopped.
    fn next(&mut self) -> std::io::Result<Option<Came>>;

    /// Bytes so far that are part of no frame.
    fn skipped_bytes(&self) -> u64 {
        0
    }
}

impl Source {
    /// Whether frames come in their own time, so that the newest one is what counts. Regular files and folders
    /// wait, and every frame of them is used.
    pub fn is_live(&self) -> bool {
        let is_file = |metadata: std::io::Result<std::fs::Metadata>| {
            metadata.is_ok_and(|metadata| metadata.is_file())
        };
        match self {
            Self::Mjpeg(input) | Self::Y4m(input) => match input {
                Input::Stdin => !is_file(stdin().and_then(|file| file.metadata())),
                Input::Path(path) => !is_file(std::fs::metadata(path)),
                Input::Command(_) | Input::Reader(_) => true,
            },
            Self::Folder { .. } => false,
            #[cfg(feature = "v4l")]
            Self::Device(_) => true,
        }
    }

    /// Whether the source is opened again when it ends or fails: programs, named pipes, devices, folders under
    /// watch.
    pub(super) fn reopens(&self) -> bool {
        match self {
            Self::Mjpeg(Input::Command(_)) | Self::Y4m(Input::Command(_)) => true,
            Self::Mjpeg(Input::Path(_)) | Self::Y4m(Input::Path(_)) => self.is_live(),
            Self::Mjpeg(_) | Self::Y4m(_) => false,
            Self::Folder { watch, .. } => *watch,
            #[cfg(feature = "v4l")]
            Self::Device(_) => true,
        }
    }

    /// Whether a thread that waits for the source finds out that the camera was stopped.
    pub(super) fn can_be_stopped(&self) -> bool {
        !matches!(
            self,
            Self::Mjpeg(Input::Reader(_)) | Self::Y4m(Input::Reader(_))
        )
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Mjpeg(input) | Self::Y4m(input) => match input {
                Input::Stdin => "standard input".into(),
                Input::Path(path) => path.display().to_string(),
                Input::Command(command) => command.get_program().display().to_string(),
                Input::Reader(_) => "stream".into(),
            },
            Self::Folder { path, .. } => path.display().to_string(),
            #[cfg(feature = "v4l")]
            Self::Device(path) => path.display().to_string(),
        }
    }

    /// Opens the source; a reader can be opened once.
    pub(super) fn open(&mut self, shared: &Arc<Shared>) -> Result<Box<dyn Capture>, Error> {
        Ok(match self {
            Self::Mjpeg(input) => input.open(shared, |stream| {
                Box::new(MjpegReader::new(stream, MAX_JPEG))
            })?,
            Self::Y4m(input) => input.open(shared, |stream| Box::new(Y4m::Unread(Some(stream))))?,
            Self::Folder { path, watch } => {
                Box::new(FolderReader::open(path.clone(), *watch, shared.clone())?)
            }
            #[cfg(feature = "v4l")]
            Self::Device(path) => Box::new(super::device::Device::open(path, shared.clone())?),
        })
    }
}

impl Input {
    /// Opens the input, whose frames `split` finds.
    fn open(
        &mut self,
        shared: &Arc<Shared>,
        split: impl FnOnce(Box<dyn Read + Send>) -> Box<dyn Capture>,
    ) -> Result<Box<dyn Capture>, Error> {
        let polled = |file, restarts| Polled {
            file,
            shared: shared.clone(),
            restarts,
        };
        let failed = |path: &Path, reason: String| Error::Open {
            path: path.to_owned(),
            reason,
        };
        let (file, name) = match self {
            Self::Stdin => (stdin(), Path::new("standard input")),
            Self::Path(path) => (open(path), path.as_path()),
            Self::Command(command) => {
                let (program, output) = Program::start(command).map_err(|e| {
                    let mut reason = e.to_string();
                    if e.kind() == ErrorKind::NotFound {
                        reason += "; expected a program, by its path or in PATH";
                    }
                    failed(command.get_program().as_ref(), reason)
                })?;
                let frames = split(Box::new(polled(output, Some(Instant::now()))));
                return Ok(Box::new(Frames { frames, program }));
            }
            Self::Reader(reader) => {
                return Ok(split(std::mem::replace(reader, Box::new(std::io::empty()))));
            }
        };
        let file = file.map_err(|e| failed(name, e.to_string()))?;
        Ok(split(Box::new(polled(file, None))))
    }
}

/// Not the standard library's: that one has a buffer of its own, of whose bytes `poll` does not know.
fn stdin() -> std::io::Result<File> {
    Ok(File::from(std::io::stdin().as_fd().try_clone_to_owned()?))
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    // A named pipe opens without waiting for who writes it.
    options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    let file = options.read(true).open(path)?;
    match file.metadata()?.is_dir() {
        true => Err(std::io::Error::other("expected a file, found a folder")),
        false => Ok(file),
    }
}

/// A file that is read without being stuck in it once the camera is stopped.
struct Polled {
    file: File,
    shared: Arc<Shared>,
    /// When it was opened, where a stall is a reason to open it again.
    restarts: Option<Instant>,
}

impl Read for Polled {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let look = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(LOOK.subsec_nanos()),
        };
        loop {
            if self.shared.stopped() {
                return Err(std::io::Error::other("the camera was stopped"));
            }
            if let Some(timeout) = self.restarts.and_then(|at| self.shared.stalled(at)) {
                let reason = format!("no frame for {:.1} s", timeout.as_secs_f64());
                return Err(std::io::Error::new(ErrorKind::TimedOut, reason));
            }
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut fds, Some(&look)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(e.into()),
            }
            match self.file.read(buffer) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                other => return other,
            }
        }
    }
}

impl<R: Read + Send> Capture for MjpegReader<R> {
    fn next(&mut self) -> std::io::Result<Option<Came>> {
        Ok(self.next_piece()?.map(|piece| match piece {
            Piece::Frame(bytes) => Came::Frame(Encoded::Jpeg(bytes)),
            Piece::Unended(bytes) => Came::Frame(Encoded::UnendedJpeg(bytes)),
            Piece::Corrupt { reason } => Came::Corrupt { file: None, reason },
        }))
    }

    fn skipped_bytes(&self) -> u64 {
        self.skipped()
    }
}

/// A Y4M stream, whose header is read by the thread that waits for its frames.
enum Y4m {
    Unread(Option<Box<dyn Read + Send>>),
    Open(Y4mReader<Box<dyn Read + Send>>),
}

impl Capture for Y4m {
    fn next(&mut self) -> std::io::Result<Option<Came>> {
        let reader = match self {
            Self::Open(reader) => reader,
            Self::Unread(input) => {
                let Some(input) = input.take() else {
                    return Ok(None);
                };
                *self = Self::Open(Y4mReader::new(input)?);
                return self.next();
            }
        };
        Ok(reader.next_piece()?.map(|piece| match piece {
            RawPiece::Frame(frame) => Came::Frame(Encoded::Yuv(frame)),
            RawPiece::Corrupt { reason } => Came::Corrupt { file: None, reason },
        }))
    }

    fn skipped_bytes(&self) -> u64 {
        match self {
            Self::Unread(_) => 0,
            Self::Open(reader) => reader.skipped(),
        }
    }
}
