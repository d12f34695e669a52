//! The tokenizer compared with open_clip's on the texts of tests/reference/make_tokens.py.

use std::io::Read;
use std::time::{Duration, Instant};

use pinhole_prompts::{EOT, Error, SOT, Tokenizer};

#[test]
fn ids_equal_those_of_open_clip() {
    let mut lines = String::new();
    let file = &include_bytes!("../golden/tokens.jsonl.gz")[..];
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut lines)
        .unwrap();
    let tokenizer = Tokenizer::new();
    let mut texts = 0;
    for line in lines.lines() {
        let (text, ids): (String, Vec<u32>) = serde_json::from_str(line).unwrap();
        assert_eq!(tokenizer.encode(&text), ids, "{text:?}");
        texts += 1;
    }
    assert!(texts >= 2500, "only {texts} texts");
}

#[test]
fn long_texts_are_refused_or_truncated() {
    let tokenizer = Tokenizer::new();
    assert_eq!(tokenizer.tokens("", 2).unwrap(), [SOT, EOT]);
    assert_eq!(tokenizer.tokens("a cat", 4).unwrap(), [SOT, 320, 2368, EOT]);
    let error = tokenizer.tokens("a cat", 3).unwrap_err();
    assert!(
        matches!(&error, Error::TooLong { tokens: 4, context_length: 3, text } if text == "a cat")
    );
    assert_eq!(
        tokenizer.tokens_truncated("a cat", 4),
        [SOT, 320, 2368, EOT]
    );
    assert_eq!(tokenizer.tokens_truncated("a cat", 3), [SOT, 320, EOT]);
    assert_eq!(tokenizer.tokens_truncated("a cat", 1), [EOT]);
    assert!(tokenizer.tokens_truncated("a cat", 0).is_empty());
    // The message quotes only the beginning of the text.
    let error = tokenizer.tokens(&"日本 ".repeat(10_000), 77).unwrap_err();
    assert!(error.to_string().len() < 500, "{error}");
}

/// If this fails, some step takes quadratic time, and such a text hours.
#[test]
fn hostile_texts_take_linear_time() {
    let n = 300_000;
    let texts = [
        "a".repeat(n),
        "ab".repeat(n / 2),
        "!".repeat(n),
        "日".repeat(n),
        "&".repeat(n),
        "&".to_string() + &"amp;".repeat(n / 4),
        "&#".to_string() + &"1".repeat(n),
        "\u{1b}[;".repeat(n / 3),
        "a".to_string() + &"\u{301}\u{323}".repeat(n / 2),
        "Σ.".repeat(n / 2),
        "Ã".to_string() + &"ƒ".repeat(n),
        "Ã ".repeat(n / 2),
        "â€".repeat(n / 2),
        "\u{c0}\u{80}\u{ed}".repeat(n / 3),
        " ".repeat(n),
    ];
    let tokenizer = Tokenizer::new();
    for text in texts {
        let start = Instant::now();
        tokenizer.encode(&text);
        let time = start.elapsed();
        assert!(
            time < Duration::from_secs(30),
            "{time:?} for {:?}...",
            &text[..12]
        );
        eprintln!(
            "{time:?} for {:?}",
            text.chars().take(5).collect::<String>()
        );
    }
}
