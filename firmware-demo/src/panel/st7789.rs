//! ST7789, a TFT controller.

use serde::Deserialize;

use super::tft::{TftConfig, TftController};
use super::{Panel, PanelConfig, PanelError};
use crate::validation::FieldError;

/// With the usual IPS glass of 240 x 240 pixels.
pub const ST7789: TftController = TftController {
    memory: [240, 320],
    glass: [240, 240],
    rotation: 0,
    mirrored: false,
    inverted: true,
    bgr: false,
};

/// The table `[display]` of an ST7789.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct St7789Config(pub TftConfig);

impl PanelConfig for St7789Config {
    fn validate(&self) -> Result<(), FieldError> {
        ST7789.validate(&self.0)
    }

    #[cfg(feature = "mipidsi")]
    fn open(&self) -> Result<Box<dyn Panel>, PanelError> {
        super::tft::open(mipidsi::models::ST7789, &ST7789, &self.0)
    }

    #[cfg(not(feature = "mipidsi"))]
    fn open(&self) -> Result<Box<dyn Panel>, PanelError> {
        Err(PanelError::Feature {
            kind: "st7789",
            feature: "mipidsi",
        })
    }
}
