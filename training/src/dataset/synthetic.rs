//! The synthetic shapes as a labelled data set.

use super::labelled::{Dataset, ImageSource, LabelledImage};
use crate::shapes::{self, STYLES, Split, Style};

/// Training images per class.
pub const SHAPES_TRAIN: usize = 64;
/// Test images per class.
pub const SHAPES_TEST: usize = 50;
/// Seeds of the training and test images. Both come from [`Split::Seen`] and [`Split::Unseen`], which
/// pre-training does not use; the seeds keep them apart from each other.
const SEEDS: [u64; 2] = [2_000_003, 3_000_017];

/// The name of a style's data set: "shapes", or "shapes-outline" and so on.
pub(super) fn name(style: Style) -> String {
    let of_style = STYLES.iter().find(|(known, _)| *known == style);
    match of_style {
        Some((style, name)) if *style != Style::default() => format!("shapes-{name}"),
        _ => "shapes".into(),
    }
}

/// The data set of a style: all 64 classes. Those of different styles show the same scenes.
pub(super) fn shapes(style: Style) -> Dataset {
    let classes = shapes::class_names();
    let [train, test] =
        [(SEEDS[0], SHAPES_TRAIN), (SEEDS[1], SHAPES_TEST)].map(|(seed, per_class)| {
            let mut images = Vec::new();
            for split in [Split::Seen, Split::Unseen] {
                // Any run of as many images as the split has classes contains each class once.
                for index in 0..(split.classes().len() * per_class) as u64 {
                    let (_, label, _) = shapes::sample(split, seed, index);
                    let source = ImageSource::Shapes {
                        split,
                        seed,
                        index,
                        style,
                    };
                    images.push(LabelledImage { source, label });
                }
            }
            images
        });
    Dataset {
        name: name(style),
        classes,
        train,
        val: Vec::new(),
        test,
        notes: Vec::new(),
    }
}
