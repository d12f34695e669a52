//! Pictures as JPEG files, for people and other programs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, Compress};

use crate::{Error, RgbImage, RgbView};

impl RgbImage {
    /// The image as a JPEG file (baseline, chroma halved in both directions) of `quality` 1 to 100. If a side exceeds
    /// `max_side` pixels, both are first divided by the smallest integer that makes them fit, by averages.
    ///
    /// # Errors
    /// [`Error::Shape`] where the length of `data` is not height * width * 3; [`Error::EncodeJpeg`].
    pub fn to_jpeg(&self, quality: u8, max_side: u32) -> Result<Vec<u8>, Error> {
        let view = RgbView::new(self.width, self.height, &self.data)?;
        let factor = self.width.max(self.height).div_ceil(max_side.max(1));
        if factor > 1 {
            let smaller = shrink(view, factor as usize);
            return encode(RgbView::from(&smaller), quality);
        }
        encode(view, quality)
    }
}

/// libjpeg-turbo reports errors by unwinding the stack.
fn encode(view: RgbView<'_>, quality: u8) -> Result<Vec<u8>, Error> {
    let encoded = catch_unwind(AssertUnwindSafe(|| {
        let mut compress = Compress::new(ColorSpace::JCS_RGB);
        compress.set_fastest_defaults();
        compress.set_size(view.width as usize, view.height as usize);
        compress.set_quality(f32::from(quality.clamp(1, 100)));
        let mut started = compress.start_compress(vec![])?;
        started.write_scanlines(view.data)?;
        started.finish()
    }));
    let sides = format!("{} x {} pixels", view.width, view.height);
    match encoded {
        Ok(Ok(jpeg)) => Ok(jpeg),
        Ok(Err(e)) => Err(Error::EncodeJpeg(format!("{sides}: {e}"))),
        Err(_) => Err(Error::EncodeJpeg(format!(
            "{sides}: expected sides of at most 65500"
        ))),
    }
}

/// The averages of the squares of `factor` x `factor` pixels; the pixels right and below of the last whole one are cut
/// off, unless there is none.
fn shrink(view: RgbView<'_>, factor: usize) -> RgbImage {
    let sides = [view.width as usize, view.height as usize];
    let [width, height] = sides.map(|side| (side / factor).max(1));
    let mut data = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let columns = x * factor..((x + 1) * factor).min(sides[0]);
            let rows = y * factor..((y + 1) * factor).min(sides[1]);
            let count = columns.len() * rows.len();
            for channel in 0..3 {
                let at = |row: usize, column: usize| {
                    usize::from(view.data[row * view.stride + column * 3 + channel])
                };
                let sum: usize = (rows.clone())
                    .map(|row| columns.clone().map(|column| at(row, column)).sum::<usize>())
                    .sum();
                data.push(((sum + count / 2) / count) as u8);
            }
        }
    }
    RgbImage {
        width: width as u32,
        height: height as u32,
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DecodeOptions, decode};

    /// Colours that change smoothly, so that JPEG changes them little.
    fn gradient(width: u32, height: u32) -> RgbImage {
        let pixel = |x: u32, y: u32| [x * 255 / width, y * 255 / height, (x + y) % 256 / 2];
        let data = (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| pixel(x, y)))
            .map(|value| value as u8);
        RgbImage::new(width, height, data.collect()).unwrap()
    }

    #[test]
    fn the_picture_is_the_same_after_decoding() {
        let image = gradient(101, 67);
        let jpeg = image.to_jpeg(95, 1000).unwrap();
        let decoded = decode(&jpeg, &DecodeOptions::default()).unwrap();
        assert_eq!((decoded.width, decoded.height), (101, 67));
        let differences = image.data.iter().zip(&decoded.data);
        let sum: u32 = differences.map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        let mean = f64::from(sum) / image.data.len() as f64;
        assert!(mean < 2.0, "{mean}");
        assert!(image.to_jpeg(20, 1000).unwrap().len() < jpeg.len());
    }

    #[test]
    fn a_large_picture_is_made_smaller_by_averages() {
        let jpeg = gradient(101, 67).to_jpeg(80, 50).unwrap();
        let decoded = decode(&jpeg, &DecodeOptions::default()).unwrap();
        assert_eq!((decoded.width, decoded.height), (33, 22));
        let image = RgbImage::new(3, 2, [[0; 9], [9; 9]].concat()).unwrap();
        let view = RgbView::from(&image);
        assert_eq!(shrink(view, 2).data, [5, 5, 5]);
        // A line is thinner than the factor.
        let line = gradient(300, 1).to_jpeg(80, 50).unwrap();
        let decoded = decode(&line, &DecodeOptions::default()).unwrap();
        assert_eq!((decoded.width, decoded.height), (50, 1));
    }

    #[test]
    fn what_no_jpeg_can_hold_is_an_error() {
        let line = RgbImage::new(70_000, 1, vec![0; 210_000]).unwrap();
        let error = line.to_jpeg(80, u32::MAX).unwrap_err().to_string();
        assert!(error.contains("70000 x 1 pixels"), "{error}");
        let wrong = RgbImage {
            width: 2,
            height: 2,
            data: vec![0; 3],
        };
        assert!(matches!(wrong.to_jpeg(80, 100), Err(Error::Shape { .. })));
    }
}
