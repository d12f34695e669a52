//! Image files and folders of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pinhole_preprocessing::{DecodeOptions, RgbImage, has_image_extension, is_hidden, missing};

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
/// [`Error::Data`] for a folder that is missing or without images; [`Error::Io`].
pub fn class_folder(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    if let Some(found) = missing(folder) {
        return Err(Error::Data {
            path: folder.into(),
            problem: format!("expected a folder of images, {found}"),
        });
    }
    let mut found = Vec::new();
    for class in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
        let Some(name) = class.file_name().and_then(|name| name.to_str()) else {
            return Err(Error::Data {
                path: class,
                problem: "the folder name is used as class name but is not UTF-8; rename it".into(),
            });
        };
        for path in sorted(&class)?
            .into_iter()
            .filter(|path| has_image_extension(path))
        {
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
    paths.retain(|path| !is_hidden(path));
    paths.sort();
    Ok(paths)
}
