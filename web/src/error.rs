//! Errors of starting a server.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// An address other than this machine's own without a password.
    #[error(
        "{address}: expected a password for an address that other machines reach, found none; \
         `pinhole serve --set-password FILE` writes one, --password-file FILE uses it"
    )]
    NoPassword {
        /// The address.
        address: SocketAddr,
    },
    /// A name of this server that no browser sends.
    #[error(
        "{name:?}: expected a name of this machine without scheme, port and final dot, such as board.lan"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// The address cannot be listened on.
    #[error(
        "{address}: cannot listen: {error}{}",
        match error.kind() {
            std::io::ErrorKind::AddrInUse => "; stop the other program that uses this port, or choose another port",
            _ => "",
        }
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: std::io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start the thread {name}: {error}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// The system's error.
        error: std::io::Error,
    },
    /// There is no bundle to classify with yet.
    #[error("expected a bundle in use, found none yet")]
    NoBundle,
    /// A password that cannot be used.
    #[error("password: {0}")]
    Password(String),
    /// A file of a password's hash that cannot be used.
    #[error("{}: {reason}", path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// The bundle cannot be used for a camera.
    #[error(transparent)]
    Bundle(#[from] pinhole::Error),
}
