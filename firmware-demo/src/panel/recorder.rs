//! Records the pictures of a run in memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use embedded_graphics::prelude::Size;

use super::{Panel, PanelError};
use crate::canvas::Canvas;

/// A panel that keeps every new picture and the time when it was shown.
#[derive(Clone, Debug)]
pub struct RecordingPanel {
    size: Size,
    monochrome: bool,
    limit: usize,
    shown: Arc<Mutex<Vec<(Canvas, Instant)>>>,
}

impl RecordingPanel {
    /// A panel of `size` pixels that keeps at most `limit` pictures.
    pub fn new(size: Size, monochrome: bool, limit: usize) -> Self {
        Self {
            size,
            monochrome,
            limit,
            shown: Arc::default(),
        }
    }

    /// Removes and returns the pictures, each with the time until the next one, the last with the time until now.
    pub fn take(&self) -> Vec<(Canvas, Duration)> {
        let shown = std::mem::take(&mut *self.shown.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ends: Vec<Instant> = shown.iter().skip(1).map(|(_, at)| *at).collect();
        ends.push(Instant::now());
        (shown.into_iter().zip(ends))
            .map(|((canvas, at), end)| (canvas, end - at))
            .collect()
    }
}

impl Panel for RecordingPanel {
    fn size(&self) -> Size {
        self.size
    }

    fn is_monochrome(&self) -> bool {
        self.monochrome
    }

    fn show(&mut self, canvas: &Canvas) -> Result<(), PanelError> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let new = shown.last().is_none_or(|(last, _)| last != canvas);
        if new && shown.len() < self.limit {
            shown.push((canvas.clone(), Instant::now()));
        }
        Ok(())
    }
}
