//! PNG files in the place of a display.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use embedded_graphics::prelude::*;

use super::{Error, Panel};
use crate::canvas::Canvas;
use crate::config;

/// Writes each picture as a PNG file. A picture is written beside its place and renamed, so that whoever looks at
/// the folder never finds half of one.
#[derive(Debug)]
pub struct Simulator {
    folder: PathBuf,
    size: Size,
    monochrome: bool,
    keep: u32,
    shown: u64,
}

impl Simulator {
    /// Makes the folder where it is missing.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open(config: &config::Simulator) -> Result<Self, Error> {
        std::fs::create_dir_all(&config.folder).map_err(|e| Error::Open {
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
            // Less the umask; by itself nobody else could look at it.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(&self.folder)?;
        crate::picture::write_png(std::io::BufWriter::new(file.as_file()), canvas)?;
        file.persist(self.folder.join(name)).map_err(|e| e.error)?;
        Ok(())
    }
}

impl Panel for Simulator {
    fn size(&self) -> Size {
        self.size
    }

    fn is_monochrome(&self) -> bool {
        self.monochrome
    }

    fn show(&mut self, canvas: &Canvas) -> Result<(), Error> {
        self.shown += 1;
        let show = || {
            self.write(canvas, "screen.png")?;
            if self.keep > 0 {
                self.write(canvas, &format!("{:06}.png", self.shown))?;
                if let Some(old) = self.shown.checked_sub(u64::from(self.keep)) {
                    // It is missing after a start anew.
                    let _ = std::fs::remove_file(self.folder.join(format!("{old:06}.png")));
                }
            }
            Ok(())
        };
        show().map_err(|e: std::io::Error| Error::Bus {
            path: self.folder.display().to_string(),
            reason: e.to_string(),
        })
    }
}
