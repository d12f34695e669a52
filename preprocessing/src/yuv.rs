//! Images in luma and chroma, as JPEG files and cameras have them, converted to RGB where RGB is needed.

use std::ops::Range;

use pinhole_kernels::{Factor, YuvMatrix, double_row, mix_rows, yuv_to_rgb};

use crate::{Error, RgbImage};

/// An image of luma and chroma samples of 8 bits, as a decoder or a camera delivers it.
///
/// [`preprocess`](crate::preprocess) converts only the rows and columns that it reads, with the same result as from the
/// whole RGB image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YuvImage {
    width: u32,
    height: u32,
    samples: Samples,
    upsampling: Upsampling,
    range: YuvRange,
    /// What the planes refer to.
    buffers: Vec<Vec<u8>>,
}

/// The range of the samples; both by BT.601.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YuvRange {
    /// Luma and chroma 0..255.
    Full,
    /// Luma 16..235, chroma 16..240.
    Limited,
}

/// The layout of a frame of a camera or a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YuvLayout {
    /// Planes Y, Cb, Cr without padding. One chroma sample covers `horizontal` (1, 2 or 4) x `vertical` (1 or 2)
    /// pixels; chroma plane sizes are rounded up.
    Planes {
        /// Pixels across per chroma sample.
        horizontal: u32,
        /// Pixels down per chroma sample.
        vertical: u32,
    },
    /// Luma only.
    Grey,
    /// Y, Cb, Y, Cr per two pixels, in rows of `stride` bytes.
    Yuyv {
        /// Bytes from row to row.
        stride: u32,
    },
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
    pub fn bytes(self, width: u32, height: u32) -> u64 {
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

/// Where the samples are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Samples {
    Grey(Plane),
    Colour {
        luma: Plane,
        chroma: [Plane; 2],
        /// Pixels per chroma sample.
        horizontal: usize,
        vertical: usize,
    },
}

/// The samples of one component: in `buffers[buffer]`, rows `stride` bytes apart, samples `step` bytes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plane {
    buffer: usize,
    start: usize,
    stride: usize,
    step: usize,
}

/// How chroma is enlarged to the size of luma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upsampling {
    Nearest,
    /// libjpeg's "fancy upsampling" (jdsample.c): 3/4 of the nearer sample and 1/4 of the farther one, along each axis
    /// with 2 pixels per sample.
    Triangle,
}

/// Planes of a JPEG file, as libjpeg decodes them.
pub(crate) struct JpegPlanes {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Luma, or luma, Cb and Cr, each with its bytes per row.
    pub(crate) planes: Vec<(Vec<u8>, usize)>,
    /// Pixels per chroma sample, 1 or 2.
    pub(crate) horizontal: usize,
    pub(crate) vertical: usize,
}

impl YuvImage {
    /// A frame in `layout`.
    ///
    /// ```
    /// use pinhole_preprocessing::{YuvImage, YuvLayout, YuvRange};
    /// let layout = YuvLayout::Planes { horizontal: 2, vertical: 2 };
    /// // Luma of 2 x 2 pixels, then one sample each of Cb and Cr.
    /// let frame = YuvImage::new(2, 2, layout, YuvRange::Full, vec![10, 20, 30, 40, 128, 128])?;
    /// assert_eq!(frame.to_rgb().data, [10, 10, 10, 20, 20, 20, 30, 30, 30, 40, 40, 40]);
    /// # Ok::<(), pinhole_preprocessing::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] where a side is 0 or exceeds 65,535, or `data` does not match the layout.
    pub fn new(
        width: u32,
        height: u32,
        layout: YuvLayout,
        range: YuvRange,
        data: Vec<u8>,
    ) -> Result<Self, Error> {
        let sides = 1..=u32::from(u16::MAX);
        let valid = match layout {
            YuvLayout::Planes {
                horizontal,
                vertical,
            } => matches!(horizontal, 1 | 2 | 4) && matches!(vertical, 1 | 2),
            YuvLayout::Grey => true,
            YuvLayout::Yuyv { stride } => u64::from(stride) >= u64::from(width).div_ceil(2) * 4,
        };
        let sized = sides.contains(&width) && sides.contains(&height) && valid;
        if !sized || layout.bytes(width, height) != data.len() as u64 {
            let expected = match sized {
                true => format!("{} bytes {layout}", layout.bytes(width, height)),
                false => format!("sides of 1 to 65535 and rows that hold them, not data {layout}"),
            };
            return Err(Error::Shape {
                width,
                height,
                expected,
                found: data.len(),
            });
        }
        let (w, h) = (width as usize, height as usize);
        let plane = |start, stride, step| Plane {
            buffer: 0,
            start,
            stride,
            step,
        };
        let samples = match layout {
            YuvLayout::Planes {
                horizontal,
                vertical,
            } => {
                let (horizontal, vertical) = (horizontal as usize, vertical as usize);
                let (across, down) = (w.div_ceil(horizontal), h.div_ceil(vertical));
                Samples::Colour {
                    luma: plane(0, w, 1),
                    chroma: [
                        plane(w * h, across, 1),
                        plane(w * h + across * down, across, 1),
                    ],
                    horizontal,
                    vertical,
                }
            }
            YuvLayout::Grey => Samples::Grey(plane(0, w, 1)),
            YuvLayout::Yuyv { stride } => {
                let stride = stride as usize;
                Samples::Colour {
                    luma: plane(0, stride, 2),
                    chroma: [plane(1, stride, 4), plane(3, stride, 4)],
                    horizontal: 2,
                    vertical: 1,
                }
            }
        };
        Ok(Self {
            width,
            height,
            samples,
            upsampling: Upsampling::Nearest,
            range,
            buffers: vec![data],
        })
    }

    /// The image of a JPEG file; `None` where planes are too short for it.
    pub(crate) fn from_jpeg(jpeg: JpegPlanes) -> Option<Self> {
        let (w, h) = (jpeg.width as usize, jpeg.height as usize);
        let fits = |plane: &(Vec<u8>, usize), horizontal: usize, vertical: usize| {
            plane.1 >= w.div_ceil(horizontal) && plane.0.len() >= plane.1 * h.div_ceil(vertical)
        };
        let plane = |buffer: usize| Plane {
            buffer,
            start: 0,
            stride: jpeg.planes[buffer].1,
            step: 1,
        };
        let (horizontal, vertical) = (jpeg.horizontal, jpeg.vertical);
        let samples = match jpeg.planes.as_slice() {
            [luma] if fits(luma, 1, 1) => Samples::Grey(plane(0)),
            [luma, cb, cr]
                if fits(luma, 1, 1)
                    && fits(cb, horizontal, vertical)
                    && fits(cr, horizontal, vertical) =>
            {
                Samples::Colour {
                    luma: plane(0),
                    chroma: [plane(1), plane(2)],
                    horizontal,
                    vertical,
                }
            }
            _ => return None,
        };
        // libjpeg leaves two columns of chroma and less as they are.
        let upsampling = match horizontal == 2 && w.div_ceil(2) <= 2 {
            true => Upsampling::Nearest,
            false => Upsampling::Triangle,
        };
        Some(Self {
            width: jpeg.width,
            height: jpeg.height,
            samples,
            upsampling,
            range: YuvRange::Full,
            buffers: jpeg.planes.into_iter().map(|(data, _)| data).collect(),
        })
    }

    /// Width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The whole image in RGB.
    pub fn to_rgb(&self) -> RgbImage {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut data = vec![0; width * height * 3];
        self.convert(0..width, 0..height, &mut data);
        RgbImage {
            width: self.width,
            height: self.height,
            data,
        }
    }

    /// These columns of these rows, which are inside of the image, to `rgb` [rows, columns, 3].
    pub(crate) fn convert(&self, columns: Range<usize>, rows: Range<usize>, rgb: &mut [u8]) {
        let matrix = match self.range {
            YuvRange::Full => &FULL,
            YuvRange::Limited => &LIMITED,
        };
        if rgb.is_empty() {
            return;
        }
        let mut luma_row = Row::default();
        match &self.samples {
            Samples::Grey(plane) => {
                let chroma = vec![128; columns.len()];
                for (y, rgb) in rows.zip(rgb.chunks_exact_mut(columns.len() * 3)) {
                    let luma = luma_row.samples(self, plane, y, &columns);
                    yuv_to_rgb(matrix, luma, &chroma, &chroma, rgb);
                }
            }
            Samples::Colour {
                luma,
                chroma: [cb, cr],
                horizontal,
                vertical,
            } => {
                let upsampler = Upsampler {
                    image: self,
                    horizontal: *horizontal,
                    vertical: *vertical,
                    columns: columns.clone(),
                };
                let (mut cb_row, mut cr_row) = (Row::default(), Row::default());
                for (y, rgb) in rows.zip(rgb.chunks_exact_mut(columns.len() * 3)) {
                    yuv_to_rgb(
                        matrix,
                        luma_row.samples(self, luma, y, &columns),
                        upsampler.row(cb, y, &mut cb_row),
                        upsampler.row(cr, y, &mut cr_row),
                        rgb,
                    );
                }
            }
        }
    }

    /// A row of a plane, from its first sample on.
    fn row(&self, plane: &Plane, y: usize) -> &[u8] {
        &self.buffers[plane.buffer][plane.start + y * plane.stride..]
    }
}

/// Buffers for one row of a component.
#[derive(Default)]
struct Row {
    gathered: Vec<u8>,
    sums: Vec<u16>,
    enlarged: Vec<u8>,
}

impl Row {
    /// Samples `columns` of row `y`, copied only if they are not contiguous.
    fn samples<'a>(
        &'a mut self,
        image: &'a YuvImage,
        plane: &Plane,
        y: usize,
        columns: &Range<usize>,
    ) -> &'a [u8] {
        let row = image.row(plane, y);
        if plane.step == 1 {
            return &row[columns.clone()];
        }
        let samples = row[columns.start * plane.step..].iter();
        self.gathered.clear();
        self.gathered
            .extend(samples.step_by(plane.step).take(columns.len()));
        &self.gathered
    }
}

/// Enlarges chroma to the pixels `columns` of a row.
struct Upsampler<'a> {
    image: &'a YuvImage,
    horizontal: usize,
    vertical: usize,
    columns: Range<usize>,
}

impl Upsampler<'_> {
    /// One value per pixel of `columns` in row `y`.
    fn row<'a>(&'a self, plane: &Plane, y: usize, buffers: &'a mut Row) -> &'a [u8] {
        let image = self.image;
        let h = self.horizontal;
        // The samples that cover `columns`.
        let samples = self.columns.start / h..self.columns.end.div_ceil(h);
        let near = y / self.vertical;
        if self.horizontal == 1 && (self.vertical == 1 || image.upsampling == Upsampling::Nearest) {
            return buffers.samples(image, plane, near, &samples);
        }
        buffers.enlarged.clear();
        buffers.enlarged.resize(samples.len() * h, 0);
        match image.upsampling {
            Upsampling::Nearest => {
                let row = &image.row(plane, near)[samples.start * plane.step..];
                let pairs = buffers.enlarged.chunks_exact_mut(h);
                for (pixels, sample) in pairs.zip(row.iter().step_by(plane.step)) {
                    pixels.fill(*sample);
                }
            }
            Upsampling::Triangle => {
                let last_row = (image.height as usize).div_ceil(self.vertical) - 1;
                let far = match (self.vertical, y % 2) {
                    (1, _) => near,
                    (_, 0) => near.saturating_sub(1),
                    _ => (near + 1).min(last_row),
                };
                // One sample more on each side; at the edges of the image the last sample again.
                let last = (image.width as usize).div_ceil(h) - 1;
                let wide = samples.start.saturating_sub(1)..(samples.end + 1).min(last + 1);
                let near = &image.row(plane, near)[wide.clone()];
                let far = &image.row(plane, far)[wide.clone()];
                let sums = &mut buffers.sums;
                sums.clear();
                if h == 1 {
                    // Halves are rounded down in even rows and up in odd rows.
                    let bias = 1 + (y % 2) as u16;
                    let skipped = samples.start - wide.start;
                    let rows = near.iter().zip(far).skip(skipped);
                    for (pixel, (near, far)) in buffers.enlarged.iter_mut().zip(rows) {
                        *pixel = ((u16::from(*near) * 3 + u16::from(*far) + bias) >> 2) as u8;
                    }
                    return &buffers.enlarged;
                }
                // In units of 1/4, or of 1 where rows are not enlarged. Rounded as libjpeg does: halves of even columns
                // and of odd columns in different directions.
                let (biases, shift) = match self.vertical {
                    1 => ([1, 2], 2),
                    _ => ([8, 7], 4),
                };
                if samples.start == 0 {
                    sums.push(0);
                }
                match self.vertical {
                    1 => sums.extend(near.iter().map(|near| u16::from(*near))),
                    _ => {
                        let from = sums.len();
                        sums.resize(from + near.len(), 0);
                        mix_rows(near, far, &mut sums[from..]);
                    }
                }
                if samples.start == 0 {
                    sums[0] = sums[1];
                }
                if let Some(edge) = sums.last().copied().filter(|_| samples.end > last) {
                    sums.push(edge);
                }
                double_row(sums, biases, shift, &mut buffers.enlarged);
            }
        }
        &buffers.enlarged[self.columns.start - samples.start * h..][..self.columns.len()]
    }
}

/// The BT.601 matrix (Kr 0.299, Kb 0.114) for [`YuvRange::Full`]. libjpeg has the same numbers (jdcolor.c).
const FULL: YuvMatrix = YuvMatrix {
    black: 0,
    luma: Factor::new(65_536),
    red_cr: Factor::new(91_881),
    green_cb: Factor::new(-22_554),
    green_cr: Factor::new(-46_802),
    blue_cb: Factor::new(116_130),
};

/// The same for [`YuvRange::Limited`]: luma times 255/219, chroma times 255/224.
const LIMITED: YuvMatrix = YuvMatrix {
    black: 16,
    luma: Factor::new(76_309),
    red_cr: Factor::new(104_597),
    green_cb: Factor::new(-25_675),
    green_cr: Factor::new(-53_279),
    blue_cb: Factor::new(132_201),
};

#[cfg(test)]
mod tests {
    use super::*;

    fn rgb(
        width: u32,
        height: u32,
        layout: YuvLayout,
        range: YuvRange,
        data: &[u8],
    ) -> Result<RgbImage, Error> {
        YuvImage::new(width, height, layout, range, data.to_vec()).map(|image| image.to_rgb())
    }

    /// Against the standard's formula in floating point and the same factors in one piece, for every luma and a grid of
    /// chroma.
    #[test]
    fn conversion_matches_bt601_within_rounding() {
        for range in [YuvRange::Limited, YuvRange::Full] {
            let convert = match range {
                YuvRange::Full => FULL,
                YuvRange::Limited => LIMITED,
            };
            let (black, luma_range, chroma_range, factors) = match range {
                YuvRange::Full => (0, 255.0, 255.0, [65_536, 91_881, 22_554, 46_802, 116_130]),
                YuvRange::Limited => (16, 219.0, 224.0, [76_309, 104_597, 25_675, 53_279, 132_201]),
            };
            for y in 0..=255u8 {
                for cb in (0..=255u8).step_by(5) {
                    for cr in (0..=255u8).step_by(5) {
                        let found = convert.rgb(y, cb, cr);
                        let [luma, red, green_cb, green_cr, blue] = factors;
                        let sum = (i32::from(y) - black) * luma + (1 << 15);
                        let (b, r) = (i32::from(cb) - 128, i32::from(cr) - 128);
                        let whole = [
                            sum + red * r,
                            sum - green_cb * b - green_cr * r,
                            sum + blue * b,
                        ];
                        let whole = whole.map(|v| (v >> 16).clamp(0, 255) as u8);
                        assert_eq!(found, whole, "{y} {cb} {cr}");
                        let luma = (f64::from(y) - f64::from(black)) / luma_range;
                        let pb = (f64::from(cb) - 128.0) / chroma_range;
                        let pr = (f64::from(cr) - 128.0) / chroma_range;
                        let red = luma + 2.0 * (1.0 - 0.299) * pr;
                        let blue = luma + 2.0 * (1.0 - 0.114) * pb;
                        let green = (luma - 0.299 * red - 0.114 * blue) / 0.587;
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
            let layout = YuvLayout::Planes {
                horizontal,
                vertical,
            };
            rgb(3, 3, layout, YuvRange::Full, data)
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
        assert!(planes(3, 1, &data).is_err());
    }

    #[test]
    fn yuyv_rows_may_be_padded() {
        let frame =
            |stride, data: &[u8]| rgb(2, 2, YuvLayout::Yuyv { stride }, YuvRange::Full, data);
        let data = [10, 128, 20, 128, 0, 0, 30, 128, 40, 128, 0, 0];
        let image = frame(6, &data).unwrap();
        assert_eq!(image.data, [10, 10, 10, 20, 20, 20, 30, 30, 30, 40, 40, 40]);
        assert!(frame(3, &data[..6]).is_err());
    }

    /// If this fails, what is seen of a frame depends on which part of it is converted.
    #[test]
    fn a_window_equals_that_part_of_the_whole() {
        let (width, height) = (13u32, 6u32);
        let mut layouts = vec![YuvLayout::Grey, YuvLayout::Yuyv { stride: 30 }];
        for horizontal in [1, 2, 4] {
            layouts.extend([1, 2].map(|vertical| YuvLayout::Planes {
                horizontal,
                vertical,
            }));
        }
        for layout in layouts {
            let bytes = layout.bytes(width, height) as usize;
            let data = (0..bytes).map(|i| (i * 89 % 251) as u8).collect();
            let image = YuvImage::new(width, height, layout, YuvRange::Limited, data).unwrap();
            let whole = image.to_rgb();
            for (columns, rows) in [(0..13, 0..6), (3..4, 5..6), (5..13, 1..4), (2..9, 3..3)] {
                let expected: Vec<u8> = rows
                    .clone()
                    .flat_map(|y| &whole.data[(y * 13 + columns.start) * 3..][..columns.len() * 3])
                    .copied()
                    .collect();
                let mut found = vec![0; expected.len()];
                image.convert(columns, rows, &mut found);
                assert_eq!(found, expected, "{layout}");
            }
        }
    }
}
