//! Folders of images that are named after classes.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Error;
use crate::text_list::{MAX_BYTES, check, lines, read_text};

/// Class names by names of folders, for data sets with folders such as `n01440764`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderNames(HashMap<String, String>);

impl FolderNames {
    /// Reads a file with a line per folder: its name, white space, and the class's name, such as `n01440764 tench`. A line
    /// with a tab is split there, so that the folder's name may have spaces. Blank lines and lines that begin with `#`
    /// are skipped.
    ///
    /// # Errors
    /// As [`TextList::read`](crate::TextList::read); [`Error::FolderName`] for a line without a class name, or a folder
    /// that an earlier line has.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut names = HashMap::new();
        let mut first = HashMap::new();
        for (number, line) in lines(&read_text(path, MAX_BYTES)?) {
            let origin = format!("{}:{number}", path.display());
            let wrong = |found: String| Error::FolderName {
                origin: origin.clone(),
                found,
            };
            let parts = match line.split_once('\t') {
                Some(parts) => Some(parts),
                None => line.split_once(char::is_whitespace),
            };
            let (folder, class) = parts.ok_or_else(|| wrong(format!("only {line:?}")))?;
            let (folder, class) = (folder.trim(), class.trim());
            check(folder, &origin)?;
            check(class, &origin)?;
            if let Some(first) = first.insert(folder.to_owned(), number) {
                return Err(wrong(format!(
                    "folder {folder:?} again, as in line {first}"
                )));
            }
            names.insert(folder.to_owned(), class.to_owned());
        }
        Ok(Self(names))
    }

    /// The class name of a folder: the listed one, or the folder's own.
    pub fn class<'a>(&'a self, folder: &'a str) -> &'a str {
        self.0.get(folder).map_or(folder, String::as_str)
    }

    /// A note about folders that are not listed and keep their names, if some are listed or none is.
    pub fn note<'a>(&self, folders: impl IntoIterator<Item = &'a str>) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let unlisted = folders.into_iter().filter(|f| !self.0.contains_key(*f));
        let unlisted: Vec<&str> = unlisted.collect();
        (!unlisted.is_empty()).then(|| {
            let folders = unlisted.join(", ");
            format!("--folder-names does not list these folders, which keep their names: {folders}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FolderNames, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        FolderNames::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn each_line_names_a_folder_and_its_class() {
        let text = "\u{feff}# ImageNet\r\nn01440764 tench, Tinca tinca\r\n\r\nn03773504\tmissile\r\nmy cats\tcat";
        let names = read(text).unwrap();
        assert_eq!(names.class("n01440764"), "tench, Tinca tinca");
        assert_eq!(names.class("n03773504"), "missile");
        assert_eq!(names.class("my cats"), "cat");
        assert_eq!(names.class("other"), "other");
        assert_eq!(names.note(["n01440764", "my cats"]), None);
        let note = names.note(["n01440764", "other", "more"]).unwrap();
        assert!(note.ends_with("their names: other, more"), "{note}");
        assert_eq!(FolderNames::default().note(["other"]), None);
    }

    #[test]
    fn lines_without_a_class_and_repeated_folders_are_refused() {
        for (text, part) in [
            ("n1 cat\nn2\n", ":2: expected the name of a folder"),
            ("n1 cat\nn2 dog\nn1 cow", ":3: "),
            ("n1 cat\nn2 dog\nn1 cow", "\"n1\" again, as in line 1"),
            ("n1\tcat\tdog", "U+0009"),
            ("n1 c\0t", "U+0000"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
