//! Configuration of a TFT.

use std::path::PathBuf;

use serde::Deserialize;

use crate::validation::{FieldError, require};

/// The table `[display]` of a TFT. Fields without a value take the controller's default
/// ([`TftController`](super::TftController)).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TftConfig {
    /// SPI device.
    pub spi: PathBuf,
    /// SPI clock in MHz.
    pub mhz: u32,
    /// SPI mode: 0, or 3 for a display without a chip select line.
    pub spi_mode: u32,
    /// GPIO device of the lines below.
    pub gpio: PathBuf,
    /// Data/command line.
    pub dc: u32,
    /// Reset line, if it is wired.
    pub reset: Option<u32>,
    /// Backlight line, if it is wired.
    pub backlight: Option<u32>,
    /// Width in pixels as mounted, after the rotation.
    pub width: Option<u32>,
    /// Height in pixels as mounted, after the rotation.
    pub height: Option<u32>,
    /// First column and row of the controller's memory that the glass shows, before the rotation.
    pub offset: [u32; 2],
    /// Clockwise rotation: 0, 90, 180 or 270 degrees.
    pub rotation: Option<u32>,
    /// Whether the panel needs inverted colours.
    pub inverted: Option<bool>,
    /// Whether blue and red are swapped.
    pub bgr: Option<bool>,
}

impl Default for TftConfig {
    fn default() -> Self {
        Self {
            spi: "/dev/spidev0.0".into(),
            mhz: 32,
            spi_mode: 0,
            gpio: "/dev/gpiochip0".into(),
            dc: 25,
            reset: None,
            backlight: None,
            width: None,
            height: None,
            offset: [0, 0],
            rotation: None,
            inverted: None,
            bgr: None,
        }
    }
}

impl TftConfig {
    /// Checks the fields that do not depend on the controller.
    pub(super) fn validate_bus(&self) -> Result<(), FieldError> {
        let valid = (1..=125).contains(&self.mhz);
        require(valid, "display.mhz", "1 to 125", self.mhz)?;
        let valid = [0, 3].contains(&self.spi_mode);
        require(valid, "display.spi_mode", "0 or 3", self.spi_mode)
    }
}
