//! The table `[source]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::validation::{FieldError, require, require_seconds};

/// Source of the frames: exactly one of `command`, `url`, `mjpeg`, `y4m`, `folder` and `device`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    /// Program with arguments that writes MJPEG to standard output. It runs in the configuration file's folder and is
    /// restarted when it exits or stalls.
    pub command: Option<Vec<String>>,
    /// Network camera, with user and password if it has them: `http` and `https` with MJPEG or a JPEG image; `rtsp` and
    /// others through ffmpeg.
    pub url: Option<String>,
    /// Seconds between two requests of a JPEG image at `url`.
    pub interval_seconds: f64,
    /// MJPEG file, named pipe or device; "-" for standard input.
    pub mjpeg: Option<PathBuf>,
    /// Y4M file, named pipe or device; "-" for standard input.
    pub y4m: Option<PathBuf>,
    /// Folder of images, watched for new ones.
    pub folder: Option<PathBuf>,
    /// Whether the images that are in the folder when it is opened are classified too.
    pub existing: bool,
    /// V4L2 device.
    pub device: Option<PathBuf>,
    /// Use every n-th frame.
    pub every: u64,
    /// Region of each frame to classify: x, y, width, height in pixels.
    pub region: Option<[u32; 4]>,
    /// Decode JPEG frames faster, at 1/2, 1/4 or 1/8 of their size where that leaves the encoder enough pixels; answers
    /// differ slightly.
    pub fast_decode: bool,
    /// Skip frames that differ from the last classified one by no more than this much luma (0 to 255).
    pub still_threshold: Option<f32>,
    /// Seconds without a frame until the source counts as stalled; 0 for never.
    pub timeout_seconds: f64,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            command: None,
            url: None,
            interval_seconds: 1.0,
            mjpeg: None,
            y4m: None,
            folder: None,
            existing: false,
            device: None,
            every: 1,
            region: None,
            fast_decode: false,
            still_threshold: None,
            timeout_seconds: 5.0,
        }
    }
}

impl SourceConfig {
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        let given = [
            self.command.is_some(),
            self.url.is_some(),
            self.mjpeg.is_some(),
            self.y4m.is_some(),
            self.folder.is_some(),
            self.device.is_some(),
        ];
        let given = given.into_iter().filter(|given| *given).count();
        let expected = "one of command, url, mjpeg, y4m, folder and device";
        require(given == 1, "source", expected, given)?;
        if let Some(command) = &self.command {
            let valid = command.first().is_some_and(|program| !program.is_empty());
            let expected = "a program and its arguments";
            require(
                valid,
                "source.command",
                expected,
                format_args!("{command:?}"),
            )?;
        }
        require_seconds("source.interval_seconds", self.interval_seconds)?;
        require(self.every > 0, "source.every", "1 or more", self.every)?;
        if let Some([_, _, width, height]) = self.region {
            require(
                width > 0 && height > 0,
                "source.region",
                "a width and height of 1 or more",
                format_args!("{width} x {height}"),
            )?;
        }
        if let Some(luma) = self.still_threshold {
            let valid = (0.0..=255.0).contains(&luma);
            require(valid, "source.still_threshold", "0 to 255", luma)?;
        }
        require_seconds("source.timeout_seconds", self.timeout_seconds)
    }

    pub(super) fn resolve_paths(&mut self, folder: &Path) {
        let paths = [
            &mut self.mjpeg,
            &mut self.y4m,
            &mut self.folder,
            &mut self.device,
        ];
        for path in paths.into_iter().flatten() {
            if path.as_os_str() != "-" {
                *path = folder.join(&*path);
            }
        }
    }
}
