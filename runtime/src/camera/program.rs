//! Programs whose standard output is a stream.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::source::{Came, Capture, LOOK};

/// How long a program has to end after it was asked to, and after it was killed.
const GRACE: Duration = Duration::from_secs(1);

/// A program that runs in a process group of its own. Dropping it ends the whole group, such as a shell with its
/// pipeline.
pub(super) struct Program {
    /// `None` once it was waited for.
    child: Option<Child>,
}

impl Program {
    /// Starts `command` without an input. Returns what it writes too.
    pub(super) fn start(command: &mut Command) -> std::io::Result<(Self, File)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.process_group(0).spawn()?;
        let output = child.stdout.take();
        let program = Self { child: Some(child) };
        // Always there, as it was asked for.
        let output = output.ok_or_else(|| Error::other("it has no output"))?;
        Ok((program, OwnedFd::from(output).into()))
    }

    /// Whether the program is over, after waiting for that at most so long. It stays a zombie: as long as nobody
    /// has waited for it, its number is no other group's.
    fn is_over(&self, within: Duration) -> bool {
        let Some(child) = &self.child else {
            return true;
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let until = Instant::now() + within;
        loop {
            match waitid(WaitId::Pid(Pid::from_child(child)), options) {
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                // Also where somebody else has waited for it.
                _ => return true,
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the program and its group: SIGTERM, then SIGKILL for what is left. The status of a program that was
    /// over already is its own.
    fn end(&mut self) -> Option<ExitStatus> {
        let group = Pid::from_child(self.child.as_ref()?);
        // A group that is gone is as good as one that was told.
        let _ = kill_process_group(group, Signal::TERM);
        self.is_over(GRACE);
        let _ = kill_process_group(group, Signal::KILL);
        let over = self.is_over(GRACE);
        let mut child = self.child.take()?;
        if over {
            return child.wait().ok();
        }
        // Stuck in a driver, which may be for ever: the camera does not wait for that.
        let wait = move || child.wait();
        let _ = std::thread::Builder::new().name("wait".into()).spawn(wait);
        None
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// The frames that a program writes. At their end it says how the program ended.
pub(super) struct Frames {
    /// Dropped first: a program that is stuck in writing must be able to end.
    pub(super) frames: Box<dyn Capture>,
    pub(super) program: Program,
}

impl Capture for Frames {
    fn next(&mut self) -> std::io::Result<Option<Came>> {
        let (within, error) = match self.frames.next() {
            Ok(None) => (GRACE, None),
            // A program that has failed may have written what is no stream.
            Err(e) if e.kind() == ErrorKind::InvalidData => (LOOK, Some(e)),
            other => return other,
        };
        let status = match self.program.is_over(within) {
            true => self.program.end().map(describe),
            false => None,
        };
        Err(Error::other(match (status, error) {
            (Some(status), None) => status,
            (Some(status), Some(e)) => format!("{status}; {e}"),
            (None, None) => "it closed its output".into(),
            (None, Some(e)) => e.to_string(),
        }))
    }

    fn skipped_bytes(&self) -> u64 {
        self.frames.skipped_bytes()
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
