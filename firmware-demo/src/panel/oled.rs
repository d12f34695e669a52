//! SSD1306 by I2C.

use std::fmt::Display;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_hal::i2c::{ErrorType, I2c, Operation};
use linux_embedded_hal::I2cdev;
use ssd1306::command::AddrMode;
use ssd1306::mode::BasicMode;
use ssd1306::prelude::{Brightness, DisplayRotation, DisplaySize128x64, I2CInterface};
use ssd1306::{I2CDisplayInterface, Ssd1306};

use super::changes::changes;
use super::{Error, Panel, cannot_open};
use crate::canvas::Canvas;
use crate::config;

const WIDTH: usize = 128;
const HEIGHT: usize = 64;
/// Rows of bytes, each a column of eight pixels.
const PAGES: usize = HEIGHT / 8;

/// An OLED of 128 x 64 pixels. A pixel that is not black is lit.
pub struct Oled<I2C>
where
    I2C: I2c,
    I2C::Error: Display,
{
    bus: Bus<I2C>,
    path: String,
    address: u8,
    rotation: DisplayRotation,
    shown: Vec<u8>,
}

type Driver<'a, I2C> = Ssd1306<I2CInterface<&'a mut Bus<I2C>>, DisplaySize128x64, BasicMode>;

/// Opens the bus of the configuration and initialises the display.
pub(super) fn open(config: &config::Ssd1306) -> Result<Oled<I2cdev>, Error> {
    let i2c = I2cdev::new(&config.i2c)
        .map_err(|e| cannot_open(&config.i2c, "display.i2c", "I2C", "i2c", &e.into()))?;
    Oled::new(i2c, config)
}

impl<I2C> Oled<I2C>
where
    I2C: I2c,
    I2C::Error: Display,
{
    /// Initialises a display, which shows black then.
    ///
    /// # Errors
    /// [`Error::Bus`].
    pub fn new(i2c: I2C, config: &config::Ssd1306) -> Result<Self, Error> {
        let mut oled = Self {
            bus: Bus { i2c, failure: None },
            path: config.i2c.display().to_string(),
            address: config.address,
            rotation: match config.upside_down {
                false => DisplayRotation::Rotate0,
                true => DisplayRotation::Rotate180,
            },
            shown: vec![0; WIDTH * PAGES],
        };
        let brightness = Brightness::custom(2, config.brightness);
        oled.drive(|driver| {
            // Before it is turned on: its memory holds noise at first.
            driver.set_addr_mode(AddrMode::Page)?;
            for page in 0..PAGES {
                driver.set_row(page as u8 * 8)?;
                driver.set_column(0)?;
                driver.draw(&[0; WIDTH])?;
            }
            driver.init_with_addr_mode(AddrMode::Page)?;
            driver.set_brightness(brightness)
        })?;
        Ok(oled)
    }

    /// The driver's own errors do not tell what the bus answered, so [`Bus`] remembers it.
    fn drive<E>(
        &mut self,
        send: impl FnOnce(&mut Driver<'_, I2C>) -> Result<(), E>,
    ) -> Result<(), Error> {
        let interface = I2CDisplayInterface::new_custom_address(&mut self.bus, self.address);
        let mut driver = Ssd1306::new(interface, DisplaySize128x64, self.rotation);
        send(&mut driver).map_err(|_| {
            let failure = self.bus.failure.as_deref().unwrap_or("no answer");
            let other = if self.address == 0x3c { "0x3d" } else { "0x3c" };
            Error::Bus {
                path: self.path.clone(),
                reason: format!(
                    "{failure}: expected a display at address {:#04x}; check its wiring and power, or try \
                     display.address = {other} (i2cdetect lists what answers)",
                    self.address
                ),
            }
        })
    }
}

impl<I2C> Panel for Oled<I2C>
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

    fn show(&mut self, canvas: &Canvas) -> Result<(), Error> {
        let bytes = bytes(canvas);
        for area in changes(Some(&self.shown), &bytes, WIDTH) {
            for page in area.top..=area.bottom {
                self.drive(|driver| {
                    driver.set_row(page as u8 * 8)?;
                    driver.set_column(area.left as u8)?;
                    driver.draw(&bytes[page * WIDTH..][area.left..=area.right])
                })?;
            }
        }
        self.shown = bytes;
        Ok(())
    }
}

impl<I2C> Drop for Oled<I2C>
where
    I2C: I2c,
    I2C::Error: Display,
{
    /// Dark, as an answer that nobody keeps up to date is wrong.
    fn drop(&mut self) {
        if self.bus.failure.is_none() {
            let _ = self.drive(|driver| driver.set_display_on(false));
        }
    }
}

/// Page after page, each from the left, with the topmost pixel in the lowest bit.
fn bytes(canvas: &Canvas) -> Vec<u8> {
    let mut bytes = vec![0; WIDTH * PAGES];
    for (y, row) in canvas.pixels().chunks_exact(WIDTH).take(HEIGHT).enumerate() {
        for (x, pixel) in row.iter().enumerate() {
            bytes[y / 8 * WIDTH + x] |= u8::from(*pixel != Rgb888::BLACK) << (y % 8);
        }
    }
    bytes
}

/// The bus, and the last error of it.
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
