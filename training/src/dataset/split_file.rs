//! Split files of CoOp (Dassl's `save_split`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Component, Path, PathBuf},
};

use pinhole_prompts::read_text;
use serde::Deserialize;

use super::labelled::{Dataset, ImageSource, LabelledImage, file_name};
use crate::{Error, Result, counted, error::io};

/// The largest split file: ImageNet's 1.3 million images would take half of it.
pub(super) const MAX_BYTES: u64 = 256 << 20;

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

/// Reads a split file.
pub(super) fn read(path: &Path, images_root: Option<&Path>) -> Result<Dataset> {
    let split = parse(path)?;
    let parts = [
        ("train", split.train),
        ("val", split.val),
        ("test", split.test),
    ];
    let names = class_names(path, parts.iter().flat_map(|(_, entries)| entries))?;
    let labels: HashMap<u64, usize> = names.keys().enumerate().map(|(i, l)| (*l, i)).collect();

    let Some((first, ..)) = parts.iter().flat_map(|(_, entries)| entries).next() else {
        return Err(problem(path, "lists no image"));
    };
    let first = relative(path, first)?;
    let root = match images_root {
        Some(root) => root.to_owned(),
        None => default_root(path, &first)?,
    };
    let mut seen: HashMap<PathBuf, (usize, usize)> = HashMap::new();
    let mut duplicates = 0;
    let mut missing = Vec::new();
    let mut lists = [const { Vec::new() }; 3];
    // Options are chosen on validation images, so none of them may be a test image.
    let mut tested = HashSet::new();
    for (part, (_, entries)) in parts.iter().enumerate() {
        for (image, label, _) in entries {
            let (image, label) = (relative(path, image)?, labels[label]);
            match seen.get(&image) {
                Some(&(_, other)) if other != label => {
                    let both = format!("{} has two labels", image.display());
                    return Err(problem(path, both));
                }
                Some(&(other, _)) if other != part && other == 0 => {
                    let both = format!(
                        "{} is in both train and {}: a training image must not be tested on",
                        image.display(),
                        parts[part].0
                    );
                    return Err(problem(path, both));
                }
                Some(&(other, _)) if other == part => {
                    duplicates += 1;
                    continue;
                }
                Some(_) => {
                    tested.insert(ImageSource::File(root.join(&image)));
                }
                None => {}
            }
            let file = root.join(&image);
            seen.insert(image, (part, label));
            if !file.is_file() {
                missing.push(file.clone());
            }
            let source = ImageSource::File(file);
            lists[part].push(LabelledImage { source, label });
        }
    }
    if let Some(first) = missing.first() {
        return Err(problem(
            path,
            format!(
                "{} of {} listed images not found, first {} (set --images-root to the folder that \
                 the paths are relative to)",
                missing.len(),
                seen.len(),
                first.display()
            ),
        ));
    }
    let [train, mut val, test] = lists;
    val.retain(|image| !tested.contains(&image.source));
    let mut notes = Vec::new();
    if !tested.is_empty() {
        notes.push(format!(
            "{} of val in test too, used for tests only",
            counted(tested.len() as u64, "image")
        ));
    }
    if duplicates > 0 {
        notes.push(format!(
            "{} ignored",
            counted(duplicates as u64, "duplicate image")
        ));
    }
    Ok(Dataset {
        name: file_name(path),
        classes: names.into_values().collect(),
        train,
        val,
        test,
        notes,
    })
}

fn parse(path: &Path) -> Result<SplitFile> {
    let text = read_text(path, MAX_BYTES)?;
    pinhole_fs::from_json(text.as_bytes()).map_err(|e| {
        let form = "{\"train\": [[path, label, class name], ...], \"val\": ..., \"test\": ...}";
        problem(path, format!("not a split file ({e}); expected {form}"))
    })
}

/// The class name of each label. Several labels may have the same name: they are several classes.
fn class_names<'a>(
    path: &Path,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<BTreeMap<u64, String>> {
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    for (image, label, name) in entries {
        let name = name.trim();
        if name.is_empty() {
            return Err(problem(path, format!("{image:?}: empty class name")));
        }
        let known = names.entry(*label).or_insert_with(|| name.to_owned());
        if known != name {
            let two = format!("label {label} has two names, {known:?} and {name:?}");
            return Err(problem(path, two));
        }
    }
    Ok(names)
}

/// A listed path without `.`, which must stay inside the root. Windows separates folders by backslashes.
fn relative(list: &Path, image: &str) -> Result<PathBuf> {
    let mut plain = PathBuf::new();
    let slashes = image.replace('\\', "/");
    // An absolute path on Windows.
    let drive = slashes.get(1..3) == Some(":/");
    let root = Path::new(if drive { "/" } else { "" });
    for component in root.join(&slashes).components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            _ => {
                return Err(problem(
                    list,
                    format!("{image:?} is outside the image folder; expected a relative path"),
                ));
            }
        }
    }
    if plain.as_os_str().is_empty() {
        return Err(problem(list, format!("{image:?} is not a path")));
    }
    Ok(plain)
}

/// The split file's folder, or the first of its sub-folders, that contains this image.
fn default_root(list: &Path, image: &Path) -> Result<PathBuf> {
    let folder = list.parent().unwrap_or(Path::new(""));
    let listed = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let entries = std::fs::read_dir(listed).map_err(io(folder))?;
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
                "its first image {} not found in its folder or the sub-folders: set --images-root to \
                 the folder that the paths are relative to",
                image.display()
            );
            problem(list, first)
        })
}

fn problem(path: &Path, problem: impl Into<String>) -> Error {
    Error::Data {
        path: path.into(),
        problem: problem.into(),
    }
}
