//! RGB pixels: owned, borrowed from the caller's memory, and preprocessed.

use crate::Error;

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
pub(crate) fn tight(width: u32) -> usize {
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
