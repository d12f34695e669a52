//! Tells a still scene from one that changes.

use pinhole_preprocessing::RgbImage;

const SIDE: usize = 16;
/// Samples of a cell along each axis: enough for the noise of a dark room to cancel out.
const SAMPLES: usize = 16;

/// The mean luma of 16 x 16 cells of an image, 0..255.
#[derive(Clone, Debug, PartialEq)]
pub struct Thumbnail {
    cells: Vec<f32>,
}

impl Thumbnail {
    /// The thumbnail of `image`; of a cell at most 16 x 16 pixels are looked at.
    pub fn new(image: &RgbImage) -> Self {
        let (width, height) = (image.width as usize, image.height as usize);
        let mut cells = Vec::with_capacity(SIDE * SIDE);
        for row in 0..SIDE {
            let ys = span(row, height);
            for column in 0..SIDE {
                let xs = span(column, width);
                let (mut sum, mut count) = (0u32, 0u32);
                for y in ys.clone().step_by(ys.len().div_ceil(SAMPLES)) {
                    for x in xs.clone().step_by(xs.len().div_ceil(SAMPLES)) {
                        if let Some(&[r, g, b]) = image
                            .data
                            .get((y * width + x) * 3..)
                            .and_then(|p| p.first_chunk())
                        {
                            // BT.601 in 1/256.
                            sum +=
                                (77 * u32::from(r) + 150 * u32::from(g) + 29 * u32::from(b)) >> 8;
                            count += 1;
                        }
                    }
                }
                cells.push(sum as f32 / count.max(1) as f32);
            }
        }
        Self { cells }
    }

    /// The largest difference of a cell, 0..255: a small thing that moves changes few cells.
    pub fn difference(&self, other: &Self) -> f32 {
        (self.cells.iter().zip(&other.cells))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    }
}

/// The pixels of a cell along one axis, at least one.
fn span(cell: usize, side: usize) -> std::ops::Range<usize> {
    let start = cell * side / SIDE;
    start..((cell + 1) * side / SIDE).max(start + 1)
}

/// Passes frames that differ from the last one that it passed. Compared with that one rather than with the
/// frame before, a slow change adds up until it is seen.
#[derive(Clone, Debug)]
pub struct StillGate {
    threshold: f32,
    passed: Option<Thumbnail>,
}

impl StillGate {
    /// A gate for changes of more than `threshold` of luma (0..255) in a cell.
    pub fn new(threshold: f32) -> Self {
        Self {
            threshold,
            passed: None,
        }
    }

    /// Whether the frame shows what the last one that passed did.
    pub fn is_still(&mut self, frame: Thumbnail) -> bool {
        let still = (self.passed.as_ref())
            .is_some_and(|passed| passed.difference(&frame) <= self.threshold);
        if !still {
            self.passed = Some(frame);
        }
        still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: u32, height: u32, grey: u8) -> RgbImage {
        let data = vec![grey; (width * height * 3) as usize];
        RgbImage::new(width, height, data).unwrap()
    }

    /// A dawn of one level a frame passes whenever it has got further than the threshold.
    #[test]
    fn slow_changes_add_up() {
        let mut gate = StillGate::new(8.0);
        let passed: Vec<u8> = (100..130)
            .filter(|level| !gate.is_still(Thumbnail::new(&grey(40, 30, *level))))
            .collect();
        assert_eq!(passed, [100, 109, 118, 127]);
    }

    #[test]
    fn a_change_of_a_corner_counts_as_one_of_the_whole() {
        for (width, height) in [(16, 16), (320, 240), (1000, 7), (1, 1), (5, 90)] {
            let before = Thumbnail::new(&grey(width, height, 100));
            let mut image = grey(width, height, 100);
            // The first cell, of at least one pixel.
            for y in 0..(height / 16).max(1) {
                let row = (y * width * 3) as usize;
                let columns = (width / 16).max(1) as usize;
                image.data[row..][..columns * 3].fill(150);
            }
            let difference = before.difference(&Thumbnail::new(&image));
            assert_eq!(difference, 50.0, "{width} x {height}");
        }
    }
}
