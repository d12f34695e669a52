//! HTTP authentication of network cameras: Basic (RFC 7617) and Digest (RFC 7616, and RFC 2617 without `qop`).

use std::fmt::Write as _;
use std::hash::{BuildHasher, Hasher, RandomState};

use base64::Engine;
use md5::Md5;
use sha2::{Digest, Sha256};

/// A user and a password.
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

/// What a server asked for in `WWW-Authenticate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Digest(DigestChallenge),
}

/// The parameters of a Digest challenge that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DigestChallenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    /// Whether the server offered `qop=auth`.
    qop: Qop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Qop {
    Auth,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Md5Session,
    Sha256,
    Sha256Session,
}

impl Algorithm {
    /// Their names in the header, the strongest last.
    const ALL: [(&str, Self); 4] = [
        ("MD5", Self::Md5),
        ("MD5-sess", Self::Md5Session),
        ("SHA-256", Self::Sha256),
        ("SHA-256-sess", Self::Sha256Session),
    ];

    fn name(self) -> &'static str {
        let known = Self::ALL.into_iter().find(|(_, known)| *known == self);
        known.map_or("MD5", |(name, _)| name)
    }

    fn hash(self, text: &str) -> String {
        match self {
            Self::Md5 | Self::Md5Session => hexadecimal(&Md5::digest(text)),
            Self::Sha256 | Self::Sha256Session => hexadecimal(&Sha256::digest(text)),
        }
    }
}

/// The strongest challenge of the headers that can be answered; else the names of the schemes that were found.
pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Result<Challenge, Vec<String>> {
    let parsed: Vec<(String, Parameters)> = headers.flat_map(parse).collect();
    let strength = |challenge: &Challenge| match challenge {
        Challenge::Basic => 0,
        Challenge::Digest(digest) => 1 + (digest.algorithm.name().starts_with("SHA")) as u8,
    };
    let known = parsed.iter().filter_map(|(scheme, parameters)| {
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        let digest = scheme.eq_ignore_ascii_case("digest");
        digest.then(|| digest_challenge(parameters).map(Challenge::Digest))?
    });
    known
        .max_by_key(strength)
        .ok_or_else(|| parsed.iter().map(|(scheme, _)| scheme.clone()).collect())
}

/// The answer of a made-up user to the values of `WWW-Authenticate`; `None` if there is none. For fuzzing.
pub fn answer_challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<String> {
    let credentials = Credentials {
        user: "user".into(),
        password: "password".into(),
    };
    let challenge = choose(headers).ok()?;
    Some(challenge.answer(&credentials, "/", 1))
}

fn digest_challenge(parameters: &Parameters) -> Option<DigestChallenge> {
    let get = |name: &str| {
        let mut found = parameters.iter();
        let (_, value) = found.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.clone())
    };
    let algorithm = match get("algorithm") {
        None => Algorithm::Md5,
        Some(name) => {
            let mut all = Algorithm::ALL.into_iter();
            all.find(|(known, _)| known.eq_ignore_ascii_case(&name))?.1
        }
    };
    let qop = match get("qop") {
        None => Qop::None,
        Some(offered) => {
            let mut offered = offered.split(',');
            let auth = offered.any(|one| one.trim().eq_ignore_ascii_case("auth"));
            auth.then_some(Qop::Auth)?
        }
    };
    Some(DigestChallenge {
        realm: get("realm")?,
        nonce: get("nonce")?,
        opaque: get("opaque"),
        algorithm,
        qop,
    })
}

type Parameters = Vec<(String, String)>;

/// The challenges of one header: schemes with their parameters. Never fails: what is no challenge is left out.
fn parse(header: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = vec![];
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace());
        let end = rest.find(|c: char| c == ',' || c == '=' || c.is_ascii_whitespace());
        let (token, after) = rest.split_at(end.unwrap_or(rest.len()));
        let value = after.trim_start().strip_prefix('=').map(str::trim_start);
        match (value, challenges.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = parse_value(value);
                parameters.push((token.to_owned(), value));
                rest = after;
            }
            // A parameter before any scheme.
            (Some(value), None) => rest = parse_value(value).1,
            (None, _) if token.is_empty() => return challenges,
            (None, _) => {
                challenges.push((token.to_owned(), vec![]));
                rest = after;
            }
        }
    }
}

/// A token or a quoted string at the start of `text`, and what is behind it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_ascii_whitespace());
        let (value, rest) = text.split_at(end.unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

impl Challenge {
    /// The value of `Authorization` for a GET request of `target` (path and query), the `count`-th with this challenge.
    pub(super) fn answer(&self, credentials: &Credentials, target: &str, count: u32) -> String {
        match self {
            Self::Basic => {
                let Credentials { user, password } = credentials;
                let engine = base64::engine::general_purpose::STANDARD;
                format!("Basic {}", engine.encode(format!("{user}:{password}")))
            }
            Self::Digest(digest) => digest.answer(credentials, target, count, &client_nonce()),
        }
    }
}

impl DigestChallenge {
    fn answer(&self, credentials: &Credentials, target: &str, count: u32, cnonce: &str) -> String {
        let Credentials { user, password } = credentials;
        let Self { realm, nonce, .. } = self;
        let algorithm = self.algorithm;
        let hash = |text: String| algorithm.hash(&text);
        let mut secret = hash(format!("{user}:{realm}:{password}"));
        let session = matches!(algorithm, Algorithm::Md5Session | Algorithm::Sha256Session);
        if session {
            secret = hash(format!("{secret}:{nonce}:{cnonce}"));
        }
        let request = hash(format!("GET:{target}"));
        let mut header = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, algorithm={}",
            quote(user),
            quote(realm),
            quote(nonce),
            quote(target),
            algorithm.name()
        );
        let response = match self.qop {
            Qop::None => hash(format!("{secret}:{nonce}:{request}")),
            Qop::Auth => {
                let _ = write!(header, ", qop=auth, nc={count:08x}");
                hash(format!(
                    "{secret}:{nonce}:{count:08x}:{cnonce}:auth:{request}"
                ))
            }
        };
        // RFC 2617, 3.2.2: not where the server sent no qop.
        if session || self.qop == Qop::Auth {
            let _ = write!(header, ", cnonce={}", quote(cnonce));
        }
        let _ = write!(header, ", response=\"{response}\"");
        if let Some(opaque) = &self.opaque {
            let _ = write!(header, ", opaque={}", quote(opaque));
        }
        header
    }
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A number that no other request has, from the keys of the standard library's hash maps.
fn client_nonce() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(header: &str, user: &str, password: &str, target: &str, cnonce: &str) -> String {
        let answer = answer(header, user, password, target, cnonce);
        let (_, rest) = answer.split_once("response=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }

    fn answer(header: &str, user: &str, password: &str, target: &str, cnonce: &str) -> String {
        let Ok(Challenge::Digest(challenge)) = choose([header].into_iter()) else {
            panic!("{header}");
        };
        let credentials = Credentials {
            user: user.into(),
            password: password.into(),
        };
        challenge.answer(&credentials, target, 1, cnonce)
    }

    /// The examples of RFC 2617, 3.5, and of RFC 7616, 3.9.1.
    #[test]
    fn digests_equal_those_of_the_standards() {
        let header = "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
                      nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        assert_eq!(
            response(
                header,
                "Mufasa",
                "Circle Of Life",
                "/dir/index.html",
                "0a4f113b"
            ),
            "6629fae49393a05397450978507c4ef1"
        );
        for (algorithm, expected) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            (
                "SHA-256",
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
        ] {
            let header = format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
                 nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
                 opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            );
            let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
            let found = response(
                &header,
                "Mufasa",
                "Circle of Life",
                "/dir/index.html",
                cnonce,
            );
            assert_eq!(found, expected, "{algorithm}");
        }
        // Without qop, as old cameras ask: MD5(MD5(user:realm:password):nonce:MD5(GET:/)), by md5sum.
        let old = "Digest realm=\"r\", nonce=\"n\"";
        assert_eq!(
            response(old, "u", "p", "/", "c"),
            "f23121ca97143c6b358da620220c83b4"
        );
        assert!(!answer(old, "u", "p", "/", "c").contains("cnonce"));
        let session = "Digest realm=\"r\", nonce=\"n\", algorithm=MD5-sess";
        assert!(answer(session, "u", "p", "/", "c").contains("cnonce=\"c\""));
    }

    #[test]
    fn the_strongest_challenge_is_answered() {
        let md5 = r#"Basic realm="cam", Digest realm="cam, \"east\"", nonce=abc , stale=FALSE"#;
        let sha = r#"digest REALM="cam",nonce="x",algorithm=sha-256,qop="auth""#;
        let Ok(Challenge::Digest(digest)) = choose([md5].into_iter()) else {
            panic!("{md5}");
        };
        assert_eq!((&*digest.realm, &*digest.nonce), ("cam, \"east\"", "abc"));
        assert_eq!((digest.algorithm, digest.qop), (Algorithm::Md5, Qop::None));
        let Ok(Challenge::Digest(digest)) = choose([sha, md5].into_iter()) else {
            panic!("{sha}");
        };
        assert_eq!(
            (digest.algorithm, digest.qop),
            (Algorithm::Sha256, Qop::Auth)
        );
        assert_eq!(choose(["Basic realm=x"].into_iter()), Ok(Challenge::Basic));
        for (header, schemes) in [
            ("Negotiate, NTLM", &["Negotiate", "NTLM"][..]),
            (
                "Digest realm=r, nonce=n, algorithm=SHA-512-256",
                &["Digest"],
            ),
            ("Digest realm=r, nonce=n, qop=auth-int", &["Digest"]),
            ("Digest realm=r", &["Digest"]),
            ("=,= \"", &[]),
            ("", &[]),
        ] {
            let found = choose([header].into_iter()).unwrap_err();
            assert_eq!(found, schemes, "{header}");
        }
    }

    #[test]
    fn basic_and_quoted_names() {
        let credentials = Credentials {
            user: "Aladdin".into(),
            password: "open sesame".into(),
        };
        // RFC 7617, 2.
        let answer = Challenge::Basic.answer(&credentials, "/", 1);
        assert_eq!(answer, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let Ok(challenge) = choose([r#"Digest realm="a\\\"b", nonce="n""#].into_iter()) else {
            panic!();
        };
        let answer = challenge.answer(&credentials, "/x?y=\"", 1);
        assert!(answer.contains(r#"realm="a\\\"b""#), "{answer}");
        assert!(answer.contains(r#"uri="/x?y=\"""#), "{answer}");
    }

    /// Every text of up to five of these pieces ends, and gives no more than it has.
    #[test]
    fn any_header_is_parsed() {
        const PIECES: [&str; 8] = ["Digest ", "realm", "=", "\"", "\\", ",", " ", "é"];
        let mut texts = vec![String::new()];
        for _ in 0..5 {
            texts = (texts.iter())
                .flat_map(|text| PIECES.map(|piece| format!("{text}{piece}")))
                .collect();
            for text in &texts {
                let parsed = parse(text);
                let parameters = parsed.iter().map(|(_, parameters)| parameters.len() + 1);
                assert!(
                    parameters.sum::<usize>() <= text.len(),
                    "{text:?}: {parsed:?}"
                );
            }
        }
    }
}
