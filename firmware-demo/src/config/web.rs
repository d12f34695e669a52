//! The table `[web]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::validation::{FieldError, require};

/// The page and the HTTP API.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebConfig {
    /// Address and port to listen on, or `localhost:PORT`.
    #[serde(default = "listen", deserialize_with = "listen_address")]
    pub listen: SocketAddr,
    /// File with the hash of the password, which is needed on an address that other machines reach.
    pub password_file: Option<PathBuf>,
    /// Names by which browsers may reach the page, besides addresses, `localhost`, and this machine's name.
    #[serde(default)]
    pub host_names: Vec<String>,
}

fn listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8642))
}

fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    pinhole::internal::listen_address(&text).map_err(D::Error::custom)
}

impl WebConfig {
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        let local = self.listen.ip().is_loopback();
        require(
            local || self.password_file.is_some(),
            "web.password_file",
            "a file, because other machines reach web.listen (`pinhole-firmware set-password FILE` writes it)",
            "none",
        )
    }
}
