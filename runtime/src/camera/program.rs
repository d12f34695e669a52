//! Child processes whose standard output is a stream.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pinhole_model::without_credentials;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::capture::{Capture, POLL_INTERVAL, Poll};
use crate::standard_streams::{note_within, printable, printable_path};

/// How long to wait for a process to exit after SIGTERM, and again after SIGKILL.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// A child process in a process group of its own. Dropping it terminates the whole group, such as a shell with its
/// pipeline.
pub(super) struct Program {
    /// `None` once it has been reaped.
    child: Option<Child>,
    watchdog: Option<Watchdog>,
    messages: Option<Messages>,
}

impl Program {
    /// Starts `command` with an empty standard input. Returns its standard output too.
    pub(super) fn start(command: &mut Command) -> std::io::Result<(Self, File)> {
        // Without it, the program ends at its next write if this process is killed.
        let watchdog = Watchdog::start().ok();
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn()?;
        let watchdog = watchdog.and_then(|watchdog| watchdog.watch(&child).ok());
        let output = child.stdout.take();
        let errors = child.stderr.take();
        let program = Self {
            child: Some(child),
            watchdog,
            messages: errors.map(|errors| Messages::forward(name_of(command), errors)),
        };
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
        // Before the process is reaped: then its group's number may be another's.
        self.watchdog = None;
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

impl Program {
    /// `reason` with the last line that the program wrote to stderr.
    fn with_last_message(&self, reason: String) -> String {
        let last = self.messages.as_ref().and_then(|messages| {
            messages.last(match self.child {
                Some(_) => Duration::ZERO,
                None => POLL_INTERVAL,
            })
        });
        match last {
            Some(last) => format!("{reason}; its last message: {last}"),
            None => reason,
        }
    }
}

/// The program's name, for messages.
pub(super) fn name_of(command: &Command) -> String {
    printable_path(command.get_program().as_ref()).into_owned()
}

/// A shell that terminates a process group once this process is gone, however it ended: then the pipe between them is
/// closed. Dropping it ends the shell.
struct Watchdog {
    shell: Child,
    input: ChildStdin,
}

impl Watchdog {
    /// Waits for the number of the group, then for the end of its input.
    const SCRIPT: &str = "read -r group && { read -r end; kill -s TERM -- -\"$group\"; sleep 1; \
         kill -s KILL -- -\"$group\"; }";

    fn start() -> std::io::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", Self::SCRIPT])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C and a closed terminal end this process, not the shell.
            .process_group(0)
            .spawn()?;
        match shell.stdin.take() {
            Some(input) => Ok(Self { shell, input }),
            None => Err(Error::other("the shell has no standard input")),
        }
    }

    fn watch(mut self, child: &Child) -> std::io::Result<Self> {
        self.input
            .write_all(format!("{}\n", child.id()).as_bytes())?;
        Ok(self)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// What a program writes to stderr.
struct Messages {
    last: Arc<Mutex<String>>,
    /// Closed at the end.
    ended: Receiver<()>,
}

impl Messages {
    /// Lines at once, and time until one more is printed.
    const BURST: u32 = 10;
    const INTERVAL: Duration = Duration::from_secs(1);
    const MAX_LINE: usize = 500;

    /// Prints the lines of `errors` in a thread of their own, not more than a log can bear.
    fn forward(name: String, errors: impl Read + Send + 'static) -> Self {
        let last = Arc::new(Mutex::new(String::new()));
        let (sender, ended) = sync_channel::<()>(0);
        let kept = last.clone();
        let forward = move || {
            let _sender = sender;
            let (mut allowed, mut hidden, mut refilled) = (Self::BURST, 0u64, Instant::now());
            for_each_line(errors, Self::MAX_LINE, |line| {
                let line = printable(&without_credentials(line)).into_owned();
                let refills = refilled.elapsed().as_secs() / Self::INTERVAL.as_secs();
                if refills > 0 {
                    refilled = Instant::now();
                    let refills = u32::try_from(refills).unwrap_or(u32::MAX);
                    allowed = allowed.saturating_add(refills).min(Self::BURST);
                }
                if allowed == 0 {
                    hidden += 1;
                } else {
                    allowed -= 1;
                    let before = match std::mem::take(&mut hidden) {
                        0 => String::new(),
                        hidden => format!(" ({hidden} lines before it are not shown)"),
                    };
                    note_within(POLL_INTERVAL, format_args!("{name}: {line}{before}"));
                }
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = line;
            });
        };
        // Without the thread, the program's writes to stderr fail.
        let _ = std::thread::Builder::new()
            .name("messages".into())
            .spawn(forward);
        Self { last, ended }
    }

    /// The last line so far; waits up to `within` for the end.
    fn last(&self, within: Duration) -> Option<String> {
        let _ = self.ended.recv_timeout(within);
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (!last.is_empty()).then(|| last.clone())
    }
}

/// Calls `f` with each line that is not empty, cut off after `max` bytes. A carriage return ends a line too.
fn for_each_line(mut input: impl Read, max: usize, mut f: impl FnMut(&str)) {
    let mut line = vec![];
    let mut buffer = [0; 4096];
    loop {
        let read = match input.read(&mut buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Ok(read) if read > 0 => read,
            _ => break,
        };
        for byte in &buffer[..read] {
            match byte {
                b'\n' | b'\r' => emit(&mut line, &mut f),
                _ if line.len() < max => line.push(*byte),
                _ => {}
            }
        }
    }
    emit(&mut line, &mut f);
}

fn emit(line: &mut Vec<u8>, f: &mut impl FnMut(&str)) {
    let text = String::from_utf8_lossy(line);
    if !text.trim().is_empty() {
        f(text.trim());
    }
    line.clear();
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
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => (GRACE_PERIOD, None),
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                return Err(Error::other(self.program.with_last_message(e.to_string())));
            }
            // A process that failed may have written something that is not a stream.
            Err(e) if e.kind() == ErrorKind::InvalidData => (POLL_INTERVAL, Some(e)),
            other => return other,
        };
        let exited = self.program.has_exited(within);
        let status = exited
            .then(|| self.program.terminate().map(describe))
            .flatten();
        let reason = match (status, error) {
            (Some(status), None) => status,
            (Some(status), Some(e)) => format!("{status}; {e}"),
            (None, None) => "the process closed its output".into(),
            (None, Some(e)) => e.to_string(),
        };
        Err(Error::other(self.program.with_last_message(reason)))
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
