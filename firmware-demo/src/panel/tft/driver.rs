//! The driver of the TFTs: SPI, GPIO lines and mipidsi.

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
use mipidsi::models::Model;
use mipidsi::options::{ColorInversion, ColorOrder, Orientation, Rotation};
use mipidsi::{Builder, InitError, NoResetPin};

use super::config::TftConfig;
use super::layout::{TftController, TftLayout};
use crate::canvas::Canvas;
use crate::panel::changes::changed_areas;
use crate::panel::{Panel, PanelError};

/// An initialised TFT. Its backlight is on from the first picture until it is dropped.
pub struct TftPanel<SPI, PIN, MODEL>
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
    /// Kept open: a line that no process holds may change its level.
    _reset: Option<PIN>,
}

/// The GPIO lines.
#[derive(Debug)]
pub struct TftPins<PIN> {
    /// Data/command: low for commands, high for data.
    pub dc: PIN,
    /// Reset, active low.
    pub reset: Option<PIN>,
    /// Backlight, active high.
    pub backlight: Option<PIN>,
}

/// Opens the devices and initialises the display.
pub(crate) fn open<MODEL>(
    model: MODEL,
    controller: &TftController,
    config: &TftConfig,
) -> Result<Box<dyn Panel>, PanelError>
where
    MODEL: Model<ColorFormat = Rgb565> + Send + 'static,
{
    let (spi, pins) = devices(config)?;
    let panel = TftPanel::new(model, controller, spi, pins, &mut Delay, config)?;
    Ok(Box::new(panel))
}

impl<SPI, PIN, MODEL> TftPanel<SPI, PIN, MODEL>
where
    SPI: SpiDevice,
    SPI::Error: Display,
    PIN: OutputPin,
    PIN::Error: Display,
    MODEL: Model<ColorFormat = Rgb565>,
{
    /// Initialises the display. `controller` and `model` must be of the same kind.
    ///
    /// # Errors
    /// [`PanelError::Open`] for a configuration that the controller does not support, [`PanelError::Bus`].
    pub fn new(
        model: MODEL,
        controller: &TftController,
        spi: SPI,
        pins: TftPins<PIN>,
        delay: &mut impl DelayNs,
        config: &TftConfig,
    ) -> Result<Self, PanelError> {
        let path = config.spi.display().to_string();
        let layout = TftLayout::new(controller, config)
            .map_err(|e| open_error(&config.spi, e.to_string()))?;
        let bus_error = |reason| PanelError::Bus {
            path: path.clone(),
            reason,
        };
        let TftPins {
            dc,
            mut reset,
            mut backlight,
        } = pins;
        if let Some(pin) = &mut backlight {
            (pin.set_low()).map_err(|e| bus_error(format!("backlight line: {e}")))?;
        }
        if let Some(pin) = &mut reset {
            let mut pulse = || {
                pin.set_low()?;
                // The controllers need a pulse of at least 10 µs, and 120 ms until they accept SLPOUT.
                delay.delay_ms(1);
                pin.set_high()?;
                delay.delay_ms(120);
                Ok(())
            };
            pulse().map_err(|e: PIN::Error| bus_error(format!("reset line: {e}")))?;
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
        for area in changed_areas(self.shown.as_deref(), pixels, width) {
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

impl<SPI, PIN, MODEL> Panel for TftPanel<SPI, PIN, MODEL>
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

    fn show(&mut self, canvas: &Canvas) -> Result<(), PanelError> {
        // The conversion rounds to nearest.
        let pixels: Vec<_> = canvas.pixels().iter().map(|&p| Rgb565::from(p)).collect();
        let first = self.shown.is_none();
        let mut sent = self.send(&pixels);
        if let (true, Ok(()), Some(pin)) = (first, &sent, &mut self.backlight) {
            sent = (pin.set_high()).map_err(|e| format!("backlight line: {e}"));
        }
        sent.map_err(|reason| PanelError::Bus {
            path: self.path.clone(),
            reason,
        })?;
        self.shown = Some(pixels);
        Ok(())
    }
}

impl<SPI, PIN, MODEL> Drop for TftPanel<SPI, PIN, MODEL>
where
    SPI: SpiDevice,
    SPI::Error: Display,
    PIN: OutputPin,
    PIN::Error: Display,
    MODEL: Model<ColorFormat = Rgb565>,
{
    /// Turns the backlight off, so that the display does not go on showing an outdated answer.
    fn drop(&mut self) {
        if let Some(pin) = &mut self.backlight {
            // A destructor cannot report the error.
            let _ = pin.set_low();
        }
    }
}

fn orientation(layout: &TftLayout) -> Orientation {
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

fn open_error(path: &Path, reason: String) -> PanelError {
    PanelError::Open {
        path: path.display().to_string(),
        reason,
    }
}

fn devices(config: &TftConfig) -> Result<(SpidevDevice, TftPins<CdevPin>), PanelError> {
    let mut spi = SpidevDevice::open(&config.spi).map_err(|e| {
        PanelError::open_device(&config.spi, "display.spi", "SPI", "spi", e.inner())
    })?;
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
            Some(e) => PanelError::open_device(&config.gpio, "display.gpio", "GPIO", "gpio", e),
            None => open_error(&config.gpio, e.to_string()),
        })?;
    let mut pin = |field: &str, line: u32, high: bool| {
        (chip.get_line(line))
            .and_then(|line| line.request(LineRequestFlags::OUTPUT, high.into(), "pinhole"))
            .and_then(CdevPin::new)
            .map_err(|e| {
                let reason =
                    format!("{field} = {line}: {e}; gpioinfo lists the lines and their users");
                open_error(&config.gpio, reason)
            })
    };
    let pins = TftPins {
        dc: pin("display.dc", config.dc, false)?,
        reset: (config.reset.map(|line| pin("display.reset", line, true))).transpose()?,
        backlight: (config
            .backlight
            .map(|line| pin("display.backlight", line, false)))
        .transpose()?,
    };
    Ok((spi, pins))
}

/// Default buffer size of Linux's spidev: the largest message in bytes.
const MESSAGE: usize = 4096;

/// Four-wire SPI: SPI and a data/command line. Unlike mipidsi's own interface, it owns its buffer.
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
        let line = |e: PIN::Error| format!("display.dc line: {e}");
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
