//! Regions of interest.

use pinhole_preprocessing::{Error, Image, ImageView};

/// A rectangle of a frame, in pixels of the frame as the source delivers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width, at least 1.
    pub width: u32,
    /// Height, at least 1.
    pub height: u32,
}

impl std::fmt::Display for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{},{},{}", self.x, self.y, self.width, self.height)
    }
}

impl Region {
    /// This region of `image`, without a copy; `None` if the region is empty or not inside the image.
    pub fn view<'a>(&self, image: &'a Image) -> Option<ImageView<'a>> {
        image.part(self.x, self.y, self.width, self.height)
    }

    /// [`Region::view`] for a frame that must have this region.
    ///
    /// # Errors
    /// [`Error::Region`].
    pub fn checked_view<'a>(&self, image: &'a Image) -> Result<ImageView<'a>, Error> {
        let (width, height) = image.original_size();
        self.view(image).ok_or_else(|| Error::Region {
            region: self.to_string(),
            width,
            height,
        })
    }

    /// Crops `image` to this region; `None` as for [`Region::view`].
    pub fn crop(&self, image: &Image) -> Option<Image> {
        self.view(image)?.to_rgb().ok().map(Image::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_preprocessing::RgbImage;

    #[test]
    fn a_region_is_cut_out_with_and_without_a_copy() {
        let image = Image::from(RgbImage::new(4, 3, (0..36).collect()).unwrap());
        let region = |x, y, width, height| Region {
            x,
            y,
            width,
            height,
        };
        let inner = region(1, 1, 2, 2);
        let expected = [15, 16, 17, 18, 19, 20, 27, 28, 29, 30, 31, 32];
        assert_eq!(inner.crop(&image).unwrap().to_rgb().data, expected);
        assert_eq!(inner.view(&image).unwrap().to_rgb().unwrap().data, expected);
        assert_eq!(region(0, 0, 4, 3).crop(&image).unwrap(), image);
        for outside in [
            region(3, 0, 2, 1),
            region(0, 3, 1, 1),
            region(0, 0, 0, 1),
            region(u32::MAX, 0, 2, 1),
        ] {
            assert!(outside.view(&image).is_none(), "{outside}");
            let error = outside.checked_view(&image).unwrap_err().to_string();
            assert!(error.contains(&outside.to_string()), "{error}");
        }
    }
}
