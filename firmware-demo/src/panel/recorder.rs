//! A run, kept in memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use embedded_graphics::prelude::Size;

use super::{Error, Panel};
use crate::canvas::Canvas;

/// A panel that keeps what it shows, with the time of each picture.
#[derive(Clone, Debug)]
pub struct Recorder {
    size: Size,
    monochrome: bool,
    limit: usize,
    shown: Arc<Mutex<Vec<(Canvas, Instant)>>>,
}

impl Recorder {
    /// A recorder of pictures of `size`, at most `limit` of them.
    pub fn new(size: Size, monochrome: bool, limit: usize) -> Self {
        Self {
            size,
            monochrome,
            limit,
            shown: Arc::default(),
        }
    }

    /// What was shown, each picture with the time until the next one, the last one with the time until now.
    pub fn take(&self) -> Vec<(Canvas, Duration)> {
        let shown = std::mem::take(&mut *self.shown.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ends: Vec<Instant> = shown.iter().skip(1).map(|(_, at)| *at).collect();
        ends.push(Instant::now());
        (shown.into_iter().zip(ends))
            .map(|((canvas, at), end)| (canvas, end - at))
            .collect()
    }
}

impl Panel for Recorder {
    fn size(&self) -> Size {
        self.size
    }

    fn is_monochrome(&self) -> bool {
        self.monochrome
    }

    fn show(&mut self, canvas: &Canvas) -> Result<(), Error> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let new = shown.last().is_none_or(|(last, _)| last != canvas);
        if new && shown.len() < self.limit {
            shown.push((canvas.clone(), Instant::now()));
        }
        Ok(())
    }
}
