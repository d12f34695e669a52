//! JSON objects in configuration files, with their location for errors.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::Error;
use crate::storage::Source;

/// A configuration has a few kilobytes. Parsed JSON takes up to a hundred times the bytes of its text.
const MAX_BYTES: u64 = 256 << 10;

/// A JSON object with its file and field, which errors name.
pub(crate) struct Object {
    map: Map<String, Value>,
    path: PathBuf,
    /// Dotted; empty for the whole file.
    field: String,
}

impl Object {
    pub(crate) fn read(path: &Path) -> Result<Object, Error> {
        let map = pinhole_fs::from_json(&Source::open(path)?.whole(MAX_BYTES)?)
            .map_err(|error| Error::malformed(path, format!("expected a JSON object: {error}")))?;
        Ok(Object {
            map,
            path: path.to_owned(),
            field: String::new(),
        })
    }

    /// An object at a field of this one.
    pub(crate) fn child(&self, name: &str, map: Map<String, Value>) -> Object {
        Object {
            map,
            path: self.path.clone(),
            field: self.dotted(name),
        }
    }

    /// The fields of `other` are added, and replace those of the same name.
    pub(crate) fn extend(&mut self, other: Object) {
        self.map.extend(other.map);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// The full name of a field, for errors.
    pub(crate) fn dotted(&self, name: &str) -> String {
        if self.field.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.field)
        }
    }

    pub(crate) fn wrong(&self, name: &str, expected: &str) -> Error {
        let found = self
            .map
            .get(name)
            .map_or_else(|| "nothing".to_owned(), Value::to_string);
        Error::config(&self.path, self.dotted(name), expected, found)
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Object>, Error> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(self.child(name, map.clone()))),
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "text")),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<usize>, Error> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match whole(value) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(name, "a whole number")),
            },
        }
    }

    /// The side of a square, given as a number, as [height, width] or as {height, width}.
    pub(crate) fn square(&self, name: &str) -> Result<Option<usize>, Error> {
        let side = match self.map.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(sides)) => match sides.as_slice() {
                [height, width] if height == width => whole(height),
                _ => None,
            },
            Some(Value::Object(sides)) => match (sides.get("height"), sides.get("width")) {
                (Some(height), Some(width)) if height == width => whole(height),
                _ => None,
            },
            Some(value) => whole(value),
        };
        side.map(Some)
            .ok_or_else(|| self.wrong(name, "the side of a square"))
    }

    pub(crate) fn pixels(&self, name: &str, size: usize) -> Result<u32, Error> {
        u32::try_from(size)
            .ok()
            .filter(|size| (1..=1 << 14).contains(size))
            .ok_or_else(|| self.wrong(name, "1 to 16384 pixels"))
    }

    pub(crate) fn mean(&self, name: &str, default: [f32; 3]) -> Result<[f32; 3], Error> {
        self.channels(name, default, "three finite numbers", f32::is_finite)
    }

    pub(crate) fn std(&self, name: &str, default: [f32; 3]) -> Result<[f32; 3], Error> {
        self.channels(name, default, "three numbers above zero", |std| {
            std.is_finite() && std > 0.0
        })
    }

    fn channels(
        &self,
        name: &str,
        default: [f32; 3],
        expected: &str,
        good: impl Fn(f32) -> bool,
    ) -> Result<[f32; 3], Error> {
        let channels = match self.map.get(name) {
            None | Some(Value::Null) => return Ok(default),
            Some(Value::Array(channels)) => channels
                .iter()
                .map(|value| {
                    value
                        .as_f64()
                        .map(|value| value as f32)
                        .filter(|v| good(*v))
                })
                .collect::<Option<Vec<f32>>>(),
            Some(_) => None,
        };
        channels
            .and_then(|channels| channels.try_into().ok())
            .ok_or_else(|| self.wrong(name, expected))
    }

    /// Refuses fields that would change the model: all but the known ones, those that have the value in
    /// `fixed`, and those that are null or false.
    pub(crate) fn only(&self, known: &[&str], fixed: &[(&str, Value)]) -> Result<(), Error> {
        for (field, value) in &self.map {
            let off = matches!(value, Value::Null | Value::Bool(false));
            let same = fixed
                .iter()
                .any(|(name, expected)| name == field && value == expected);
            if !off && !same && !known.contains(&field.as_str()) {
                let found = format!("{} = {value}", self.dotted(field));
                return Err(Error::unsupported(&self.path, found));
            }
        }
        Ok(())
    }
}

pub(crate) fn whole(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|value| usize::try_from(value).ok())
}
