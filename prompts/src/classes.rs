//! Class names.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, excerpt};
use crate::{Templates, TextList, TextTokenizer, Tokenizer};

/// A list of at least one class name, as shown to users. A class is its place in the list, not its name: names may occur
/// several times, as two of ImageNet's do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes(Vec<String>);

/// Groups of names that [`Classes::warnings`] lists.
const MAX_GROUPS: usize = 20;

impl Classes {
    /// A list of new names. White space around a name is removed.
    ///
    /// # Errors
    /// [`Error::NoClasses`] for an empty list, [`Error::EmptyText`] and [`Error::ControlCharacter`] for a name,
    /// [`Error::ReservedClass`] for "unknown" in any case.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        Self::checked(TextList::from_items("class list", names)?)
    }

    /// Reads a file with one name per line, or a JSON array: see [`TextList`].
    ///
    /// # Errors
    /// Those of [`TextList::read`] and [`Classes::new`], with line numbers.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::checked(TextList::read(path)?)
    }

    /// Names that a manifest or a data set has already. They are not checked, so that what was written before the
    /// present rules stays usable.
    ///
    /// # Errors
    /// [`Error::NoClasses`] for an empty list.
    pub fn recorded(names: &[String]) -> Result<Self, Error> {
        match names {
            [] => Err(Error::NoClasses {
                origin: "class list".into(),
            }),
            _ => Ok(Classes(names.to_vec())),
        }
    }

    fn checked(list: TextList) -> Result<Self, Error> {
        for (place, name) in list.placed() {
            if name.eq_ignore_ascii_case("unknown") {
                return Err(Error::ReservedClass {
                    origin: place.to_string(),
                    name: name.to_owned(),
                });
            }
        }
        let origin = list.origin().to_owned();
        match list.into_texts() {
            names if names.is_empty() => Err(Error::NoClasses { origin }),
            names => Ok(Classes(names)),
        }
    }

    /// The names, in order.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// What is allowed and seldom meant, one line each: names with equal tokens; a single class, whose probability is
    /// always 100 % unless there are `negatives`.
    pub fn warnings(&self, negatives: &[String]) -> Vec<String> {
        let mut warnings = Vec::new();
        warnings.extend(self.equal_tokens());
        if let [name] = self.names() {
            let several = name.contains(',');
            let name = excerpt(name);
            if several {
                warnings.push(format!(
                    "there is one class, {name:?}; if these are several names, give each its own line (or argument)"
                ));
            } else if negatives.is_empty() {
                warnings.push(format!(
                    "there is one class, {name:?}, so its probability is always 100 %; name at least two classes, or \
                     texts for everything else (--negatives)"
                ));
            }
        }
        warnings
    }

    /// The classes that no prompt can tell apart.
    fn equal_tokens(&self) -> Option<String> {
        let tokenizer = Tokenizer::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut known = HashMap::new();
        for (class, name) in self.0.iter().enumerate() {
            let tokens = tokenizer.encode(&name.replace('_', " "));
            let group = *known.entry(tokens).or_insert(groups.len());
            match groups.get_mut(group) {
                Some(classes) => classes.push(class),
                None => groups.push(vec![class]),
            }
        }
        groups.retain(|classes| classes.len() > 1);
        let shown = groups.iter().take(MAX_GROUPS).map(|classes| {
            let name = |&class: &usize| format!("{:?} (index {class})", excerpt(&self.0[class]));
            classes.iter().map(name).collect::<Vec<_>>().join(" = ")
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        let more = match groups.len().saturating_sub(MAX_GROUPS) {
            0 => String::new(),
            more => format!(", and {more} more groups"),
        };
        (!groups.is_empty()).then(|| {
            format!("these classes have equal tokens, so their prompts are equal: {shown}{more}")
        })
    }

    /// Checks that every prompt has at most `context_length` tokens, start and end included.
    ///
    /// # Errors
    /// [`Error::TooLong`] for the first prompt that has more.
    pub fn check(
        &self,
        tokenizer: &dyn TextTokenizer,
        templates: &Templates,
        context_length: usize,
    ) -> Result<(), Error> {
        for prompt in self.0.iter().flat_map(|class| templates.prompts(class)) {
            tokenizer.tokens(&prompt, context_length)?;
        }
        Ok(())
    }
}

/// The class of each of `names`, such as those of folders, if there is one; `_` matches a space. The n-th of equal names is the
/// n-th class of that name, or the last if there are fewer.
pub fn class_indices<C: AsRef<str>, N: AsRef<str>>(
    classes: &[C],
    names: impl IntoIterator<Item = N>,
) -> Vec<Option<usize>> {
    let spaced = |name: &str| name.replace('_', " ");
    let mut places: HashMap<String, Vec<usize>> = HashMap::new();
    for (class, name) in classes.iter().enumerate() {
        places.entry(spaced(name.as_ref())).or_default().push(class);
    }
    let mut used: HashMap<String, usize> = HashMap::new();
    let names = names.into_iter().map(|name| {
        let name = spaced(name.as_ref());
        let places = places.get(&name)?;
        let next = used.entry(name).or_default();
        let class = places.get(*next).or(places.last()).copied();
        *next += 1;
        class
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_kept_as_written() {
        let classes = Classes::new(["  polar_bear ", "Été", "#1", "cat", "cat"]).unwrap();
        assert_eq!(classes.names(), ["polar_bear", "Été", "#1", "cat", "cat"]);
    }

    /// If this fails, a class cannot be told from the answer "unknown", or its name breaks a terminal or a log.
    #[test]
    fn reserved_empty_and_unprintable_names_are_refused() {
        for (name, part) in [
            ("unknown", "\"unknown\" is reserved"),
            (" Unknown", "\"Unknown\" is reserved"),
            ("", "empty"),
            (" ", "empty"),
            ("red\x1b[31m", "U+001B"),
        ] {
            let error = Classes::new(["cat", name]).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("item 2"), "{error}");
        }
        // A bundle that has such a class already can be read.
        assert!(Classes::recorded(&["unknown".into()]).is_ok());
        assert!(Classes::recorded(&[]).is_err());
    }

    #[test]
    fn a_file_has_one_name_per_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            Classes::read(file.path())
        };
        let classes = read("\u{feff}cat\r\n# comment\r\n\r\n dog\ncat").unwrap();
        assert_eq!(classes.names(), ["cat", "dog", "cat"]);
        assert!(matches!(read(" \n\n"), Err(Error::NoClasses { .. })));
        let error = read("cat\n\nunknown\n").unwrap_err().to_string();
        assert!(error.contains(":3: class name \"unknown\""), "{error}");
    }

    #[test]
    fn equal_names_are_matched_in_their_order() {
        let classes = ["crane", "cat", "crane"];
        let names = ["crane", "dog", "crane", "cat", "crane", "cat"];
        let expected = [Some(0), None, Some(2), Some(1), Some(2), Some(1)];
        assert_eq!(class_indices(&classes, names), expected);
        let found = class_indices(&["polar bear", "tall_ship"], ["tall ship", "polar_bear"]);
        assert_eq!(found, [Some(1), Some(0)]);
    }

    #[test]
    fn names_with_equal_tokens_and_a_single_name_are_warned_about() {
        let warnings =
            |names: &[&str], negatives: &[String]| Classes::new(names).unwrap().warnings(negatives);
        assert!(warnings(&["cat", "dog", "cats"], &[]).is_empty());
        let same = warnings(
            &["missile", "Cat", "missile", "tall_ship", "cat", "tall ship"],
            &[],
        );
        assert_eq!(same.len(), 1, "{same:?}");
        let expected = "\"missile\" (index 0) = \"missile\" (index 2), \"Cat\" (index 1) = \"cat\" (index 4), \
                        \"tall_ship\" (index 3) = \"tall ship\" (index 5)";
        assert!(same[0].ends_with(expected), "{same:?}");
        let negatives = ["an empty room".to_owned()];
        assert!(warnings(&["cat"], &[])[0].contains("100 %"));
        assert!(warnings(&["cat"], &negatives).is_empty());
        assert!(warnings(&["cat, dog, bird"], &negatives)[0].contains("its own line"));
        let many: Vec<String> = (0..50).map(|i| format!("name {}", i / 2)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(warnings(&many, &[])[0].ends_with("and 5 more groups"));
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
