//! SSD1306: OLED, 128 x 64 pixels, over I2C.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Panel, PanelConfig, PanelError};
use crate::validation::{FieldError, require};

#[cfg(feature = "ssd1306")]
pub(super) use driver::open;
#[cfg(feature = "ssd1306")]
pub use driver::{OledController, SSD1306, Ssd1306Panel};

/// The table `[display]` of an SSD1306.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ssd1306Config {
    /// I2C bus.
    pub i2c: PathBuf,
    /// 7-bit I2C address: 0x3c or 0x3d.
    pub address: u8,
    /// Whether the picture is rotated by 180 degrees.
    pub upside_down: bool,
    /// Brightness, 0 to 255.
    pub brightness: u8,
}

impl Default for Ssd1306Config {
    fn default() -> Self {
        Self {
            i2c: "/dev/i2c-1".into(),
            address: 0x3c,
            upside_down: false,
            brightness: 0x7f,
        }
    }
}

impl PanelConfig for Ssd1306Config {
    fn validate(&self) -> Result<(), FieldError> {
        require(
            [0x3c, 0x3d].contains(&self.address),
            "display.address",
            "0x3c or 0x3d",
            format_args!("{:#x}", self.address),
        )
    }

    fn is_monochrome(&self) -> bool {
        true
    }

    #[cfg(feature = "ssd1306")]
    fn open(&self) -> Result<Box<dyn Panel>, PanelError> {
        open(&SSD1306, self)
    }

    #[cfg(not(feature = "ssd1306"))]
    fn open(&self) -> Result<Box<dyn Panel>, PanelError> {
        Err(PanelError::Feature {
            kind: "ssd1306",
            feature: "ssd1306",
        })
    }
}

#[cfg(feature = "ssd1306")]
mod driver {
    use std::fmt::Display;

    use embedded_graphics::pixelcolor::Rgb888;
    use embedded_graphics::prelude::*;
    use embedded_hal::i2c::{ErrorType, I2c, Operation};
    use linux_embedded_hal::I2cdev;
    use ssd1306::command::AddrMode;
    use ssd1306::mode::BasicMode;
    use ssd1306::prelude::{Brightness, DisplayRotation, DisplaySize128x64, I2CInterface};
    use ssd1306::{I2CDisplayInterface, Ssd1306};

    use crate::canvas::Canvas;
    use crate::panel::changes::changed_areas;
    use crate::panel::ssd1306::Ssd1306Config;
    use crate::panel::{Panel, PanelError};

    const WIDTH: usize = 128;
    const HEIGHT: usize = 64;
    /// A page is a row of bytes, each a column of eight pixels.
    const PAGES: usize = HEIGHT / 8;

    /// What distinguishes the controllers that share this driver.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OledController {
        /// Number of columns of its memory.
        pub columns: u8,
        /// First column that the glass shows.
        pub first_column: u8,
    }

    /// Its memory is as large as the glass.
    pub const SSD1306: OledController = OledController {
        columns: 128,
        first_column: 0,
    };

    /// An initialised SSD1306 or similar. Every pixel that is not black is lit.
    pub struct Ssd1306Panel<I2C>
    where
        I2C: I2c,
        I2C::Error: Display,
    {
        bus: Bus<I2C>,
        path: String,
        first_column: u8,
        address: u8,
        rotation: DisplayRotation,
        shown: Vec<u8>,
    }

    type Driver<'a, I2C> = Ssd1306<I2CInterface<&'a mut Bus<I2C>>, DisplaySize128x64, BasicMode>;

    /// Opens the I2C bus and initialises the display.
    pub(in crate::panel) fn open(
        controller: &OledController,
        config: &Ssd1306Config,
    ) -> Result<Box<dyn Panel>, PanelError> {
        let i2c = I2cdev::new(&config.i2c).map_err(|e| {
            PanelError::open_device(&config.i2c, "display.i2c", "I2C", "i2c", &e.into())
        })?;
        Ok(Box::new(Ssd1306Panel::new(i2c, controller, config)?))
    }

    impl<I2C> Ssd1306Panel<I2C>
    where
        I2C: I2c,
        I2C::Error: Display,
    {
        /// Initialises the display, all black.
        ///
        /// # Errors
        /// [`PanelError::Bus`].
        pub fn new(
            i2c: I2C,
            controller: &OledController,
            config: &Ssd1306Config,
        ) -> Result<Self, PanelError> {
            let mut panel = Self {
                bus: Bus { i2c, failure: None },
                path: config.i2c.display().to_string(),
                first_column: controller.first_column,
                address: config.address,
                rotation: match config.upside_down {
                    false => DisplayRotation::Rotate0,
                    true => DisplayRotation::Rotate180,
                },
                shown: vec![0; WIDTH * PAGES],
            };
            let brightness = Brightness::custom(2, config.brightness);
            let black = vec![0; usize::from(controller.columns)];
            panel.drive(|driver| {
                // Clear the memory before turning the display on: it holds noise after power-on.
                driver.set_addr_mode(AddrMode::Page)?;
                for page in 0..PAGES {
                    driver.set_row(page as u8 * 8)?;
                    driver.set_column(0)?;
                    driver.draw(&black)?;
                }
                driver.init_with_addr_mode(AddrMode::Page)?;
                driver.set_brightness(brightness)
            })?;
            Ok(panel)
        }

        /// Runs `send`. The driver's errors do not include the bus error, so [`Bus`] records it.
        fn drive<E>(
            &mut self,
            send: impl FnOnce(&mut Driver<'_, I2C>) -> Result<(), E>,
        ) -> Result<(), PanelError> {
            let interface = I2CDisplayInterface::new_custom_address(&mut self.bus, self.address);
            let mut driver = Ssd1306::new(interface, DisplaySize128x64, self.rotation);
            send(&mut driver).map_err(|_| {
                let failure = self.bus.failure.as_deref().unwrap_or("no response");
                let other = if self.address == 0x3c { "0x3d" } else { "0x3c" };
                PanelError::Bus {
                    path: self.path.clone(),
                    reason: format!(
                        "{failure}: expected a display at address {:#04x}; check its wiring and power, or try \
                         display.address = {other} (i2cdetect lists the addresses that respond)",
                        self.address
                    ),
                }
            })
        }
    }

    impl<I2C> Panel for Ssd1306Panel<I2C>
    where
        I2C: I2c + Send,
        I2C::Error: Display,
    {
        fn size(&self) -> Size {
            Size::new(WIDTH as u32, HEIGHT as u32)
        }

        fn is_monochrome(&self) -> bool {
            true
        }

        fn show(&mut self, canvas: &Canvas) -> Result<(), PanelError> {
            let bytes = bytes(canvas);
            let first_column = self.first_column;
            for area in changed_areas(Some(&self.shown), &bytes, WIDTH) {
                for page in area.top..=area.bottom {
                    self.drive(|driver| {
                        driver.set_row(page as u8 * 8)?;
                        driver.set_column(first_column + area.left as u8)?;
                        driver.draw(&bytes[page * WIDTH..][area.left..=area.right])
                    })?;
                }
            }
            self.shown = bytes;
            Ok(())
        }
    }

    impl<I2C> Drop for Ssd1306Panel<I2C>
    where
        I2C: I2c,
        I2C::Error: Display,
    {
        /// Turns the display off, so that it does not go on showing an outdated answer.
        fn drop(&mut self) {
            if self.bus.failure.is_none() {
                let _ = self.drive(|driver| driver.set_display_on(false));
            }
        }
    }

    /// The pages from the top, each from the left, with the topmost pixel in the lowest bit.
    fn bytes(canvas: &Canvas) -> Vec<u8> {
        let mut bytes = vec![0; WIDTH * PAGES];
        for (y, row) in canvas.pixels().chunks_exact(WIDTH).take(HEIGHT).enumerate() {
            for (x, pixel) in row.iter().enumerate() {
                bytes[y / 8 * WIDTH + x] |= u8::from(*pixel != Rgb888::BLACK) << (y % 8);
            }
        }
        bytes
    }

    /// An I2C bus that records its last error.
    struct Bus<I2C> {
        i2c: I2C,
        failure: Option<String>,
    }

    impl<I2C: I2c> ErrorType for Bus<I2C> {
        type Error = I2C::Error;
    }

    impl<I2C> I2c for Bus<I2C>
    where
        I2C: I2c,
        I2C::Error: Display,
    {
        fn transaction(
            &mut self,
            address: u8,
            operations: &mut [Operation<'_>],
        ) -> Result<(), Self::Error> {
            (self.i2c.transaction(address, operations))
                .inspect_err(|e| self.failure = Some(e.to_string()))
        }

        fn write(&mut self, address: u8, bytes: &[u8]) -> Result<(), Self::Error> {
            (self.i2c.write(address, bytes)).inspect_err(|e| self.failure = Some(e.to_string()))
        }
    }
}
