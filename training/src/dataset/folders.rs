//! Folders with one sub-folder of images per class.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::labelled::{Dataset, ImageSource, LabelledImage, by_class, file_name};
use crate::{Error, Result, image_files::class_folder, random::SeededRng};

/// All images of a folder with one sub-folder per class, as test images.
///
/// # Errors
/// Those of [`class_folder`].
pub fn all_to_test(folder: &Path) -> Result<Dataset> {
    from_parts(folder, [None, None, Some(folder)])
}

/// A folder with `train`, `val` and `test`, or one of classes that is split here.
pub(super) fn read(folder: &Path, split_seed: u64) -> Result<Dataset> {
    let part = |name: &str| {
        let path = folder.join(name);
        // A class may be called "train": then it contains images, not folders.
        let mut entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
        entries.any(|entry| entry.path().is_dir()).then_some(path)
    };
    let [train, val, validation, test] = ["train", "val", "validation", "test"].map(part);
    if val.is_some() && validation.is_some() {
        return Err(Error::Data {
            path: folder.into(),
            problem: "has both val and validation; expected one of them".into(),
        });
    }
    let val = val.or(validation);
    if val.is_some() || test.is_some() {
        let folders = [&train, &val, &test].map(|path| path.as_deref());
        return from_parts(folder, folders);
    }
    let whole = train.as_deref().unwrap_or(folder);
    let mut set = from_parts(folder, [Some(whole), None, None])?;
    let all = std::mem::take(&mut set.train);
    for (class, mut images) in by_class(&all, set.classes.len()).into_iter().enumerate() {
        let tests = (3 * images.len() + 5) / 10;
        SeededRng::new(split_seed ^ 0x0073_706c_6974, class as u64).shuffle(&mut images);
        set.test.extend(images.drain(..tests).cloned());
        set.train.extend(images.into_iter().cloned());
    }
    set.notes.push(format!(
        "no train and test folders: {} of its {} images are the test set (split seed {split_seed})",
        set.test.len(),
        all.len()
    ));
    Ok(set)
}

/// A data set from the class folders of training, validation and test.
fn from_parts(root: &Path, folders: [Option<&Path>; 3]) -> Result<Dataset> {
    let mut parts = Vec::new();
    for folder in folders {
        parts.push(folder.map_or(Ok(Vec::new()), class_folder)?);
    }
    let names: BTreeSet<&String> = parts.iter().flatten().map(|(_, class)| class).collect();
    let classes: Vec<String> = names.into_iter().cloned().collect();
    // Found always: the list was made of these names.
    let label = |class: &String| classes.binary_search(class).unwrap_or_default();
    let images = |part: &[(PathBuf, String)]| -> Vec<LabelledImage> {
        (part.iter())
            .map(|(path, class)| LabelledImage {
                source: ImageSource::File(path.clone()),
                label: label(class),
            })
            .collect()
    };
    Ok(Dataset {
        name: file_name(root),
        train: images(&parts[0]),
        val: images(&parts[1]),
        test: images(&parts[2]),
        classes,
        notes: Vec::new(),
    })
}
