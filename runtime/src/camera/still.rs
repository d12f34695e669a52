//! Detects still scenes.

use pinhole_preprocessing::RgbImage;

const SIDE: usize = 16;
/// Samples per cell and axis: enough to average out the noise of a dark room.
const SAMPLES: usize = 16;

/// Mean luma (0..255) of 16 x 16 cells of an image.
pub(super) struct Thumbnail {
    size: (u32, u32),
    cells: Vec<f32>,
}

impl Thumbnail {
    /// Samples at most 16 x 16 pixels of each cell.
    pub(super) fn new(image: &RgbImage) -> Self {
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
                            // BT.601 luma in units of 1/256.
                            sum +=
                                (77 * u32::from(r) + 150 * u32::from(g) + 29 * u32::from(b)) >> 8;
                            count += 1;
                        }
                    }
                }
                cells.push(sum as f32 / count.max(1) as f32);
            }
        }
        Self {
            size: (image.width, image.height),
            cells,
        }
    }

    /// The largest difference of any cell, 0..255: a small moving object changes few cells.
    fn difference(&self, other: &Self) -> f32 {
        (self.cells.iter().zip(&other.cells))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    }
}

/// The range of pixels of a cell along one axis, at least one pixel.
fn span(cell: usize, side: usize) -> std::ops::Range<usize> {
    let start = cell * side / SIDE;
    start..((cell + 1) * side / SIDE).max(start + 1)
}

/// Passes frames that differ from the last frame that passed. Comparing with that frame instead of the previous one
/// makes slow changes add up. Images of another size differ.
pub(super) struct StillGate {
    threshold: f32,
    passed: Option<Thumbnail>,
}

impl StillGate {
    /// Passes changes of more than `threshold` luma (0..255) in any cell.
    pub(super) fn new(threshold: f32) -> Self {
        Self {
            threshold,
            passed: None,
        }
    }

    /// Whether the frame shows the same scene as the last frame that passed.
    pub(super) fn is_still(&mut self, frame: Thumbnail) -> bool {
        let still = (self.passed.as_ref())
            .filter(|passed| passed.size == frame.size)
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

    /// A brightness that rises by one level per frame passes each time it exceeds the threshold.
    #[test]
    fn slow_changes_add_up() {
        let mut gate = StillGate::new(8.0);
        let passed: Vec<u8> = (100..130)
            .filter(|level| !gate.is_still(Thumbnail::new(&grey(40, 30, *level))))
            .collect();
        assert_eq!(passed, [100, 109, 118, 127]);
    }

    #[test]
    fn an_image_of_another_size_passes() {
        let mut gate = StillGate::new(8.0);
        let sizes = [(40, 30), (40, 30), (80, 60), (80, 60), (40, 30)];
        let passed = sizes.map(|(w, h)| !gate.is_still(Thumbnail::new(&grey(w, h, 100))));
        assert_eq!(passed, [true, false, true, false, true]);
    }

    #[test]
    fn a_change_in_one_corner_counts_fully() {
        for (width, height) in [(16, 16), (320, 240), (1000, 7), (1, 1), (5, 90)] {
            let before = Thumbnail::new(&grey(width, height, 100));
            let mut image = grey(width, height, 100);
            // The first cell; at least one pixel.
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
