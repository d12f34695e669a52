//! The names of the training's classes in the metadata of a safetensors file, which `pinhole-train` writes.

use crate::Error;

use super::method::LearnedTensors;

/// Key of a JSON array of names, in the order of their labels.
const KEY: &str = "trained_classes";

/// The metadata of these classes; none if they are not known.
pub(super) fn metadata(classes: &[String]) -> Option<(String, String)> {
    let names = serde_json::Value::from(classes.to_vec());
    (!classes.is_empty()).then(|| (KEY.to_owned(), names.to_string()))
}

/// The classes that a file records.
///
/// # Errors
/// Something else than a JSON array of names.
pub(super) fn read(tensors: &LearnedTensors) -> Result<Vec<String>, Error> {
    let Some(text) = tensors.metadata(KEY) else {
        return Ok(vec![]);
    };
    pinhole_fs::from_json(text.as_bytes()).map_err(|error| {
        let reason = format!("metadata {KEY}: expected a JSON array of class names: {error}");
        Error::malformed(tensors.path(), reason)
    })
}

/// What the user of a method that generalises should know: the first of the classes.
pub(super) fn note(method: &str, classes: &[String]) -> Option<String> {
    const SHOWN: usize = 5;
    let shown = classes.iter().take(SHOWN);
    let names: Vec<String> = shown.map(|name| name.chars().take(40).collect()).collect();
    let more = match classes.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = names.join(", ");
    (!classes.is_empty()).then(|| format!("{method}: learned with the classes {names}{more}"))
}
