//! Options of a camera.

use std::time::Duration;

use pinhole_preprocessing::DecodeOptions;

use super::error::CameraError;
use super::region::Region;

/// Options of [`Camera::open`](super::Camera::open).
#[derive(Clone, Debug)]
pub struct CameraOptions {
    /// Whether a newer frame replaces an older one (live), or every frame is used. Default:
    /// [`FrameSource::is_live`](super::FrameSource::is_live).
    pub live: Option<bool>,
    /// Use every n-th frame, at least 1.
    pub every: u64,
    /// Crop each frame to this region of interest.
    pub region: Option<Region>,
    /// Skip frames whose mean luma (0..255) in each of 16 x 16 cells differs from the last classified frame by no
    /// more than this. `None` classifies every frame.
    pub still_threshold: Option<f32>,
    /// Report a stall after this time without a frame; a child process ([`StreamInput::Command`]) is also restarted.
    /// `None` waits indefinitely.
    ///
    /// [`StreamInput::Command`]: super::StreamInput::Command
    pub timeout: Option<Duration>,
    /// Pause before the first attempt to reopen the source. It doubles with each attempt, up to 30 times this value.
    pub reopen_pause: Duration,
    /// How images are decoded.
    pub decode: DecodeOptions,
}

impl Default for CameraOptions {
    fn default() -> Self {
        Self {
            live: None,
            every: 1,
            region: None,
            still_threshold: None,
            timeout: Some(Duration::from_secs(5)),
            reopen_pause: Duration::from_secs(1),
            decode: DecodeOptions::default(),
        }
    }
}

impl CameraOptions {
    pub(super) fn check(&self) -> Result<(), CameraError> {
        let out_of_range = |option, expected, found: String| {
            Err(CameraError::Option {
                option,
                expected,
                found,
            })
        };
        if self.every == 0 {
            return out_of_range("every", "1 or more", "0".into());
        }
        // Added to times of the clock, which more would overflow.
        const LONGEST: Duration = Duration::from_secs(1 << 28);
        for (option, value) in [
            ("timeout", self.timeout.unwrap_or_default()),
            ("reopen pause", self.reopen_pause),
        ] {
            if value > LONGEST {
                return out_of_range(option, "up to 8 years", format!("{value:?}"));
            }
        }
        match self.still_threshold {
            Some(t) if !(0.0..=255.0).contains(&t) => {
                out_of_range("still threshold", "0 to 255", t.to_string())
            }
            _ => Ok(()),
        }
    }
}
