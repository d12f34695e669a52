use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::panel::sh1106::SH1106;
use pinhole_firmware::panel::ssd1306::{SSD1306, Ssd1306Config, Ssd1306Panel};
use pinhole_firmware::panel::{Panel, PanelError};

use super::set;

const ADDRESS: u8 = 0x3c;

/// Control byte 0x00: commands follow (datasheet, 8.1.5.2).
fn command(bytes: &[u8]) -> Transaction {
    Transaction::write(ADDRESS, [&[0x00], bytes].concat())
}

/// Control byte 0x40: data follows. The driver sends 16 bytes at a time.
fn data(bytes: &[u8]) -> Vec<Transaction> {
    (bytes.chunks(16))
        .map(|part| Transaction::write(ADDRESS, [&[0x40], part].concat()))
        .collect()
}

/// Part of a page, in page addressing mode (datasheet, 10.1.3).
fn page(page: u8, column: u8, bytes: &[u8]) -> Vec<Transaction> {
    let mut sent = vec![
        command(&[0xb0 | page]),
        command(&[column & 0xf, 0x10 | column >> 4]),
    ];
    sent.extend(data(bytes));
    sent
}

/// The datasheet's commands (table 9-1 and the application note's flow chart).
fn initialisation(upside_down: bool, brightness: u8) -> Vec<Transaction> {
    initialisation_of(128, upside_down, brightness)
}

/// Clears `columns` columns first.
fn initialisation_of(columns: usize, upside_down: bool, brightness: u8) -> Vec<Transaction> {
    let mut sent = vec![command(&[0x20, 0x02])]; // memory addressing mode: page
    for number in 0..8 {
        sent.extend(page(number, 0, &vec![0; columns]));
    }
    let (segments, rows) = if upside_down {
        (0xa0, 0xc0)
    } else {
        (0xa1, 0xc8)
    };
    sent.extend([
        command(&[0xae]),       // display off
        command(&[0xd5, 0x80]), // clock divide ratio and oscillator frequency
        command(&[0xa8, 0x3f]), // multiplex ratio: 64 rows
        command(&[0xd3, 0x00]), // display offset
        command(&[0x40]),       // start line 0
        command(&[0x8d, 0x14]), // charge pump on
        command(&[0x20, 0x02]), // memory addressing mode: page
        command(&[0xda, 0x12]), // COM pins: alternative
        command(&[segments]),   // segment remap
        command(&[rows]),       // COM output scan direction
        command(&[0xd9, 0x21]), // pre-charge period
        command(&[0x81, 0x5f]), // contrast
        command(&[0xdb, 0x40]), // VCOMH deselect level
        command(&[0xa4]),       // show the memory
        command(&[0xa6]),       // a set bit is lit
        command(&[0x2e]),       // no scrolling
        command(&[0xaf]),       // display on
        command(&[0xd9, 0x21]),
        command(&[0x81, brightness]),
    ]);
    sent
}

fn off() -> Transaction {
    command(&[0xae])
}

fn canvas(lit: &[(u32, u32)]) -> Canvas {
    let mut canvas = Canvas::new(Size::new(128, 64));
    for &(x, y) in lit {
        // The darkest colour other than black.
        set(&mut canvas, x, y, Rgb888::new(0, 0, 1));
    }
    canvas
}

#[test]
fn initialises_and_turns_off() {
    for (upside_down, brightness) in [(false, 0x7f), (true, 0x01)] {
        let config = Ssd1306Config {
            upside_down,
            brightness,
            ..Ssd1306Config::default()
        };
        let mut expected = initialisation(upside_down, brightness);
        expected.push(off());
        let mut i2c = Mock::new(&expected);
        let panel = Ssd1306Panel::new(i2c.clone(), &SSD1306, &config).unwrap();
        assert_eq!(panel.size(), Size::new(128, 64));
        assert!(panel.is_monochrome());
        drop(panel);
        i2c.done();
    }
}

#[test]
fn sends_only_changes() {
    let mut i2c = Mock::new(&initialisation(false, 0x7f));
    let mut panel = Ssd1306Panel::new(i2c.clone(), &SSD1306, &Ssd1306Config::default()).unwrap();
    i2c.done();

    // All black, as after the initialisation.
    i2c.update_expectations(&[]);
    panel.show(&canvas(&[])).unwrap();
    i2c.done();

    let first = canvas(&[(0, 0), (5, 10), (127, 63)]);
    let expected = [
        page(0, 0, &[0x01, 0, 0, 0, 0, 0]),
        page(1, 0, &[0, 0, 0, 0, 0, 0x04]),
        page(7, 127, &[0x80]),
    ];
    i2c.update_expectations(&expected.concat());
    panel.show(&first).unwrap();
    i2c.done();

    i2c.update_expectations(&[]);
    panel.show(&first).unwrap();
    i2c.done();

    i2c.update_expectations(&page(1, 5, &[0x0c]));
    panel
        .show(&canvas(&[(0, 0), (5, 10), (5, 11), (127, 63)]))
        .unwrap();
    i2c.done();

    i2c.update_expectations(&[off()]);
    drop(panel);
    i2c.done();
}

/// Its memory has 132 columns, two of them hidden on each side, whichever way the glass is mounted. Driven as an SSD1306 it
/// shows the picture two pixels too far left and noise at the right.
#[test]
fn an_sh1106_shows_the_middle_of_its_memory() {
    for upside_down in [false, true] {
        let config = Ssd1306Config {
            upside_down,
            ..Ssd1306Config::default()
        };
        let mut i2c = Mock::new(&initialisation_of(132, upside_down, 0x7f));
        let mut panel = Ssd1306Panel::new(i2c.clone(), &SH1106, &config).unwrap();
        i2c.done();
        assert_eq!(panel.size(), Size::new(128, 64));
        let expected = [page(0, 2, &[0x01]), page(7, 129, &[0x80])];
        i2c.update_expectations(&expected.concat());
        panel.show(&canvas(&[(0, 0), (127, 63)])).unwrap();
        i2c.done();
        i2c.update_expectations(&[off()]);
        drop(panel);
        i2c.done();
    }
}

#[test]
fn a_missing_display_is_an_error_that_names_bus_and_address() {
    let silent = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
    // Nothing is sent after an error.
    let mut i2c = Mock::new(&[command(&[0x20, 0x02]).with_error(silent)]);
    let Err(error) = Ssd1306Panel::new(i2c.clone(), &SSD1306, &Ssd1306Config::default()) else {
        panic!("expected an error of the bus");
    };
    i2c.done();
    assert!(matches!(&error, PanelError::Bus { path, .. } if path == "/dev/i2c-1"));
    let text = error.to_string();
    assert!(text.starts_with("display on /dev/i2c-1: "), "{text}");
    for part in ["acknowledge", "address 0x3c", "display.address = 0x3d"] {
        assert!(text.contains(part), "{text}: expected {part}");
    }
}

#[test]
fn an_error_while_showing_names_the_bus() {
    let mut i2c = Mock::new(&initialisation(false, 0x7f));
    let mut panel = Ssd1306Panel::new(i2c.clone(), &SSD1306, &Ssd1306Config::default()).unwrap();
    i2c.done();
    i2c.update_expectations(&[
        command(&[0xb0]),
        command(&[0x00, 0x10]).with_error(ErrorKind::Bus),
    ]);
    let error = panel.show(&canvas(&[(0, 0)])).unwrap_err();
    assert!(
        error.to_string().starts_with("display on /dev/i2c-1: "),
        "{error}"
    );
    drop(panel);
    i2c.done();
}
