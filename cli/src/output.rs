//! What commands print: standard output, JSON objects shared by several commands, and errors.

use std::fmt::Write as _;
use std::io::{Error, ErrorKind, StdoutLock, Write};

use pinhole::internal::PrintableWriter;
use pinhole::note;
use serde::Serialize;

/// Standard output. Text written to it has no control characters, whatever names a bundle or a folder holds; errors say
/// that it is standard output that failed.
pub(crate) struct Output<W>(PrintableWriter<W>);

pub(crate) fn stdout() -> Output<StdoutLock<'static>> {
    Output::new(std::io::stdout().lock())
}

impl<W: Write> Output<W> {
    pub(crate) fn new(out: W) -> Self {
        Self(PrintableWriter(out))
    }

    /// Writes one line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut line = json_line(value)?;
        line.push('\n');
        Ok(self.raw(line.as_bytes())?)
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.0.write_all(bytes).map_err(not_written)
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).map_err(not_written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush().map_err(not_written)
    }
}

fn not_written(error: Error) -> Error {
    Error::new(
        error.kind(),
        format!("standard output: cannot write: {error}"),
    )
}

/// JSON without raw control characters. JSON itself escapes those below U+0020 only; the others occur only inside of
/// strings.
fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    if !json.contains(char::is_control) {
        return Ok(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if c.is_control() {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

/// Prints an error with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    note!("error: {error:#}");
}

/// The error of writing to standard output, if it is one. Errors of files have a context.
pub(crate) fn output_error(error: &anyhow::Error) -> Option<ErrorKind> {
    error.downcast_ref::<Error>().map(Error::kind)
}
