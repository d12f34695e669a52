//! Class names.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, excerpt};
use crate::lines::read_text;
use crate::{Templates, Tokenizer};

/// A list of at least one class name, without duplicates, as shown to users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes(Vec<String>);

impl Classes {
    /// A list of names. White space around a name is removed; blank names are skipped.
    ///
    /// # Errors
    /// [`Error::NoClasses`] for an empty list, [`Error::DuplicateClass`] for equal names.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        Self::collect("class list", names)
    }

    /// Reads a UTF-8 file with one name per line; blank lines are skipped.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::NotText`], and those of [`Classes::new`], with line numbers.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::collect(&path.display().to_string(), read_text(path)?.lines())
    }

    fn collect<S: AsRef<str>>(
        origin: &str,
        names: impl IntoIterator<Item = S>,
    ) -> Result<Self, Error> {
        let mut classes = Vec::new();
        let mut seen = HashMap::new();
        for (line, name) in (1..).zip(names) {
            let name = name.as_ref().trim();
            if name.is_empty() {
                continue;
            }
            if let Some(first) = seen.insert(name.to_string(), line) {
                let (origin, name) = (origin.to_string(), excerpt(name));
                return Err(Error::DuplicateClass {
                    origin,
                    name,
                    first,
                    second: line,
                });
            }
            classes.push(name.to_string());
        }
        if classes.is_empty() {
            return Err(Error::NoClasses {
                origin: origin.to_string(),
            });
        }
        Ok(Classes(classes))
    }

    /// The names, in order.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Checks that every prompt has at most `context_length` tokens, start and end included.
    ///
    /// # Errors
    /// [`Error::TooLong`] for the first prompt that has more.
    pub fn check(
        &self,
        tokenizer: &Tokenizer,
        templates: &Templates,
        context_length: usize,
    ) -> Result<(), Error> {
        for prompt in self.0.iter().flat_map(|class| templates.prompts(class)) {
            tokenizer.tokens(&prompt, context_length)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_kept_as_written() {
        let classes = Classes::new(["  polar_bear ", "", "Été", "#1"]).unwrap();
        assert_eq!(classes.names(), ["polar_bear", "Été", "#1"]);
    }

    #[test]
    fn a_file_has_one_name_per_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}cat\r\n\r\n dog\ncat").unwrap();
        let message = Classes::read(file.path()).unwrap_err().to_string();
        assert!(
            message.ends_with("class \"cat\" in line 4 is already in line 1"),
            "{message}"
        );
        std::fs::write(file.path(), " \n\n").unwrap();
        assert!(matches!(
            Classes::read(file.path()),
            Err(Error::NoClasses { .. })
        ));
        std::fs::write(file.path(), "cat\ndog").unwrap();
        assert_eq!(Classes::read(file.path()).unwrap().names(), ["cat", "dog"]);
    }

    #[test]
    fn a_prompt_that_is_too_long_is_reported() {
        let templates = Templates::parse("a photo of a {}.").unwrap();
        let classes = Classes::new(["cat", "very long name"]).unwrap();
        let tokenizer = Tokenizer::new();
        classes.check(&tokenizer, &templates, 10).unwrap();
        let error = classes.check(&tokenizer, &templates, 9).unwrap_err();
        let Error::TooLong {
            text,
            tokens,
            context_length,
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(
            (text.as_str(), tokens, context_length),
            ("a photo of a very long name.", 10, 9)
        );
    }
}
