//! Paths where nothing is, and what was probably meant.

use std::path::{Path, PathBuf};

use pinhole_model::most_similar;

use crate::has_image_extension;

/// Most entries of a folder that are searched.
const MAX_ENTRIES: usize = 10_000;

/// What was found instead of an image or a folder of images at `path`, and what to do: `found no such file; did you mean
/// photo.jpg?`, or to check the path where no image and no folder has a similar name; of a link, where it leads. `None` if something
/// is there, or if that is not known, as in a folder that may not be read.
pub fn missing(path: &Path) -> Option<String> {
    if path.try_exists().unwrap_or(true) {
        return None;
    }
    if let Ok(target) = path.read_link() {
        return Some(format!(
            "found a link to {}, where nothing is",
            target.display()
        ));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    Some(match similar(path, folder) {
        Some(meant) => format!("found no such file; did you mean {}?", meant.display()),
        None if folder.is_dir() => "found no such file; check the path".into(),
        None => format!("found no folder {}; check the path", folder.display()),
    })
}

/// The image or folder in `folder` whose name is most similar to that of `path`.
fn similar(path: &Path, folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().take(MAX_ENTRIES);
    let entries = entries.map(|entry| entry.path());
    let mut names: Vec<String> = entries
        .filter(|entry| entry.exists() && has_image_extension(entry) || entry.is_dir())
        .filter_map(|entry| Some(entry.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    let meant = most_similar(path.file_name()?.to_str()?, names.iter().map(|n| &**n))?;
    Some(path.with_file_name(meant))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// If this fails, the link itself is what was probably meant.
    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_is_said() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::os::unix::fs::symlink("gone.png", path("heart.png")).unwrap();
        let found = "found a link to gone.png, where nothing is";
        assert_eq!(missing(&path("heart.png")).as_deref(), Some(found));
        let found = "found no such file; check the path";
        assert_eq!(missing(&path("hart.png")).as_deref(), Some(found));
    }

    /// If this fails, a typing error in a path ends with "No such file or directory".
    #[test]
    fn the_most_similar_image_or_folder_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("heart.png"), "").unwrap();
        // Similar, and no image.
        fs::write(path("harts.txt"), "").unwrap();
        fs::create_dir(path("photos")).unwrap();
        let meant = |name: &str| {
            let meant = path(name);
            format!("found no such file; did you mean {}?", meant.display())
        };
        let no_folder = format!("found no folder {}; check the path", path("no").display());
        for (given, found) in [
            ("hart.png", meant("heart.png")),
            ("harts.tx", "found no such file; check the path".into()),
            ("photo/", meant("photos")),
            ("no/heart.png", no_folder),
        ] {
            assert_eq!(missing(&path(given)), Some(found), "{given}");
        }
        assert_eq!(missing(&path("heart.png")), None);
        assert_eq!(missing(&path("photos")), None);
    }
}
