//! Who may send a request: names of this server (against DNS rebinding), the page that sends it (against cross-site
//! request forgery), and the password that it carries.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, Method};
use base64ct::{Base64, Encoding};

/// The names by which browsers may reach this server, besides addresses and `localhost`.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    names: Vec<String>,
    /// Listens on a loopback address alone.
    loopback: bool,
}

impl Names {
    pub(crate) fn new(listen: SocketAddr, names: &[String]) -> Self {
        Self {
            names: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            loopback: listen.ip().is_loopback(),
        }
    }

    /// Whether `host`, without a port, is this server. An attacker's page that rebinds its name to our address still
    /// sends its name; it cannot send an address.
    fn contain(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(host).parse::<IpAddr>() {
            return !self.loopback || ip.is_loopback();
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        host == "localhost" || self.names.contains(&host)
    }
}

/// The one value of a header that must not be there twice.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &axum::http::HeaderName,
) -> Result<Option<&'a str>, String> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(format!("{name}: expected it once, found it several times"));
    }
    let text = first.map(|value| value.to_str()).transpose();
    text.map_err(|_| format!("{name}: expected ASCII, found other bytes"))
}

/// Checks that a request is meant for this server and was not sent by a page from elsewhere.
///
/// # Errors
/// What was expected and found.
pub(crate) fn check_sender(
    names: &Names,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), String> {
    let host = match single(headers, &HOST)? {
        Some(host) => host,
        None => return Err("Host: expected this server's name, found none".into()),
    };
    let host: Authority = match host.parse() {
        Ok(authority) if !host.contains('@') => authority,
        _ => return Err("Host: expected a name or an address, found something else".into()),
    };
    // A request in absolute form names the server a second time.
    let target = uri.authority().unwrap_or(&host);
    for authority in [&host, target] {
        if !names.contain(authority.host()) {
            return Err(format!(
                "Host: expected an address, localhost or a name of this server, found {:?}; --host-name NAME allows a \
                 name",
                authority.host()
            ));
        }
    }
    if let Some(origin) = single(headers, &ORIGIN)? {
        let parsed = origin.parse::<Uri>().ok();
        let own = parsed.as_ref().and_then(Uri::authority) == Some(&host);
        if !own {
            return Err(format!(
                "Origin: expected this server's page, found {origin:?}"
            ));
        }
    }
    let site = headers.get("sec-fetch-site").map(|v| v.as_bytes());
    let navigates = headers.get("sec-fetch-mode").map(|v| v.as_bytes()) == Some(b"navigate");
    let reads = method == Method::GET || method == Method::HEAD;
    match site {
        None | Some(b"same-origin" | b"none") => Ok(()),
        // A link on another page.
        Some(_) if reads && navigates => Ok(()),
        Some(_) => Err("Sec-Fetch-Site: expected this server's page, found another site".into()),
    }
}

/// The password that a request carries: `Authorization: Bearer PASSWORD`, or `Basic` with any user name.
///
/// # Errors
/// What was expected and found.
pub(crate) fn password(headers: &HeaderMap) -> Result<Option<String>, String> {
    let Some(value) = single(headers, &AUTHORIZATION)? else {
        return Ok(None);
    };
    let expected = "Authorization: expected Basic or Bearer with a password";
    let (scheme, rest) = value.split_once(' ').ok_or(expected)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Some(rest.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(format!("{expected}, found another scheme"));
    }
    let bytes = Base64::decode_vec(rest);
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| format!("{expected}, found no base64 of UTF-8"))?;
    match text.split_once(':') {
        Some((_, password)) => Ok(Some(password.to_owned())),
        None => Err(format!("{expected}, found no colon")),
    }
}

/// Runs the checks on a request's head whose lines are the method, the URI, and `name: value` each. For the fuzzer.
pub fn fuzz_request(text: &str) {
    let mut lines = text.lines();
    let method = lines
        .next()
        .and_then(|m| m.parse().ok())
        .unwrap_or(Method::GET);
    let uri: Uri = lines
        .next()
        .and_then(|u| u.parse().ok())
        .unwrap_or_default();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name = axum::http::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value.parse()) {
            let _ = headers.try_append(name, value);
        }
    }
    let names = Names::new(([127, 0, 0, 1], 80).into(), &["board.local".into()]);
    let allowed = check_sender(&names, &method, &uri, &headers).is_ok();
    // A page from elsewhere is never allowed to change anything.
    let origin = headers
        .get(ORIGIN)
        .is_some_and(|o| o == "http://evil.example");
    assert!(!(allowed && origin));
    let _ = password(&headers);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listen: &str, method: Method, headers: &[(&'static str, &str)]) -> Result<(), String> {
        let names = Names::new(listen.parse().unwrap(), &["Board.local".into()]);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        check_sender(&names, &method, &"/api/state".parse().unwrap(), &map)
    }

    /// If this fails, a page in a browser on this network can read the camera by rebinding its name.
    #[test]
    fn only_names_of_this_server_are_served() {
        let get = |listen, host| check(listen, Method::GET, &[("host", host)]);
        for host in [
            "127.0.0.1:8642",
            "localhost:8642",
            "LOCALHOST",
            "[::1]:8642",
            "board.local",
            "board.local.:8642",
        ] {
            get("127.0.0.1:8642", host).unwrap();
        }
        for host in [
            "evil.example",
            "evil.example:8642",
            "localhost.evil.example",
            "192.0.2.1",
            "a@localhost",
            "",
            "a b",
        ] {
            assert!(get("127.0.0.1:8642", host).is_err(), "{host}");
        }
        get("0.0.0.0:8642", "192.0.2.1:8642").unwrap();
        assert!(get("0.0.0.0:8642", "evil.example").is_err());
        assert!(check("127.0.0.1:1", Method::GET, &[]).is_err());
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert!(check("127.0.0.1:1", Method::GET, &twice).is_err());
    }

    /// If this fails, any page that a browser shows can change the settings.
    #[test]
    fn pages_from_elsewhere_can_send_nothing() {
        let host = ("host", "localhost:8642");
        let with = |method, header| check("127.0.0.1:8642", method, &[host, header]);
        with(Method::POST, ("origin", "http://localhost:8642")).unwrap();
        with(Method::POST, ("sec-fetch-site", "same-origin")).unwrap();
        with(Method::GET, ("sec-fetch-site", "none")).unwrap();
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:1",
            "http://localhost",
            "https://127.0.0.1:8642",
            "",
        ] {
            assert!(with(Method::POST, ("origin", origin)).is_err(), "{origin}");
            assert!(with(Method::GET, ("origin", origin)).is_err(), "{origin}");
        }
        for site in ["cross-site", "same-site", "else"] {
            assert!(with(Method::POST, ("sec-fetch-site", site)).is_err());
            assert!(with(Method::GET, ("sec-fetch-site", site)).is_err());
            let link = [
                host,
                ("sec-fetch-site", site),
                ("sec-fetch-mode", "navigate"),
            ];
            check("127.0.0.1:8642", Method::GET, &link).unwrap();
            assert!(check("127.0.0.1:8642", Method::POST, &link).is_err());
        }
    }

    #[test]
    fn passwords_come_by_bearer_or_basic() {
        let password = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            password(&headers)
        };
        assert_eq!(password("Bearer secret"), Ok(Some("secret".into())));
        assert_eq!(password("basic YTpiOmM="), Ok(Some("b:c".into())));
        for wrong in [
            "Basic",
            "Basic YWJj",
            "Basic ****",
            "Digest abc",
            "Basic /w==",
        ] {
            assert!(password(wrong).is_err(), "{wrong}");
        }
    }
}
