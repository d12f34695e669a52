//! What an adaptation method is.

use std::fmt;

use pinhole_checkpoint::MethodOption;
use pinhole_model::Learned;

use super::task::Task;
use crate::{Error, Result, prompt_learning::TrainingEvent};

/// An adaptation method: commands and protocols know it through this struct only.
pub struct Adapter {
    /// Name of the command, the output folder and the method of the files, such as "tip-adapter-f".
    pub key: &'static str,
    /// Name in reports, such as "Tip-Adapter-F".
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// Options with their defaults; those without are found on validation images, as their help says.
    pub options: &'static [MethodOption],
    /// Whether what is learned belongs to the image encoder.
    pub changes_image_encoder: bool,
    pub(super) train: Train,
}

/// How a method learns from a task.
type Train = fn(&Task, &Values, &mut dyn FnMut(TrainingEvent)) -> Result<Learned>;

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A method with its options.
#[derive(Clone, Debug)]
pub struct AdapterOptions {
    /// The method.
    pub adapter: &'static Adapter,
    /// Values of its options by name.
    pub values: Vec<(String, f32)>,
}

impl AdapterOptions {
    /// Rejects options that the method does not have, and values out of their range.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn check(&self) -> Result<()> {
        check_values(self.adapter.name, self.adapter.options, &self.values)
    }

    /// Learns from few images.
    ///
    /// # Errors
    /// [`Error::Options`]; [`Error::Config`] for no images; [`Error::Diverged`]; [`Error::Image`].
    pub fn train(&self, task: &Task, progress: &mut dyn FnMut(TrainingEvent)) -> Result<Learned> {
        self.check()?;
        task.check()?;
        let values = Values {
            adapter: self.adapter,
            given: &self.values,
        };
        Ok(Learned {
            trained_classes: task.classes.to_vec(),
            ..(self.adapter.train)(task, &values, progress)?
        })
    }
}

/// Rejects options that a method does not have, and values out of their range.
///
/// # Errors
/// [`Error::Options`].
pub fn check_values(name: &str, options: &[MethodOption], values: &[(String, f32)]) -> Result<()> {
    for (i, (key, value)) in values.iter().enumerate() {
        let Some(option) = options.iter().find(|option| option.name == key) else {
            let known: Vec<&str> = options.iter().map(|option| option.name).collect();
            let known = match known.as_slice() {
                [] => "none".to_owned(),
                known => known.join(", "),
            };
            return Err(Error::Options(format!(
                "--method-option {key}: expected an option of {name} ({known})"
            )));
        };
        let [least, most] = option.range;
        if !(least..=most).contains(value) {
            return Err(Error::Options(format!(
                "--method-option {key}={value}: expected {least} to {most}"
            )));
        }
        if values[..i].iter().any(|(before, _)| before == key) {
            return Err(Error::Options(format!(
                "--method-option {key}: expected one value, found several"
            )));
        }
    }
    Ok(())
}

/// The values of a method's options.
pub(super) struct Values<'a> {
    adapter: &'static Adapter,
    given: &'a [(String, f32)],
}

impl Values<'_> {
    /// A value as given, else its default.
    pub(super) fn get(&self, name: &str) -> Option<f32> {
        let given = self.given.iter().find(|(known, _)| known == name);
        let option = || self.adapter.options.iter().find(|o| o.name == name);
        given.map(|(_, value)| *value).or_else(|| option()?.default)
    }

    /// A value that has a default.
    pub(super) fn number(&self, name: &str) -> Result<f32> {
        self.get(name).ok_or_else(|| {
            Error::Options(format!(
                "--method-option {name}: expected a value, found none"
            ))
        })
    }

    /// A whole number that has a default.
    pub(super) fn count(&self, name: &str) -> Result<usize> {
        let value = self.number(name)?;
        if value.fract() != 0.0 {
            return Err(Error::Options(format!(
                "--method-option {name}={value}: expected a whole number"
            )));
        }
        Ok(value as usize)
    }
}
