//! A picture in memory, to draw a screen on.

use std::convert::Infallible;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;

/// RGB pixels in row-major order. A [`Panel`](crate::panel::Panel) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    size: Size,
    pixels: Vec<Rgb888>,
}

impl Canvas {
    /// A black picture of `size` pixels.
    pub fn new(size: Size) -> Self {
        Self {
            size,
            pixels: vec![Rgb888::BLACK; size.width as usize * size.height as usize],
        }
    }

    /// The pixels in row-major order.
    pub fn pixels(&self) -> &[Rgb888] {
        &self.pixels
    }

    /// The pixels of row `y`.
    ///
    /// # Panics
    /// If `y` is not less than the height.
    pub fn row(&self, y: u32) -> &[Rgb888] {
        let width = self.size.width as usize;
        &self.pixels[y as usize * width..][..width]
    }

    /// Blends `colour` into the pixel at `at` with opacity `coverage` / 255. No effect outside the picture.
    pub fn blend(&mut self, at: Point, colour: Rgb888, coverage: u8) {
        let Some(i) = self.index(at) else { return };
        let under = self.pixels[i];
        let mix = |over: u8, under: u8| {
            let (over, under, coverage) = (u32::from(over), u32::from(under), u32::from(coverage));
            ((over * coverage + under * (255 - coverage) + 127) / 255) as u8
        };
        self.pixels[i] = Rgb888::new(
            mix(colour.r(), under.r()),
            mix(colour.g(), under.g()),
            mix(colour.b(), under.b()),
        );
    }

    fn index(&self, at: Point) -> Option<usize> {
        let (x, y) = (u32::try_from(at.x).ok()?, u32::try_from(at.y).ok()?);
        (x < self.size.width && y < self.size.height)
            .then(|| y as usize * self.size.width as usize + x as usize)
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        self.size
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<Rgb888>>,
    {
        for Pixel(at, colour) in pixels {
            if let Some(i) = self.index(at) {
                self.pixels[i] = colour;
            }
        }
        Ok(())
    }

    fn fill_solid(&mut self, area: &Rectangle, colour: Rgb888) -> Result<(), Infallible> {
        let area = area.intersection(&self.bounding_box());
        for y in area.rows() {
            for x in area.columns() {
                if let Some(i) = self.index(Point::new(x, y)) {
                    self.pixels[i] = colour;
                }
            }
        }
        Ok(())
    }
}
