//! Displays. Each shows a whole [`Canvas`](crate::canvas::Canvas).
//!
//! A display is one file with its configuration ([`PanelConfig`]) and its driver ([`Panel`]). It is registered here: as a
//! module and as an entry of `displays!`.

pub mod framebuffer;
pub mod ili9341;
pub mod sh1106;
pub mod simulator;
pub mod ssd1306;
pub mod st7789;

pub mod tft;

mod changes;
mod interface;
mod recorder;

use std::path::Path;

use serde::Deserialize;

use crate::validation::FieldError;

pub use interface::{Panel, PanelConfig, PanelError};
pub use recorder::RecordingPanel;

displays! {
    /// OLED, 128 x 64 pixels, over I2C.
    Ssd1306(ssd1306::Ssd1306Config),
    /// OLED, 128 x 64 pixels, over I2C.
    Sh1106(sh1106::Sh1106Config),
    /// Colour TFT over SPI, by default 240 x 240 pixels.
    St7789(st7789::St7789Config),
    /// Colour TFT over SPI, by default 320 x 240 pixels.
    Ili9341(ili9341::Ili9341Config),
    /// Linux framebuffer, such as an HDMI screen without a desktop.
    Framebuffer(framebuffer::FramebufferConfig),
    /// PNG files instead of a display.
    Simulator(simulator::SimulatorConfig),
}

/// Defines [`DisplayConfig`]. `kind` is the variant's name in lower case.
macro_rules! displays {
    ($($(#[$doc:meta])* $kind:ident($config:ty),)*) => {
        /// The table `[display]`: which display shows the screens.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(tag = "kind", rename_all = "lowercase")]
        pub enum DisplayConfig {
            /// No display.
            #[default]
            None,
            $($(#[$doc])* $kind($config),)*
        }

        impl DisplayConfig {
            fn panel(&self) -> Option<&dyn PanelConfig> {
                match self {
                    Self::None => None,
                    $(Self::$kind(config) => Some(config),)*
                }
            }

            fn panel_mut(&mut self) -> Option<&mut dyn PanelConfig> {
                match self {
                    Self::None => None,
                    $(Self::$kind(config) => Some(config),)*
                }
            }
        }
    };
}
use displays;

impl DisplayConfig {
    /// Whether each pixel is either black or lit.
    pub fn is_monochrome(&self) -> bool {
        self.panel().is_some_and(PanelConfig::is_monochrome)
    }

    /// Opens and initialises the display; `None` without one.
    ///
    /// # Errors
    /// Any of [`PanelError`].
    pub fn open(&self) -> Result<Option<Box<dyn Panel>>, PanelError> {
        self.panel().map(PanelConfig::open).transpose()
    }

    pub(crate) fn validate(&self) -> Result<(), FieldError> {
        self.panel().map_or(Ok(()), PanelConfig::validate)
    }

    pub(crate) fn resolve_paths(&mut self, folder: &Path) {
        if let Some(panel) = self.panel_mut() {
            panel.resolve_paths(folder);
        }
    }
}
