//! ILI9341, a TFT controller.

use serde::Deserialize;

use super::tft::{TftConfig, TftController};
use super::{Panel, PanelConfig, PanelError};
use crate::validation::FieldError;

/// With the usual glass of 320 x 240 pixels, on boards with a touch screen and an SD card slot.
pub const ILI9341: TftController = TftController {
    memory: [240, 320],
    glass: [240, 320],
    rotation: 90,
    mirrored: true,
    inverted: false,
    bgr: true,
};

/// The table `[display]` of an ILI9341.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Ili9341Config(pub TftConfig);

impl PanelConfig for Ili9341Config {
    fn validate(&self) -> Result<(), FieldError> {
        ILI9341.validate(&self.0)
    }

    #[cfg(feature = "mipidsi")]
    fn open(&self) -> Result<Box<dyn Panel>, PanelError> {
        super::tft::open(mipidsi::models::ILI9341Rgb565, &ILI9341, &self.0)
    }

    #[cfg(not(feature = "mipidsi"))]
    fn open(&self) -> Result<Box<dyn Panel>, PanelError> {
        Err(PanelError::Feature {
            kind: "ili9341",
            feature: "mipidsi",
        })
    }
}
