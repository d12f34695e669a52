//! Lists of texts that users write: class names, templates, negative texts, names of folders.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, excerpt};

/// Upper bound for the file of a list.
pub(crate) const MAX_BYTES: u64 = 2 << 20;

/// A list of texts, each free of control characters, with where it stands.
///
/// Every list of Pinhole is read this way. A file has one text per line, whatever the line ends (LF, CR LF or CR), or one
/// JSON array of strings. White space around a line is removed; blank lines and lines that begin with `#` are skipped. A
/// text that begins with `#` can be written in a JSON array. Files are UTF-8, or UTF-16 with a byte order mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextList {
    /// The file or argument.
    origin: String,
    form: Form,
    /// Number of the line or item, from 1, and the text.
    entries: Vec<(usize, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Lines,
    Items,
}

impl TextList {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::NoFile`], [`Error::Read`], [`Error::NotText`], [`Error::Json`], [`Error::EmptyText`],
    /// [`Error::ControlCharacter`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = read_text(path, MAX_BYTES)?;
        let origin = path.display().to_string();
        let json = |reason: String| Error::Json {
            path: path.to_owned(),
            reason,
        };
        // The first template of a list may begin with `{}`, which no JSON object with fields does.
        let object = text.trim_start().strip_prefix('{');
        if object.is_some_and(|rest| rest.trim_start().starts_with('"')) {
            return Err(json("found a JSON object".into()));
        }
        let (form, entries) = if text.trim_start().starts_with('[') {
            let items: Vec<String> =
                pinhole_fs::from_json(text.as_bytes()).map_err(|error| json(error.to_string()))?;
            (Form::Items, (1..).zip(items).collect())
        } else {
            (Form::Lines, lines(&text))
        };
        Self::checked(origin, form, entries)
    }

    /// A text of the command line, or the file of this name if there is one.
    ///
    /// # Errors
    /// As [`TextList::read`]; [`Error::NoFile`] for what looks like the path of a missing file.
    pub fn parse(argument: &str) -> Result<Self, Error> {
        let path = Path::new(argument);
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        let like_a_path = argument.contains('/')
            || (2..=5).contains(&extension.len())
                && extension.bytes().all(|b| b.is_ascii_alphabetic());
        if like_a_path || path.exists() {
            return Self::read(path);
        }
        Self::from_items("argument", [argument])
    }

    /// Texts of the program or the command line. `origin` names them in errors.
    ///
    /// # Errors
    /// [`Error::EmptyText`], [`Error::ControlCharacter`].
    pub(crate) fn from_items<S: AsRef<str>>(
        origin: &str,
        items: impl IntoIterator<Item = S>,
    ) -> Result<Self, Error> {
        let items = items.into_iter().map(|item| item.as_ref().to_owned());
        Self::checked(origin.to_owned(), Form::Items, (1..).zip(items).collect())
    }

    fn checked(origin: String, form: Form, entries: Vec<(usize, String)>) -> Result<Self, Error> {
        let entries = entries.into_iter();
        let list = Self {
            origin,
            form,
            entries: entries
                .map(|(n, text)| (n, text.trim().to_owned()))
                .collect(),
        };
        for (place, text) in list.placed() {
            check(text, place)?;
        }
        Ok(list)
    }

    /// The texts, in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(_, text)| text.as_str())
    }

    /// The texts, in order.
    pub fn into_texts(self) -> Vec<String> {
        self.entries.into_iter().map(|(_, text)| text).collect()
    }

    /// Where each text stands, for errors, and the text.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (Place<'_>, &str)> {
        let place = |&number| Place { list: self, number };
        (self.entries.iter()).map(move |(number, text)| (place(number), text.as_str()))
    }

    /// The file or argument.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }
}

/// Where a text of a list stands: `classes.txt:3`, or `classes.json: item 3`.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    list: &'a TextList,
    number: usize,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.list.form {
            Form::Lines => write!(f, "{}:{}", self.list.origin, self.number),
            Form::Items => write!(f, "{}: item {}", self.list.origin, self.number),
        }
    }
}

/// Checks that a text is neither empty nor has control characters.
pub(crate) fn check(text: &str, place: impl std::fmt::Display) -> Result<(), Error> {
    // The tokenizer reads the two Unicode separators as line ends.
    let refused = |c: &char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let origin = || place.to_string();
    if let Some(character) = text.chars().find(refused) {
        let (origin, text) = (origin(), excerpt(text));
        return Err(Error::ControlCharacter {
            origin,
            text,
            character,
        });
    }
    if text.is_empty() {
        return Err(Error::EmptyText { origin: origin() });
    }
    Ok(())
}

/// The lines that hold something, with their numbers from 1, without white space around them and comments.
pub(crate) fn lines(text: &str) -> Vec<(usize, String)> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    // Files joined by `cat` have byte order marks inside, too.
    let lines = (text.split('\n')).map(|line| line.trim_start_matches('\u{feff}').trim());
    let used = (1..)
        .zip(lines)
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    used.map(|(number, line)| (number, line.to_owned()))
        .collect()
}

/// Reads a text file of at most `max_bytes`: UTF-8, or UTF-16 with a byte order mark, which is removed.
///
/// # Errors
/// [`Error::NoFile`], [`Error::Read`]; [`Error::NotText`], which says what was found instead.
pub fn read_text(path: &Path, max_bytes: u64) -> Result<String, Error> {
    let read = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => Error::NoFile {
            path: path.to_owned(),
        },
        _ => Error::Read {
            path: path.to_owned(),
            source,
        },
    };
    let not_text = |found: String| Error::NotText {
        path: path.to_owned(),
        found,
    };
    // Opening a named pipe would block until it has a writer.
    let metadata = std::fs::metadata(path).map_err(read)?;
    if metadata.is_dir() {
        let found = format!(
            "a folder; for a list of its folders' names: ls {} > classes.txt",
            path.display()
        );
        return Err(not_text(found));
    }
    if !metadata.is_file() {
        return Err(not_text("no regular file".into()));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes))
        .map_err(read)?;
    if let Some(format) = weights_format(&bytes) {
        return Err(not_text(format!("{format}; are two arguments swapped?")));
    }
    if bytes.len() as u64 > max_bytes {
        return Err(not_text(format!("more than {} MiB", max_bytes >> 20)));
    }
    decode(bytes).map_err(not_text)
}

/// The format of a file of weights by its first bytes.
fn weights_format(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => {
            Some("a PyTorch checkpoint or another archive")
        }
        [_, _, _, 0, 0, 0, 0, 0, b'{', ..] => Some("a safetensors file"),
        _ => None,
    }
}

/// The text of a file's bytes, or what they are instead.
fn decode(bytes: Vec<u8>) -> Result<String, String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks();
        let text = char::decode_utf16(units.iter().map(|b| unit(*b))).collect::<Result<_, _>>();
        match text {
            Ok(text) if rest.is_empty() => Ok(text),
            _ => Err("damaged UTF-16".to_owned()),
        }
    };
    match bytes.as_slice() {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err("UTF-32; save it as UTF-8".into()),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        all => {
            // Half of the bytes of western text in UTF-16 are NUL, which is valid UTF-8.
            let nul = all.iter().filter(|byte| **byte == 0).count();
            if nul > 0 && 3 * nul >= all.len() {
                return Err("UTF-16 without a byte order mark; save it as UTF-8".into());
            }
            String::from_utf8(bytes).map(without_mark).map_err(|error| {
                let (at, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
                let line = 1 + lines_before(&bytes[..at]);
                format!(
                    "byte 0x{:02X} in line {line}, as in Latin-1 or Windows-1252; save it as UTF-8",
                    bytes[at]
                )
            })
        }
    }
}

fn without_mark(text: String) -> String {
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// Number of line ends, of which CR LF is one.
fn lines_before(bytes: &[u8]) -> usize {
    let ends = bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r'));
    ends.count() - bytes.windows(2).filter(|pair| pair == b"\r\n").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn read(bytes: &[u8]) -> Result<Vec<String>, String> {
        let list = TextList::read(file(bytes).path()).map_err(|error| error.to_string())?;
        Ok(list.texts().map(str::to_owned).collect())
    }

    fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(unit).collect()
    }

    /// If this fails, a list of an editor or a spreadsheet becomes one class, or gets names that nobody wrote.
    #[test]
    fn every_form_of_a_list_gives_the_same_texts() {
        let expected = ["cat", "tall ship", "été"];
        for bytes in [
            "cat\ntall ship\nété\n".as_bytes().to_vec(),
            "cat\r\ntall ship\r\nété".into(),
            "cat\rtall ship\rété\r".into(),
            "\u{feff}# animals\n\n  cat\t\n #ships\ntall ship\n\u{feff}été".into(),
            "[\"cat\", \"tall ship\",\n\"\\u00e9t\\u00e9\"]\n".into(),
            "\u{feff} [\"cat\",\"tall ship\",\"été\"]".into(),
            utf16("\u{feff}cat\r\ntall ship\r\nété\r\n", u16::to_le_bytes),
            utf16("\u{feff}cat\ntall ship\nété", u16::to_be_bytes),
        ] {
            assert_eq!(read(&bytes).unwrap(), expected, "{bytes:?}");
        }
        assert_eq!(read(b"[\"#1\"]").unwrap(), ["#1"]);
        assert_eq!(read(b"{} outdoors\nthe {}").unwrap().len(), 2);
        assert!(read(b"# nothing\n\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_list_is_named_with_its_line() {
        for (bytes, parts) in [
            (&b"cat\ndo\0g\n"[..], &[":2: ", "U+0000"][..]),
            (b"cat\r\r\x1b[31mdog", &[":3: ", "U+001B"]),
            (b"n01\ttench\n", &[":1: ", "U+0009", "table"]),
            (b"[\"cat\", \"\"]", &["item 2", "empty"]),
            (b"[\"cat\", \"a\\u0000b\"]", &["item 2", "U+0000"]),
            (b"['cat', 'dog']", &["JSON array of strings", "line 1"]),
            (b"[\"cat\", 3]", &["JSON array of strings", "field [1]: "]),
            (b"{\n \"0\": \"cat\"}", &["JSON array", "JSON object"]),
            (b"caf\xe9\n", &["0xE9 in line 1", "UTF-8"]),
            (b"cat\r\ncaf\xe9\n", &["0xE9 in line 2"]),
            (b"c\0a\0t\0\n\0", &["UTF-16 without"]),
            (b"\xff\xfec\0a", &["damaged UTF-16"]),
            (b"\xff\xfe\0\0c\0\0\0", &["UTF-32"]),
            (b"PK\x03\x04....", &["PyTorch", "swapped"]),
            (b"\x10\0\0\0\0\0\0\0{\"a\":1}", &["safetensors", "swapped"]),
        ] {
            let error = read(bytes).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let error = TextList::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("found a folder"), "{error}");
        let large = file(b"");
        large.as_file().set_len(MAX_BYTES + 1).unwrap();
        let error = TextList::read(large.path()).unwrap_err().to_string();
        assert!(error.contains("more than 2 MiB"), "{error}");
        let large = file(b"\x10\0\0\0\0\0\0\0{");
        large.as_file().set_len(MAX_BYTES + 1).unwrap();
        let error = TextList::read(large.path()).unwrap_err().to_string();
        assert!(error.contains("a safetensors file"), "{error}");
    }

    #[test]
    fn a_missing_file_is_explained() {
        let error = |path: &str| TextList::read(Path::new(path)).unwrap_err().to_string();
        let names = error("cat,tall ship");
        assert!(
            names.contains("printf '%s\\n' cat 'tall ship' >"),
            "{names}"
        );
        let missing = error("clases.txt");
        assert!(missing.contains("clases.txt: no such file"), "{missing}");
    }

    #[test]
    fn an_argument_is_a_text_or_a_file() {
        let texts = |argument: &str| -> Result<Vec<String>, Error> {
            Ok(TextList::parse(argument)?
                .texts()
                .map(str::to_owned)
                .collect())
        };
        for text in [
            "an empty room",
            "rain",
            "Mr. Smith's room.",
            "a plane, U.S.A",
        ] {
            assert_eq!(texts(text).unwrap(), [text]);
        }
        let two = file(b"rain\nsnow");
        assert_eq!(
            texts(two.path().to_str().unwrap()).unwrap(),
            ["rain", "snow"]
        );
        for missing in ["negativs.txt", "lists/negatives", "my list.json"] {
            assert!(
                matches!(texts(missing), Err(Error::NoFile { .. })),
                "{missing}"
            );
        }
        assert!(matches!(texts(" "), Err(Error::EmptyText { .. })));
    }
}
