//! Resize and crop by a [`PreprocessConfig`].

use std::ops::Range;

use pinhole_model::{CropRounding, PreprocessConfig, Resize};

use crate::resize::{Axis, Resampler, Source, Window};
use crate::{Error, ImageView, Pixels, RgbView, YuvView};

/// Longest accepted side in pixels. The resampling weights need memory in proportion to the sides, which the decoder's
/// pixel limit does not bound.
const MAX_SIDE: u32 = 1 << 20;

/// Resizes and crops `image` to the square that the encoder sees, equal to Pillow 13 bit for bit.
///
/// Pillow 12 and older give the same result unless the height shrinks by more than twice as many pixels as the width
/// (with [`Resize::Shortest`]: images more than twice as tall as wide). For those they filter the other axis first, so
/// that values differ by rounding, and by more at hard edges.
///
/// Sizes are computed as by torchvision's `Resize` and `CenterCrop` and by open_clip's `ResizeKeepRatio` and
/// `CenterCropOrPad` (open_clip/transform.py). Only the rows and columns inside the crop are computed, and of a
/// [`YuvImage`](crate::YuvImage) only the pixels that they need are converted to RGB. Memory is proportional to the image's
/// sides, even where a thin image would be scaled to millions of rows. `mean` and `std` are
/// not applied.
///
/// # Errors
/// [`Error::Config`] as [`PreprocessConfig::validate`]; [`Error::Shape`] where the image's sides do not fit its data;
/// [`Error::Degenerate`] where [`Resize::Longest`] would round the short side to 0 pixels (Pillow refuses this too) or a
/// side exceeds 1,048,576 pixels.
pub fn preprocess<'a>(
    config: &PreprocessConfig,
    image: impl Into<ImageView<'a>>,
) -> Result<Pixels, Error> {
    config.validate()?;
    let image = image.into();
    let (width, height) = image.size()?;
    let [across, down] = axes(config, width, height)?;

    let side = config.size as usize;
    let resampler = Resampler::new(config.filter, &across, &down);
    let inside = match image {
        ImageView::Rgb(mut view) => resampler.run(&mut view),
        ImageView::Yuv(view) => resampler.run(&mut Converted {
            view,
            rgb: Vec::new(),
        }),
    };
    if across.len == side && down.len == side {
        return Ok(Pixels {
            size: config.size,
            data: inside,
        });
    }
    let mut data = config.fill.repeat(side * side);
    // Of an odd margin, the smaller half is on the left and at the top.
    let (left, top) = ((side - across.len) / 2, (side - down.len) / 2);
    for (row, inside) in data
        .chunks_exact_mut(side * 3)
        .skip(top)
        .zip(inside.chunks_exact(across.len * 3))
    {
        row[left * 3..][..inside.len()].copy_from_slice(inside);
    }
    Ok(Pixels {
        size: config.size,
        data,
    })
}

impl Source for RgbView<'_> {
    fn window(&mut self, columns: Range<usize>, rows: Range<usize>) -> Window<'_> {
        Window {
            stride: self.stride,
            data: &self.data[rows.start * self.stride + columns.start * 3..],
        }
    }
}

/// Pixels that are converted to RGB where they are read.
struct Converted<'a> {
    view: YuvView<'a>,
    rgb: Vec<u8>,
}

impl Source for Converted<'_> {
    fn window(&mut self, columns: Range<usize>, rows: Range<usize>) -> Window<'_> {
        self.rgb.resize(columns.len() * rows.len() * 3, 0);
        let stride = columns.len() * 3;
        self.view.convert(columns, rows, &mut self.rgb);
        Window {
            stride,
            data: &self.rgb,
        }
    }
}

/// The horizontal and the vertical [`Axis`].
fn axes(config: &PreprocessConfig, width: u32, height: u32) -> Result<[Axis; 2], Error> {
    let degenerate = |reason| Error::Degenerate {
        width,
        height,
        reason,
    };
    if width.max(height) > MAX_SIDE {
        return Err(degenerate("a side is longer than 1048576 pixels"));
    }
    let (size, scaled) = (u64::from(config.size), u64::from(config.scaled()));
    let short = u64::from(width.min(height));
    let resized = |side: u32| match config.resize {
        Resize::Squash => scaled,
        // torchvision computes int(size * long / short) in floating point; for these magnitudes the result is the same.
        Resize::Shortest => scaled * u64::from(side) / short,
        Resize::Longest => {
            let ratio = f64::from(width.max(height)) / f64::from(config.scaled());
            (f64::from(side) / ratio).round_ties_even() as u64
        }
    };
    let axis = |side: u32| {
        let resized = resized(side);
        if resized == 0 {
            return Err(degenerate("its short side would be rounded to 0 pixels"));
        }
        let spare = resized.saturating_sub(size);
        let odd = spare % 2;
        let start = match config.crop {
            CropRounding::Floor => spare / 2,
            CropRounding::HalfEven => spare / 2 + (odd & (spare / 2)),
        };
        Ok(Axis {
            source: side as usize,
            resized,
            start,
            len: resized.min(size) as usize,
        })
    };
    Ok([axis(width)?, axis(height)?])
}
