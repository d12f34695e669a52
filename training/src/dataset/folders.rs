//! Folders with one sub-folder of images per class.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::labelled::{Dataset, ImageSource, LabelledImage, by_class, file_name};
use pinhole_prompts::FolderNames;

use crate::{
    Error, Result,
    image_files::{class_folder, sorted},
    random::SeededRng,
};

/// All images of a folder with one sub-folder per class, as test images; `names` are class names of its sub-folders.
///
/// # Errors
/// Those of [`class_folder`].
pub fn all_to_test(folder: &Path, names: &FolderNames) -> Result<Dataset> {
    from_parts(folder, [None, None, Some(folder)], names)
}

/// A folder with `train`, `val` and `test`, or one of classes that is split here.
pub(super) fn read(folder: &Path, split_seed: u64, names: &FolderNames) -> Result<Dataset> {
    let part = |name: &str| {
        let path = folder.join(name);
        // A class may be called "train": then it contains images, not folders.
        let mut entries = sorted(&path).into_iter().flatten();
        entries.any(|entry| entry.is_dir()).then_some(path)
    };
    let [train, test] = ["train", "test"].map(part);
    let mut validation = ["val", "valid", "validation"].into_iter().filter_map(part);
    let val = validation.next();
    if let (Some(val), Some(other)) = (&val, validation.next()) {
        return Err(Error::Data {
            path: folder.into(),
            problem: format!(
                "has both {} and {}; expected one of them",
                file_name(val),
                file_name(&other)
            ),
        });
    }
    if val.is_some() || test.is_some() {
        let folders = [&train, &val, &test].map(|path| path.as_deref());
        return from_parts(folder, folders, names);
    }
    let whole = train.as_deref().unwrap_or(folder);
    let mut set = from_parts(folder, [Some(whole), None, None], names)?;
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

/// A data set from the class folders of training, validation and test. Each folder name is a class, also if `names` gives
/// several the same class name.
fn from_parts(root: &Path, folders: [Option<&Path>; 3], names: &FolderNames) -> Result<Dataset> {
    let mut parts = Vec::new();
    for folder in folders {
        parts.push(folder.map_or(Ok(Vec::new()), class_folder)?);
    }
    let folders: BTreeSet<&str> = parts
        .iter()
        .flatten()
        .map(|(_, folder)| &**folder)
        .collect();
    let folders: Vec<&str> = folders.into_iter().collect();
    // Found always: the list was made of these names.
    let label = |folder: &str| folders.binary_search(&folder).unwrap_or_default();
    let images = |part: &[(PathBuf, String)]| -> Vec<LabelledImage> {
        (part.iter())
            .map(|(path, folder)| LabelledImage {
                source: ImageSource::File(path.clone()),
                label: label(folder),
            })
            .collect()
    };
    Ok(Dataset {
        name: file_name(root),
        train: images(&parts[0]),
        val: images(&parts[1]),
        test: images(&parts[2]),
        classes: folders
            .iter()
            .map(|folder| names.class(folder).to_owned())
            .collect(),
        notes: names.note(folders.iter().copied()).into_iter().collect(),
    })
}
