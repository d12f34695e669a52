//! Lists of images that trainings read.

use std::fs;

use pinhole_training::dataset::{self, DatasetOptions};
use pinhole_training::pairs::{ListOptions, PairFiles};

use crate::scratch;

/// CoOp's `split_zhou_<Dataset>.json`, beside the images of the seed.
pub(crate) fn split_file(bytes: &[u8]) {
    let path = scratch::file("split_zhou_Any.json", bytes);
    let Some(folder) = path.parent() else {
        return;
    };
    fs::create_dir_all(folder.join("x")).expect("a temporary folder");
    for image in ["a.png", "b.png", "c.png", "d.png"] {
        scratch::file(&format!("x/{image}"), b"");
    }
    if let Ok(set) = dataset::open(&path, &DatasetOptions::default()) {
        for image in set.train.iter().chain(&set.val).chain(&set.test) {
            assert!(image.label < set.classes.len());
        }
    }
}

/// A list of images and captions, beside the images of the seed.
pub(crate) fn captions(bytes: &[u8]) {
    let path = scratch::file("captions.tsv", bytes);
    scratch::file("a.png", b"");
    let _ = PairFiles::from_list(&path, &ListOptions::default(), 1.0);
}
