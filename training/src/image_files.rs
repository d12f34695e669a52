//! Image files and folders of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pinhole_preprocessing::{DecodeOptions, RgbImage};
use pinhole_prompts::is_hidden;

use crate::{Error, Result, error::io};

/// Decodes an image file.
///
/// # Errors
/// [`Error::Image`].
pub fn open_image(path: &Path) -> Result<RgbImage> {
    pinhole_preprocessing::open(path, &DecodeOptions::workstation()).map_err(|source| {
        Error::Image {
            path: path.into(),
            source,
        }
    })
}

/// The image files (by extension) of a folder with one sub-folder per class, each with the sub-folder's name, sorted by
/// path. Hidden files and folders are skipped.
///
/// # Errors
/// [`Error::Data`] for a folder without images; [`Error::Io`].
pub fn class_folder(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for class in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
        let Some(name) = class.file_name().and_then(|name| name.to_str()) else {
            return Err(Error::Data {
                path: class,
                problem: "the folder name is used as class name but is not UTF-8; rename it".into(),
            });
        };
        for path in sorted(&class)?.into_iter().filter(|path| is_image(path)) {
            found.push((path, name.to_owned()));
        }
    }
    if found.is_empty() {
        return Err(Error::Data {
            path: folder.into(),
            problem: "no image found; expected one sub-folder of images per class".into(),
        });
    }
    Ok(found)
}

/// The entries of a folder that are not hidden.
pub(crate) fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(io(folder))?;
    let paths = entries.map(|entry| entry.map(|e| e.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<std::io::Result<_>>().map_err(io(folder))?;
    let hidden = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|n| is_hidden(&n.to_string_lossy()))
    };
    paths.retain(|path| !hidden(path));
    paths.sort();
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    let extension = extension.map(str::to_ascii_lowercase).unwrap_or_default();
    ["png", "jpg", "jpeg", "bmp", "gif", "webp"].contains(&&*extension)
}
