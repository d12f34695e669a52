//! Linux framebuffer. The geometry is read from sysfs, because the device's ioctls would need `unsafe`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use embedded_graphics::pixelcolor::{Rgb565, Rgb888};
use embedded_graphics::prelude::*;
use serde::Deserialize;

use super::changes::changed_areas;
use super::{Panel, PanelConfig, PanelError};
use crate::canvas::Canvas;

/// The table `[display]` of a framebuffer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FramebufferConfig {
    /// FramebufferPanel device; its geometry is read from /sys/class/graphics.
    pub device: PathBuf,
}

impl Default for FramebufferConfig {
    fn default() -> Self {
        Self {
            device: "/dev/fb0".into(),
        }
    }
}

impl PanelConfig for FramebufferConfig {
    fn open(&self) -> Result<Box<dyn Panel>, PanelError> {
        Ok(Box::new(FramebufferPanel::open(self)?))
    }
}

/// An open framebuffer device. Only the changed part of each row is written.
#[derive(Debug)]
pub struct FramebufferPanel {
    file: File,
    path: String,
    geometry: Geometry,
    shown: Option<Vec<Rgb888>>,
}

impl FramebufferPanel {
    /// Opens the device and reads its geometry from /sys/class/graphics.
    ///
    /// # Errors
    /// [`PanelError::Open`], also for a geometry or pixel format that is not usable.
    pub fn open(config: &FramebufferConfig) -> Result<Self, PanelError> {
        // The device may be a symbolic link; sysfs has the name of its target.
        let device = (config.device.canonicalize()).map_err(|e| open_error(&config.device, e))?;
        let name = device.file_name().unwrap_or_default();
        Self::with_sysfs(config, &Path::new("/sys/class/graphics").join(name))
    }

    /// Opens the device; `sysfs` is its folder in sysfs.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_sysfs(config: &FramebufferConfig, sysfs: &Path) -> Result<Self, PanelError> {
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
        for area in changed_areas(self.shown.as_deref(), pixels, width) {
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

impl Panel for FramebufferPanel {
    fn size(&self) -> Size {
        self.geometry.size
    }

    fn show(&mut self, canvas: &Canvas) -> Result<(), PanelError> {
        self.write(canvas.pixels()).map_err(|e| PanelError::Bus {
            path: self.path.clone(),
            reason: e.to_string(),
        })?;
        self.shown = Some(canvas.pixels().to_vec());
        Ok(())
    }
}

/// Pixel format. sysfs reports only the number of bits; these are the usual orders.
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

    /// Appends the pixel in little-endian order. The unused byte is 255, in case it is read as alpha.
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
    /// Visible pixels.
    size: Size,
    /// First visible column and row.
    pan: (u32, u32),
    /// Bytes from one row to the next.
    stride: u32,
    format: Format,
}

impl Geometry {
    /// Reads a device's folder in sysfs. Its files are defined in Linux's drivers/video/fbdev/core/fbsysfs.c.
    fn read(sysfs: &Path) -> Result<Self, PanelError> {
        let all = pair(sysfs, "virtual_size", ',')?;
        // Empty for drivers without a current mode, such as those of DRM, which have exactly one mode.
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
            let expected = "64 to 4096 visible pixels each way, inside the virtual size";
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
                let expected = format!("{line} to {} bytes per row", 1 << 20);
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

/// The content of a file in sysfs, without white space around it.
fn value(sysfs: &Path, name: &str) -> Result<String, PanelError> {
    let path = sysfs.join(name);
    let mut text = String::new();
    (File::open(&path).and_then(|file| file.take(4096).read_to_string(&mut text)))
        .map_err(|e| open_error(&path, e))?;
    Ok(text.trim().to_owned())
}

fn pair(sysfs: &Path, name: &str, between: char) -> Result<(u32, u32), PanelError> {
    let text = value(sysfs, name)?;
    let parsed = text
        .split_once(between)
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed.ok_or_else(|| wrong(sysfs, name, "two numbers", &text))
}

/// Width and height of the first mode in `text`.
fn parse_mode(text: &str) -> Option<(u32, u32)> {
    let (width, rest) = text.lines().next()?.split_once(':')?.1.split_once('x')?;
    let height = rest
        .split_once(|c: char| !c.is_ascii_digit())
        .map_or(rest, |split| split.0);
    Some((width.parse().ok()?, height.parse().ok()?))
}

fn wrong(sysfs: &Path, name: &str, expected: &str, found: &str) -> PanelError {
    PanelError::Open {
        path: sysfs.join(name).display().to_string(),
        reason: format!("expected {expected}, found {found:?}"),
    }
}

fn open_error(path: &Path, error: std::io::Error) -> PanelError {
    use std::io::ErrorKind;
    let advice = match error.kind() {
        ErrorKind::NotFound => "; ls /dev/fb* lists the framebuffers",
        ErrorKind::PermissionDenied => "; run as a user in the group video, or as root",
        _ => "",
    };
    PanelError::Open {
        path: path.display().to_string(),
        reason: format!("{error}{advice}"),
    }
}
