//! The files of a learned method in what the user names.

use std::path::{Path, PathBuf};

use super::method::{Files, Method, matching};
use super::methods::METHODS;
use super::refused::REFUSED;
use crate::{Error, locate};

/// What was found.
pub(super) struct Found {
    pub(super) files: Vec<PathBuf>,
    /// The method that these files tell, if they do.
    pub(super) method: Option<&'static Method>,
}

/// The files of the method, or of any, for `path`: a file, or the output folder of a training.
///
/// # Errors
/// A folder with none or several.
pub(super) fn find(path: &Path, method: Option<&'static Method>) -> Result<Found, Error> {
    let sets = (METHODS.iter()).filter_map(|method| match method.files {
        Files::Set(patterns) => Some((*method, patterns)),
        _ => None,
    });
    let asked = |(known, _): &(&'static Method, &'static [&'static str])| {
        method.is_none_or(|method| method.key == known.key)
    };
    let mut found = vec![];
    for (method, patterns) in sets.filter(asked) {
        found.extend(set(path, method, patterns)?);
    }
    match (found.pop(), found.as_slice()) {
        (Some(only), []) => return Ok(only),
        (Some(last), others) => {
            let names: Vec<&str> = (others.iter().chain([&last]))
                .filter_map(|found| found.method)
                .map(|method| method.name)
                .collect();
            return Err(Error::malformed(
                path,
                format!(
                    "expected the files of one method, found those of {}; pass --method",
                    names.join(" and of ")
                ),
            ));
        }
        (None, _) => {}
    }
    let file = locate::learned(path, &trainer_folders())?;
    Ok(Found {
        files: vec![file],
        method: None,
    })
}

/// The files of a set in a folder, or those that belong to a file which is the first of a set.
fn set(
    path: &Path,
    method: &'static Method,
    patterns: &'static [&'static str],
) -> Result<Option<Found>, Error> {
    let Some((first, others)) = patterns.split_first() else {
        return Ok(None);
    };
    let candidates = match path.is_dir() {
        true => locate::files(path, |name| matching(first, name).is_some()),
        false => vec![path.to_owned()],
    };
    let place = |file: &Path| {
        let name = file.file_name()?.to_str()?;
        matching(first, name).map(str::to_owned)
    };
    let mut found = candidates
        .iter()
        .filter_map(|file| Some((file, place(file)?)));
    let (file, place) = match (found.next(), found.next()) {
        (Some(only), None) => only,
        (None, _) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(Error::malformed(
                path,
                format!(
                    "expected one {first}, found {}; pass one of these files",
                    locate::names(&candidates)
                ),
            ));
        }
    };
    let mut files = vec![file.clone()];
    for other in others {
        let other = file.with_file_name(other.replace('*', &place));
        if !other.is_file() {
            return Err(Error::malformed(
                &other,
                format!(
                    "no such file; {} has it beside {}",
                    method.name,
                    file.display()
                ),
            ));
        }
        files.push(other);
    }
    Ok(Some(Found {
        files,
        method: Some(method),
    }))
}

/// The folders that trainers write their files to.
fn trainer_folders() -> Vec<&'static str> {
    let read = METHODS.iter().filter_map(|method| match method.files {
        Files::Trainer(folder) => Some(folder),
        _ => None,
    });
    let refused = REFUSED.iter().filter_map(|refused| refused.folder);
    let mut folders: Vec<&str> = read.chain(refused).collect();
    folders.sort_unstable();
    folders.dedup();
    folders
}
