//! Addresses that servers listen on, as users write them.

use std::net::{Ipv4Addr, SocketAddr};

/// An address and a port. Of names only `localhost` is accepted, which is 127.0.0.1: what another name means depends on the
/// network, and decides who can reach the server.
///
/// # Errors
/// What was expected and found.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let localhost = || {
        let (name, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        (name.eq_ignore_ascii_case("localhost")).then(|| (Ipv4Addr::LOCALHOST, port).into())
    };
    let address = text.parse().ok().or_else(localhost);
    address.ok_or_else(|| {
        format!(
            "expected an address and a port, such as 127.0.0.1:8642 or localhost:8642 for this machine alone, or 0.0.0.0:8642 \
             for every network, found {text:?}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_the_only_name() {
        for (text, expected) in [
            ("127.0.0.1:8642", Some("127.0.0.1:8642")),
            ("[::1]:80", Some("[::1]:80")),
            ("localhost:8642", Some("127.0.0.1:8642")),
            ("LocalHost:0", Some("127.0.0.1:0")),
            ("localhost", None),
            ("localhost:99999", None),
            (":8642", None),
            ("8642", None),
            ("0.0.0.0", None),
            ("board.lan:8642", None),
            ("localhost.evil.example:8642", None),
            ("http://localhost:8642", None),
        ] {
            let found = listen_address(text).map(|address| address.to_string());
            assert_eq!(found.as_deref().ok(), expected, "{text}");
        }
    }
}
