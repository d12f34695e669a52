//! Child processes whose standard output is a stream.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::capture::{Capture, POLL_INTERVAL, Poll};

/// How long to wait for a process to exit after SIGTERM, and again after SIGKILL.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// A child process in a process group of its own. Dropping it terminates the whole group, such as a shell with its
/// pipeline.
pub(super) struct Program {
    /// `None` once it has been reaped.
    child: Option<Child>,
}

impl Program {
    /// Starts `command` with an empty standard input. Returns its standard output too.
    pub(super) fn start(command: &mut Command) -> std::io::Result<(Self, File)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.process_group(0).spawn()?;
        let output = child.stdout.take();
        let program = Self { child: Some(child) };
        let output = output.ok_or_else(|| Error::other("the process has no standard output"))?;
        Ok((program, OwnedFd::from(output).into()))
    }

    /// Waits up to `within` for the process to exit; whether it has. It stays a zombie, so that its process ID is not
    /// reused for another group.
    fn has_exited(&self, within: Duration) -> bool {
        let Some(child) = &self.child else {
            return true;
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let until = Instant::now() + within;
        loop {
            match waitid(WaitId::Pid(Pid::from_child(child)), options) {
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                // Also on an error: something else has reaped it.
                _ => return true,
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Terminates the process group: SIGTERM, then SIGKILL for what is left. Returns the exit status; a process that
    /// had already exited keeps its own.
    fn terminate(&mut self) -> Option<ExitStatus> {
        let group = Pid::from_child(self.child.as_ref()?);
        // An error means that the group no longer exists.
        let _ = kill_process_group(group, Signal::TERM);
        self.has_exited(GRACE_PERIOD);
        let _ = kill_process_group(group, Signal::KILL);
        let exited = self.has_exited(GRACE_PERIOD);
        let mut child = self.child.take()?;
        if exited {
            return child.wait().ok();
        }
        // Blocked in a driver, possibly for ever: reap it in a thread of its own.
        let wait = move || child.wait();
        let _ = std::thread::Builder::new().name("reap".into()).spawn(wait);
        None
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.terminate();
    }
}

/// The frames that a process writes. Their end is an error with the exit status.
pub(super) struct ProgramCapture {
    /// Dropped first, so that a process that blocks in a write can exit.
    pub(super) frames: Box<dyn Capture>,
    pub(super) program: Program,
}

impl Capture for ProgramCapture {
    fn next(&mut self) -> std::io::Result<Option<Poll>> {
        let (within, error) = match self.frames.next() {
            Ok(None) => (GRACE_PERIOD, None),
            // A process that failed may have written something that is not a stream.
            Err(e) if e.kind() == ErrorKind::InvalidData => (POLL_INTERVAL, Some(e)),
            other => return other,
        };
        let exited = self.program.has_exited(within);
        let status = exited
            .then(|| self.program.terminate().map(describe))
            .flatten();
        Err(Error::other(match (status, error) {
            (Some(status), None) => status,
            (Some(status), Some(e)) => format!("{status}; {e}"),
            (None, None) => "the process closed its output".into(),
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
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
