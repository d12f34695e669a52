//! RGB images: decoded, borrowed from the caller's memory, and preprocessed.

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
    /// Rows from the top, [height, width, 3].
    pub data: &'a [u8],
}

impl<'a> RgbView<'a> {
    /// A view of `data` [height, width, 3].
    ///
    /// # Errors
    /// [`Error::Shape`] where a side is 0 or the length of `data` is not height * width * 3.
    pub fn new(width: u32, height: u32, data: &'a [u8]) -> Result<Self, Error> {
        let view = Self {
            width,
            height,
            data,
        };
        view.check()?;
        Ok(view)
    }

    /// Checks again what [`RgbView::new`] checks: the fields are public.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let (width, height, found) = (self.width, self.height, self.data.len());
        if width == 0 || height == 0 {
            return Err(Error::Shape {
                width,
                height,
                expected: "sides of at least 1".into(),
                found,
            });
        }
        // u64 could overflow for hostile sides.
        let expected = u128::from(width) * u128::from(height) * 3;
        if expected != found as u128 {
            return Err(Error::Shape {
                width,
                height,
                expected: format!("{expected} bytes"),
                found,
            });
        }
        Ok(())
    }
}

impl<'a> From<&'a RgbImage> for RgbView<'a> {
    fn from(image: &'a RgbImage) -> Self {
        Self {
            width: image.width,
            height: image.height,
            data: &image.data,
        }
    }
}

/// The resized and cropped square of pixels that the image encoder reads.
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
