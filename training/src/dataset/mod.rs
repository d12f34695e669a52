//! Data sets of labelled images for few-shot training and for evaluation.
//!
//! | file | subject |
//! |---|---|
//! | `labelled` | [`Dataset`], its images, subsets of classes, few-shot sampling |
//! | `folders` | folders with one sub-folder per class |
//! | `split_file` | CoOp's `split_zhou_<Dataset>.json` |
//! | `synthetic` | the synthetic shapes |

mod folders;
mod labelled;
mod split_file;
mod synthetic;

use std::path::{Path, PathBuf};

use pinhole_prompts::FolderNames;

use crate::{Error, Result, shapes::STYLES};

pub use folders::all_to_test;
pub use labelled::{ClassSubset, Dataset, ImageSource, LabelledImage};
pub use synthetic::{SHAPES_TEST, SHAPES_TRAIN};

/// How a data set is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatasetOptions {
    /// The folder that the paths of a split file are relative to.
    pub images_root: Option<PathBuf>,
    /// Class names of the sub-folders of a folder.
    pub folder_names: FolderNames,
    /// Selects the test images of a folder that is not split into training and test.
    pub split_seed: u64,
}

/// Opens a data set of one of four kinds:
///
/// - `shapes`: the synthetic shapes, 64 classes in the order of [`crate::shapes::class_names`], with
///   [`SHAPES_TRAIN`] training and [`SHAPES_TEST`] test images each;
/// - `shapes-outline`: the same scenes, with outlines in place of filled shapes, which no pre-training shows;
/// - a folder with one sub-folder of images per class, or with such folders named `train`, `val` or
///   `valid` or `validation`, and `test`. Classes are sorted by name. A folder without these parts is split by
///   class: `split_seed` selects three tenths of each class (rounded, at least one of two) for the test;
/// - a `split_zhou_<Dataset>.json` of CoOp: `train`, `val` and `test`, each a list of
///   [path, label, class name]. Classes are sorted by label. Paths are relative to `images_root`, by
///   default the file's folder or the first of its sub-folders that contains the first image.
///
/// A data set without test images is tested on its validation images; `notes` report that.
///
/// # Errors
/// [`Error::Data`], [`Error::Io`]: unreadable files; a path outside the root; missing images; a label
/// with two names; an image with two labels, or both in `train` and in another
/// part.
pub fn open(data: &Path, options: &DatasetOptions) -> Result<Dataset> {
    let is_file = data.is_file();
    if options.images_root.is_some() && !is_file {
        return Err(Error::Data {
            path: data.into(),
            problem: "--images-root: expected a split file (split_zhou_*.json) as --data".into(),
        });
    }
    if options.folder_names != FolderNames::default() && !data.is_dir() {
        return Err(Error::Data {
            path: data.into(),
            problem: "--folder-names: expected a folder with one sub-folder per class as --data"
                .into(),
        });
    }
    for (style, _) in STYLES {
        if data == Path::new(&synthetic::name(style)) {
            return Ok(synthetic::shapes(style));
        }
    }
    let mut set = if is_file {
        split_file::read(data, options.images_root.as_deref())?
    } else {
        folders::read(data, options.split_seed, &options.folder_names)?
    };
    if set.test.is_empty() && !set.val.is_empty() {
        set.test = std::mem::take(&mut set.val);
        set.notes
            .push("no test images: the validation images are the test set".into());
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::Split;
    use std::{collections::BTreeSet, fs};

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

    fn shown(images: &[LabelledImage]) -> Vec<(String, usize)> {
        let name = |image: &LabelledImage| match &image.source {
            ImageSource::File(path) => path.file_name().unwrap().to_string_lossy().into_owned(),
            ImageSource::Shapes { index, .. } => index.to_string(),
        };
        images
            .iter()
            .map(|image| (name(image), image.label))
            .collect()
    }

    fn open_default(path: &Path) -> Result<Dataset> {
        open(path, &DatasetOptions::default())
    }

    #[test]
    fn a_folder_with_train_and_test_keeps_its_split() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let files = [
            ("train/b", 3),
            ("train/a", 2),
            ("valid/a", 1),
            ("test/c", 1),
        ];
        folders(root, &files);
        let set = open_default(root).unwrap();
        assert_eq!(set.classes, ["a", "b", "c"]);
        assert_eq!((set.train.len(), set.val.len(), set.test.len()), (5, 1, 1));
        assert_eq!(shown(&set.test), [("00.png".into(), 2)]);
        assert!(set.notes.is_empty());
        fs::remove_dir_all(root.join("test")).unwrap();
        let set = open_default(root).unwrap();
        assert_eq!((set.val.len(), set.test.len()), (0, 1));
        assert!(set.notes[0].contains("validation"), "{:?}", set.notes);
        folders(root, &[("val/a", 1)]);
        assert!(open_default(root).unwrap_err().to_string().contains("both"));
    }

    #[test]
    fn a_folder_of_classes_is_split_by_class() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        // A class may have the name of a part.
        folders(root, &[("train", 10), ("one", 1), ("two", 2), ("val", 5)]);
        let set = open_default(root).unwrap();
        assert_eq!(set.classes, ["one", "train", "two", "val"]);
        let count =
            |images: &[LabelledImage], label| images.iter().filter(|i| i.label == label).count();
        for (label, train, test) in [(0, 1, 0), (1, 7, 3), (2, 1, 1), (3, 3, 2)] {
            assert_eq!(
                (count(&set.train, label), count(&set.test, label)),
                (train, test)
            );
        }
        let all: BTreeSet<_> = (set.train.iter().chain(&set.test))
            .map(LabelledImage::to_string)
            .collect();
        assert_eq!(all.len(), 18);
        assert_eq!(open_default(root).unwrap(), set);
        let options = DatasetOptions {
            split_seed: 1,
            ..Default::default()
        };
        assert_ne!(open(root, &options).unwrap().test, set.test);
        let every = all_to_test(root, &FolderNames::default()).unwrap();
        assert_eq!((every.train.len(), every.test.len()), (0, 18));
    }

    /// If this fails, the class list has `.git`, or a folder of an archive that macOS packed.
    #[test]
    fn hidden_folders_and_files_are_no_classes() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        folders(
            root,
            &[("cat", 2), ("dog", 2), (".thumbnails", 2), ("__MACOSX", 2)],
        );
        // A class, not a part, although it has a folder.
        folders(root, &[("train", 1), ("train/.ipynb_checkpoints", 1)]);
        touch(root.join("cat/._00.png"));
        let set = all_to_test(root, &FolderNames::default()).unwrap();
        assert_eq!(set.classes, ["cat", "dog", "train"]);
        assert_eq!(set.test.len(), 5);
        assert_eq!(open_default(root).unwrap().classes, set.classes);
    }

    #[test]
    fn folders_get_their_class_names_from_a_file() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let files = [
            ("n01440764", 1),
            ("n03773504", 2),
            ("n04008634", 1),
            ("other", 1),
        ];
        folders(&root.join("images"), &files);
        let file = root.join("names.txt");
        fs::write(
            &file,
            "n01440764 tench\nn03773504 missile\nn04008634 missile\n",
        )
        .unwrap();
        let names = FolderNames::read(&file).unwrap();
        let set = all_to_test(&root.join("images"), &names).unwrap();
        // In the order of the folders; two of ImageNet's classes have one name.
        assert_eq!(set.classes, ["tench", "missile", "missile", "other"]);
        let labels: Vec<usize> = set.test.iter().map(|image| image.label).collect();
        assert_eq!(labels, [0, 1, 1, 2, 3]);
        assert!(set.notes[0].ends_with("names: other"), "{:?}", set.notes);
        let options = DatasetOptions {
            folder_names: names,
            ..Default::default()
        };
        assert_eq!(
            open(&root.join("images"), &options).unwrap().classes,
            set.classes
        );
        let error = open(Path::new("shapes"), &options).unwrap_err().to_string();
        assert!(error.contains("--folder-names"), "{error}");
    }

    #[test]
    fn synthetic_training_and_test_images_differ() {
        let set = open_default(Path::new("shapes")).unwrap();
        assert_eq!(
            (set.train.len(), set.test.len()),
            (64 * SHAPES_TRAIN, 64 * SHAPES_TEST)
        );
        let of_class = |images: &[LabelledImage], label: usize| -> Vec<LabelledImage> {
            let own = images.iter().filter(|image| image.label == label);
            own.cloned().collect()
        };
        for (images, count) in [(&set.train, SHAPES_TRAIN), (&set.test, SHAPES_TEST)] {
            assert!((0..64).all(|label| of_class(images, label).len() == count));
        }
        let pixels = |image: &LabelledImage| image.decode().unwrap().data;
        let trained: Vec<_> = set.few_shot(2, 1).unwrap()[..16]
            .iter()
            .map(pixels)
            .collect();
        for image in (0..8).flat_map(|label| of_class(&set.test, label)) {
            assert!(!trained.contains(&pixels(&image)));
        }
        // The outlines show the same scenes, otherwise drawn.
        let outlines = open_default(Path::new("shapes-outline")).unwrap();
        assert_eq!((&*set.name, &*outlines.name), ("shapes", "shapes-outline"));
        assert_eq!(shown(&outlines.test), shown(&set.test));
        assert_ne!(pixels(&outlines.test[0]), pixels(&set.test[0]));
        let drawn = (set.few_shot(2, 1).unwrap(), set.few_shot_validation(2, 1));
        assert_eq!((drawn.0.len(), drawn.1.len()), (128, 128));
        assert!(drawn.1.iter().all(|image| !drawn.0.contains(image)));
        // Pre-training uses another split, whatever its seed.
        let for_tests = |image: &LabelledImage| match image.source {
            ImageSource::Shapes { split, .. } => split != Split::Train,
            ImageSource::File(_) => false,
        };
        assert!(set.train.iter().chain(&set.test).all(for_tests));
    }

    /// Opens a split file with images a.png and b.png in a folder next to it.
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
        open_default(&path)
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
        assert!(set.notes[0].contains("1 duplicate"), "{:?}", set.notes);
        // A class is its label: ImageNet has two names twice.
        let set =
            split(r#"{"train": [["x/a.png", 3, "crane"], ["x/b.png", 5, "crane"]]}"#).unwrap();
        assert_eq!(set.classes, ["crane", "crane"]);
        let expected = [("a.png".into(), 0), ("b.png".into(), 1)];
        assert_eq!(shown(&set.train), expected);
        let set =
            split(r#"{"train": [["c.png", 0, "z"]], "val": [["x/a.png", 0, "z"]], "test": []}"#);
        assert_eq!(shown(&set.unwrap().test), [("a.png".into(), 0)]);
    }

    /// Split files that Windows wrote: backslashes, a byte order mark, UTF-16.
    #[test]
    fn split_files_of_windows_are_read() {
        let text = "\u{feff}{\"train\": [[\"x\\\\a.png\", 0, \"y\"]]}";
        let set = split(text).unwrap();
        assert_eq!(shown(&set.train), [("a.png".into(), 0)]);
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let root = tempfile::tempdir().unwrap();
        touch(root.path().join("x/a.png"));
        fs::write(root.path().join("split.json"), bytes).unwrap();
        let set = open_default(&root.path().join("split.json")).unwrap();
        assert_eq!(shown(&set.train), [("a.png".into(), 0)]);
        for outside in ["..\\\\secret.png", "C:\\\\photos\\\\c.png"] {
            let error = split(&format!("{{\"train\": [[\"{outside}\", 0, \"y\"]]}}"));
            let error = error.unwrap_err().to_string();
            assert!(error.contains("outside"), "{error}");
        }
    }

    #[test]
    fn errors_in_a_split_file_are_reported() {
        let train = |entries: &str| split(&format!("{{\"train\": [{entries}]}}"));
        for (entries, message) in [
            (
                r#"["x/a.png", 0, "y"], ["x/b.png", 0, "z"]"#,
                "label 0 has two names, \"y\" and \"z\"",
            ),
            (
                r#"["x/a.png", 0, "y"], ["x/a.png", 1, "z"]"#,
                "a.png has two labels",
            ),
            (r#"["x/a.png", 0, " "]"#, "empty class name"),
            (r#"["../secret.png", 0, "y"]"#, "outside"),
            (
                r#"["c.png", 0, "y"], ["x/../../secret.png", 0, "y"]"#,
                "outside",
            ),
            (r#"["/etc/hostname", 0, "y"]"#, "outside"),
            (r#"["", 0, "y"]"#, "not a path"),
            (r#"["nowhere.png", 0, "y"]"#, "image nowhere.png not found"),
            (
                r#"["c.png", 0, "y"], ["x/no.png", 0, "y"], ["no.png", 0, "y"]"#,
                "2 of 3 listed",
            ),
            (r#"["c.png", -1, "y"]"#, "not a split file"),
            (r#"["c.png", 0]"#, "not a split file"),
            ("", "lists no image"),
        ] {
            let error = train(entries).unwrap_err().to_string();
            assert!(error.contains(message), "{entries}: {error}");
        }
        let both = r#"{"train": [["c.png", 0, "y"]], "test": [["c.png", 0, "y"]]}"#;
        assert!(
            split(both)
                .unwrap_err()
                .to_string()
                .contains("is in both train and test")
        );
        let both = r#"{"train": [], "val": [["c.png", 0, "y"]], "test": [["c.png", 0, "y"]]}"#;
        let both = split(both).unwrap();
        assert_eq!((both.val.len(), both.test.len()), (0, 1));
        assert!(both.notes[0].contains("val"), "{:?}", both.notes);
        assert!(
            split("[1")
                .unwrap_err()
                .to_string()
                .contains("not a split file")
        );
    }

    #[test]
    fn images_root_requires_a_split_file() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path().join("away/images/a.png"));
        let path = root.path().join("split.json");
        fs::write(&path, r#"{"train": [["a.png", 0, "y"]]}"#).unwrap();
        let options = DatasetOptions {
            images_root: Some(root.path().join("away/images")),
            ..Default::default()
        };
        assert_eq!(open(&path, &options).unwrap().train.len(), 1);
        assert!(open_default(&path).is_err());
        assert!(open(Path::new("shapes"), &options).is_err());
        assert!(open(root.path(), &options).is_err());
    }

    #[test]
    fn oversized_split_files_are_rejected_unread() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("split.json");
        let file = fs::File::create(&path).unwrap();
        file.set_len(split_file::MAX_BYTES + 1).unwrap();
        assert!(
            open_default(&path)
                .unwrap_err()
                .to_string()
                .contains("more than 256 MiB")
        );
    }
}
