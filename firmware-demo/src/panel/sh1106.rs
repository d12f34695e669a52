//! SH1106: OLED, 128 x 64 pixels, over I2C. It is driven as an SSD1306 in page addressing mode, whose commands it shares;
//! its memory has 132 columns, of which the glass shows the middle ones.

use serde::Deserialize;

use super::ssd1306::Ssd1306Config;
#[cfg(feature = "ssd1306")]
use super::ssd1306::{self, OledController};
use super::{Panel, PanelConfig, PanelError};
use crate::validation::FieldError;

/// The usual glass, wired to the middle columns.
#[cfg(feature = "ssd1306")]
pub const SH1106: OledController = OledController {
    columns: 132,
    first_column: 2,
};

/// The table `[display]` of an SH1106.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Sh1106Config(pub Ssd1306Config);

impl PanelConfig for Sh1106Config {
    fn validate(&self) -> Result<(), FieldError> {
        self.0.validate()
    }

    fn is_monochrome(&self) -> bool {
        true
    }

    #[cfg(feature = "ssd1306")]
    fn open(&self) -> Result<Box<dyn Panel>, PanelError> {
        ssd1306::open(&SH1106, &self.0)
    }

    #[cfg(not(feature = "ssd1306"))]
    fn open(&self) -> Result<Box<dyn Panel>, PanelError> {
        Err(PanelError::Feature {
            kind: "sh1106",
            feature: "ssd1306",
        })
    }
}
