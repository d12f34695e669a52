//! YCbCr frames to RGB, by BT.601.

use pinhole_preprocessing::{Error, RgbImage};

/// A YCbCr frame with 8 bits per sample.
pub(super) struct YuvFrame {
    /// Width in pixels, at least 1.
    pub(super) width: u32,
    /// Height in pixels, at least 1.
    pub(super) height: u32,
    pub(super) layout: YuvLayout,
    /// Full range: luma and chroma 0..255. Limited range: luma 16..235, chroma 16..240.
    pub(super) full_range: bool,
    pub(super) data: Vec<u8>,
}

/// Sample layout of a [`YuvFrame`].
#[derive(Clone, Copy, Debug)]
pub(super) enum YuvLayout {
    /// Planes Y, Cb, Cr without padding. One chroma sample covers `horizontal` (1, 2 or 4) x `vertical` (1 or 2)
    /// pixels; chroma plane sizes are rounded up.
    Planes { horizontal: u32, vertical: u32 },
    /// Luma only.
    Grey,
    /// Y, Cb, Y, Cr per two pixels, in rows of `stride` bytes.
    #[cfg_attr(
        not(feature = "v4l"),
        allow(dead_code, reason = "only V4L2 devices deliver it")
    )]
    Yuyv { stride: u32 },
}

impl std::fmt::Display for YuvLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Planes {
                horizontal,
                vertical,
            } => write!(
                f,
                "in planes, with one chroma sample per {horizontal} x {vertical} pixels"
            ),
            Self::Grey => write!(f, "of luma"),
            Self::Yuyv { stride } => write!(f, "of YUYV in rows of {stride} bytes"),
        }
    }
}

impl YuvLayout {
    /// Bytes of a frame; u64, so that hostile sizes below 65,536 cannot overflow.
    pub(super) fn bytes(self, width: u32, height: u32) -> u64 {
        let (w, h) = (u64::from(width), u64::from(height));
        match self {
            Self::Planes {
                horizontal,
                vertical,
            } => {
                let chroma = w.div_ceil(u64::from(horizontal)) * h.div_ceil(u64::from(vertical));
                w * h + 2 * chroma
            }
            Self::Grey => w * h,
            Self::Yuyv { stride } => u64::from(stride) * h,
        }
    }
}

/// Converts to RGB. Chroma is upsampled by nearest neighbour.
///
/// # Errors
/// [`Error::Shape`] if the data does not match the layout.
pub(super) fn to_rgb(frame: &YuvFrame) -> Result<RgbImage, Error> {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let expected = frame.layout.bytes(frame.width, frame.height);
    let row_fits = match frame.layout {
        YuvLayout::Yuyv { stride } => u64::from(stride) >= u64::from(frame.width).div_ceil(2) * 4,
        _ => true,
    };
    if !row_fits || expected != frame.data.len() as u64 || width == 0 || height == 0 {
        return Err(Error::Shape {
            width: frame.width,
            height: frame.height,
            expected: format!("{expected} bytes {}", frame.layout),
            found: frame.data.len(),
        });
    }
    let convert = Conversion::new(frame.full_range);
    let data = &frame.data;
    let mut rgb = Vec::with_capacity(width * height * 3);
    match frame.layout {
        YuvLayout::Planes {
            horizontal,
            vertical,
        } => {
            let (horizontal, vertical) = (horizontal as usize, vertical as usize);
            let chroma_width = width.div_ceil(horizontal);
            let (luma, chroma) = data.split_at(width * height);
            let (cb, cr) = chroma.split_at(chroma.len() / 2);
            for (y, row) in luma.chunks_exact(width).enumerate() {
                let start = y / vertical * chroma_width;
                for (x, luma) in row.iter().enumerate() {
                    let at = start + x / horizontal;
                    rgb.extend(convert.rgb(*luma, cb[at], cr[at]));
                }
            }
        }
        YuvLayout::Grey => rgb.extend(data.iter().flat_map(|luma| convert.rgb(*luma, 128, 128))),
        YuvLayout::Yuyv { stride } => {
            for row in data.chunks_exact(stride as usize) {
                for x in 0..width {
                    let pair = x / 2 * 4;
                    rgb.extend(convert.rgb(row[x * 2], row[pair + 1], row[pair + 3]));
                }
            }
        }
    }
    RgbImage::new(frame.width, frame.height, rgb)
}

/// The BT.601 matrix (Kr 0.299, Kb 0.114) in units of 1/65536; halves are rounded up.
struct Conversion {
    black: i32,
    luma: i32,
    red: i32,
    green_cb: i32,
    green_cr: i32,
    blue: i32,
}

impl Conversion {
    fn new(full_range: bool) -> Self {
        if full_range {
            return Self {
                black: 0,
                luma: 65_536,
                red: 91_881,
                green_cb: 22_554,
                green_cr: 46_802,
                blue: 116_130,
            };
        }
        // Luma times 255/219, chroma times 255/224.
        Self {
            black: 16,
            luma: 76_309,
            red: 104_597,
            green_cb: 25_675,
            green_cr: 53_279,
            blue: 132_201,
        }
    }

    fn rgb(&self, luma: u8, cb: u8, cr: u8) -> [u8; 3] {
        let (cb, cr) = (i32::from(cb) - 128, i32::from(cr) - 128);
        let luma = (i32::from(luma) - self.black) * self.luma + (1 << 15);
        [
            luma + self.red * cr,
            luma - self.green_cb * cb - self.green_cr * cr,
            luma + self.blue * cb,
        ]
        .map(|v| (v >> 16).clamp(0, 255) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the standard's formula in floating point, for every luma and a grid of chroma.
    #[test]
    fn conversion_matches_bt601_within_rounding() {
        for full_range in [false, true] {
            let convert = Conversion::new(full_range);
            let (black, luma_range, chroma_range) = if full_range {
                (0.0, 255.0, 255.0)
            } else {
                (16.0, 219.0, 224.0)
            };
            for y in 0..=255u8 {
                for cb in (0..=255u8).step_by(15) {
                    for cr in (0..=255u8).step_by(15) {
                        let luma = (f64::from(y) - black) / luma_range;
                        let pb = (f64::from(cb) - 128.0) / chroma_range;
                        let pr = (f64::from(cr) - 128.0) / chroma_range;
                        let red = luma + 2.0 * (1.0 - 0.299) * pr;
                        let blue = luma + 2.0 * (1.0 - 0.114) * pb;
                        let green = (luma - 0.299 * red - 0.114 * blue) / 0.587;
                        let found = convert.rgb(y, cb, cr);
                        for (found, expected) in found.into_iter().zip([red, green, blue]) {
                            let expected = (expected * 255.0).clamp(0.0, 255.0);
                            let error = (f64::from(found) - expected).abs();
                            assert!(error <= 0.51, "{y} {cb} {cr}: {found}, expected {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn chroma_samples_cover_their_pixels() {
        let planes = |horizontal, vertical, data: &[u8]| {
            to_rgb(&YuvFrame {
                width: 3,
                height: 3,
                layout: YuvLayout::Planes {
                    horizontal,
                    vertical,
                },
                full_range: true,
                data: data.to_vec(),
            })
        };
        let luma = [100u8; 9];
        // Cr is 228 only in the last column and row.
        let data = [&luma[..], &[128; 4], &[128, 128, 128, 228]].concat();
        let image = planes(2, 2, &data).unwrap();
        let red: Vec<u8> = image.data.chunks_exact(3).map(|p| p[0]).collect();
        assert_eq!(red, [100, 100, 100, 100, 100, 100, 100, 100, 240]);
        let data = [&luma[..], &[128; 6], &[128, 128, 128, 128, 128, 228]].concat();
        let image = planes(2, 1, &data).unwrap();
        assert_eq!(image.data[8 * 3], 240);
        assert!(planes(1, 1, &data).is_err());
        assert!(planes(2, 2, &data).is_err());
    }

    #[test]
    fn yuyv_rows_may_be_padded() {
        let frame = |stride, data: &[u8]| {
            to_rgb(&YuvFrame {
                width: 2,
                height: 2,
                layout: YuvLayout::Yuyv { stride },
                full_range: true,
                data: data.to_vec(),
            })
        };
        let data = [10, 128, 20, 128, 0, 0, 30, 128, 40, 128, 0, 0];
        let image = frame(6, &data).unwrap();
        assert_eq!(image.data, [10, 10, 10, 20, 20, 20, 30, 30, 30, 40, 40, 40]);
        assert!(frame(3, &data[..6]).is_err());
    }
}
