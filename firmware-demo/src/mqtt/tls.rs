//! TLS to the broker, by rustls with ring.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::error::MqttError;
use super::file::read;
use crate::config::TlsConfig;

/// Maximum size of a file with certificates or a key. The lists of all authorities have some 200 KB.
const MAX_BYTES: usize = 4 << 20;

const CA_FILE: &str = "mqtt.tls.ca_file";
const CERTIFICATE_FILE: &str = "mqtt.tls.certificate_file";
const KEY_FILE: &str = "mqtt.tls.key_file";

/// What a connection needs. Reads the files.
pub(super) fn client_config(tls: &TlsConfig) -> Result<Arc<ClientConfig>, MqttError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| MqttError::Tls(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        Some(path) => {
            for certificate in certificates(CA_FILE, path)? {
                (roots.add(certificate)).map_err(|e| failed(CA_FILE, path, e))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                let expected = "expected certificates of authorities on this system, found none; install the package \
                                ca-certificates, or set mqtt.tls.ca_file";
                return Err(MqttError::Tls(expected.into()));
            }
        }
    }
    let builder = builder.with_root_certificates(roots);
    let config = match (&tls.certificate_file, &tls.key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(CERTIFICATE_FILE, certificate)?;
            let bytes = read(KEY_FILE, key, MAX_BYTES)?;
            let secret = PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| match e {
                PemError::NoItemsFound => failed(
                    KEY_FILE,
                    key,
                    "expected a private key in PEM without a password, found none",
                ),
                e => failed(KEY_FILE, key, e),
            })?;
            (builder.with_client_auth_cert(chain, secret)).map_err(|e| failed(KEY_FILE, key, e))?
        }
        // The configuration has both or none.
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(
    field: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, MqttError> {
    let bytes = read(field, path, MAX_BYTES)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let parsed = parsed.map_err(|e| failed(field, path, e))?;
    if parsed.is_empty() {
        return Err(failed(
            field,
            path,
            "expected certificates in PEM, found none",
        ));
    }
    Ok(parsed)
}

fn failed(field: &'static str, path: &Path, reason: impl ToString) -> MqttError {
    MqttError::File {
        field,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
