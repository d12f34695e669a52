//! The page, and the policy that lets it load nothing but itself.

use std::sync::OnceLock;

use base64ct::{Base64, Encoding};
use sha2::{Digest, Sha256};

/// The page: HTML with its style and script inside.
pub(crate) const PAGE: &str = include_str!("page.html");

/// What is between two marks.
fn between(start: &str, end: &str) -> &'static str {
    let text = PAGE.split_once(start).map_or("", |(_, rest)| rest);
    text.split_once(end).map_or("", |(text, _)| text)
}

/// The Content-Security-Policy of the page: its own script and style by their hashes, its own server, nothing else.
pub(crate) fn policy() -> &'static str {
    static POLICY: OnceLock<String> = OnceLock::new();
    POLICY.get_or_init(|| {
        let hash = |text: &str| Base64::encode_string(&Sha256::digest(text));
        let script = hash(between("<script>", "</script>"));
        let style = hash(between("<style>", "</style>"));
        format!(
            "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src 'self' data:; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, the page needs a network, or is too large for a board.
    #[test]
    fn the_page_is_small_and_loads_nothing_from_elsewhere() {
        assert!(PAGE.len() < 100_000, "{} bytes", PAGE.len());
        for foreign in ["http://", "https://", "//cdn", "@import", "url("] {
            let svg = PAGE.replace("http://www.w3.org/2000/svg", "");
            assert!(!svg.contains(foreign), "{foreign}");
        }
        assert_eq!(PAGE.matches("<script").count(), 1);
        assert_eq!(PAGE.matches("<style").count(), 1);
        // The policy forbids them.
        for inline in [" style=\"", " onclick=", " oninput=", " onload="] {
            assert!(!PAGE.contains(inline), "{inline}");
        }
        assert!(between("<script>", "</script>").len() > 1000);
    }
}
