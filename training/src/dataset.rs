//! Labelled images.

use pinhole_preprocessing::RgbImage;

use crate::{Result, data::open, shapes};

/// A labelled image.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Where the image comes from.
    pub source: ItemSource,
    /// Its class's index.
    pub label: usize,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemSource {
    /// A file.
    File(std::path::PathBuf),
    /// A generated picture.
    Shapes {
        /// Part of the generated world.
        split: shapes::Split,
        /// Seed.
        seed: u64,
        /// Index.
        index: u64,
    },
}

impl Item {
    /// The image.
    ///
    /// # Errors
    /// [`crate::Error::Image`].
    pub fn image(&self) -> Result<RgbImage> {
        match &self.source {
            ItemSource::File(path) => open(path),
            ItemSource::Shapes { split, seed, index } => {
                let (scene, _, _) = shapes::sample(*split, *seed, *index);
                Ok(shapes::render(&scene, 320, 240))
            }
        }
    }
}
