//! Simulated display: PNG files.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use embedded_graphics::prelude::*;
use serde::Deserialize;

use super::{Panel, PanelConfig, PanelError};
use crate::canvas::Canvas;
use crate::validation::{FieldError, require};

/// The table `[display]` of a simulated display.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatorConfig {
    /// Folder of the pictures. The newest is `screen.png`.
    pub folder: PathBuf,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Whether each pixel is either black or lit.
    pub monochrome: bool,
    /// Number of pictures to keep in addition to `screen.png`, named 000001.png and so on.
    pub keep: u32,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            folder: "screens".into(),
            width: 240,
            height: 240,
            monochrome: false,
            keep: 0,
        }
    }
}

impl PanelConfig for SimulatorConfig {
    fn validate(&self) -> Result<(), FieldError> {
        let (width, height) = (self.width, self.height);
        require(
            (64..=4096).contains(&width) && (64..=4096).contains(&height),
            "display.width, display.height",
            "64 to 4096 each",
            format_args!("{width} x {height}"),
        )?;
        let valid = self.keep <= 100_000;
        require(valid, "display.keep", "0 to 100000", self.keep)
    }

    fn resolve_paths(&mut self, folder: &Path) {
        self.folder = folder.join(&self.folder);
    }

    fn is_monochrome(&self) -> bool {
        self.monochrome
    }

    fn open(&self) -> Result<Box<dyn Panel>, PanelError> {
        Ok(Box::new(SimulatorPanel::open(self)?))
    }
}

/// Writes each picture as a PNG file, replaced atomically, so that readers never see a partial one. It is not synced: a
/// picture lost in a power cut is outdated anyway.
#[derive(Debug)]
pub struct SimulatorPanel {
    folder: PathBuf,
    size: Size,
    monochrome: bool,
    keep: u32,
    shown: u64,
}

impl SimulatorPanel {
    /// Creates the folder if it does not exist.
    ///
    /// # Errors
    /// [`PanelError::Open`].
    pub fn open(config: &SimulatorConfig) -> Result<Self, PanelError> {
        std::fs::create_dir_all(&config.folder).map_err(|e| PanelError::Open {
            path: config.folder.display().to_string(),
            reason: e.to_string(),
        })?;
        Ok(Self {
            folder: config.folder.clone(),
            size: Size::new(config.width, config.height),
            monochrome: config.monochrome,
            keep: config.keep,
            shown: 0,
        })
    }

    fn write(&self, canvas: &Canvas, name: &str) -> std::io::Result<()> {
        let file = tempfile::Builder::new()
            // Less the umask. The default would let only the owner read the file.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(&self.folder)?;
        crate::image_file::write_png(std::io::BufWriter::new(file.as_file()), canvas)?;
        file.persist(self.folder.join(name)).map_err(|e| e.error)?;
        Ok(())
    }
}

impl Panel for SimulatorPanel {
    fn size(&self) -> Size {
        self.size
    }

    fn is_monochrome(&self) -> bool {
        self.monochrome
    }

    fn show(&mut self, canvas: &Canvas) -> Result<(), PanelError> {
        self.shown += 1;
        let show = || {
            self.write(canvas, "screen.png")?;
            if self.keep > 0 {
                self.write(canvas, &format!("{:06}.png", self.shown))?;
                if let Some(old) = self.shown.checked_sub(u64::from(self.keep)) {
                    // The file does not exist after a restart.
                    let _ = std::fs::remove_file(self.folder.join(format!("{old:06}.png")));
                }
            }
            Ok(())
        };
        show().map_err(|e: std::io::Error| PanelError::Bus {
            path: self.folder.display().to_string(),
            reason: e.to_string(),
        })
    }
}
