//! Text for terminals and logs, and writing to standard streams that may be closed, full or read by nobody.

use std::borrow::Cow;
use std::fmt::{Arguments, Write as _};
use std::fs::File;
use std::io::{Error, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pinhole_model::without_credentials;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A pipe that `poll` reports as writable takes this many bytes without blocking (`PIPE_BUF`).
const UNBLOCKED_BYTES: usize = 4096;

/// Prints a line on stderr, by [`note`](crate::internal::note).
#[doc(hidden)]
#[macro_export]
macro_rules! note {
    ($($message:tt)*) => {
        $crate::internal::note(format_args!($($message)*))
    };
}

/// Prints a line on stderr as [`printable`] text, without passwords ([`without_credentials`]). Stderr may be closed or
/// full, which must not stop the work: nothing fails, and nothing panics as with `eprintln!`.
pub fn note(line: Arguments) {
    let _ = std::io::stderr().write_all(message(line).as_bytes());
}

/// As [`note`], but waits at most `wait` for the reader of a pipe. Whether the line was written.
pub fn note_within(wait: Duration, line: Arguments) -> bool {
    let mut message = message(line);
    if message.len() > UNBLOCKED_BYTES {
        message.truncate(message.floor_char_boundary(UNBLOCKED_BYTES - 1));
        message.push('\n');
    }
    let stderr = std::io::stderr().lock();
    wait_writable(stderr.as_fd(), wait).is_ok_and(|writable| writable) && { stderr }
        .write_all(message.as_bytes())
        .is_ok()
}

fn message(line: Arguments) -> String {
    let line = line.to_string();
    let mut message = printable(&without_credentials(&line)).into_owned();
    message.push('\n');
    message
}

/// A writer of text for people: control characters other than line ends and tabs are written as [`printable`] text.
pub struct PrintableWriter<W>(pub W);

impl<W: Write> Write for PrintableWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut out = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            for part in chunk.valid().split_inclusive(['\n', '\t']) {
                let kept = part.trim_end_matches(['\n', '\t']);
                out += &printable(kept);
                out += &part[kept.len()..];
            }
            push_bytes(&mut out, chunk.invalid());
        }
        self.0.write_all(out.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Standard output without a buffer, for programs that must end while nobody reads their output.
pub struct UnblockedStdout<F> {
    file: File,
    stopped: F,
}

impl<F: Fn() -> bool> UnblockedStdout<F> {
    /// Waits for the reader until `stopped` returns true.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn new(stopped: F) -> std::io::Result<Self> {
        let file = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { file, stopped })
    }
}

impl<F: Fn() -> bool> Write for UnblockedStdout<F> {
    /// # Errors
    /// `TimedOut` if it was stopped while nobody read the output.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            if wait_writable(self.file.as_fd(), Duration::from_millis(100))? {
                match self.file.write(&bytes[..bytes.len().min(UNBLOCKED_BYTES)]) {
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    other => return other,
                }
            }
            if (self.stopped)() {
                return Err(Error::new(ErrorKind::TimedOut, "nobody reads it"));
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether `fd` takes [`UNBLOCKED_BYTES`] within `wait`. Also true if a write fails at once.
fn wait_writable(fd: BorrowedFd, wait: Duration) -> std::io::Result<bool> {
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}

/// `text` with each control character as the bytes of its UTF-8 encoding (`\x1b`), so that a name from a file cannot
/// move a terminal's cursor, and remains on its line.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_control() {
            push_bytes(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// A path as [`printable`] text, with bytes that are not UTF-8 as `\xff`. Different paths stay different: where
/// something is escaped, or looks as if it were, each backslash is doubled.
pub fn printable_path(path: &Path) -> Cow<'_, str> {
    match path.to_str() {
        Some(text) if !text.contains(char::is_control) && !text.contains("\\x") => text.into(),
        _ => escaped(path).into(),
    }
}

/// A path for JSON: as it is if it is UTF-8, which JSON can hold, else as [`printable_path`].
pub fn json_path(path: &Path) -> Cow<'_, str> {
    match path.to_str() {
        Some(text) if !text.contains("\\x") => text.into(),
        _ => escaped(path).into(),
    }
}

fn escaped(path: &Path) -> String {
    let mut out = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        out += &printable(&chunk.valid().replace('\\', "\\\\"));
        push_bytes(&mut out, chunk.invalid());
    }
    out
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn path(bytes: &[u8]) -> &Path {
        Path::new(OsStr::from_bytes(bytes))
    }

    #[test]
    fn control_characters_are_escaped() {
        for (text, expected) in [
            ("a red mug, Käse, 赤", "a red mug, Käse, 赤"),
            ("red\x1b[2J\x07", "red\\x1b[2J\\x07"),
            ("two\r\nlines\t", "two\\x0d\\x0alines\\x09"),
            // C1: some terminals take it for ESC [.
            ("\u{9b}31m\u{7f}", "\\xc2\\x9b31m\\x7f"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }

    /// Each of these names is another file; two of them are what others look like when escaped.
    #[test]
    fn different_paths_stay_different() {
        let names: [&[u8]; 9] = [
            b"caf\xe9.jpg",
            b"caf\xe8.jpg",
            "caf\u{fffd}.jpg".as_bytes(),
            b"caf\\xe9.jpg",
            b"caf\\\\xe9.jpg",
            b"back\\slash.jpg",
            b"line\nend.jpg",
            b"line\\x0aend.jpg",
            b"\x1b]0;title\x07.jpg",
        ];
        for shown in [printable_path, json_path] {
            let texts: Vec<_> = names.iter().map(|name| shown(path(name))).collect();
            for (i, text) in texts.iter().enumerate() {
                assert!(!texts[..i].contains(text), "{text}");
            }
        }
        for name in names {
            assert!(!printable_path(path(name)).contains(char::is_control));
        }
        assert_eq!(printable_path(path(b"caf\xe9\\1.jpg")), "caf\\xe9\\\\1.jpg");
        assert_eq!(printable_path(path(b"back\\slash.jpg")), "back\\slash.jpg");
        assert_eq!(json_path(path(b"line\nend.jpg")), "line\nend.jpg");
    }

    #[test]
    fn written_text_keeps_its_lines_only() {
        let mut out = PrintableWriter(vec![]);
        write!(out, "a\x1b[31m\tb\n\nKäse\r\n").unwrap();
        out.write_all(b"\xff\n").unwrap();
        let text = String::from_utf8(out.0).unwrap();
        assert_eq!(text, "a\\x1b[31m\tb\n\nKäse\\x0d\n\\xff\n");
    }
}
