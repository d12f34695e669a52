//! Byte streams as sources: standard input, files, named pipes, child processes and readers.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::capture::{Capture, CaptureSource, POLL_INTERVAL};
use super::error::CameraError;
use super::program::{Program, ProgramCapture, name_of};
use super::slot::Shared;
use crate::standard_streams::printable_path;

/// Where the bytes of a stream come from.
pub enum StreamInput {
    /// Standard input.
    Stdin,
    /// A file, a named pipe or a device.
    Path(PathBuf),
    /// The standard output of a child process, such as `rpicam-vid --codec mjpeg -o - -t 0`. The process is restarted
    /// when it exits, and when it delivers no frame for longer than
    /// [`CameraOptions::timeout`](super::CameraOptions::timeout), which must exceed the time to its first frame. A
    /// [`SourceEvent`](super::SourceEvent) reports the exit status.
    ///
    /// The process has no standard input, and a process group of its own. The whole group receives SIGTERM, and
    /// after at most one second SIGKILL, before a restart and when the camera stops or is dropped. A shell that waits
    /// beside it does the same if this process is killed.
    ///
    /// Lines on its standard error are printed on that of this process, after its name: ten at once, then one per
    /// second. The last one is part of the reason in [`SourceEventKind::Lost`](super::SourceEventKind::Lost).
    Command(Box<Command>),
    /// Any other reader. A thread that blocks in `read` outlives the camera until `read` returns.
    Reader(Box<dyn Read + Send>),
}

/// Splits a stream into frames.
pub(super) type Splitter = fn(Box<dyn Read + Send>) -> Box<dyn Capture>;

/// A stream and its format.
pub(super) struct StreamSource {
    input: StreamInput,
    split: Splitter,
}

impl StreamSource {
    pub(super) fn new(input: StreamInput, split: Splitter) -> Self {
        Self { input, split }
    }
}

impl CaptureSource for StreamSource {
    fn name(&self) -> String {
        match &self.input {
            StreamInput::Stdin => "standard input".into(),
            StreamInput::Path(path) => printable_path(path).into_owned(),
            StreamInput::Command(command) => name_of(command),
            StreamInput::Reader(_) => "stream".into(),
        }
    }

    fn is_live(&self) -> bool {
        let is_file = |metadata: std::io::Result<std::fs::Metadata>| {
            metadata.is_ok_and(|metadata| metadata.is_file())
        };
        match &self.input {
            StreamInput::Stdin => !is_file(stdin().and_then(|file| file.metadata())),
            StreamInput::Path(path) => !is_file(std::fs::metadata(path)),
            StreamInput::Command(_) | StreamInput::Reader(_) => true,
        }
    }

    fn can_reopen(&self) -> bool {
        match &self.input {
            StreamInput::Command(_) => true,
            StreamInput::Path(_) => self.is_live(),
            StreamInput::Stdin | StreamInput::Reader(_) => false,
        }
    }

    fn is_interruptible(&self) -> bool {
        !matches!(self.input, StreamInput::Reader(_))
    }

    /// A [`StreamInput::Reader`] can be opened once.
    fn open(&mut self, shared: &Arc<Shared>) -> Result<Box<dyn Capture>, CameraError> {
        let polled = |file, stalls_since| PolledFile {
            file,
            shared: shared.clone(),
            stalls_since,
        };
        let failed = |path: &Path, reason: String| CameraError::Open {
            path: path.to_owned(),
            reason,
        };
        let (file, name) = match &mut self.input {
            StreamInput::Stdin => (stdin(), Path::new("standard input")),
            StreamInput::Path(path) => (open(path), path.as_path()),
            StreamInput::Command(command) => {
                let (program, output) = Program::start(command).map_err(|e| {
                    let mut reason = e.to_string();
                    if e.kind() == ErrorKind::NotFound {
                        reason += "; expected a program in PATH, or the path of one";
                        if command.get_program() == "ffmpeg" {
                            reason += "; install the package ffmpeg";
                        }
                    }
                    failed(command.get_program().as_ref(), reason)
                })?;
                let frames = (self.split)(Box::new(polled(output, Some(Instant::now()))));
                return Ok(Box::new(ProgramCapture { frames, program }));
            }
            StreamInput::Reader(reader) => {
                let reader = std::mem::replace(reader, Box::new(std::io::empty()));
                return Ok((self.split)(reader));
            }
        };
        let file = file.map_err(|e| failed(name, e.to_string()))?;
        Ok((self.split)(Box::new(polled(file, None))))
    }
}

/// Standard input without the standard library's buffer, whose bytes `poll` cannot see.
fn stdin() -> std::io::Result<File> {
    Ok(File::from(std::io::stdin().as_fd().try_clone_to_owned()?))
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    // Opening a named pipe must not wait for a writer.
    options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    let file = options.read(true).open(path)?;
    match file.metadata()?.is_dir() {
        true => Err(std::io::Error::other(
            "expected a file, found a folder; --folder reads the images of a folder",
        )),
        false => Ok(file),
    }
}

/// A file whose `read` returns soon after the camera is stopped.
struct PolledFile {
    file: File,
    shared: Arc<Shared>,
    /// When it was opened, if a stall is to end the stream.
    stalls_since: Option<Instant>,
}

impl Read for PolledFile {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let interval = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(POLL_INTERVAL.subsec_nanos()),
        };
        loop {
            if self.shared.stopped() {
                return Err(std::io::Error::other("the camera was stopped"));
            }
            if let Some(timeout) = self.stalls_since.and_then(|at| self.shared.check_stall(at)) {
                let reason = format!("no frame for {:.1} s", timeout.as_secs_f64());
                return Err(std::io::Error::new(ErrorKind::TimedOut, reason));
            }
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut fds, Some(&interval)) {
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
