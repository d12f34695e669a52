//! Regions of interest.

use pinhole_preprocessing::{Error, RgbImage, RgbView};

/// A rectangle of a frame, in pixels.
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
    pub fn view<'a>(&self, image: &'a RgbImage) -> Option<RgbView<'a>> {
        let right = self.x.checked_add(self.width)?;
        let bottom = self.y.checked_add(self.height)?;
        if self.width == 0 || self.height == 0 || right > image.width || bottom > image.height {
            return None;
        }
        let row_bytes = image.width as usize * 3;
        let start = self.y as usize * row_bytes + self.x as usize * 3;
        let end = (bottom as usize - 1) * row_bytes + right as usize * 3;
        let data = image.data.get(start..end)?;
        RgbView::with_stride(self.width, self.height, row_bytes, data).ok()
    }

    /// [`Region::view`] for a frame that must have this region.
    ///
    /// # Errors
    /// [`Error::Region`].
    pub fn checked_view<'a>(&self, image: &'a RgbImage) -> Result<RgbView<'a>, Error> {
        self.view(image).ok_or_else(|| Error::Region {
            region: self.to_string(),
            width: image.width,
            height: image.height,
        })
    }

    /// Crops `image` to this region; `None` as for [`Region::view`].
    pub fn crop(&self, image: &RgbImage) -> Option<RgbImage> {
        let view = self.view(image)?;
        let rows = view.data.chunks(view.stride);
        let data = rows.flat_map(|row| &row[..self.width as usize * 3]);
        RgbImage::new(self.width, self.height, data.copied().collect()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_cut_out_with_and_without_a_copy() {
        let image = RgbImage::new(4, 3, (0..36).collect()).unwrap();
        let region = |x, y, width, height| Region {
            x,
            y,
            width,
            height,
        };
        let inner = region(1, 1, 2, 2);
        let expected = [15, 16, 17, 18, 19, 20, 27, 28, 29, 30, 31, 32];
        assert_eq!(inner.crop(&image).unwrap().data, expected);
        let view = inner.view(&image).unwrap();
        assert_eq!((view.stride, view.data[12]), (12, 27));
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
