//! The display drivers: the bytes that they send, and their errors.

#[cfg(feature = "mipidsi")]
mod emulated;
mod framebuffer;
#[cfg(feature = "ssd1306")]
mod ssd1306;
#[cfg(feature = "mipidsi")]
mod tft;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::panel::DisplayConfig;
#[cfg(feature = "mipidsi")]
use pinhole_firmware::panel::ili9341::Ili9341Config;
use pinhole_firmware::panel::ssd1306::Ssd1306Config;
#[cfg(feature = "mipidsi")]
use pinhole_firmware::panel::st7789::St7789Config;
#[cfg(feature = "mipidsi")]
use pinhole_firmware::panel::tft::TftConfig;

/// A picture in which every pixel differs from its neighbours.
fn pattern(size: Size, seed: u32) -> Canvas {
    let mut canvas = Canvas::new(size);
    for y in 0..size.height {
        for x in 0..size.width {
            let mixed = (y * size.width + x + seed).wrapping_mul(2_654_435_761);
            let [_, r, g, b] = mixed.to_le_bytes();
            set(&mut canvas, x, y, Rgb888::new(r, g, b));
        }
    }
    canvas
}

fn set(canvas: &mut Canvas, x: u32, y: u32, colour: Rgb888) {
    let at = Point::new(x as i32, y as i32);
    let Ok(()) = canvas.draw_iter([Pixel(at, colour)]);
}

/// The error of opening the display.
fn open_error(display: &DisplayConfig) -> String {
    match display.open() {
        Ok(_) => panic!("{display:?}: expected an error"),
        Err(error) => error.to_string(),
    }
}

#[cfg(feature = "ssd1306")]
#[test]
fn a_wrong_i2c_bus_is_an_error_that_names_it() {
    let ssd1306 = |i2c: &str| {
        open_error(&DisplayConfig::Ssd1306(Ssd1306Config {
            i2c: i2c.into(),
            ..Ssd1306Config::default()
        }))
    };
    let text = ssd1306("/dev/i2c-that-is-missing");
    assert!(
        text.starts_with("/dev/i2c-that-is-missing: cannot open: "),
        "{text}"
    );
    assert!(text.contains("enable I2C (sudo raspi-config)"), "{text}");
    assert!(text.contains("display.i2c"), "{text}");
    let text = ssd1306("/dev/null");
    assert!(text.starts_with("/dev/null: cannot open: "), "{text}");
}

#[cfg(feature = "mipidsi")]
#[test]
fn a_wrong_spi_device_is_an_error_that_names_it() {
    let displays: [fn(TftConfig) -> DisplayConfig; 2] = [
        |config| DisplayConfig::St7789(St7789Config(config)),
        |config| DisplayConfig::Ili9341(Ili9341Config(config)),
    ];
    for display in displays {
        let tft = |spi: &str| {
            open_error(&display(TftConfig {
                spi: spi.into(),
                ..TftConfig::default()
            }))
        };
        let text = tft("/dev/spi-that-is-missing");
        assert!(
            text.starts_with("/dev/spi-that-is-missing: cannot open: "),
            "{text}"
        );
        assert!(text.contains("enable SPI (sudo raspi-config)"), "{text}");
        assert!(text.contains("display.spi"), "{text}");
        let text = tft("/dev/null");
        assert!(text.starts_with("/dev/null: cannot open: "), "{text}");
        assert!(text.contains("display.spi_mode"), "{text}");
    }
}

#[cfg(not(feature = "ssd1306"))]
#[test]
fn a_display_without_its_driver_is_an_error_that_names_the_feature() {
    let text = open_error(&DisplayConfig::Ssd1306(Ssd1306Config::default()));
    assert!(text.contains("feature ssd1306"), "{text}");
}
