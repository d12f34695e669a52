//! Decoded images, in RGB or in luma and chroma, and parts of them.

use std::borrow::Cow;
use std::ops::Range;

use crate::rgb::tight;
use crate::{Error, RgbImage, RgbView, YuvImage};

/// A decoded image, in RGB, or in luma and chroma until RGB is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    samples: Samples,
    /// Width and height before [`Reduction`](crate::Reduction).
    original: (u32, u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Samples {
    Rgb(RgbImage),
    // Three planes.
    Yuv(Box<YuvImage>),
}

impl Image {
    /// Width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        match &self.samples {
            Samples::Rgb(image) => image.width,
            Samples::Yuv(image) => image.width(),
        }
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        match &self.samples {
            Samples::Rgb(image) => image.height,
            Samples::Yuv(image) => image.height(),
        }
    }

    /// Width and height of the image in its file: larger than those of this image if it was reduced
    /// ([`DecodeOptions::reduction`](crate::DecodeOptions::reduction)).
    pub fn original_size(&self) -> (u32, u32) {
        self.original
    }

    /// The image in RGB, converted if it is not.
    pub fn to_rgb(&self) -> Cow<'_, RgbImage> {
        match &self.samples {
            Samples::Rgb(image) => Cow::Borrowed(image),
            Samples::Yuv(image) => Cow::Owned(image.to_rgb()),
        }
    }

    /// This image, converted to RGB if it is not: for several readers.
    pub fn in_rgb(self) -> Self {
        let (width, height) = self.original;
        Self::from(self.into_rgb()).reduced_from(width, height)
    }

    /// As [`Image::to_rgb`], without a copy.
    pub fn into_rgb(self) -> RgbImage {
        match self.samples {
            Samples::Rgb(image) => image,
            Samples::Yuv(image) => image.to_rgb(),
        }
    }

    /// The rectangle of `width` x `height` pixels whose top left corner is (`x`, `y`), in pixels of the original image,
    /// without a copy; `None` if it is empty or not inside the image. Of a reduced image, every pixel that it touches.
    pub fn part(&self, x: u32, y: u32, width: u32, height: u32) -> Option<ImageView<'_>> {
        let columns = scaled(x, width, self.original.0, self.width())?;
        let rows = scaled(y, height, self.original.1, self.height())?;
        match &self.samples {
            Samples::Rgb(image) => {
                let stride = tight(image.width);
                let start = rows.start * stride + columns.start * 3;
                let end = (rows.end - 1) * stride + columns.end * 3;
                let data = image.data.get(start..end)?;
                let view =
                    RgbView::with_stride(columns.len() as u32, rows.len() as u32, stride, data);
                view.ok().map(ImageView::Rgb)
            }
            Samples::Yuv(image) => Some(ImageView::Yuv(YuvView {
                image,
                columns,
                rows,
            })),
        }
    }

    /// Notes the size before reduction.
    pub(crate) fn reduced_from(self, width: u32, height: u32) -> Self {
        Self {
            original: (width, height),
            ..self
        }
    }
}

/// Of an axis of `original` pixels, now `reduced`, the pixels that `start..start + len` touches.
fn scaled(start: u32, len: u32, original: u32, reduced: u32) -> Option<Range<usize>> {
    let end = start.checked_add(len).filter(|end| *end <= original)?;
    let [start, end] = [start, end].map(|at| u64::from(at) * u64::from(reduced));
    let original = u64::from(original);
    let range = (start / original) as usize..end.div_ceil(original) as usize;
    (len > 0).then_some(range)
}

impl From<RgbImage> for Image {
    fn from(image: RgbImage) -> Self {
        Self {
            original: (image.width, image.height),
            samples: Samples::Rgb(image),
        }
    }
}

impl From<YuvImage> for Image {
    fn from(image: YuvImage) -> Self {
        Self {
            original: (image.width(), image.height()),
            samples: Samples::Yuv(Box::new(image)),
        }
    }
}

/// A borrowed image, or a part of one.
#[derive(Clone, Debug)]
pub enum ImageView<'a> {
    /// In RGB.
    Rgb(RgbView<'a>),
    /// In luma and chroma.
    Yuv(YuvView<'a>),
}

/// A rectangle of a [`YuvImage`]; from [`Image::part`].
#[derive(Clone, Debug)]
pub struct YuvView<'a> {
    image: &'a YuvImage,
    columns: Range<usize>,
    rows: Range<usize>,
}

impl ImageView<'_> {
    /// Width and height.
    ///
    /// # Errors
    /// [`Error::Shape`] for an [`RgbView`] that does not fit its data.
    pub(crate) fn size(&self) -> Result<(u32, u32), Error> {
        match self {
            Self::Rgb(view) => {
                view.check()?;
                Ok((view.width, view.height))
            }
            Self::Yuv(view) => Ok((view.columns.len() as u32, view.rows.len() as u32)),
        }
    }

    /// A copy in RGB.
    ///
    /// # Errors
    /// [`Error::Shape`] for an [`RgbView`] that does not fit its data.
    pub fn to_rgb(&self) -> Result<RgbImage, Error> {
        let (width, height) = self.size()?;
        let data = match self {
            Self::Rgb(view) => {
                let rows = view.data.chunks(view.stride);
                let rows = rows.flat_map(|row| &row[..tight(width)]);
                rows.copied().collect()
            }
            Self::Yuv(view) => {
                let mut rgb = vec![0; view.columns.len() * view.rows.len() * 3];
                view.convert(0..view.columns.len(), 0..view.rows.len(), &mut rgb);
                rgb
            }
        };
        RgbImage::new(width, height, data)
    }
}

impl YuvView<'_> {
    /// These columns of these rows to `rgb` [rows, columns, 3], counted from the top left corner of the view.
    pub(crate) fn convert(&self, columns: Range<usize>, rows: Range<usize>, rgb: &mut [u8]) {
        let from = |range: Range<usize>, start| range.start + start..range.end + start;
        self.image.convert(
            from(columns, self.columns.start),
            from(rows, self.rows.start),
            rgb,
        );
    }
}

impl<'a> From<&'a Image> for ImageView<'a> {
    fn from(image: &'a Image) -> Self {
        match &image.samples {
            Samples::Rgb(image) => image.into(),
            Samples::Yuv(image) => (&**image).into(),
        }
    }
}

impl<'a> From<&'a RgbImage> for ImageView<'a> {
    fn from(image: &'a RgbImage) -> Self {
        Self::Rgb(image.into())
    }
}

impl<'a> From<RgbView<'a>> for ImageView<'a> {
    fn from(view: RgbView<'a>) -> Self {
        Self::Rgb(view)
    }
}

impl<'a> From<&'a YuvImage> for ImageView<'a> {
    fn from(image: &'a YuvImage) -> Self {
        Self::Yuv(YuvView {
            image,
            columns: 0..image.width() as usize,
            rows: 0..image.height() as usize,
        })
    }
}
