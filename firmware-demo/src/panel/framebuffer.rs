//! Linux's framebuffer device, by its file and sysfs: its ioctls would need `unsafe`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use embedded_graphics::pixelcolor::{Rgb565, Rgb888};
use embedded_graphics::prelude::*;

use super::changes::changes;
use super::{Error, Panel};
use crate::canvas::Canvas;
use crate::config;

/// A framebuffer device. It is written line by line, where a line changed.
#[derive(Debug)]
pub struct Framebuffer {
    file: File,
    path: String,
    geometry: Geometry,
    shown: Option<Vec<Rgb888>>,
}

impl Framebuffer {
    /// Opens the device, and reads its geometry under /sys/class/graphics.
    ///
    /// # Errors
    /// [`Error::Open`], also for a geometry or pixel format that is not usable.
    pub fn open(config: &config::Framebuffer) -> Result<Self, Error> {
        // A name such as /dev/fb may be a link to the device that sysfs knows.
        let device = (config.device.canonicalize()).map_err(|e| open_error(&config.device, e))?;
        let name = device.file_name().unwrap_or_default();
        Self::with_sysfs(config, &Path::new("/sys/class/graphics").join(name))
    }

    /// The same with the device's folder in sysfs.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_sysfs(config: &config::Framebuffer, sysfs: &Path) -> Result<Self, Error> {
        let file = (File::options().write(true).open(&config.device))
            .map_err(|e| open_error(&config.device, e))?;
        Ok(Self {
            file,
            path: config.device.display().to_string(),
            geometry: Geometry::read(sysfs)?,
            shown: None,
        })
    }

    fn write(&self, pixels: &[Rgb888]) -> std::io::Result<()> {
        let Geometry {
            size,
            pan,
            stride,
            format,
        } = &self.geometry;
        let width = size.width as usize;
        let mut bytes = Vec::with_capacity(width * 4);
        for area in changes(self.shown.as_deref(), pixels, width) {
            for row in area.top..=area.bottom {
                bytes.clear();
                for pixel in &pixels[row * width..][area.left..=area.right] {
                    format.append(*pixel, &mut bytes);
                }
                let column = u64::from(pan.0) + area.left as u64;
                let line = u64::from(pan.1) + row as u64;
                let at = line * u64::from(*stride) + column * format.bytes();
                self.file.write_all_at(&bytes, at)?;
            }
        }
        Ok(())
    }
}

impl Panel for Framebuffer {
    fn size(&self) -> Size {
        self.geometry.size
    }

    fn show(&mut self, canvas: &Canvas) -> Result<(), Error> {
        self.write(canvas.pixels()).map_err(|e| Error::Bus {
            path: self.path.clone(),
            reason: e.to_string(),
        })?;
        self.shown = Some(canvas.pixels().to_vec());
        Ok(())
    }
}

/// How a pixel lies in memory; sysfs tells its bits alone, and this is the order that drivers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Rgb565,
    Rgb888,
    Xrgb8888,
}

impl Format {
    fn bytes(self) -> u64 {
        match self {
            Self::Rgb565 => 2,
            Self::Rgb888 => 3,
            Self::Xrgb8888 => 4,
        }
    }

    /// Little endian. What does not count is 255, in case that it is read as opaque.
    fn append(self, pixel: Rgb888, bytes: &mut Vec<u8>) {
        let (r, g, b) = (pixel.r(), pixel.g(), pixel.b());
        match self {
            Self::Rgb565 => {
                let packed = Rgb565::from(pixel).into_storage();
                bytes.extend(packed.to_le_bytes());
            }
            Self::Rgb888 => bytes.extend([b, g, r]),
            Self::Xrgb8888 => bytes.extend([b, g, r, 255]),
        }
    }
}

#[derive(Debug)]
struct Geometry {
    /// What is seen.
    size: Size,
    /// First column and line that are seen.
    pan: (u32, u32),
    /// Bytes from one line to the next.
    stride: u32,
    format: Format,
}

impl Geometry {
    /// Of a device's folder in sysfs, whose files are those of Linux's drivers/video/fbdev/core/fbsysfs.c.
    fn read(sysfs: &Path) -> Result<Self, Error> {
        let all = pair(sysfs, "virtual_size", ',')?;
        // Empty where the driver keeps no current mode, as those of DRM; they have one mode alone.
        let mode = match value(sysfs, "mode")? {
            mode if mode.is_empty() => value(sysfs, "modes")?,
            mode => mode,
        };
        let size = match mode.is_empty() {
            true => all,
            false => parse_mode(&mode)
                .ok_or_else(|| wrong(sysfs, "modes", "a mode such as U:1920x1080p-60", &mode))?,
        };
        let pan = pair(sysfs, "pan", ',')?;
        let fits = |size: u32, pan: u32, all: u32| {
            (64..=4096).contains(&size) && pan.checked_add(size).is_some_and(|end| end <= all)
        };
        if !fits(size.0, pan.0, all.0) || !fits(size.1, pan.1, all.1) {
            let found = format!(
                "{} x {} at {}, {} of {} x {}",
                size.0, size.1, pan.0, pan.1, all.0, all.1
            );
            let expected = "a picture of 64 to 4096 pixels each way, inside the memory";
            return Err(wrong(sysfs, "virtual_size", expected, &found));
        }
        let bits = value(sysfs, "bits_per_pixel")?;
        let format = match &*bits {
            "16" => Format::Rgb565,
            "24" => Format::Rgb888,
            "32" => Format::Xrgb8888,
            _ => return Err(wrong(sysfs, "bits_per_pixel", "16, 24 or 32", &bits)),
        };
        let text = value(sysfs, "stride")?;
        let line = u64::from(all.0) * format.bytes();
        let stride = (text.parse().ok())
            .filter(|stride| (line..=1 << 20).contains(&u64::from(*stride)))
            .ok_or_else(|| {
                let expected = format!("{line} to {} bytes a line", 1 << 20);
                wrong(sysfs, "stride", &expected, &text)
            })?;
        Ok(Self {
            size: Size::new(size.0, size.1),
            pan,
            stride,
            format,
        })
    }
}

/// What a file in sysfs says, without the end of its line.
fn value(sysfs: &Path, name: &str) -> Result<String, Error> {
    let path = sysfs.join(name);
    let mut text = String::new();
    (File::open(&path).and_then(|file| file.take(4096).read_to_string(&mut text)))
        .map_err(|e| open_error(&path, e))?;
    Ok(text.trim().to_owned())
}

fn pair(sysfs: &Path, name: &str, between: char) -> Result<(u32, u32), Error> {
    let text = value(sysfs, name)?;
    let parsed = text
        .split_once(between)
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed.ok_or_else(|| wrong(sysfs, name, "two numbers", &text))
}

/// Width and height of the first of the modes.
fn parse_mode(text: &str) -> Option<(u32, u32)> {
    let (width, rest) = text.lines().next()?.split_once(':')?.1.split_once('x')?;
    let height = rest
        .split_once(|c: char| !c.is_ascii_digit())
        .map_or(rest, |split| split.0);
    Some((width.parse().ok()?, height.parse().ok()?))
}

fn wrong(sysfs: &Path, name: &str, expected: &str, found: &str) -> Error {
    Error::Open {
        path: sysfs.join(name).display().to_string(),
        reason: format!("expected {expected}, found {found:?}"),
    }
}

fn open_error(path: &Path, error: std::io::Error) -> Error {
    use std::io::ErrorKind;
    let advice = match error.kind() {
        ErrorKind::NotFound => "; ls /dev/fb* lists the framebuffers of this system",
        ErrorKind::PermissionDenied => "; run as a user in the group video, or as root",
        _ => "",
    };
    Error::Open {
        path: path.display().to_string(),
        reason: format!("{error}{advice}"),
    }
}
