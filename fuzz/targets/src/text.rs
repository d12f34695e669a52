//! Lists, configurations and logs.

use std::path::Path;

use pinhole_export::{FileTokenizer, TokenizerFormat};
use pinhole_firmware::config::ApplianceConfig;
use pinhole_prompts::{Classes, FolderNames, Templates, TextTokenizer, Tokenizer};

use crate::scratch;

/// A list of class names.
pub(crate) fn classes(bytes: &[u8]) {
    let path = scratch::file("classes.txt", bytes);
    let _ = Classes::read(&path);
}

/// A list of folders and their class names.
pub(crate) fn folder_names(bytes: &[u8]) {
    let path = scratch::file("folders.txt", bytes);
    if let Ok(names) = FolderNames::read(&path) {
        assert!(!names.class("n01440764").is_empty());
    }
}

/// A list of templates, and the prompts that it makes.
pub(crate) fn templates(bytes: &[u8]) {
    let path = scratch::file("templates.txt", bytes);
    if let Ok(templates) = Templates::read(&path) {
        let longest = templates.as_slice().iter().map(String::len).max();
        let prompts = templates.prompts("cat").map(|prompt| prompt.len()).max();
        assert!(prompts <= longest.map(|length| 3 * length + 3));
    }
}

/// Any text as tokens.
pub(crate) fn tokenize(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let tokens = Tokenizer::new().tokens_truncated(&text, 77);
    assert!(tokens.len() <= 77);
}

/// A SigLIP's tokenizer, and the tokens of a text by it.
pub(crate) fn tokenizer_file(bytes: &[u8]) {
    tokens_of(TokenizerFormat::Json, bytes);
}

/// The same of SentencePiece's file.
pub(crate) fn sentencepiece(bytes: &[u8]) {
    tokens_of(TokenizerFormat::SentencePiece, bytes);
}

fn tokens_of(format: TokenizerFormat, bytes: &[u8]) {
    let path = Path::new("tokenizer");
    let settings = (&b"{\"pad_token\": \"</s>\"}"[..], path);
    if let Ok(tokenizer) = FileTokenizer::new(format, bytes, path, Some(settings))
        && let Ok(tokens) = tokenizer.tokens("A photo of a Polar_Bear, 42 cafés", 64)
    {
        assert_eq!(tokens.len(), 64);
    }
}

pub(crate) fn firmware_config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = ApplianceConfig::parse(&text, Path::new("pinhole-firmware.toml"));
}

/// One file of the appliance's log.
pub(crate) fn log(bytes: &[u8]) {
    let path = scratch::file("results-000001.jsonl", bytes);
    let Some(folder) = path.parent() else {
        return;
    };
    if let Ok(log) = pinhole_firmware::log::read(folder) {
        assert!(log.count() <= bytes.len() + 1);
    }
}
