//! What a display has to implement.

use std::path::Path;

use embedded_graphics::prelude::Size;

use crate::canvas::Canvas;
use crate::validation::FieldError;

/// An initialised display.
pub trait Panel: Send {
    /// Width and height in pixels, as mounted.
    fn size(&self) -> Size;

    /// Whether each pixel is either black or lit.
    fn is_monochrome(&self) -> bool {
        false
    }

    /// Shows `canvas`, which has the panel's size. After an error the panel's state is undefined: open it again.
    ///
    /// # Errors
    /// [`PanelError::Bus`].
    fn show(&mut self, canvas: &Canvas) -> Result<(), PanelError>;
}

/// The table `[display]` of one kind of display.
pub trait PanelConfig {
    /// Checks the fields.
    ///
    /// # Errors
    /// The first field that is out of range.
    fn validate(&self) -> Result<(), FieldError> {
        Ok(())
    }

    /// Resolves relative paths against `folder`, the configuration file's folder.
    fn resolve_paths(&mut self, _folder: &Path) {}

    /// Whether each pixel is either black or lit.
    fn is_monochrome(&self) -> bool {
        false
    }

    /// Opens and initialises the display.
    ///
    /// # Errors
    /// Any of [`PanelError`].
    fn open(&self) -> Result<Box<dyn Panel>, PanelError>;
}

/// Why a display cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PanelError {
    /// A device or file of the display cannot be opened.
    #[error("{path}: cannot open: {reason}")]
    Open {
        /// Device or file.
        path: String,
        /// The system's error, or what was expected and what was found.
        reason: String,
    },
    /// Writing to the display failed.
    #[error("display on {path}: {reason}")]
    Bus {
        /// Device or file.
        path: String,
        /// The error of the driver or the system.
        reason: String,
    },
    /// The program was built without the display's driver.
    #[error(
        "display.kind: {kind}: this pinhole-firmware was built without the Cargo feature {feature}; build it with \
         --features {feature}"
    )]
    Feature {
        /// As in the configuration.
        kind: &'static str,
        /// Cargo feature.
        feature: &'static str,
    },
}

impl PanelError {
    /// A device file cannot be opened. `field` names it in the configuration, `bus` is what has to be enabled, and
    /// members of `group` may use it.
    pub fn open_device(
        path: &Path,
        field: &str,
        bus: &str,
        group: &str,
        error: &std::io::Error,
    ) -> Self {
        use std::io::ErrorKind;
        let advice = match error.kind() {
            ErrorKind::NotFound => {
                format!("; enable {bus} (sudo raspi-config), or correct {field}")
            }
            ErrorKind::PermissionDenied => {
                format!("; run as a user in the group {group}, or as root")
            }
            _ => String::new(),
        };
        Self::Open {
            path: path.display().to_string(),
            reason: format!("{error}{advice}"),
        }
    }
}
