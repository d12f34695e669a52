//! What commands print: JSON objects shared by several commands, and errors.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use pinhole::{Latency, Ranked};
use serde::Serialize;

/// An entry of `top`.
#[derive(Serialize)]
pub(crate) struct TopClass<'a> {
    class: &'a str,
    index: usize,
    probability: f32,
    similarity: f32,
}

pub(crate) fn top_classes(ranking: &[Ranked], top: usize) -> Vec<TopClass<'_>> {
    (ranking.iter().take(top))
        .map(|c| TopClass {
            class: &c.name,
            index: c.index,
            probability: c.probability,
            similarity: c.similarity,
        })
        .collect()
}

/// `latency_ms`: time of each stage in milliseconds.
#[derive(Serialize)]
pub(crate) struct LatencyMs {
    decode: f64,
    preprocess: f64,
    encode: f64,
    head: f64,
    pub(crate) total: f64,
}

impl LatencyMs {
    pub(crate) fn new(decode: Duration, latency: &Latency) -> Self {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        Self {
            decode: ms(decode),
            preprocess: ms(latency.preprocess),
            encode: ms(latency.encode),
            head: ms(latency.head),
            total: ms(decode + latency.preprocess + latency.encode + latency.head),
        }
    }
}

/// Prints an error with its causes. Stderr may be closed or full, which must not end the program.
pub(crate) fn error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
}

/// Prints a line on stderr; as [`error`], a closed stderr is ignored.
pub(crate) fn note(line: std::fmt::Arguments) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}
