//! Templates that turn class names into prompts.

use std::path::Path;

use crate::error::{Error, excerpt};
use crate::{TextList, text_list};

/// The placeholder for the class name.
const PLACEHOLDER: &str = "{}";

/// The built-in sets by name.
const SETS: &[(&str, &[&str])] = &[
    ("photo", &["a photo of a {}."]),
    (
        "ensemble",
        &[
            "a photo of a {}.",
            "a photo of the {}.",
            "a photo of one {}.",
            "a photo of some {}.",
            "a good photo of a {}.",
            "a clear, sharp photo of a {}.",
            "a close-up of a {}.",
            "a {} seen from far away.",
            "a {} seen from the side.",
            "a {} in its usual place.",
            "a {} indoors.",
            "a {} outdoors.",
            "a large {}.",
            "a small {}.",
            "a bright photo of a {}.",
            "a dark photo of a {}.",
            "a black and white photo of a {}.",
            "a snapshot with a {} in it.",
            "a picture that shows a {}.",
            "this is a {}.",
        ],
    ),
    (
        "camera",
        &[
            "a photo of a {}.",
            "a frame from a camera that shows a {}.",
            "a low resolution photo of a {}.",
            "a grainy photo of a {} at night.",
            "a dark photo of a {}.",
            "an overexposed photo of a {}.",
            "a blurry photo of a {}.",
            "a {} in motion, out of focus.",
            "a cropped photo of a {}.",
            "a photo of a {} at the edge of the frame.",
            "a {} partly hidden behind something.",
            "a {} seen from above.",
            "a {} seen from below.",
            "a {} close to the lens.",
            "a small {} in the distance.",
            "a {} against the light.",
        ],
    ),
];

/// One or more prompt templates, each with exactly one `{}` for the class name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates(Vec<String>);

impl Templates {
    /// Parses an argument: a template if it contains `{}`, else the name of a built-in set, else a file.
    ///
    /// # Errors
    /// [`Error::UnknownTemplates`] for none of these; those of [`Templates::single`] and [`Templates::read`].
    pub fn parse(argument: &str) -> Result<Self, Error> {
        if argument.contains(PLACEHOLDER) {
            Self::single(argument)
        } else if let Some(templates) = Self::named(argument) {
            Ok(templates)
        } else if Path::new(argument).exists() {
            Self::read(Path::new(argument))
        } else {
            let names: Vec<&str> = Self::names().collect();
            let (argument, names) = (excerpt(argument), names.join(", "));
            Err(Error::UnknownTemplates { argument, names })
        }
    }

    /// One template.
    ///
    /// # Errors
    /// [`Error::Placeholder`] unless it contains exactly one `{}`, [`Error::ControlCharacter`].
    pub fn single(template: &str) -> Result<Self, Error> {
        text_list::check(template, "templates")?;
        check(template, || "templates".to_string())?;
        Ok(Templates(vec![template.to_string()]))
    }

    /// The built-in set of this name: `photo`, the single template of CLIP's authors; `ensemble`, 20 general templates;
    /// `camera`, for images of small cameras.
    pub fn named(name: &str) -> Option<Self> {
        let (_, set) = SETS.iter().find(|&&(known, _)| known == name)?;
        Some(Templates(
            set.iter().map(|template| template.to_string()).collect(),
        ))
    }

    /// The names of the built-in sets.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SETS.iter().map(|&(name, _)| name)
    }

    /// Reads a file with one template per line, or a JSON array: see [`TextList`].
    ///
    /// # Errors
    /// Those of [`TextList::read`]; [`Error::NoTemplates`]; [`Error::Placeholder`] for a line without exactly one `{}`.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let list = TextList::read(path)?;
        for (place, template) in list.placed() {
            check(template, || place.to_string())?;
        }
        match list.into_texts() {
            empty if empty.is_empty() => Err(Error::NoTemplates {
                path: path.to_path_buf(),
            }),
            templates => Ok(Templates(templates)),
        }
    }

    /// Templates recorded in a manifest; `origin` names the file and field for errors.
    ///
    /// # Errors
    /// [`Error::Placeholder`] unless each contains exactly one `{}`.
    pub fn recorded(templates: &[String], origin: &str) -> Result<Self, Error> {
        for (i, template) in templates.iter().enumerate() {
            check(template, || format!("{origin}[{i}]"))?;
        }
        Ok(Templates(templates.to_vec()))
    }

    /// The templates, in order.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// A warning if a template puts an article before names that bring their own, as in "a photo of a an apple".
    pub fn article_warning(&self, classes: &[String]) -> Option<String> {
        let last_word = |template: &&String| {
            let before = template.split(PLACEHOLDER).next().unwrap_or("");
            let word = before.trim_end().rsplit(char::is_whitespace).next();
            before.ends_with(char::is_whitespace) && word.is_some_and(is_article)
        };
        let template = self.0.iter().find(last_word)?;
        let first_word = |name: &&String| {
            let mut words = name.split(|c: char| c == '_' || c.is_whitespace());
            words.next().is_some_and(is_article) && words.next().is_some()
        };
        let names: Vec<&String> = classes.iter().filter(first_word).collect();
        let name = names.first()?;
        let prompt = template.replacen(PLACEHOLDER, &name.replace('_', " "), 1);
        let count = match names.len() {
            1 => "a class name brings an article".to_owned(),
            count => format!("{count} class names bring an article"),
        };
        Some(format!(
            "{count} and the template has one: {:?}; remove it from the names or from the templates",
            excerpt(&prompt)
        ))
    }

    /// The prompts of one class, in the order of the templates. As in CoOp, underscores in the name become spaces; the
    /// displayed name keeps them.
    pub fn prompts(&self, class: &str) -> impl Iterator<Item = String> {
        let name = class.replace('_', " ");
        self.0
            .iter()
            .map(move |template| template.replacen(PLACEHOLDER, &name, 1))
    }
}

impl Default for Templates {
    /// The set `photo`.
    fn default() -> Self {
        let (_, photo) = SETS[0];
        Templates(photo.iter().map(|template| template.to_string()).collect())
    }
}

fn is_article(word: &str) -> bool {
    ["a", "an", "the"].contains(&word.to_lowercase().as_str())
}

fn check(template: &str, origin: impl Fn() -> String) -> Result<(), Error> {
    match template.matches(PLACEHOLDER).count() {
        1 => Ok(()),
        found => Err(Error::Placeholder {
            origin: origin(),
            template: excerpt(template),
            found,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn sets_are_valid_and_distinct() {
        for name in Templates::names() {
            let set = Templates::named(name).unwrap();
            for (i, template) in set.as_slice().iter().enumerate() {
                Templates::single(template).unwrap();
                assert!(
                    !set.as_slice()[..i].contains(template),
                    "{name}: {template}"
                );
            }
        }
        assert_eq!(Templates::default(), Templates::named("photo").unwrap());
        assert_eq!(Templates::named("ensemble").unwrap().as_slice().len(), 20);
    }

    #[test]
    fn parse_decides_between_template_set_and_file() {
        assert_eq!(Templates::parse("my {}!").unwrap().as_slice(), ["my {}!"]);
        assert_eq!(
            Templates::parse("camera").unwrap(),
            Templates::named("camera").unwrap()
        );
        let file = file("\u{feff}# two\n\n  a {} here \r\n{} there".as_bytes());
        let parsed = Templates::parse(file.path().to_str().unwrap()).unwrap();
        assert_eq!(parsed.as_slice(), ["a {} here", "{} there"]);
        let message = Templates::parse("no/such file").unwrap_err().to_string();
        assert!(message.contains("photo, ensemble, camera"), "{message}");
    }

    #[test]
    fn templates_without_one_placeholder_are_refused() {
        assert!(matches!(
            Templates::parse("{} and {}"),
            Err(Error::Placeholder { found: 2, .. })
        ));
        let message = Templates::read(file(b"a {}\n# {}\na cat\n").path())
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(":3:") && message.contains("\"a cat\""),
            "{message}"
        );
        assert!(matches!(
            Templates::read(file(b"# none\n").path()),
            Err(Error::NoTemplates { .. })
        ));
        assert!(matches!(
            Templates::read(file(b"a {}\nthe\x07 {}").path()),
            Err(Error::ControlCharacter { .. })
        ));
        assert!(matches!(
            Templates::single("the\t{}"),
            Err(Error::ControlCharacter { .. })
        ));
        let array = file(b"[\"a {}\", \"the {}\"]");
        let parsed = Templates::read(array.path()).unwrap();
        assert_eq!(parsed.as_slice(), ["a {}", "the {}"]);
        assert!(matches!(
            Templates::read(Path::new("/")),
            Err(Error::NotText { .. })
        ));
    }

    #[test]
    fn two_articles_in_a_row_are_warned_about() {
        let warning = |template: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            Templates::parse(template).unwrap().article_warning(&names)
        };
        let found = warning("photo", &["cat", "an empty counter"]).unwrap();
        assert!(
            found.contains("\"a photo of a an empty counter.\""),
            "{found}"
        );
        assert!(
            warning("THE {}", &["a cat", "The_dog"])
                .unwrap()
                .starts_with("2 class names")
        );
        // Words that only look like articles, and templates without one.
        assert_eq!(
            warning("photo", &["a", "antelope", "the", "theatre seat"]),
            None
        );
        assert_eq!(warning("a photo of {}.", &["an empty counter"]), None);
        assert_eq!(warning("extra{}", &["a cat"]), None);
    }

    #[test]
    fn underscores_become_spaces_in_prompts_only() {
        let templates = Templates::single("the {}_").unwrap();
        let prompts: Vec<String> = templates.prompts("polar_bear {}").collect();
        assert_eq!(prompts, ["the polar bear {}_"]);
    }
}
