//! What a connection to the broker needs, and what can be wrong with it before the broker is asked.

use std::path::Path;
use std::time::Duration;

use rumqttc::{LastWill, MqttOptions, QoS, TlsConfiguration, Transport};

use super::error::MqttError;
use super::file::read;
use super::queue::MAX_RETAINED;
use super::tls::client_config;
use super::topics::{self, OFFLINE};
use crate::config::MqttConfig;
use crate::validation::{FieldError, require};

/// The usual ports of MQTT over TLS.
const TLS_PORTS: [u16; 2] = [8883, 8884];

/// The usual port without TLS.
const PLAIN_PORT: u16 = 1883;

/// Maximum number of unacknowledged packets.
pub(super) const WINDOW: usize = 20;

/// Maximum size of a packet from the broker. Home Assistant's status is the largest.
const MAX_RECEIVED: usize = 64 << 10;

/// Keep-alive interval. A broker that is silent for up to twice as long counts as unreachable.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

const PASSWORD_FILE: &str = "mqtt.password_file";

/// Maximum length of a password in MQTT, in bytes.
const MAX_PASSWORD: usize = 65535;

/// The options of a connection. Reads the password file.
pub(super) fn options(config: &MqttConfig) -> Result<MqttOptions, MqttError> {
    check_host(config)?;
    let mut options = MqttOptions::new(config.client_id(), config.host.trim(), config.port);
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(WINDOW as u16)
        // The limit for sending includes topic and header.
        .set_max_packet_size(MAX_RECEIVED, MAX_RETAINED + 2048)
        .set_last_will(LastWill::new(
            topics::status(config),
            OFFLINE,
            QoS::AtLeastOnce,
            true,
        ));
    if let Some(tls) = &config.tls {
        let rustls = TlsConfiguration::Rustls(client_config(tls)?);
        options.set_transport(Transport::tls_with_config(rustls));
    }
    let password = match &config.password_file {
        Some(path) => password(path)?,
        None => String::new(),
    };
    match &config.user {
        Some(user) => {
            options.set_credentials(user, password);
        }
        None if config.password_file.is_some() => return Err(MqttError::User),
        None => {}
    }
    Ok(options)
}

/// Reads the password: the only line of the file.
fn password(path: &Path) -> Result<String, MqttError> {
    let failed = |reason: String| MqttError::File {
        field: PASSWORD_FILE,
        path: path.to_owned(),
        reason,
    };
    let text = read(PASSWORD_FILE, path, 2 * MAX_PASSWORD)?;
    let text = String::from_utf8(text).map_err(|_| failed("expected UTF-8".into()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.len() > MAX_PASSWORD || line.contains(['\n', '\0']) {
        let lines = text.lines().count();
        return Err(failed(format!(
            "expected one line of 1 to {MAX_PASSWORD} bytes without NUL, found {lines} lines with {} bytes in total",
            text.len()
        )));
    }
    Ok(line.to_owned())
}

/// Checks that `mqtt.host` is a name or an address and nothing more.
///
/// # Errors
/// What is there instead, such as a scheme or a port. A user and password in front of an `@` are not repeated.
fn check_host(config: &MqttConfig) -> Result<(), FieldError> {
    let host = config.host.trim();
    let (scheme, rest) = match host.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, host),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (true, rest),
        None => (false, rest),
    };
    let (rest, path) = match rest.split_once('/') {
        Some((rest, _)) => (rest, true),
        None => (rest, false),
    };
    let (name, port) = match rest.rsplit_once(':') {
        // More colons are an IPv6 address.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (rest, None),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if scheme.is_none() && !user && !path && port.is_none() && bare == host {
        return Ok(());
    }
    let mut expected = format!("a name or an address alone, such as {bare:?}");
    if let Some(port) = port {
        expected += &format!(", with the port in mqtt.port ({port})");
    }
    if user {
        expected += ", with user and password in mqtt.user and mqtt.password_file";
    }
    let encrypted = ["mqtts", "ssl", "tls", "wss", "https"];
    if scheme.is_some_and(|scheme| encrypted.contains(&&*scheme.to_ascii_lowercase())) {
        expected += ", with a table [mqtt.tls] for TLS";
    }
    let scheme = scheme.map_or(String::new(), |scheme| format!("{scheme}://"));
    let user = if user { "...@" } else { "" };
    let path = if path { "/..." } else { "" };
    let found = format!("{:?}", format!("{scheme}{user}{rest}{path}"));
    require(false, "mqtt.host", expected, found)
}

/// What to say about a port that is usually encrypted, or usually not.
pub(crate) fn tls_hint(config: &MqttConfig) -> Option<String> {
    let port = config.port;
    match &config.tls {
        None if TLS_PORTS.contains(&port) => Some(format!(
            "{port} is usually a port for TLS: add the table [mqtt.tls]; the port without TLS is usually 1883"
        )),
        Some(_) if port == PLAIN_PORT => Some(format!(
            "{port} is usually the port without TLS; the port for TLS is usually 8883"
        )),
        _ => None,
    }
}
