use embedded_graphics::pixelcolor::{Rgb565, Rgb888};
use embedded_graphics::prelude::*;
use embedded_hal_mock::eh1::MockError;
use embedded_hal_mock::eh1::delay::{CheckedDelay, NoopDelay, Transaction as Wait};
use embedded_hal_mock::eh1::digital::{Mock as Pin, State, Transaction as Level};
use embedded_hal_mock::eh1::spi::{Mock as Spi, Transaction};
use mipidsi::models::{ILI9341Rgb565, ST7789 as St7789Model};
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::panel::ili9341::ILI9341;
use pinhole_firmware::panel::st7789::ST7789;
use pinhole_firmware::panel::tft::{TftConfig, TftLayout, TftPanel, TftPins};
use pinhole_firmware::panel::{Panel, PanelError};

use super::emulated::Emulated;
use super::{pattern, set};

/// Traffic on the bus and the data/command line.
#[derive(Default)]
struct Wire {
    spi: Vec<Transaction<u8>>,
    dc: Vec<Level>,
}

impl Wire {
    fn write(&mut self, bytes: &[u8]) {
        self.spi.extend([
            Transaction::transaction_start(),
            Transaction::write_vec(bytes.to_vec()),
            Transaction::transaction_end(),
        ]);
    }

    fn command(&mut self, command: u8, arguments: &[u8]) -> &mut Self {
        self.dc
            .extend([Level::set(State::Low), Level::set(State::High)]);
        self.write(&[command]);
        if !arguments.is_empty() {
            self.write(arguments);
        }
        self
    }

    /// Pixels of a window. `columns` and `rows` are the first and the last.
    fn window(&mut self, columns: [u16; 2], rows: [u16; 2], pixels: &[u16]) {
        let bytes = |range: [u16; 2]| range.map(u16::to_be_bytes).concat();
        self.command(0x2a, &bytes(columns)); // CASET
        self.command(0x2b, &bytes(rows)); // RASET (ILI9341: PASET)
        self.command(0x2c, &[]); // RAMWR
        let bytes: Vec<u8> = pixels.iter().flat_map(|p| p.to_be_bytes()).collect();
        for message in bytes.chunks(4096) {
            self.write(message);
        }
    }
}

/// The mocks of bus and lines.
struct Mocks {
    spi: Spi<u8>,
    dc: Pin,
    backlight: Pin,
}

impl Mocks {
    fn expect(&mut self, wire: Wire, light: &[Level]) {
        self.spi.update_expectations(&wire.spi);
        self.dc.update_expectations(&wire.dc);
        self.backlight.update_expectations(light);
    }

    fn done(&mut self) {
        self.spi.done();
        self.dc.done();
        self.backlight.done();
    }
}

fn rgb565(canvas: &Canvas) -> Vec<u16> {
    (canvas.pixels().iter())
        .map(|p| Rgb565::from(*p).into_storage())
        .collect()
}

/// ST7789V datasheet, 9.1: names of the commands; 120 ms between a reset and SLPOUT.
#[test]
fn st7789_is_initialised_shows_only_changes_and_turns_off() {
    let mut wire = Wire::default();
    wire.command(0x01, &[]) // SWRESET
        .command(0x11, &[]) // SLPOUT
        .command(0x36, &[0x00]) // MADCTL: not rotated, RGB
        .command(0x21, &[]) // INVON
        .command(0x3a, &[0x55]) // COLMOD: 16 bits per pixel
        .command(0x13, &[]) // NORON
        .command(0x29, &[]); // DISPON
    let (spi, dc) = (Spi::new(&wire.spi), Pin::new(&wire.dc));
    let mut reset = Pin::new(&[Level::set(State::Low), Level::set(State::High)]);
    let backlight = Pin::new(&[Level::set(State::Low)]);
    let mut delay = CheckedDelay::new(&[
        Wait::delay_ms(1),
        Wait::delay_ms(120),
        Wait::delay_us(150_000),
        Wait::delay_us(10_000),
        Wait::delay_us(10_000),
        Wait::delay_us(10_000),
        Wait::delay_us(120_000),
    ]);
    let pins = TftPins {
        dc: dc.clone(),
        reset: Some(reset.clone()),
        backlight: Some(backlight.clone()),
    };
    let mut tft = TftPanel::new(
        St7789Model,
        &ST7789,
        spi.clone(),
        pins,
        &mut delay,
        &TftConfig::default(),
    )
    .unwrap();
    assert_eq!(tft.size(), Size::new(240, 240));
    assert!(!tft.is_monochrome());
    reset.done();
    delay.done();
    let mut mocks = Mocks { spi, dc, backlight };
    mocks.done();

    let mut canvas = pattern(tft.size(), 1);
    let mut wire = Wire::default();
    wire.window([0, 239], [0, 239], &rgb565(&canvas));
    mocks.expect(wire, &[Level::set(State::High)]);
    tft.show(&canvas).unwrap();
    mocks.done();

    // The same picture again.
    mocks.expect(Wire::default(), &[]);
    tft.show(&canvas).unwrap();
    mocks.done();

    // Two adjacent rows and a separate one.
    let red = Rgb888::new(255, 0, 0);
    for (x, y) in [(7, 100), (9, 101), (239, 200)] {
        set(&mut canvas, x, y, red);
    }
    let pixels = rgb565(&canvas);
    let mut wire = Wire::default();
    let part = [&pixels[100 * 240..][7..=9], &pixels[101 * 240..][7..=9]].concat();
    wire.window([7, 9], [100, 101], &part);
    wire.window([239, 239], [200, 200], &[0xf800]);
    mocks.expect(wire, &[]);
    tft.show(&canvas).unwrap();
    mocks.done();

    mocks.expect(Wire::default(), &[Level::set(State::Low)]);
    drop(tft);
    mocks.done();
}

/// ILI9341 datasheet, 8.2: names of the commands; 5 ms after a reset, 120 ms until SLPOUT.
#[test]
fn ili9341_is_initialised_in_landscape() {
    let mut wire = Wire::default();
    wire.command(0x01, &[]) // SWRESET
        .command(0x36, &[0x28]) // MADCTL: rows and columns swapped, BGR
        .command(0xb4, &[0x00]) // display inversion control: by line
        .command(0x20, &[]) // INVOFF
        .command(0x3a, &[0x55]) // COLMOD: 16 bits per pixel
        .command(0x13, &[]) // NORON
        .command(0x11, &[]) // SLPOUT
        .command(0x29, &[]); // DISPON
    let canvas = pattern(Size::new(320, 240), 2);
    wire.window([0, 319], [0, 239], &rgb565(&canvas));
    let (mut spi, mut dc) = (Spi::new(&wire.spi), Pin::new(&wire.dc));
    let mut delay = CheckedDelay::new(&[
        Wait::delay_us(5_000),
        Wait::delay_us(120_000),
        Wait::delay_us(140_000),
    ]);
    let pins = TftPins {
        dc: dc.clone(),
        reset: None,
        backlight: None,
    };
    let mut tft = TftPanel::new(
        ILI9341Rgb565,
        &ILI9341,
        spi.clone(),
        pins,
        &mut delay,
        &TftConfig::default(),
    )
    .unwrap();
    delay.done();
    tft.show(&canvas).unwrap();
    drop(tft);
    spi.done();
    dc.done();
}

#[test]
fn a_line_that_fails_is_named() {
    let failing = Level::set(State::Low).with_error(MockError::Io(std::io::ErrorKind::Other));
    let config = TftConfig::default();
    let (mut spi, mut dc) = (Spi::new(&[]), Pin::new(&[failing]));
    let pins = TftPins {
        dc: dc.clone(),
        reset: None,
        backlight: None,
    };
    let Err(error) = TftPanel::new(
        St7789Model,
        &ST7789,
        spi.clone(),
        pins,
        &mut NoopDelay,
        &config,
    ) else {
        panic!("expected an error of the line");
    };
    spi.done();
    dc.done();
    assert!(matches!(&error, PanelError::Bus { path, .. } if path == "/dev/spidev0.0"));
    assert!(error.to_string().contains("display.dc"), "{error}");
}

/// The expected memory: the picture rotated clockwise and placed on the glass.
fn expected_memory(canvas: &Canvas, layout: &TftLayout) -> Vec<u16> {
    let mut memory = vec![0xdead; 320 * 240];
    let pixels = rgb565(canvas);
    let [columns, rows] = layout.glass.map(usize::from);
    let width = canvas.size().width as usize;
    for (i, pixel) in pixels.into_iter().enumerate() {
        let (x, y) = (i % width, i / width);
        let (gx, gy) = match layout.rotation {
            0 => (x, y),
            90 => (columns - 1 - y, x),
            180 => (columns - 1 - x, rows - 1 - y),
            _ => (y, rows - 1 - x),
        };
        let gx = if layout.mirrored {
            columns - 1 - gx
        } else {
            gx
        };
        let [left, top] = layout.offset.map(usize::from);
        memory[(top + gy) * 240 + left + gx] = pixel;
    }
    memory
}

#[test]
fn pictures_follow_glass_offset_and_rotation() {
    let glasses = [
        ([240, 240], [0, 0]),
        ([240, 320], [0, 0]),
        ([240, 280], [0, 20]),
        ([135, 240], [52, 40]),
        ([170, 320], [35, 0]),
    ];
    for controller in [ST7789, ILI9341] {
        for ([columns, rows], offset) in glasses {
            for rotation in [0, 90, 180, 270] {
                let sideways = rotation % 180 == 90;
                let config = TftConfig {
                    width: Some(if sideways { rows } else { columns }),
                    height: Some(if sideways { columns } else { rows }),
                    offset,
                    rotation: Some(rotation),
                    ..TftConfig::default()
                };
                let layout = TftLayout::new(&controller, &config).unwrap();
                let emulated = Emulated::new();
                let mut panel = emulated.panel(&controller, &config).unwrap();
                let lit = || emulated.0.lock().unwrap().lit;
                assert!(!lit(), "lit before the first picture");
                let mut canvas = pattern(panel.size(), rotation + columns);
                panel.show(&canvas).unwrap();
                assert!(lit());
                // A partial update is placed correctly too.
                for (x, y) in [(3, 5), (60, 7), (61, 8), (0, 63)] {
                    set(&mut canvas, x, y, Rgb888::WHITE);
                }
                panel.show(&canvas).unwrap();
                let same = emulated.0.lock().unwrap().pixels == expected_memory(&canvas, &layout);
                assert!(same, "{controller:?}: {config:?}");
                drop(panel);
                assert!(!lit(), "lit after the end");
            }
        }
    }
}

#[test]
fn a_bus_that_fails_is_named() {
    let emulated = Emulated::new();
    let config = TftConfig {
        spi: "/dev/spidev1.2".into(),
        ..TftConfig::default()
    };
    let mut panel = emulated.panel(&ST7789, &config).unwrap();
    emulated.0.lock().unwrap().fails = true;
    let error = panel.show(&Canvas::new(panel.size())).unwrap_err();
    assert!(matches!(&error, PanelError::Bus { path, .. } if path == "/dev/spidev1.2"));
    assert!(!emulated.0.lock().unwrap().lit, "lit without a picture");
    let Err(again) = emulated.panel(&ILI9341, &config) else {
        panic!("expected an error of the bus");
    };
    assert!(matches!(again, PanelError::Bus { .. }), "{again}");
}

#[test]
fn a_glass_outside_the_memory_is_an_error_that_names_the_field() {
    let tft = TftConfig::default;
    let wrong = [
        (
            ST7789,
            "display.rotation",
            TftConfig {
                rotation: Some(45),
                ..tft()
            },
        ),
        (
            ST7789,
            "display.width",
            TftConfig {
                width: Some(241),
                ..tft()
            },
        ),
        (
            ST7789,
            "display.width",
            TftConfig {
                width: Some(0),
                ..tft()
            },
        ),
        (
            ST7789,
            "display.height",
            TftConfig {
                height: Some(321),
                ..tft()
            },
        ),
        (
            ST7789,
            "display.height",
            TftConfig {
                height: Some(u32::MAX),
                ..tft()
            },
        ),
        // In landscape the memory is 320 x 240.
        (
            ILI9341,
            "display.width",
            TftConfig {
                width: Some(321),
                ..tft()
            },
        ),
        (
            ILI9341,
            "display.height",
            TftConfig {
                height: Some(241),
                ..tft()
            },
        ),
        (
            ST7789,
            "display.offset",
            TftConfig {
                offset: [1, 0],
                ..tft()
            },
        ),
        (
            ST7789,
            "display.offset",
            TftConfig {
                offset: [0, 81],
                ..tft()
            },
        ),
        (
            ILI9341,
            "display.offset",
            TftConfig {
                offset: [u32::MAX, u32::MAX],
                ..tft()
            },
        ),
    ];
    for (controller, field, config) in wrong {
        let emulated = Emulated::new();
        let Err(error) = emulated.panel(&controller, &config) else {
            panic!("{config:?}: expected an error");
        };
        assert!(matches!(&error, PanelError::Open { path, .. } if path == "/dev/spidev0.0"));
        assert!(
            error.to_string().contains(&format!(": {field}: expected ")),
            "{error}"
        );
        assert_eq!(emulated.0.lock().unwrap().writes, 0, "{field}");
    }
    // The largest offset that fits.
    let config = TftConfig {
        offset: [0, 80],
        ..tft()
    };
    assert!(Emulated::new().panel(&ST7789, &config).is_ok());
}

#[test]
fn colours_are_rounded_to_nearest() {
    for value in 0..=255 {
        let colour = Rgb565::from(Rgb888::new(value, value, value));
        let nearest = |steps: f64| (f64::from(value) / 255.0 * steps).round() as u8;
        assert_eq!(
            (colour.r(), colour.b()),
            (nearest(31.0), nearest(31.0)),
            "{value}"
        );
        assert_eq!(colour.g(), nearest(63.0), "{value}");
    }
}
