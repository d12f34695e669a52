//! What was given instead of a bundle, and what was probably meant.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use pinhole_model::most_similar;

use crate::{Error, MANIFEST};

/// Entries of a folder that are searched for bundles.
const MAX_ENTRIES: usize = 10_000;

/// Checks that `folder` is a folder with a manifest.
///
/// # Errors
/// [`Error::NotABundle`], which says what was expected and found, and names the bundle that was probably meant: one inside of
/// the folder, or one beside it with a similar name. [`Error::Io`] if the folder cannot be read.
pub(crate) fn check(folder: &Path) -> Result<(), Error> {
    let not_a_bundle = |found: &str, meant: Option<String>| {
        Err(Error::NotABundle {
            path: folder.to_owned(),
            reason: format!(
                "expected a folder with {MANIFEST}, as pinhole-export writes it (assets/demo of Pinhole's sources is \
                 one), found {found}{}",
                meant.map_or(String::new(), |meant| format!("; {meant}"))
            ),
        })
    };
    match std::fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => not_a_bundle("a file", None),
        Ok(_) if folder.join(MANIFEST).exists() => Ok(()),
        Ok(_) => not_a_bundle(
            &format!("one without {MANIFEST}"),
            inside(folder).or_else(|| beside(folder)),
        ),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            not_a_bundle("no such folder", beside(folder))
        }
        Err(e) => Err(Error::io(folder, "cannot open", e)),
    }
}

fn inside(folder: &Path) -> Option<String> {
    let bundle = bundles_in(folder).next()?;
    Some(format!("{} is a bundle", bundle.display()))
}

fn beside(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?;
    let parent = folder.parent()?;
    let bundles: Vec<PathBuf> = bundles_in(parent).collect();
    let names = bundles.iter().filter_map(|path| path.file_name()?.to_str());
    let meant = parent.join(most_similar(name, names)?);
    Some(format!("did you mean {}?", meant.display()))
}

fn bundles_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let read = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let entries = std::fs::read_dir(read).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .take(MAX_ENTRIES)
        .map(|entry| folder.join(entry.file_name()))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .filter(|path| path.join(MANIFEST).is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Bundle, LockedBundle};

    /// If this fails, a typing error in a path ends with "No such file or directory".
    #[test]
    fn what_is_no_bundle_is_an_error_that_says_what_one_is_and_which_was_meant() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for bundle in ["mugs", "demo", "inner/mine"] {
            fs::create_dir_all(path(bundle)).unwrap();
            fs::write(path(bundle).join(MANIFEST), "{}").unwrap();
        }
        // Similar, and no bundle.
        fs::create_dir(path("dmos")).unwrap();
        fs::write(path("photo.jpg"), "").unwrap();
        for (given, found, meant) in [
            ("dmo", "found no such folder; did you mean ", Some("demo")),
            ("mug/", "found no such folder; did you mean ", Some("mugs")),
            (
                "dmos",
                "found one without manifest.json; did you mean ",
                Some("demo"),
            ),
            (
                "inner",
                "found one without manifest.json; ",
                Some("inner/mine"),
            ),
            ("other", "found no such folder", None),
            ("photo.jpg", "found a file", None),
            ("photo.jpg/demo", "found no such folder", None),
            ("no/demo", "found no such folder", None),
        ] {
            let given = path(given);
            let locked = LockedBundle::open(&given, &mut |_| {}).map(drop);
            for error in [Bundle::open(&given).unwrap_err(), locked.unwrap_err()] {
                let text = error.to_string();
                let start = format!("{}: not a pinhole bundle: ", given.display());
                assert!(text.starts_with(&start), "{text}");
                let parts = [
                    "manifest.json, as pinhole-export writes it",
                    "assets/demo",
                    found,
                ];
                assert!(parts.iter().all(|part| text.contains(part)), "{text}");
                match meant {
                    Some(meant) => {
                        let meant = path(meant).display().to_string();
                        assert!(
                            text.contains(&format!("{found}{meant}"))
                                || text.contains(&format!("{meant} is a bundle")),
                            "{text}"
                        );
                    }
                    None => assert!(text.ends_with(found), "{text}"),
                }
            }
        }
    }
}
