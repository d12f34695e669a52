//! The displays: each shows a [`Canvas`] whole.

mod changes;
mod framebuffer;
mod layout;
#[cfg(feature = "ssd1306")]
mod oled;
mod recorder;
mod simulator;
#[cfg(feature = "mipidsi")]
mod tft;

use embedded_graphics::prelude::Size;

use crate::canvas::Canvas;
use crate::config::Display;

pub use framebuffer::Framebuffer;
pub use layout::{Controller, Layout};
#[cfg(feature = "ssd1306")]
pub use oled::Oled;
pub use recorder::Recorder;
pub use simulator::Simulator;
#[cfg(feature = "mipidsi")]
pub use tft::{Pins, Tft};

/// A display that is ready.
pub trait Panel: Send {
    /// Width and height in pixels, as it is mounted.
    fn size(&self) -> Size;

    /// Whether a pixel is either black or lit.
    fn is_monochrome(&self) -> bool {
        false
    }

    /// Shows `canvas`, which has the panel's size. After an error the panel is in no known state: open it again.
    ///
    /// # Errors
    /// [`Error::Bus`].
    fn show(&mut self, canvas: &Canvas) -> Result<(), Error>;
}

/// Why a display shows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A device or file of the display cannot be opened.
    #[error("{path}: cannot open: {reason}")]
    Open {
        /// Device or file.
        path: String,
        /// The system's answer, or what was expected and what was found.
        reason: String,
    },
    /// The display's bus, or the file in its place, failed.
    #[error("display on {path}: {reason}")]
    Bus {
        /// Device or file.
        path: String,
        /// The driver's or the system's answer.
        reason: String,
    },
    /// This program was built without the display's driver.
    #[error("display kind {kind:?}: this pinhole-firmware was built without the feature {feature}")]
    Feature {
        /// As in the configuration.
        kind: &'static str,
        /// Cargo's feature.
        feature: &'static str,
    },
}

/// Opens the display that the configuration names and initialises it; `None` for none.
///
/// # Errors
/// Any of [`Error`].
pub fn open(display: &Display) -> Result<Option<Box<dyn Panel>>, Error> {
    Ok(Some(match display {
        Display::None => return Ok(None),
        #[cfg(feature = "ssd1306")]
        Display::Ssd1306(config) => Box::new(oled::open(config)?),
        #[cfg(not(feature = "ssd1306"))]
        Display::Ssd1306(_) => {
            return Err(Error::Feature {
                kind: "ssd1306",
                feature: "ssd1306",
            });
        }
        #[cfg(feature = "mipidsi")]
        Display::St7789(config) => Box::new(tft::open_st7789(config)?),
        #[cfg(feature = "mipidsi")]
        Display::Ili9341(config) => Box::new(tft::open_ili9341(config)?),
        #[cfg(not(feature = "mipidsi"))]
        Display::St7789(_) | Display::Ili9341(_) => {
            return Err(Error::Feature {
                kind: "st7789 or ili9341",
                feature: "mipidsi",
            });
        }
        Display::Framebuffer(config) => Box::new(Framebuffer::open(config)?),
        Display::Simulator(config) => Box::new(Simulator::open(config)?),
    }))
}

/// The error of a device file that cannot be opened, with what to do about it. `field` names it in the configuration,
/// `bus` is what must be enabled, and `group` may use it.
#[cfg(any(feature = "ssd1306", feature = "mipidsi"))]
fn cannot_open(
    path: &std::path::Path,
    field: &str,
    bus: &str,
    group: &str,
    error: &std::io::Error,
) -> Error {
    use std::io::ErrorKind;
    let advice = match error.kind() {
        ErrorKind::NotFound => format!("; enable {bus} (sudo raspi-config), or correct {field}"),
        ErrorKind::PermissionDenied => {
            format!("; run as a user in the group {group}, or as root")
        }
        _ => String::new(),
    };
    Error::Open {
        path: path.display().to_string(),
        reason: format!("{error}{advice}"),
    }
}
