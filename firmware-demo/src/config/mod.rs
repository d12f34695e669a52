//! The configuration: one TOML file. Unknown fields are errors.
//!
//! `pinhole-firmware.toml` in this crate's folder lists every field with its default. The table `[display]` belongs
//! to [`crate::panel`].

mod home_assistant;
mod log;
mod mqtt;
mod screen;
mod source;
mod thresholds;
mod web;

use std::io::Read;
use std::path::{Path, PathBuf};

use pinhole::internal::without_credentials;
use pinhole::{Classifier, ClassifierBuilder};
use serde::Deserialize;

use crate::access::{self, Access};
use crate::panel::DisplayConfig;
use crate::validation::{FieldError, require};

pub use home_assistant::HomeAssistantConfig;
pub use log::LogConfig;
pub use mqtt::{MqttConfig, TlsConfig};
pub use screen::ScreenConfig;
pub use source::SourceConfig;
pub use thresholds::ThresholdsConfig;
pub use web::WebConfig;

/// Only this many bytes of the file are read.
const MAX_BYTES: u64 = 1 << 20;

/// The configuration. Relative paths are relative to the file's folder.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplianceConfig {
    /// Folder of the bundle. It is watched: a new bundle there is used if it passes its self-test.
    pub bundle: PathBuf,
    /// Number of threads for classification; all processors if `None`.
    pub threads: Option<usize>,
    /// Source of the frames.
    pub source: SourceConfig,
    /// When the state changes and when it is "unknown".
    #[serde(default)]
    pub thresholds: ThresholdsConfig,
    /// The display.
    #[serde(default)]
    pub display: DisplayConfig,
    /// The screens.
    #[serde(default)]
    pub screen: ScreenConfig,
    /// The log of results; no log if `None`.
    pub log: Option<LogConfig>,
    /// Events over MQTT; none if `None`.
    pub mqtt: Option<MqttConfig>,
    /// The page and the HTTP API; none if `None`.
    pub web: Option<WebConfig>,
    /// The file's folder.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: String,
    },
    /// The file is not valid TOML, lacks a field, or has an unknown one.
    #[error("{}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The error with line and column.
        reason: String,
    },
    /// A field is out of range.
    #[error("{}: {error}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        error: FieldError,
    },
}

impl ApplianceConfig {
    /// Reads and validates the file.
    ///
    /// # Errors
    /// Any of [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut bytes = vec![];
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|e| ConfigError::Read {
                path: path.to_owned(),
                reason: access::explain(path, Access::Read, &e),
            })?;
        let text = text(&bytes).map_err(|reason| ConfigError::Parse {
            path: path.to_owned(),
            reason,
        })?;
        Self::parse(text, path)
    }

    /// Parses and validates `text`. `path` is used in errors and to resolve relative paths.
    ///
    /// # Errors
    /// [`ConfigError::Parse`], [`ConfigError::Field`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let wrong = |error: &dyn std::fmt::Display| ConfigError::Parse {
            path: path.to_owned(),
            // It shows the line, which may be a camera's URL.
            reason: without_credentials(error.to_string().trim_end()).into_owned(),
        };
        let parser = toml::Deserializer::parse(text).map_err(|error| wrong(&error))?;
        let mut config: Self = pinhole_fs::deserialize(parser).map_err(|error| wrong(&error))?;
        config.validate().map_err(|error| ConfigError::Field {
            path: path.to_owned(),
            error,
        })?;
        config.resolve_paths(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// A builder of classifiers with the configured threads and thresholds.
    pub fn classifier_builder(&self) -> ClassifierBuilder {
        let mut builder = Classifier::builder();
        if let Some(threads) = self.threads {
            builder = builder.threads(threads.min(available_threads()));
        }
        if let Some(similarity) = self.thresholds.min_similarity {
            builder = builder.min_similarity(similarity);
        }
        if let Some(margin) = self.thresholds.min_margin {
            builder = builder.min_margin(margin);
        }
        builder
    }

    /// What there is to say about `threads`: a board with fewer processors than the configuration was written for uses
    /// all of its own.
    pub fn threads_note(&self) -> Option<String> {
        let (threads, available) = (self.threads?, available_threads());
        (threads > available).then(|| {
            format!("threads: expected 1 to {available}, the processors of this machine, found {threads}; using {available}")
        })
    }

    fn validate(&self) -> Result<(), FieldError> {
        if let Some(threads) = self.threads {
            require(threads > 0, "threads", "1 or more", threads)?;
        }
        self.source.validate()?;
        self.thresholds.validate()?;
        self.display.validate()?;
        self.screen.validate()?;
        self.log.as_ref().map_or(Ok(()), LogConfig::validate)?;
        self.mqtt.as_ref().map_or(Ok(()), MqttConfig::validate)?;
        self.web.as_ref().map_or(Ok(()), WebConfig::validate)
    }

    fn resolve_paths(&mut self, folder: &Path) {
        self.folder = folder.to_owned();
        self.bundle = folder.join(&self.bundle);
        self.source.resolve_paths(folder);
        self.display.resolve_paths(folder);
        for font in &mut self.screen.fonts {
            *font = folder.join(&*font);
        }
        if let Some(log) = &mut self.log {
            log.folder = folder.join(&log.folder);
        }
        if let Some(mqtt) = &mut self.mqtt {
            mqtt.resolve_paths(folder);
        }
        if let Some(password_file) = self.web.as_mut().and_then(|web| web.password_file.as_mut()) {
            *password_file = folder.join(&*password_file);
        }
    }
}

/// Number of processors that this process may use.
fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The file's content as text, without a byte order mark.
fn text(bytes: &[u8]) -> Result<&str, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("expected at most {MAX_BYTES} bytes, found more"));
    }
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err("expected UTF-8, found UTF-16; save the file as UTF-8".into());
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()]
            .split(|byte| *byte == b'\n')
            .count();
        let byte = bytes[e.valid_up_to()];
        format!("line {line}: expected UTF-8, found the byte 0x{byte:02X}; save the file as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{FEFF}').unwrap_or(text))
}
