//! Why there can be no connection.

use std::path::PathBuf;

use crate::validation::FieldError;

/// Why there can be no connection to the broker, whatever its answer.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    /// A file cannot be used.
    #[error("{field}: {}: {reason}", path.display())]
    File {
        /// The field that names it.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error, or what was expected and what was found.
        reason: String,
    },
    /// A field of the configuration cannot be used.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// There can be no TLS.
    #[error("mqtt.tls: {0}")]
    Tls(String),
    /// There is a password without a user name.
    #[error("mqtt.user: expected the user name for mqtt.password_file, found none")]
    User,
    /// The thread cannot be started.
    #[error("mqtt: cannot start a thread: {0}")]
    Thread(std::io::Error),
}
