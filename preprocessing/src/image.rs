//! RGB images: decoded, borrowed from the caller's memory, and preprocessed.

use std::borrow::Cow;
use std::ops::Range;

use crate::{Error, YuvImage};

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
            Self::Yuv(view) => view.window(0..view.columns.len(), 0..view.rows.len()),
        };
        RgbImage::new(width, height, data)
    }
}

impl YuvView<'_> {
    /// These columns of these rows in RGB, counted from the top left corner of the view.
    pub(crate) fn window(&self, columns: Range<usize>, rows: Range<usize>) -> Vec<u8> {
        let from = |range: Range<usize>, start| range.start + start..range.end + start;
        self.image.window(
            from(columns, self.columns.start),
            from(rows, self.rows.start),
        )
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

/// An owned RGB image, 8 bits per channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Width in pixels, at least 1.
    pub width: u32,
    /// Height in pixels, at least 1.
    pub height: u32,
    /// Rows from the top, [height, width, 3].
    pub data: Vec<u8>,
}

impl RgbImage {
    /// An image of `data` [height, width, 3].
    ///
    /// # Errors
    /// [`Error::Shape`] where a side is 0 or the length of `data` is not height * width * 3.
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Result<Self, Error> {
        RgbView::new(width, height, &data)?;
        Ok(Self {
            width,
            height,
            data,
        })
    }
}

/// A borrowed RGB image, 8 bits per channel, such as a camera's frame: it is preprocessed without a copy.
#[derive(Clone, Copy, Debug)]
pub struct RgbView<'a> {
    /// Width in pixels, at least 1.
    pub width: u32,
    /// Height in pixels, at least 1.
    pub height: u32,
    /// Bytes from the start of one row to the start of the next, at least width * 3.
    pub stride: usize,
    /// Rows from the top, [height, stride]; in each row [width, 3], then padding. The padding of the last row may be
    /// missing.
    pub data: &'a [u8],
}

impl<'a> RgbView<'a> {
    /// A view of `data` [height, width, 3], rows without padding.
    ///
    /// # Errors
    /// [`Error::Shape`] where a side is 0 or the length of `data` is not height * width * 3.
    pub fn new(width: u32, height: u32, data: &'a [u8]) -> Result<Self, Error> {
        Self::with_stride(width, height, tight(width), data)
    }

    /// A view of `data` whose rows start `stride` bytes apart, as in the buffers of cameras and decoders.
    ///
    /// ```
    /// use pinhole_preprocessing::RgbView;
    /// // 2 x 2 pixels, rows padded to 8 bytes.
    /// let buffer = [0; 16];
    /// let view = RgbView::with_stride(2, 2, 8, &buffer)?;
    /// # Ok::<(), pinhole_preprocessing::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] where a side is 0, `stride` is less than width * 3, or the length of `data` is not
    /// height * stride, less at most the padding of the last row.
    pub fn with_stride(
        width: u32,
        height: u32,
        stride: usize,
        data: &'a [u8],
    ) -> Result<Self, Error> {
        let view = Self {
            width,
            height,
            stride,
            data,
        };
        view.check()?;
        Ok(view)
    }

    /// Checks what the constructors check: the fields are public.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |expected| {
            Err(Error::Shape {
                width: self.width,
                height: self.height,
                expected,
                found: self.data.len(),
            })
        };
        if self.width == 0 || self.height == 0 {
            return wrong("sides of at least 1".into());
        }
        // Products of hostile sides fit in u128 only; u64 would wrap.
        let [row, height] = [u128::from(self.width) * 3, u128::from(self.height)];
        let stride = self.stride as u128;
        if stride < row {
            return wrong(format!(
                "rows of at least {row} bytes (the stride is {stride})"
            ));
        }
        let most = stride * height;
        let least = most - (stride - row);
        match self.data.len() as u128 {
            found if (least..=most).contains(&found) => Ok(()),
            _ if least == most => wrong(format!("{most} bytes")),
            _ => wrong(format!("{least} to {most} bytes with a stride of {stride}")),
        }
    }
}

impl<'a> From<&'a RgbImage> for RgbView<'a> {
    fn from(image: &'a RgbImage) -> Self {
        Self {
            width: image.width,
            height: image.height,
            stride: tight(image.width),
            data: &image.data,
        }
    }
}

/// Bytes of a row without padding.
fn tight(width: u32) -> usize {
    (width as usize).saturating_mul(3)
}

/// The square of pixels that the encoder sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Side in pixels.
    pub size: u32,
    /// Rows from the top, [size, size, 3].
    pub data: Vec<u8>,
}

impl Pixels {
    /// The pixels as a PNG file.
    ///
    /// # Errors
    /// [`Error::Shape`] where the length of `data` is not size * size * 3; [`Error::Encode`].
    pub fn to_png(&self) -> Result<Vec<u8>, Error> {
        let view = RgbView::new(self.size, self.size, &self.data)?;
        let mut png = Vec::new();
        image::ImageEncoder::write_image(
            image::codecs::png::PngEncoder::new(&mut png),
            view.data,
            view.width,
            view.height,
            image::ExtendedColorType::Rgb8,
        )
        .map_err(|e| Error::Encode(e.to_string()))?;
        Ok(png)
    }
}
