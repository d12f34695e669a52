//! Labelled images in training, validation and test parts.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use pinhole_preprocessing::RgbImage;
use pinhole_prompts::class_indices;

use crate::{
    Error, Result,
    image_files::open_image,
    random::SeededRng,
    shapes::{self, Scene, Split, Style},
};

/// Labelled images in the parts of the few-shot protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The name of the folder or file, or "shapes": equal on every machine.
    pub name: String,
    /// Class names; an image's label is an index into this list.
    pub classes: Vec<String>,
    /// Training images, from which few-shot training samples.
    pub train: Vec<LabelledImage>,
    /// Validation images; the test images of a data set that has no others.
    pub val: Vec<LabelledImage>,
    /// Test images.
    pub test: Vec<LabelledImage>,
    /// What the user should know about how the parts were made.
    pub notes: Vec<String>,
}

/// A labelled image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledImage {
    /// Where the image comes from.
    pub source: ImageSource,
    /// Index of its class in the list of classes.
    pub label: usize,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// A file.
    File(PathBuf),
    /// An image of the synthetic shapes.
    Shapes {
        /// The split of the shapes.
        split: Split,
        /// Its seed.
        seed: u64,
        /// The index in it.
        index: u64,
        /// How the object is drawn.
        style: Style,
    },
}

/// A subset of the classes, in the protocol of Zhou et al., "Conditional prompt learning for
/// vision-language models" (CVPR 2022), section 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClassSubset {
    /// All classes.
    All,
    /// The first half of the list, rounded up.
    Base,
    /// The rest.
    New,
}

impl ClassSubset {
    /// The indices of its classes in a list of `classes`.
    pub fn range(self, classes: usize) -> Range<usize> {
        let half = classes.div_ceil(2);
        match self {
            Self::All => 0..classes,
            Self::Base => 0..half,
            Self::New => half..classes,
        }
    }
}

/// "all", "base" or "new".
impl fmt::Display for ClassSubset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Base => "base",
            Self::New => "new",
        })
    }
}

impl Dataset {
    /// The same images with the labels of another list of classes, which must contain all of theirs. Its
    /// order decides which classes are base and which are new; `_` matches a space. Of several classes of one name, the n-th becomes the n-th
    /// of that name in the list, or the last if it has fewer.
    ///
    /// # Errors
    /// [`Error::Data`] for an image whose class is not in the list.
    pub fn with_classes(mut self, classes: Vec<String>) -> Result<Self> {
        let labels = class_indices(&classes, &self.classes);
        for image in self
            .train
            .iter_mut()
            .chain(&mut self.val)
            .chain(&mut self.test)
        {
            image.label = labels[image.label].ok_or_else(|| Error::Data {
                path: image.to_string().into(),
                problem: format!(
                    "its class {:?} is not among the {} classes",
                    self.classes[image.label],
                    classes.len()
                ),
            })?;
        }
        self.classes = classes;
        Ok(self)
    }

    /// The images of a subset of the classes, labelled from 0. With one class there is no new one.
    pub fn subset(&self, subset: ClassSubset) -> Self {
        let range = subset.range(self.classes.len());
        let of = |images: &[LabelledImage]| -> Vec<LabelledImage> {
            let kept = images.iter().filter(|image| range.contains(&image.label));
            kept.map(|image| LabelledImage {
                source: image.source.clone(),
                label: image.label - range.start,
            })
            .collect()
        };
        Self {
            name: self.name.clone(),
            classes: self.classes[range.clone()].to_vec(),
            train: of(&self.train),
            val: of(&self.val),
            test: of(&self.test),
            notes: self.notes.clone(),
        }
    }

    /// `shots` images of each class from `train`, ordered by class. A seed selects the same images on
    /// every machine, and those of fewer shots are among those of more.
    ///
    /// # Errors
    /// [`Error::Data`] naming a class with fewer images; [`Error::Options`] for no shots.
    pub fn few_shot(&self, shots: usize, seed: u64) -> Result<Vec<LabelledImage>> {
        if shots == 0 {
            return Err(Error::Options("--shots 0: expected at least 1".into()));
        }
        let mut drawn = Vec::new();
        for (class, mut images) in by_class(&self.train, self.classes.len())
            .into_iter()
            .enumerate()
        {
            if images.len() < shots {
                return Err(Error::Data {
                    path: self.name.clone().into(),
                    problem: format!(
                        "class {:?} has {} training images; --shots {shots} needs {shots}",
                        self.classes[class],
                        images.len()
                    ),
                });
            }
            SeededRng::new(seed ^ 0x7368_6f74, class as u64).shuffle(&mut images);
            drawn.extend(images.into_iter().take(shots).cloned());
        }
        Ok(drawn)
    }

    /// Images on which the options of a few-shot training are chosen, at most `shots` and 4 of each class, as in CoOp's
    /// protocol: validation images, or training images that [`Dataset::few_shot`] does not draw if there are none. Empty if
    /// there are no others.
    pub fn few_shot_validation(&self, shots: usize, seed: u64) -> Vec<LabelledImage> {
        let (part, drawn) = match self.val.as_slice() {
            [] => (&self.train, shots),
            _ => (&self.val, 0),
        };
        let mut chosen = Vec::new();
        let classes = by_class(part, self.classes.len()).into_iter();
        for (class, mut images) in classes.enumerate() {
            SeededRng::new(seed ^ 0x7368_6f74, class as u64).shuffle(&mut images);
            let others = images.into_iter().skip(drawn);
            chosen.extend(others.take(shots.min(4)).cloned());
        }
        chosen
    }
}

impl LabelledImage {
    /// The image, decoded or rendered.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn decode(&self) -> Result<RgbImage> {
        match &self.source {
            ImageSource::File(path) => open_image(path),
            ImageSource::Shapes {
                split,
                seed,
                index,
                style,
            } => {
                let (scene, ..) = shapes::sample(*split, *seed, *index);
                let style = *style;
                Ok(shapes::render(&Scene { style, ..scene }, 320, 240))
            }
        }
    }
}

/// The path, or which synthetic image.
impl fmt::Display for LabelledImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            ImageSource::File(path) => write!(f, "{}", path.display()),
            // Hashed into trained.json: a change would reject older trainings.
            ImageSource::Shapes {
                split,
                seed,
                index,
                style,
            } => {
                write!(f, "generated picture {index} of {split:?}, seed {seed}")?;
                match style {
                    Style::Filled => Ok(()),
                    other => write!(f, ", {other:?}"),
                }
            }
        }
    }
}

/// The images of each class, sorted by path, whatever order they were listed in.
pub(super) fn by_class(images: &[LabelledImage], classes: usize) -> Vec<Vec<&LabelledImage>> {
    let mut found = vec![Vec::new(); classes];
    for image in images {
        found[image.label].push(image);
    }
    for images in &mut found {
        images.sort_by_key(|image| match &image.source {
            ImageSource::File(path) => (0, Some(path)),
            ImageSource::Shapes { index, .. } => (*index, None),
        });
    }
    found
}

/// The last component of a path.
pub(super) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn list(images: usize) -> Vec<LabelledImage> {
        (0..images)
            .map(|i| LabelledImage {
                source: ImageSource::File(format!("{i:02}.png").into()),
                label: i % 2,
            })
            .collect()
    }

    fn set(train: Vec<LabelledImage>) -> Dataset {
        Dataset {
            name: "some".into(),
            classes: vec!["cat".into(), "dog".into()],
            train,
            val: Vec::new(),
            test: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn shots_depend_on_the_seed_alone() {
        let drawn = set(list(41)).few_shot(4, 1).unwrap();
        // Recorded once: the images of a seed must not change between versions or machines.
        let names: Vec<String> = drawn.iter().map(LabelledImage::to_string).collect();
        assert_eq!(names, RECORDED);
        let labels: Vec<usize> = drawn.iter().map(|image| image.label).collect();
        assert_eq!(labels, [0, 0, 0, 0, 1, 1, 1, 1]);
        let mut other_order = list(41);
        other_order.reverse();
        assert_eq!(set(other_order).few_shot(4, 1).unwrap(), drawn);
        assert_ne!(set(list(41)).few_shot(4, 2).unwrap(), drawn);
        let more = set(list(41)).few_shot(16, 1).unwrap();
        assert!(drawn.iter().all(|image| more.contains(image)));
        let distinct: BTreeSet<String> = more.iter().map(LabelledImage::to_string).collect();
        assert_eq!(distinct.len(), 32);
    }

    const RECORDED: [&str; 8] = [
        "32.png", "24.png", "20.png", "08.png", "37.png", "05.png", "31.png", "33.png",
    ];

    #[test]
    fn a_class_with_too_few_images_is_named() {
        let error = set(list(7)).few_shot(4, 1).unwrap_err().to_string();
        assert!(
            error.contains("\"dog\" has 3 training images") && error.contains("--shots 4"),
            "{error}"
        );
        assert!(set(list(7)).few_shot(0, 1).is_err());
        assert_eq!(set(list(7)).few_shot(3, 1).unwrap().len(), 6);
    }

    #[test]
    fn base_is_the_first_half_rounded_up() {
        let mut five = set((0..10)
            .map(|i| LabelledImage {
                label: i % 5,
                ..list(10)[i].clone()
            })
            .collect());
        five.classes = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
        five.test = five.train.clone();
        let (base, new) = (
            five.subset(ClassSubset::Base),
            five.subset(ClassSubset::New),
        );
        assert_eq!((base.classes.len(), new.classes.len()), (3, 2));
        assert_eq!(new.classes, ["d", "e"]);
        assert_eq!((base.test.len(), new.test.len()), (6, 4));
        assert_eq!(
            (new.test[0].to_string(), new.test[0].label),
            ("03.png".into(), 0)
        );
        assert_eq!(five.subset(ClassSubset::All), five);
        // Base classes get the same shots as among all classes.
        let all = five.few_shot(1, 5).unwrap();
        assert_eq!(base.few_shot(1, 5).unwrap(), all[..3]);
    }

    #[test]
    fn a_list_of_classes_relabels() {
        let own = |classes: &[&str]| {
            let classes = classes.iter().map(|c| c.to_string()).collect();
            set(list(4)).with_classes(classes)
        };
        let other = own(&["horse", "dog", "cat"]).unwrap();
        let labels: Vec<usize> = other.train.iter().map(|image| image.label).collect();
        assert_eq!(labels, [2, 1, 2, 1]);
        // Folders cannot always have a class's spaces.
        let mut folders = set(list(2));
        folders.classes = vec!["polar_bear".into(), "tall ship".into()];
        let names = ["tall_ship", "polar bear"].map(String::from).to_vec();
        let other = folders.with_classes(names).unwrap();
        let labels: Vec<usize> = other.train.iter().map(|image| image.label).collect();
        assert_eq!(labels, [1, 0]);
        let mut twice = set(list(4));
        twice.classes = vec!["crane".into(), "crane".into()];
        let classes = ["crane", "cat", "crane"].map(String::from).to_vec();
        let other = twice.with_classes(classes).unwrap();
        let labels: Vec<usize> = other.train.iter().map(|image| image.label).collect();
        assert_eq!(labels, [0, 2, 0, 2]);
        let error = own(&["cat"]).unwrap_err().to_string();
        assert!(
            error.contains("\"dog\" is not among the 1 classes"),
            "{error}"
        );
    }
}
