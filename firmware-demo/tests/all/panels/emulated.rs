use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use embedded_hal::digital::{self, OutputPin};
use embedded_hal::spi::{self, Operation, SpiDevice};
use embedded_hal_mock::eh1::delay::NoopDelay;
use mipidsi::models::{ILI9341Rgb565, ST7789 as St7789Model};
use pinhole_firmware::panel::ili9341::ILI9341;
use pinhole_firmware::panel::st7789::ST7789;
use pinhole_firmware::panel::tft::{TftConfig, TftController, TftPanel, TftPins};
use pinhole_firmware::panel::{Panel, PanelError};

/// Emulates bus, lines and controller according to the datasheets.
#[derive(Clone)]
pub(crate) struct Emulated(pub(crate) Arc<Mutex<Memory>>);

pub(crate) struct Memory {
    data: bool,
    pub(crate) lit: bool,
    pub(crate) fails: bool,
    command: u8,
    arguments: Vec<u8>,
    madctl: u8,
    columns: [u16; 2],
    rows: [u16; 2],
    at: [u16; 2],
    pub(crate) writes: usize,
    /// 320 rows of 240 columns.
    pub(crate) pixels: Vec<u16>,
}

#[derive(Clone)]
pub(crate) struct Line(Emulated, fn(&mut Memory, bool));

impl Emulated {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Memory {
            data: false,
            lit: false,
            fails: false,
            command: 0,
            arguments: vec![],
            madctl: 0,
            columns: [0, 239],
            rows: [0, 319],
            at: [0, 0],
            writes: 0,
            pixels: vec![0xdead; 320 * 240],
        })))
    }

    fn pins(&self) -> TftPins<Line> {
        TftPins {
            dc: Line(self.clone(), |memory, high| memory.data = high),
            reset: None,
            backlight: Some(Line(self.clone(), |memory, high| memory.lit = high)),
        }
    }

    pub(crate) fn panel(
        &self,
        controller: &TftController,
        config: &TftConfig,
    ) -> Result<Box<dyn Panel>, PanelError> {
        let (spi, pins) = (self.clone(), self.pins());
        let delay = &mut NoopDelay;
        Ok(if *controller == ST7789 {
            Box::new(TftPanel::new(
                St7789Model,
                &ST7789,
                spi,
                pins,
                delay,
                config,
            )?)
        } else {
            Box::new(TftPanel::new(
                ILI9341Rgb565,
                &ILI9341,
                spi,
                pins,
                delay,
                config,
            )?)
        })
    }
}

impl Memory {
    fn byte(&mut self, byte: u8) {
        if !self.data {
            self.command = byte;
            self.arguments.clear();
            self.at = [self.columns[0], self.rows[0]];
            return;
        }
        self.arguments.push(byte);
        let word = |a, b| u16::from_be_bytes([a, b]);
        match (self.command, &self.arguments[..]) {
            (0x36, &[madctl]) => self.madctl = madctl,
            (0x2a, &[a, b, c, d]) => self.columns = [word(a, b), word(c, d)],
            (0x2b, &[a, b, c, d]) => self.rows = [word(a, b), word(c, d)],
            (0x2c, &[a, b]) => {
                self.arguments.clear();
                self.pixel(word(a, b));
            }
            _ => {}
        }
    }

    fn pixel(&mut self, pixel: u16) {
        let [x, y] = self.at.map(usize::from);
        // MADCTL: MV swaps rows and columns, then MX and MY mirror them.
        let (mut column, mut row) = if self.madctl & 0x20 != 0 {
            (y, x)
        } else {
            (x, y)
        };
        if self.madctl & 0x40 != 0 {
            column = 239 - column;
        }
        if self.madctl & 0x80 != 0 {
            row = 319 - row;
        }
        assert!(column < 240, "column {column}");
        self.pixels[row * 240 + column] = pixel;
        self.at[0] += 1;
        if self.at[0] > self.columns[1] {
            self.at = [self.columns[0], self.at[1] + 1];
        }
    }
}

impl digital::ErrorType for Line {
    type Error = Infallible;
}

impl OutputPin for Line {
    fn set_low(&mut self) -> Result<(), Infallible> {
        self.1(&mut self.0.0.lock().unwrap(), false);
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        self.1(&mut self.0.0.lock().unwrap(), true);
        Ok(())
    }
}

impl spi::ErrorType for Emulated {
    type Error = spi::ErrorKind;
}

impl SpiDevice for Emulated {
    fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), spi::ErrorKind> {
        let mut memory = self.0.lock().unwrap();
        if memory.fails {
            return Err(spi::ErrorKind::Other);
        }
        for operation in operations {
            let Operation::Write(bytes) = operation else {
                panic!("{operation:?}: expected only writes");
            };
            assert!((1..=4096).contains(&bytes.len()), "{} bytes", bytes.len());
            memory.writes += 1;
            for byte in *bytes {
                memory.byte(*byte);
            }
        }
        Ok(())
    }
}
