use std::fs;
use std::path::PathBuf;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::panel::framebuffer::{FramebufferConfig, FramebufferPanel};
use pinhole_firmware::panel::{Panel, PanelError};

use super::{pattern, set};

/// A file as the device, and its folder in sysfs.
struct Device {
    folder: tempfile::TempDir,
}

impl Device {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("fb0")).unwrap();
        fs::write(folder.path().join("dev"), []).unwrap();
        let device = Self { folder };
        for (name, text) in files {
            device.set(name, text);
        }
        device
    }

    fn set(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("fb0").join(name), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("dev")
    }

    fn open(&self) -> Result<FramebufferPanel, PanelError> {
        let config = FramebufferConfig {
            device: self.file(),
        };
        FramebufferPanel::with_sysfs(&config, &self.folder.path().join("fb0"))
    }
}

/// 70 x 64 visible pixels of 72 x 130, at (1, 66).
fn device(bits: u32, stride: usize) -> Device {
    Device::new(&[
        ("virtual_size", "72,130\n"),
        ("mode", ""),
        ("modes", "U:70x64p-60\nU:64x64p-60\n"),
        ("pan", "1,66\n"),
        ("bits_per_pixel", &format!("{bits}\n")),
        ("stride", &format!("{stride}\n")),
    ])
}

const SIZE: Size = Size::new(70, 64);

fn bytes(bits: u32, pixel: Rgb888) -> Vec<u8> {
    let (r, g, b) = (pixel.r(), pixel.g(), pixel.b());
    match bits {
        16 => {
            let part = |value: u8, steps: f64| (f64::from(value) / 255.0 * steps).round() as u16;
            let packed = part(r, 31.0) << 11 | part(g, 63.0) << 5 | part(b, 31.0);
            packed.to_le_bytes().to_vec()
        }
        24 => vec![b, g, r],
        _ => vec![b, g, r, 255],
    }
}

/// The content of the device, which was filled with 0x55 before.
fn memory(bits: u32, stride: usize, canvas: &Canvas) -> Vec<u8> {
    let mut memory = vec![0x55; stride * 130];
    let size = bits as usize / 8;
    for y in 0..SIZE.height {
        for (x, pixel) in canvas.row(y).iter().enumerate() {
            let at = (66 + y as usize) * stride + (1 + x) * size;
            memory[at..at + size].copy_from_slice(&bytes(bits, *pixel));
        }
    }
    memory
}

#[test]
fn pixels_follow_geometry_and_format() {
    for bits in [16, 24, 32] {
        // Without and with padding after each row.
        for stride in [72 * bits as usize / 8, 384] {
            let device = device(bits, stride);
            fs::write(device.file(), vec![0x55; stride * 130]).unwrap();
            let mut panel = device.open().unwrap();
            assert_eq!(panel.size(), SIZE);
            assert!(!panel.is_monochrome());
            let canvas = pattern(SIZE, bits);
            panel.show(&canvas).unwrap();
            let found = fs::read(device.file()).unwrap();
            assert!(
                found == memory(bits, stride, &canvas),
                "{bits} bits, stride {stride}"
            );
        }
    }
}

#[test]
fn only_changes_are_written() {
    let device = device(32, 384);
    let mut panel = device.open().unwrap();
    let mut canvas = pattern(SIZE, 3);
    panel.show(&canvas).unwrap();
    // Another program overwrites the picture.
    let other = vec![0x55; 384 * 130];
    fs::write(device.file(), &other).unwrap();
    panel.show(&canvas).unwrap();
    assert!(
        fs::read(device.file()).unwrap() == other,
        "the unchanged picture was written again"
    );

    set(&mut canvas, 5, 10, Rgb888::WHITE);
    set(&mut canvas, 6, 11, Rgb888::WHITE);
    panel.show(&canvas).unwrap();
    let found = fs::read(device.file()).unwrap();
    let mut expected = other;
    for y in [10, 11] {
        for x in [5, 6] {
            let at = (66 + y) * 384 + (1 + x) * 4;
            let pixel = canvas.row(y as u32)[x];
            expected[at..at + 4].copy_from_slice(&bytes(32, pixel));
        }
    }
    assert!(found == expected);
}

#[test]
fn the_current_mode_comes_before_the_list_of_modes() {
    let device = device(16, 256);
    device.set("mode", "D:64x64p-59\n");
    assert_eq!(device.open().unwrap().size(), Size::new(64, 64));
    device.set("mode", "\n");
    device.set("modes", "");
    device.set("pan", "0,0\n");
    assert_eq!(device.open().unwrap().size(), Size::new(72, 130));
}

#[test]
fn invalid_sysfs_values_are_errors_that_name_the_file() {
    let wrong = [
        ("virtual_size", ""),
        ("virtual_size", "72"),
        ("virtual_size", "72,-1"),
        ("virtual_size", "0,0"),
        // Smaller than the visible part.
        ("virtual_size", "72,129"),
        ("virtual_size", "70,130"),
        ("pan", "4294967295,4294967295"),
        ("modes", "U:99999999x99999999p-60"),
        ("modes", "U:0x0p-0"),
        ("modes", "U:4097x64p-0"),
        ("modes", "full"),
        ("modes", "U:70xp-60"),
        ("bits_per_pixel", "0"),
        ("bits_per_pixel", "8"),
        ("bits_per_pixel", "30"),
        ("bits_per_pixel", "-32"),
        ("stride", "0"),
        // One byte too few.
        ("stride", "287"),
        ("stride", "4294967295"),
        ("stride", "99999999999999999999"),
        ("stride", "\u{fffd}"),
    ];
    for (name, text) in wrong {
        let device = device(32, 288);
        device.open().unwrap();
        device.set(name, text);
        let error = device.open().unwrap_err();
        assert!(matches!(error, PanelError::Open { .. }));
        let error = error.to_string();
        let expected = "expected ";
        assert!(
            error.contains(expected) && error.contains("found "),
            "{name} {text:?}: {error}"
        );
        // When the visible part is outside the memory, either file may be wrong.
        let named = if ["modes", "pan"].contains(&name) {
            "fb0/"
        } else {
            name
        };
        assert!(error.contains(named), "{name} {text:?}: {error}");
    }
}

#[test]
fn a_missing_file_or_device_is_named() {
    let device = device(32, 288);
    fs::remove_file(device.folder.path().join("fb0/stride")).unwrap();
    let error = device.open().unwrap_err().to_string();
    assert!(error.contains("fb0/stride: cannot open: "), "{error}");

    let gone = FramebufferConfig {
        device: device.folder.path().join("fb7"),
    };
    let error = FramebufferPanel::open(&gone).unwrap_err().to_string();
    assert!(error.contains("fb7: cannot open: "), "{error}");
    assert!(error.contains("ls /dev/fb*"), "{error}");
}

/// /dev/full fails like a framebuffer when data is written after its end.
#[test]
fn a_write_error_names_the_device() {
    let device = device(32, 288);
    let config = FramebufferConfig {
        device: "/dev/full".into(),
    };
    let sysfs = device.folder.path().join("fb0");
    let mut panel = FramebufferPanel::with_sysfs(&config, &sysfs).unwrap();
    let error = panel.show(&Canvas::new(SIZE)).unwrap_err();
    assert!(matches!(&error, PanelError::Bus { path, .. } if path == "/dev/full"));
    assert!(error.to_string().starts_with("display on /dev/full: "));
}
