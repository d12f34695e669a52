//! Regions of interest.

use pinhole_preprocessing::RgbImage;

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
    /// Crops `image` to this region; `None` if the region is empty or not inside the image.
    pub(super) fn crop(&self, image: &RgbImage) -> Option<RgbImage> {
        let right = self.x.checked_add(self.width)?;
        let bottom = self.y.checked_add(self.height)?;
        if self.width == 0 || self.height == 0 || right > image.width || bottom > image.height {
            return None;
        }
        let row_bytes = image.width as usize * 3;
        let columns = self.x as usize * 3..right as usize * 3;
        let rows = image.data.chunks_exact(row_bytes);
        let data = rows
            .skip(self.y as usize)
            .take(self.height as usize)
            .flat_map(|row| &row[columns.clone()])
            .copied()
            .collect();
        RgbImage::new(self.width, self.height, data).ok()
    }
}
