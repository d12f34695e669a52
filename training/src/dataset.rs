//! Labelled images for few-shot training and for tests.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    io::Read,
    ops::Range,
    path::{Component, Path, PathBuf},
};

use pinhole_preprocessing::RgbImage;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    data::{class_folder, open},
    error::io,
    shapes::{self, Dice, Split},
};

/// Labelled images in the parts that the few-shot protocol knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The folder's or file's own name, or "shapes": the same on every machine.
    pub name: String,
    /// Names of the classes; an item's label is a place in this list.
    pub classes: Vec<String>,
    /// What few-shot training draws from.
    pub train: Vec<Item>,
    /// For choosing hyper-parameters; nothing here uses it.
    pub val: Vec<Item>,
    /// What accuracy is measured on.
    pub test: Vec<Item>,
    /// What a user should know about how the parts came to be.
    pub notes: Vec<String>,
}

/// A labelled image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where the image comes from.
    pub source: ItemSource,
    /// The place of its class in the list of classes.
    pub label: usize,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemSource {
    /// A file.
    File(PathBuf),
    /// A picture of the generated world.
    Shapes {
        /// The part of the generated world.
        split: Split,
        /// Its seed.
        seed: u64,
        /// The picture in it.
        index: u64,
    },
}

/// Which of the classes, in the protocol of Zhou et al., "Conditional prompt learning for
/// vision-language models" (CVPR 2022), section 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// All of them.
    All,
    /// The first half of the list, rounded up.
    Base,
    /// The others.
    New,
}

impl Part {
    /// The places of its classes in a list of `classes`.
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
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Base => "base",
            Self::New => "new",
        })
    }
}

/// How a data set is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatasetOptions {
    /// The folder that the paths of a split file are relative to.
    pub images_root: Option<PathBuf>,
    /// Decides which images of a single tree are for training and which for tests.
    pub split_seed: u64,
}

/// Pictures of each class of the generated world to train on.
pub const SHAPES_TRAIN: usize = 64;
/// Pictures of each class of the generated world to test on.
pub const SHAPES_TEST: usize = 50;
/// Seeds of the generated pictures to train and to test on. They come from the parts of the generated
/// world for tests, which no pre-training shows, and these seeds keep them apart.
const SHAPES_SEEDS: [u64; 2] = [2_000_003, 3_000_017];

/// The largest split file: ImageNet's 1.3 million images would take half of it.
const MAX_JSON: u64 = 256 << 20;

impl Dataset {
    /// Opens one of three kinds of data:
    ///
    /// - `shapes`: the generated world, its 64 classes in the order of [`shapes::class_names`], with
    ///   [`SHAPES_TRAIN`] and [`SHAPES_TEST`] pictures each;
    /// - a folder with one sub-folder of images per class, or with such folders named `train`, `val`
    ///   or `validation`, and `test`. Classes are sorted by name. A single tree is split by class:
    ///   `split_seed` picks three tenths of each class (rounded, at least one of two) for tests;
    /// - a `split_zhou_<Dataset>.json` as CoOp has it: `train`, `val` and `test`, each a list of
    ///   [path, label, class name]. Classes are sorted by label. Paths are relative to
    ///   `images_root`, or else to the file's folder or the first of its sub-folders that has the
    ///   first image.
    ///
    /// Where there is nothing to test on, the validation part is what is tested on, and `notes` say so.
    ///
    /// # Errors
    /// [`Error::Data`], [`Error::Io`]: what cannot be read; a path that leaves the root; missing
    /// images; a label with two names, a name with two labels; an image with two labels, or both in
    /// `train` and in another part.
    pub fn open(data: &Path, options: &DatasetOptions) -> Result<Self> {
        let json = data.is_file();
        if options.images_root.is_some() && !json {
            return Err(problem(
                data,
                "--images-root is for split files (split_zhou_*.json) only",
            ));
        }
        if data == Path::new("shapes") {
            return Ok(generated());
        }
        let mut set = match json {
            true => split_file(data, options.images_root.as_deref())?,
            false => tree(data, options.split_seed)?,
        };
        if set.test.is_empty() && !set.val.is_empty() {
            set.test = std::mem::take(&mut set.val);
            set.notes
                .push("there is no test part: the validation part is the test set".into());
        }
        Ok(set)
    }

    /// Every image of a folder with one sub-folder per class, to test on.
    ///
    /// # Errors
    /// Those of [`class_folder`].
    pub fn all_to_test(folder: &Path) -> Result<Self> {
        Self::of_folders(folder, [None, None, Some(folder)])
    }

    /// The same images with the labels of another list of classes, which must hold all of theirs. Its
    /// order decides which are base and which are new.
    ///
    /// # Errors
    /// [`Error::Data`] for an image whose class is not in the list.
    pub fn with_classes(mut self, classes: Vec<String>) -> Result<Self> {
        let places: HashMap<&str, usize> =
            (classes.iter().enumerate().map(|(i, c)| (&**c, i))).collect();
        for item in self
            .train
            .iter_mut()
            .chain(&mut self.val)
            .chain(&mut self.test)
        {
            let class = &self.classes[item.label];
            item.label = *places.get(&**class).ok_or_else(|| Error::Data {
                path: item.to_string().into(),
                problem: format!(
                    "its class {class:?} is not among the {} classes",
                    classes.len()
                ),
            })?;
        }
        self.classes = classes;
        Ok(self)
    }

    /// The images of base or new classes, labelled from 0. With one class there is no new one.
    pub fn part(&self, part: Part) -> Self {
        let range = part.range(self.classes.len());
        let of = |items: &[Item]| -> Vec<Item> {
            let kept = items.iter().filter(|item| range.contains(&item.label));
            kept.map(|item| Item {
                source: item.source.clone(),
                label: item.label - range.start,
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

    /// `shots` images of each class from `train`, class by class. A seed draws the same images on
    /// every machine, and those of fewer shots are among those of more.
    ///
    /// # Errors
    /// [`Error::Data`] naming a class with fewer images; [`Error::Config`] for no shots.
    pub fn few_shot(&self, shots: usize, seed: u64) -> Result<Vec<Item>> {
        if shots == 0 {
            return Err(Error::Config("0 shots: expected at least 1".into()));
        }
        let mut drawn = Vec::new();
        for (class, mut items) in by_class(&self.train, self.classes.len())
            .into_iter()
            .enumerate()
        {
            if items.len() < shots {
                return Err(problem(
                    Path::new(&self.name),
                    format!(
                        "class {:?} has {} images to train on, but {shots} shots need {shots}",
                        self.classes[class],
                        items.len()
                    ),
                ));
            }
            Dice::new(seed ^ 0x7368_6f74, class as u64).shuffle(&mut items);
            drawn.extend(items.into_iter().take(shots).cloned());
        }
        Ok(drawn)
    }

    /// From a class folder for each part, `None` for a part that there is not.
    fn of_folders(root: &Path, folders: [Option<&Path>; 3]) -> Result<Self> {
        let mut parts = Vec::new();
        for folder in folders {
            parts.push(folder.map_or(Ok(Vec::new()), class_folder)?);
        }
        let names: BTreeSet<&String> = parts.iter().flatten().map(|(_, class)| class).collect();
        let classes: Vec<String> = names.into_iter().cloned().collect();
        // Every class is in the list that was made of them.
        let label = |class: &String| classes.binary_search(class).unwrap_or_default();
        let items = |part: &[(PathBuf, String)]| -> Vec<Item> {
            (part.iter())
                .map(|(path, class)| Item {
                    source: ItemSource::File(path.clone()),
                    label: label(class),
                })
                .collect()
        };
        Ok(Self {
            name: name(root),
            train: items(&parts[0]),
            val: items(&parts[1]),
            test: items(&parts[2]),
            classes,
            notes: Vec::new(),
        })
    }
}

impl Item {
    /// The image, decoded or drawn.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn image(&self) -> Result<RgbImage> {
        match &self.source {
            ItemSource::File(path) => open(path),
            ItemSource::Shapes { split, seed, index } => {
                let (scene, ..) = shapes::sample(*split, *seed, *index);
                Ok(shapes::render(&scene, 320, 240))
            }
        }
    }
}

/// The path, or which generated picture.
impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            ItemSource::File(path) => write!(f, "{}", path.display()),
            ItemSource::Shapes { split, seed, index } => {
                write!(f, "generated picture {index} of {split:?}, seed {seed}")
            }
        }
    }
}

fn problem(path: &Path, problem: impl Into<String>) -> Error {
    Error::Data {
        path: path.into(),
        problem: problem.into(),
    }
}

/// The last part of a path.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The items of each class in the order of their paths, whatever order they were listed in.
fn by_class(items: &[Item], classes: usize) -> Vec<Vec<&Item>> {
    let mut found = vec![Vec::new(); classes];
    for item in items {
        found[item.label].push(item);
    }
    for items in &mut found {
        items.sort_by_key(|item| match &item.source {
            ItemSource::File(path) => (0, Some(path)),
            ItemSource::Shapes { index, .. } => (*index, None),
        });
    }
    found
}

/// The generated world.
fn generated() -> Dataset {
    let classes = shapes::class_names();
    let [train, test] = [
        (SHAPES_SEEDS[0], SHAPES_TRAIN),
        (SHAPES_SEEDS[1], SHAPES_TEST),
    ]
    .map(|(seed, per_class)| {
        let mut items = Vec::new();
        for split in [Split::Seen, Split::Unseen] {
            // A stretch of as many items as the split has classes shows each of them once.
            for index in 0..(split.classes().len() * per_class) as u64 {
                let (_, label, _) = shapes::sample(split, seed, index);
                let source = ItemSource::Shapes { split, seed, index };
                items.push(Item { source, label });
            }
        }
        items
    });
    Dataset {
        name: "shapes".into(),
        classes,
        train,
        val: Vec::new(),
        test,
        notes: Vec::new(),
    }
}

/// A folder with a tree of class folders, or with one for each part.
fn tree(folder: &Path, split_seed: u64) -> Result<Dataset> {
    let part = |name: &str| {
        let path = folder.join(name);
        // A class may be called "train": then it holds images, not folders.
        let mut entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
        entries.any(|entry| entry.path().is_dir()).then_some(path)
    };
    let [train, val, validation, test] = ["train", "val", "validation", "test"].map(part);
    if val.is_some() && validation.is_some() {
        return Err(problem(folder, "has both val and validation: expected one"));
    }
    let val = val.or(validation);
    if val.is_some() || test.is_some() {
        let folders = [&train, &val, &test].map(|path| path.as_deref());
        return Dataset::of_folders(folder, folders);
    }
    let whole = train.as_deref().unwrap_or(folder);
    let mut set = Dataset::of_folders(folder, [Some(whole), None, None])?;
    let all = std::mem::take(&mut set.train);
    for (class, mut items) in by_class(&all, set.classes.len()).into_iter().enumerate() {
        let tests = (3 * items.len() + 5) / 10;
        Dice::new(split_seed ^ 0x0073_706c_6974, class as u64).shuffle(&mut items);
        set.test.extend(items.drain(..tests).cloned());
        set.train.extend(items.into_iter().cloned());
    }
    set.notes.push(format!(
        "a single tree: {} of its {} images are the test set (split seed {split_seed})",
        set.test.len(),
        all.len()
    ));
    Ok(set)
}

/// A split file as CoOp writes it (Dassl's `save_split`).
#[derive(Deserialize)]
struct SplitFile {
    train: Vec<Entry>,
    #[serde(default)]
    val: Vec<Entry>,
    #[serde(default)]
    test: Vec<Entry>,
}

/// Path, label, class name.
type Entry = (String, u64, String);

fn split_file(path: &Path, images_root: Option<&Path>) -> Result<Dataset> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(io(path))?;
    file.take(MAX_JSON + 1)
        .read_to_end(&mut text)
        .map_err(io(path))?;
    if text.len() as u64 > MAX_JSON {
        let limit = MAX_JSON >> 20;
        return Err(problem(
            path,
            format!("larger than {limit} MiB: not a split file"),
        ));
    }
    let split: SplitFile = serde_json::from_slice(&text).map_err(|e| {
        let form = "{\"train\": [[path, label, class name], ...], \"val\": ..., \"test\": ...}";
        problem(path, format!("not a split file ({e}); expected {form}"))
    })?;
    let parts = [
        ("train", split.train),
        ("val", split.val),
        ("test", split.test),
    ];

    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    let mut labels: HashMap<String, u64> = HashMap::new();
    for (image, label, name) in parts.iter().flat_map(|(_, entries)| entries) {
        let name = name.trim();
        if name.is_empty() {
            return Err(problem(
                path,
                format!("{image:?} has a class without a name"),
            ));
        }
        let known = names.entry(*label).or_insert_with(|| name.to_owned());
        if known != name {
            let two = format!("label {label} has two names, {known:?} and {name:?}");
            return Err(problem(path, two));
        }
        if *labels.entry(name.to_owned()).or_insert(*label) != *label {
            return Err(problem(path, format!("class {name:?} has two labels")));
        }
    }
    let places: HashMap<u64, usize> = names.keys().enumerate().map(|(i, l)| (*l, i)).collect();

    let Some((first, ..)) = parts.iter().flat_map(|(_, entries)| entries).next() else {
        return Err(problem(path, "lists no image"));
    };
    let first = inside(path, first)?;
    let root = match images_root {
        Some(root) => root.to_owned(),
        None => default_root(path, &first)?,
    };
    let mut seen: HashMap<PathBuf, (usize, usize)> = HashMap::new();
    let mut twice = 0;
    let mut missing = Vec::new();
    let mut lists = [const { Vec::new() }; 3];
    for (part, (_, entries)) in parts.iter().enumerate() {
        for (image, label, _) in entries {
            let (image, label) = (inside(path, image)?, places[label]);
            match seen.get(&image) {
                Some(&(_, other)) if other != label => {
                    let both = format!("{} has two labels", image.display());
                    return Err(problem(path, both));
                }
                Some(&(other, _)) if other != part && other == 0 => {
                    let both = format!(
                        "{} is in train and in {}: tests would be of what was trained on",
                        image.display(),
                        parts[part].0
                    );
                    return Err(problem(path, both));
                }
                Some(&(other, _)) if other == part => {
                    twice += 1;
                    continue;
                }
                _ => {}
            }
            let file = root.join(&image);
            seen.insert(image, (part, label));
            if !file.is_file() {
                missing.push(file.clone());
            }
            let source = ItemSource::File(file);
            lists[part].push(Item { source, label });
        }
    }
    if let Some(first) = missing.first() {
        return Err(problem(
            path,
            format!(
                "{} of {} listed images are not there, first {} (set --images-root to the folder \
                 that the paths are relative to)",
                missing.len(),
                seen.len(),
                first.display()
            ),
        ));
    }
    let [train, val, test] = lists;
    Ok(Dataset {
        name: name(path),
        classes: names.into_values().collect(),
        train,
        val,
        test,
        notes: match twice {
            0 => Vec::new(),
            _ => vec![format!("{twice} images that are listed twice count once")],
        },
    })
}

/// A listed path without `.`; it must stay below the root.
fn inside(list: &Path, image: &str) -> Result<PathBuf> {
    let mut plain = PathBuf::new();
    for component in Path::new(image).components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            _ => {
                return Err(problem(
                    list,
                    format!("{image:?} leads out of the images' folder; expected a relative path"),
                ));
            }
        }
    }
    match plain.as_os_str().is_empty() {
        true => Err(problem(list, format!("{image:?} is not a path"))),
        false => Ok(plain),
    }
}

/// The split file's folder, or the first of its sub-folders, in which there is this image.
fn default_root(list: &Path, image: &Path) -> Result<PathBuf> {
    let folder = list.parent().unwrap_or(Path::new(""));
    let entries = std::fs::read_dir(match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    });
    let entries = entries.map_err(io(folder))?;
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| Ok(folder.join(entry?.file_name())))
        .collect::<std::io::Result<_>>()
        .map_err(io(folder))?;
    folders.sort();
    let mut candidates = [folder.to_owned()].into_iter().chain(folders);
    candidates
        .find(|candidate| candidate.join(image).is_file())
        .ok_or_else(|| {
            let first = format!(
                "its first image {} is neither beside it nor in a folder beside it: set \
                 --images-root to the folder that the paths are relative to",
                image.display()
            );
            problem(list, first)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn touch(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    fn folders(root: &Path, files: &[(&str, usize)]) {
        for (class, count) in files {
            for i in 0..*count {
                touch(root.join(format!("{class}/{i:02}.png")));
            }
        }
    }

    fn shown(items: &[Item]) -> Vec<(String, usize)> {
        let name = |item: &Item| match &item.source {
            ItemSource::File(path) => name(path),
            ItemSource::Shapes { index, .. } => index.to_string(),
        };
        items.iter().map(|item| (name(item), item.label)).collect()
    }

    fn open_plain(path: &Path) -> Result<Dataset> {
        Dataset::open(path, &DatasetOptions::default())
    }

    #[test]
    fn a_tree_of_parts_is_taken_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let files = [
            ("train/b", 3),
            ("train/a", 2),
            ("validation/a", 1),
            ("test/c", 1),
        ];
        folders(root, &files);
        let set = open_plain(root).unwrap();
        assert_eq!(set.classes, ["a", "b", "c"]);
        assert_eq!((set.train.len(), set.val.len(), set.test.len()), (5, 1, 1));
        assert_eq!(shown(&set.test), [("00.png".into(), 2)]);
        assert!(set.notes.is_empty());
        fs::remove_dir_all(root.join("test")).unwrap();
        let set = open_plain(root).unwrap();
        assert_eq!((set.val.len(), set.test.len()), (0, 1));
        assert!(set.notes[0].contains("validation"), "{:?}", set.notes);
        folders(root, &[("val/a", 1)]);
        assert!(open_plain(root).unwrap_err().to_string().contains("both"));
    }

    #[test]
    fn a_single_tree_is_split_by_class() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        // A class may have the name of a part.
        folders(root, &[("train", 10), ("one", 1), ("two", 2), ("val", 5)]);
        let set = open_plain(root).unwrap();
        assert_eq!(set.classes, ["one", "train", "two", "val"]);
        let count = |items: &[Item], label| items.iter().filter(|i| i.label == label).count();
        for (label, train, test) in [(0, 1, 0), (1, 7, 3), (2, 1, 1), (3, 3, 2)] {
            assert_eq!(
                (count(&set.train, label), count(&set.test, label)),
                (train, test)
            );
        }
        let all: BTreeSet<_> = (set.train.iter().chain(&set.test))
            .map(Item::to_string)
            .collect();
        assert_eq!(all.len(), 18);
        assert_eq!(open_plain(root).unwrap(), set);
        let options = DatasetOptions {
            split_seed: 1,
            ..Default::default()
        };
        assert_ne!(Dataset::open(root, &options).unwrap().test, set.test);
        let every = Dataset::all_to_test(root).unwrap();
        assert_eq!((every.train.len(), every.test.len()), (0, 18));
    }

    fn list(items: usize) -> Vec<Item> {
        (0..items)
            .map(|i| Item {
                source: ItemSource::File(format!("{i:02}.png").into()),
                label: i % 2,
            })
            .collect()
    }

    fn set(train: Vec<Item>) -> Dataset {
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
        // Recorded once: what a seed draws must not change between versions or machines.
        let names: Vec<String> = shown(&drawn).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, RECORDED);
        let labels: Vec<usize> = drawn.iter().map(|item| item.label).collect();
        assert_eq!(labels, [0, 0, 0, 0, 1, 1, 1, 1]);
        let mut other_order = list(41);
        other_order.reverse();
        assert_eq!(set(other_order).few_shot(4, 1).unwrap(), drawn);
        assert_ne!(set(list(41)).few_shot(4, 2).unwrap(), drawn);
        let more = set(list(41)).few_shot(16, 1).unwrap();
        assert!(drawn.iter().all(|item| more.contains(item)));
        let distinct: BTreeSet<String> = more.iter().map(Item::to_string).collect();
        assert_eq!(distinct.len(), 32);
    }

    const RECORDED: [&str; 8] = [
        "32.png", "24.png", "20.png", "08.png", "37.png", "05.png", "31.png", "33.png",
    ];

    #[test]
    fn a_class_with_too_few_images_is_named() {
        let error = set(list(7)).few_shot(4, 1).unwrap_err().to_string();
        assert!(
            error.contains("\"dog\" has 3 images") && error.contains("4 shots"),
            "{error}"
        );
        assert!(set(list(7)).few_shot(0, 1).is_err());
        assert_eq!(set(list(7)).few_shot(3, 1).unwrap().len(), 6);
    }

    #[test]
    fn base_is_the_first_half_rounded_up() {
        let mut five = set((0..10)
            .map(|i| Item {
                label: i % 5,
                ..list(10)[i].clone()
            })
            .collect());
        five.classes = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
        five.test = five.train.clone();
        let (base, new) = (five.part(Part::Base), five.part(Part::New));
        assert_eq!((base.classes.len(), new.classes.len()), (3, 2));
        assert_eq!(new.classes, ["d", "e"]);
        assert_eq!((base.test.len(), new.test.len()), (6, 4));
        assert_eq!(shown(&new.test)[0], ("03.png".into(), 0));
        assert_eq!(five.part(Part::All), five);
        // Base classes get the shots that they would get among all.
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
        let labels: Vec<usize> = other.train.iter().map(|item| item.label).collect();
        assert_eq!(labels, [2, 1, 2, 1]);
        let error = own(&["cat"]).unwrap_err().to_string();
        assert!(
            error.contains("\"dog\" is not among the 1 classes"),
            "{error}"
        );
    }

    #[test]
    fn generated_pictures_to_train_and_to_test_on_differ() {
        let set = open_plain(Path::new("shapes")).unwrap();
        assert_eq!(
            (set.train.len(), set.test.len()),
            (64 * SHAPES_TRAIN, 64 * SHAPES_TEST)
        );
        for (items, count) in [(&set.train, SHAPES_TRAIN), (&set.test, SHAPES_TEST)] {
            let sizes: BTreeSet<usize> = by_class(items, 64).iter().map(Vec::len).collect();
            assert_eq!(sizes, BTreeSet::from([count]));
        }
        let picture = |item: &Item| item.image().unwrap().data;
        let trained: Vec<_> = set.few_shot(2, 1).unwrap()[..16]
            .iter()
            .map(picture)
            .collect();
        for item in by_class(&set.test, 64)[..8].iter().flatten() {
            assert!(!trained.contains(&picture(item)));
        }
        // Pre-training draws from another part of the world, whatever its seed.
        let parts = |item: &Item| match item.source {
            ItemSource::Shapes { split, .. } => split != Split::Train,
            ItemSource::File(_) => false,
        };
        assert!(set.train.iter().chain(&set.test).all(parts));
    }

    /// Opens a split file with images a.png and b.png in a folder beside it.
    fn split(json: &str) -> Result<Dataset> {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "photos/x/a.png",
            "photos/x/b.png",
            "photos/c.png",
            "secret.png",
        ] {
            touch(root.path().join(file));
        }
        let path = root.path().join("split_zhou_Some.json");
        fs::write(&path, json).unwrap();
        open_plain(&path)
    }

    #[test]
    fn split_files_are_read_by_label() {
        let set = split(
            r#"{"train": [["x/a.png", 7, "z"], ["x/a.png", 7, "z"]], "val": [["./x/b.png", 2, "y"]],
                "test": [["c.png", 7, "z"]]}"#,
        )
        .unwrap();
        assert_eq!(set.name, "split_zhou_Some.json");
        assert_eq!(set.classes, ["y", "z"]);
        assert_eq!(shown(&set.train), [("a.png".into(), 1)]);
        assert_eq!(shown(&set.val), [("b.png".into(), 0)]);
        assert_eq!(shown(&set.test), [("c.png".into(), 1)]);
        assert!(set.notes[0].contains("1 images that are listed twice"));
        let set =
            split(r#"{"train": [["c.png", 0, "z"]], "val": [["x/a.png", 0, "z"]], "test": []}"#);
        assert_eq!(shown(&set.unwrap().test), [("a.png".into(), 0)]);
    }

    #[test]
    fn what_is_wrong_in_a_split_file_is_said() {
        let train = |entries: &str| split(&format!("{{\"train\": [{entries}]}}"));
        for (entries, said) in [
            (
                r#"["x/a.png", 0, "y"], ["x/b.png", 0, "z"]"#,
                "label 0 has two names, \"y\" and \"z\"",
            ),
            (
                r#"["x/a.png", 0, "y"], ["x/b.png", 1, "y"]"#,
                "\"y\" has two labels",
            ),
            (
                r#"["x/a.png", 0, "y"], ["x/a.png", 1, "z"]"#,
                "a.png has two labels",
            ),
            (r#"["x/a.png", 0, " "]"#, "without a name"),
            (r#"["../secret.png", 0, "y"]"#, "leads out of"),
            (
                r#"["c.png", 0, "y"], ["x/../../secret.png", 0, "y"]"#,
                "leads out of",
            ),
            (r#"["/etc/hostname", 0, "y"]"#, "leads out of"),
            (r#"["", 0, "y"]"#, "not a path"),
            (
                r#"["nowhere.png", 0, "y"]"#,
                "nowhere.png is neither beside it",
            ),
            (
                r#"["c.png", 0, "y"], ["x/no.png", 0, "y"], ["no.png", 0, "y"]"#,
                "2 of 3 listed",
            ),
            (r#"["c.png", -1, "y"]"#, "not a split file"),
            (r#"["c.png", 0]"#, "not a split file"),
            ("", "lists no image"),
        ] {
            let error = train(entries).unwrap_err().to_string();
            assert!(error.contains(said), "{entries}: {error}");
        }
        let both = r#"{"train": [["c.png", 0, "y"]], "test": [["c.png", 0, "y"]]}"#;
        assert!(
            split(both)
                .unwrap_err()
                .to_string()
                .contains("is in train and in test")
        );
        assert!(
            split("[1")
                .unwrap_err()
                .to_string()
                .contains("not a split file")
        );
    }

    #[test]
    fn a_root_is_for_split_files() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path().join("away/images/a.png"));
        let path = root.path().join("split.json");
        fs::write(&path, r#"{"train": [["a.png", 0, "y"]]}"#).unwrap();
        let options = DatasetOptions {
            images_root: Some(root.path().join("away/images")),
            split_seed: 0,
        };
        assert_eq!(Dataset::open(&path, &options).unwrap().train.len(), 1);
        assert!(open_plain(&path).is_err());
        assert!(Dataset::open(Path::new("shapes"), &options).is_err());
        assert!(Dataset::open(root.path(), &options).is_err());
    }

    #[test]
    fn large_files_are_refused_unread() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("split.json");
        let file = fs::File::create(&path).unwrap();
        file.set_len(MAX_JSON + 1).unwrap();
        assert!(
            open_plain(&path)
                .unwrap_err()
                .to_string()
                .contains("larger than")
        );
    }
}
