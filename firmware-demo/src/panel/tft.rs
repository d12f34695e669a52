//! ST7789 and ILI9341 by SPI.

use std::error::Error as _;
use std::fmt::Display;
use std::path::Path;

use embedded_graphics::pixelcolor::Rgb565;
use embedded_graphics::prelude::*;
use embedded_hal::delay::DelayNs;
use embedded_hal::digital::OutputPin;
use embedded_hal::spi::SpiDevice;
use linux_embedded_hal::gpio_cdev::{Chip, LineRequestFlags};
use linux_embedded_hal::spidev::{SpiModeFlags, SpidevOptions};
use linux_embedded_hal::{CdevPin, Delay, SpidevDevice};
use mipidsi::interface::{Interface, InterfaceKind};
use mipidsi::models::{ILI9341Rgb565, Model, ST7789};
use mipidsi::options::{ColorInversion, ColorOrder, Orientation, Rotation};
use mipidsi::{Builder, InitError, NoResetPin};

use super::changes::changes;
use super::{Controller, Error, Layout, Panel, cannot_open};
use crate::canvas::Canvas;
use crate::config;

/// A TFT. Its backlight is on from the first picture to the end.
pub struct Tft<SPI, PIN, MODEL>
where
    SPI: SpiDevice,
    SPI::Error: Display,
    PIN: OutputPin,
    PIN::Error: Display,
    MODEL: Model<ColorFormat = Rgb565>,
{
    driver: mipidsi::Display<Bus<SPI, PIN>, MODEL, NoResetPin>,
    path: String,
    size: Size,
    shown: Option<Vec<Rgb565>>,
    backlight: Option<PIN>,
    /// Kept, as a line that nobody holds may fall.
    _reset: Option<PIN>,
}

/// The lines beside the bus.
#[derive(Debug)]
pub struct Pins<PIN> {
    /// Low for commands, high for data.
    pub dc: PIN,
    /// Resets when low.
    pub reset: Option<PIN>,
    /// Lights when high.
    pub backlight: Option<PIN>,
}

pub(super) fn open_st7789(
    config: &config::Tft,
) -> Result<Tft<SpidevDevice, CdevPin, ST7789>, Error> {
    let (spi, pins) = devices(config)?;
    Tft::st7789(spi, pins, &mut Delay, config)
}

pub(super) fn open_ili9341(
    config: &config::Tft,
) -> Result<Tft<SpidevDevice, CdevPin, ILI9341Rgb565>, Error> {
    let (spi, pins) = devices(config)?;
    Tft::ili9341(spi, pins, &mut Delay, config)
}

impl<SPI, PIN> Tft<SPI, PIN, ST7789>
where
    SPI: SpiDevice,
    SPI::Error: Display,
    PIN: OutputPin,
    PIN::Error: Display,
{
    /// Initialises an ST7789.
    ///
    /// # Errors
    /// [`Error::Open`] for a configuration that does not fit it, [`Error::Bus`].
    pub fn st7789(
        spi: SPI,
        pins: Pins<PIN>,
        delay: &mut impl DelayNs,
        config: &config::Tft,
    ) -> Result<Self, Error> {
        Self::new(ST7789, Controller::St7789, spi, pins, delay, config)
    }
}

impl<SPI, PIN> Tft<SPI, PIN, ILI9341Rgb565>
where
    SPI: SpiDevice,
    SPI::Error: Display,
    PIN: OutputPin,
    PIN::Error: Display,
{
    /// Initialises an ILI9341.
    ///
    /// # Errors
    /// [`Error::Open`] for a configuration that does not fit it, [`Error::Bus`].
    pub fn ili9341(
        spi: SPI,
        pins: Pins<PIN>,
        delay: &mut impl DelayNs,
        config: &config::Tft,
    ) -> Result<Self, Error> {
        Self::new(ILI9341Rgb565, Controller::Ili9341, spi, pins, delay, config)
    }
}

impl<SPI, PIN, MODEL> Tft<SPI, PIN, MODEL>
where
    SPI: SpiDevice,
    SPI::Error: Display,
    PIN: OutputPin,
    PIN::Error: Display,
    MODEL: Model<ColorFormat = Rgb565>,
{
    fn new(
        model: MODEL,
        controller: Controller,
        spi: SPI,
        pins: Pins<PIN>,
        delay: &mut impl DelayNs,
        config: &config::Tft,
    ) -> Result<Self, Error> {
        let path = config.spi.display().to_string();
        let layout = Layout::new(controller, config).map_err(|(field, expected, found)| {
            let reason = format!("{field}: expected {expected}, found {found}");
            open_error(&config.spi, reason)
        })?;
        let bus_error = |reason| Error::Bus {
            path: path.clone(),
            reason,
        };
        let Pins {
            dc,
            mut reset,
            mut backlight,
        } = pins;
        if let Some(pin) = &mut backlight {
            (pin.set_low()).map_err(|e| bus_error(format!("line of the backlight: {e}")))?;
        }
        if let Some(pin) = &mut reset {
            let mut pulse = || {
                pin.set_low()?;
                // Both want 10 µs or more, and 120 ms until they may be woken.
                delay.delay_ms(1);
                pin.set_high()?;
                delay.delay_ms(120);
                Ok(())
            };
            pulse().map_err(|e: PIN::Error| bus_error(format!("line of the reset: {e}")))?;
        }
        let bus = Bus {
            spi,
            dc,
            buffer: Vec::with_capacity(MESSAGE),
        };
        let driver = Builder::new(model, bus)
            .display_size(layout.glass[0], layout.glass[1])
            .display_offset(layout.offset[0], layout.offset[1])
            .orientation(orientation(&layout))
            .invert_colors(match layout.inverted {
                true => ColorInversion::Inverted,
                false => ColorInversion::Normal,
            })
            .color_order(match layout.bgr {
                true => ColorOrder::Bgr,
                false => ColorOrder::Rgb,
            })
            .init(delay)
            .map_err(|e| match e {
                InitError::Interface(reason) => bus_error(reason),
                InitError::ResetPin(never) => match never {},
                InitError::InvalidConfiguration(e) => open_error(&config.spi, format!("{e:?}")),
            })?;
        let [width, height] = layout.size().map(u32::from);
        Ok(Self {
            driver,
            path,
            size: Size::new(width, height),
            shown: None,
            backlight,
            _reset: reset,
        })
    }

    fn send(&mut self, pixels: &[Rgb565]) -> Result<(), String> {
        let width = self.size.width as usize;
        for area in changes(self.shown.as_deref(), pixels, width) {
            let rows = pixels.chunks_exact(width);
            let rows = rows.take(area.bottom + 1).skip(area.top);
            let part = rows.flat_map(|row| row[area.left..=area.right].iter().copied());
            let [left, top] = [area.left, area.top].map(|at| at as u16);
            let [right, bottom] = [area.right, area.bottom].map(|at| at as u16);
            self.driver.set_pixels(left, top, right, bottom, part)?;
        }
        Ok(())
    }
}

impl<SPI, PIN, MODEL> Panel for Tft<SPI, PIN, MODEL>
where
    SPI: SpiDevice + Send,
    SPI::Error: Display,
    PIN: OutputPin + Send,
    PIN::Error: Display,
    MODEL: Model<ColorFormat = Rgb565> + Send,
{
    fn size(&self) -> Size {
        self.size
    }

    fn show(&mut self, canvas: &Canvas) -> Result<(), Error> {
        // The conversion rounds to the nearest.
        let pixels: Vec<_> = canvas.pixels().iter().map(|&p| Rgb565::from(p)).collect();
        let first = self.shown.is_none();
        let mut sent = self.send(&pixels);
        if let (true, Ok(()), Some(pin)) = (first, &sent, &mut self.backlight) {
            sent = (pin.set_high()).map_err(|e| format!("line of the backlight: {e}"));
        }
        sent.map_err(|reason| Error::Bus {
            path: self.path.clone(),
            reason,
        })?;
        self.shown = Some(pixels);
        Ok(())
    }
}

impl<SPI, PIN, MODEL> Drop for Tft<SPI, PIN, MODEL>
where
    SPI: SpiDevice,
    SPI::Error: Display,
    PIN: OutputPin,
    PIN::Error: Display,
    MODEL: Model<ColorFormat = Rgb565>,
{
    /// Dark, as an answer that nobody keeps up to date is wrong.
    fn drop(&mut self) {
        if let Some(pin) = &mut self.backlight {
            // Of a line that is gone nothing can be asked.
            let _ = pin.set_low();
        }
    }
}

fn orientation(layout: &Layout) -> Orientation {
    let rotation = match layout.rotation {
        90 => Rotation::Deg90,
        180 => Rotation::Deg180,
        270 => Rotation::Deg270,
        _ => Rotation::Deg0,
    };
    let orientation = Orientation::new();
    match layout.mirrored {
        true => orientation.flip_horizontal().rotate(rotation),
        false => orientation.rotate(rotation),
    }
}

fn open_error(path: &Path, reason: String) -> Error {
    Error::Open {
        path: path.display().to_string(),
        reason,
    }
}

fn devices(config: &config::Tft) -> Result<(SpidevDevice, Pins<CdevPin>), Error> {
    let mut spi = SpidevDevice::open(&config.spi)
        .map_err(|e| cannot_open(&config.spi, "display.spi", "SPI", "spi", e.inner()))?;
    let mode = match config.spi_mode {
        3 => SpiModeFlags::SPI_MODE_3,
        _ => SpiModeFlags::SPI_MODE_0,
    };
    let options = SpidevOptions::new()
        .bits_per_word(8)
        .max_speed_hz(config.mhz.saturating_mul(1_000_000))
        .mode(mode)
        .build();
    spi.configure(&options).map_err(|e| {
        let reason = format!(
            "SPI mode {} at {} MHz: {e}; try other values of display.spi_mode and display.mhz",
            config.spi_mode, config.mhz
        );
        open_error(&config.spi, reason)
    })?;

    let mut chip =
        Chip::new(&config.gpio).map_err(|e| match e.source().and_then(|e| e.downcast_ref()) {
            Some(e) => cannot_open(&config.gpio, "display.gpio", "GPIO", "gpio", e),
            None => open_error(&config.gpio, e.to_string()),
        })?;
    let mut pin = |field: &str, line: u32, high: bool| {
        (chip.get_line(line))
            .and_then(|line| line.request(LineRequestFlags::OUTPUT, high.into(), "pinhole"))
            .and_then(CdevPin::new)
            .map_err(|e| {
                let reason =
                    format!("{field} = {line}: {e}; gpioinfo lists the lines and who uses them");
                open_error(&config.gpio, reason)
            })
    };
    let pins = Pins {
        dc: pin("display.dc", config.dc, false)?,
        reset: (config.reset.map(|line| pin("display.reset", line, true))).transpose()?,
        backlight: (config
            .backlight
            .map(|line| pin("display.backlight", line, false)))
        .transpose()?,
    };
    Ok((spi, pins))
}

/// Bytes that Linux's spidev takes at once, unless its module was told otherwise.
const MESSAGE: usize = 4096;

/// Four wires: SPI, and a line that tells data from commands. Unlike mipidsi's, it owns its buffer.
struct Bus<SPI, PIN> {
    spi: SPI,
    dc: PIN,
    buffer: Vec<u8>,
}

impl<SPI, PIN> Bus<SPI, PIN>
where
    SPI: SpiDevice,
    SPI::Error: Display,
    PIN: OutputPin,
    PIN::Error: Display,
{
    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.spi.write(bytes).map_err(|e| format!("SPI: {e}"))
    }
}

impl<SPI, PIN> Interface for Bus<SPI, PIN>
where
    SPI: SpiDevice,
    SPI::Error: Display,
    PIN: OutputPin,
    PIN::Error: Display,
{
    type Word = u8;
    type Error = String;

    const KIND: InterfaceKind = InterfaceKind::Serial4Line;

    fn send_command(&mut self, command: u8, arguments: &[u8]) -> Result<(), String> {
        let line = |e: PIN::Error| format!("line display.dc: {e}");
        self.dc.set_low().map_err(line)?;
        self.write(&[command])?;
        self.dc.set_high().map_err(line)?;
        match arguments {
            [] => Ok(()),
            _ => self.write(arguments),
        }
    }

    fn send_pixels<const N: usize>(
        &mut self,
        pixels: impl IntoIterator<Item = [u8; N]>,
    ) -> Result<(), String> {
        let mut buffer = std::mem::take(&mut self.buffer);
        for pixel in pixels {
            if buffer.len() + N > MESSAGE {
                self.write(&buffer)?;
                buffer.clear();
            }
            buffer.extend(pixel);
        }
        if !buffer.is_empty() {
            self.write(&buffer)?;
        }
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    fn send_repeated_pixel<const N: usize>(
        &mut self,
        pixel: [u8; N],
        count: u32,
    ) -> Result<(), String> {
        self.send_pixels((0..count).map(|_| pixel))
    }
}
