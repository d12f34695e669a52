//! URLs in messages.

use std::borrow::Cow;

/// `text` with the user name, the password and the query of every URL replaced by `...`: they are often a camera's
/// password.
pub fn without_credentials(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    if !text.contains(SCHEME_END) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(SCHEME_END) {
        let (scheme, after) = rest.split_at(at + SCHEME_END.len());
        out += scheme;
        // A password may contain any character, also quotes and another @.
        let word = after.split(char::is_whitespace).next().unwrap_or_default();
        let address = match word.rfind('@') {
            Some(at) => {
                out += "...@";
                &after[at + 1..]
            }
            None => after,
        };
        let end = address.find(|c: char| c.is_whitespace() || "\"'`<>".contains(c));
        let url = &address[..end.unwrap_or(address.len())];
        // Punctuation of the sentence.
        let (address, after) = address.split_at(url.trim_end_matches([':', ',', ';', ')']).len());
        match address.split_once('?') {
            Some((path, _)) => {
                out += path;
                out += "?...";
            }
            None => out += address,
        }
        rest = after;
    }
    out += rest;
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_urls_are_not_shown() {
        for (text, expected) in [
            ("rtsp://cam/stream1", "rtsp://cam/stream1"),
            (
                "rtsp://admin:s3cret@cam:554/1: lost",
                "rtsp://...@cam:554/1: lost",
            ),
            (
                "'http://u:p@ss/w?rd@cam/a' failed",
                "'http://...@cam/a' failed",
            ),
            (
                "http://cam/cgi?user=admin&pwd=s3cret x",
                "http://cam/cgi?... x",
            ),
            (
                "a http://u:p@b, c http://v:q@d.",
                "a http://...@b, c http://...@d.",
            ),
            ("http://cam/a?pwd=s3cret: lost", "http://cam/a?...: lost"),
            ("http://...@cam/a?...: lost", "http://...@cam/a?...: lost"),
            ("rtsp://u:pa'ss@cam/1 lost", "rtsp://...@cam/1 lost"),
            (
                "url = \"rtsp://u:pa\\s\"s@cam\"",
                "url = \"rtsp://...@cam\"",
            ),
            ("'http://cam/a' of x@y", "'http://cam/a' of x@y"),
            ("://", "://"),
            ("no URL: a@b?c", "no URL: a@b?c"),
        ] {
            assert_eq!(without_credentials(text), expected);
        }
    }
}
