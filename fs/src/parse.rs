//! Parsing with errors that name the field.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{Deserialize, DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde_path_to_error::{Path, Track};

/// Why a text is not of the expected type.
#[derive(Debug)]
pub struct ParseError {
    /// The field at fault, such as `model.image_size` or `images[2]`; empty for the whole text.
    field: String,
    reason: String,
}

impl ParseError {
    fn new(path: &Path, reason: &impl fmt::Display) -> Self {
        let path = path.to_string();
        // The root, and a key that could not be read.
        let field = path.trim_end_matches('?').trim_end_matches('.');
        Self {
            field: field.to_owned(),
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "field {}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ParseError {}

/// Deserialises a value of any format.
///
/// # Errors
/// The format's error, with the field.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, ParseError>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
    D::Error: fmt::Display,
{
    serde_path_to_error::deserialize(deserializer)
        .map_err(|error| ParseError::new(error.path(), error.inner()))
}

/// Parses JSON.
///
/// # Errors
/// What is wrong, with the field, line and column.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ParseError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = deserialize(&mut deserializer)?;
    deserializer.end().map_err(|error| ParseError {
        field: String::new(),
        reason: error.to_string(),
    })?;
    Ok(value)
}

/// Parses the header of a safetensors file or another JSON object `T` whose entries are of type `E`, with any entry that
/// is `ignored`. Serde reads such types through a buffer (`flatten`), so that their errors do not name the entry.
///
/// # Errors
/// What is wrong, with the entry and its field.
pub fn from_json_entries<T: DeserializeOwned, E: DeserializeOwned>(
    bytes: &[u8],
    ignored: &str,
) -> Result<T, ParseError> {
    serde_json::from_slice(bytes).map_err(|error: serde_json::Error| {
        let mut track = Track::new();
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
        let entries = Entries::<E> {
            ignored,
            entry: PhantomData,
        };
        match tracked.deserialize_map(entries) {
            Ok(()) => ParseError {
                field: String::new(),
                reason: error.to_string(),
            },
            Err(error) => ParseError::new(&track.path(), &error),
        }
    })
}

/// Reads the entries of an object one after the other, so that hostile ones take no memory.
struct Entries<'a, E> {
    ignored: &'a str,
    entry: PhantomData<E>,
}

impl<'de, E: Deserialize<'de>> Visitor<'de> for Entries<'_, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == self.ignored {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value::<E>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Outer {
        name: String,
        inner: Inner,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        sizes: Vec<u32>,
    }

    #[test]
    fn errors_name_the_field_and_the_place() {
        let error = |json: &str| from_json::<Outer>(json.as_bytes()).unwrap_err().to_string();
        for (json, start) in [
            (
                r#"{"name": "a", "inner": {"sizes": [1, -2]}}"#,
                "field inner.sizes[1]: invalid value: integer `-2`",
            ),
            (r#"{"name": 1}"#, "field name: invalid type: integer `1`"),
            (
                r#"{"name": "a", "inner": {}}"#,
                "field inner: missing field `sizes`",
            ),
            (
                r#"{"name": "a", "inner": {"size": 1}}"#,
                "field inner.size: unknown field `size`",
            ),
            (r#"{"inner": {"sizes": []}}"#, "missing field `name`"),
            (
                r#"{"inner": {"sizes": []}, "name": "a"} b"#,
                "trailing characters",
            ),
            ("3", "invalid type: integer `3`"),
            (r#"{"name": "a", "inner": {"#, "field inner: EOF"),
        ] {
            let found = error(json);
            assert!(found.starts_with(start), "{found}");
        }
        assert!(error(r#"{"name": 1}"#).contains("line 1 column 10"));
        assert!(from_json::<Outer>(br#"{"name": "a", "inner": {"sizes": [1]}} "#).is_ok());
    }

    #[test]
    fn errors_of_entries_name_the_entry() {
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only parsed")]
        struct Header {
            remark: Option<String>,
            #[serde(flatten)]
            entries: std::collections::HashMap<String, Inner>,
        }
        let parse = |json: &str| from_json_entries::<Header, Inner>(json.as_bytes(), "remark");
        assert!(parse(r#"{"remark": "a", "x": {"sizes": []}}"#).is_ok());
        for (json, start) in [
            (
                r#"{"x": {"sizes": []}, "y.z": {"sizes": ["a"]}}"#,
                "field y.z.sizes[0]: invalid type: string \"a\"",
            ),
            (r#"{"x": 3}"#, "field x: invalid type: integer `3`"),
            ("{", "EOF while parsing an object at line 1 column 1"),
        ] {
            let found = parse(json).unwrap_err().to_string();
            assert!(found.starts_with(start), "{found}");
        }
    }
}
