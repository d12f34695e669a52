//! The displays down to the bytes that they are sent, and without a device.

#[cfg(feature = "mipidsi")]
mod emulated;
mod framebuffer;
#[cfg(feature = "ssd1306")]
mod oled;
#[cfg(feature = "mipidsi")]
mod tft;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::config::{self, Display};
use pinhole_firmware::panel;

/// Every pixel different from its neighbours.
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

/// What opening it answers.
fn refusal(display: &Display) -> String {
    match panel::open(display) {
        Ok(_) => panic!("{display:?}: expected an error"),
        Err(error) => error.to_string(),
    }
}

#[cfg(feature = "ssd1306")]
#[test]
fn an_i2c_bus_that_is_none_is_named_with_what_to_do() {
    let ssd1306 = |i2c: &str| {
        refusal(&Display::Ssd1306(config::Ssd1306 {
            i2c: i2c.into(),
            ..config::Ssd1306::default()
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
fn an_spi_device_that_is_none_is_named_with_what_to_do() {
    for kind in [Display::St7789, Display::Ili9341] {
        let tft = |spi: &str| {
            refusal(&kind(config::Tft {
                spi: spi.into(),
                ..config::Tft::default()
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
fn a_display_without_its_driver_names_the_feature() {
    let text = refusal(&Display::Ssd1306(config::Ssd1306::default()));
    assert!(text.contains("feature ssd1306"), "{text}");
}
